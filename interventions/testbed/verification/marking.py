"""Marking words of a question as its constraints: the pieces that can be selected, and what may be marked."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import TestBedError
from ...text import constraint_spans, normalize, overlap
from ..phrases import contiguity_problem, noun_phrase_problem, trim
from ..schema import Item

Pieces = list[tuple[str, str]]


@dataclass(frozen=True)
class ShownPhrases:
    """The phrases of an item as they stand on a screen; what there is none of is empty."""

    visual_constraint: str
    text_constraint: str
    visual_replacement: str
    text_replacement: str
    comment: str = ""

    @classmethod
    def of(cls, item: Item, comment: str = "") -> ShownPhrases:
        texts = (item.visual_constraint, item.text_constraint, item.visual_replacement, item.text_replacement)
        return cls(*(text or "" for text in texts), comment)


def pieces(question: str, marks: ShownPhrases) -> Pieces:
    """The question as (text, role): its words, and what is between them; role is "visual", "text" or ""."""
    question, found, place = normalize(question), [], 0
    spans = constraint_spans(question, marks.visual_constraint, marks.text_constraint)
    for _, letters in itertools.groupby(question, key=_kind):
        text = "".join(letters)
        role = next((role for role, span in spans.items() if overlap(span, (place, place + len(text)))), "")
        found.append((text, role))
        place += len(text)
    return found


def replaced(question: str, marks: ShownPhrases) -> dict[str, Pieces]:
    """By role, the question as (text, role) with that constraint replaced, where there is a replacement."""
    question, found = normalize(question), {}
    for role, (begin, end) in constraint_spans(question, marks.visual_constraint, marks.text_constraint).items():
        replacement = getattr(marks, f"{role}_replacement")
        if replacement:
            found[role] = [(question[:begin], ""), (replacement, role), (question[end:], "")]
    return found


def mark(question: str, marks: ShownPhrases, role: str, selection: Sequence[int] | None) -> tuple[ShownPhrases, str]:
    """The marks with selected words as the "visual" or "text" constraint, and a doubt about them ("" without one).

    selection: the first and the last of the question's `pieces`, or None. Punctuation and a possessive at the ends are
    left out. Raises `TestBedError`, one sentence for the person, where the words cannot be marked.
    """
    question = normalize(question)
    texts = [text for text, _ in pieces(question, marks)]
    first, last = selection or (0, -1)
    phrase = trim("".join(texts[first : last + 1]))[0]
    if not phrase:
        raise TestBedError("Select words of the question first: click a word, or drag over several.")
    if role == "text" and not marks.visual_constraint:
        raise TestBedError("Mark the visual constraint (v) before the text constraint.")
    problem = contiguity_problem(question, phrase)
    if problem:
        raise TestBedError(f"“{phrase}” cannot be marked: {problem}.")
    marks = replace(marks, **{f"{role}_constraint": phrase})
    spans = constraint_spans(question, marks.visual_constraint, marks.text_constraint)
    begin = question.index(phrase, len("".join(texts[:first])))
    if spans[role] != (begin, begin + len(phrase)):
        which = "first" if role == "visual" else "last"
        raise TestBedError(f"“{phrase}” stands there twice, and the {which} one is traced: select more words.")
    if "text" in spans and overlap(spans["visual"], spans["text"]):
        other, remedy = ("text", "clear that (x)") if role == "visual" else ("visual", "mark that anew (v)")
        raise TestBedError(f"“{phrase}” overlaps the {other} constraint: {remedy} first.")
    return marks, noun_phrase_problem(question, phrase)


def _kind(letter: str) -> str:
    """Letters, their marks and digits make words; anything else stands with its like."""
    return "word" if unicodedata.category(letter)[0] in "LMN" else letter
