"""One person's round through a test bed: what the screen shows of an item, and what each key does.

The browser holds no state: `VerifyWidget` draws `Verification.state()` and passes keys to `press`. What a person marks
or writes is a draft until the person accepts or rejects it; then it is in the log.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import TestBedError
from ...text import constraint_spans, normalize, overlap, quoted
from ..phrases import contiguity_problem, needs_image, noun_phrase_problem, trim
from ..schema import Item, TestBed
from .decisions import Decision, DecisionLog
from .outcomes import as_decided, disagree

ONLY = ("all", "undecided", "disputed")
DONE = {"accept": "Accepted", "correct": "Corrected", "reject": "Rejected"}
_FIELDS = ("visual_replacement", "text_replacement", "comment")
Pieces = list[tuple[str, str]]


@dataclass(frozen=True)
class ShownPhrases:
    """The phrases of an item as the screen shows them; a missing one is empty."""

    visual_constraint: str
    text_constraint: str
    visual_replacement: str
    text_replacement: str
    comment: str = ""

    @classmethod
    def of(cls, item: Item, comment: str = "") -> ShownPhrases:
        texts = (item.visual_constraint, item.text_constraint, item.visual_replacement, item.text_replacement)
        return cls(*(text or "" for text in texts), comment=comment)


class Verification:
    """The round of one person through items, with the log of the decisions.

    Args:
        annotator: the name of the person.
        only: "all" items, those "undecided" by this person, or those "disputed". For disputed items the screen shows
            what others decided, and the decisions do not count as blind.
    """

    def __init__(self, testbed: TestBed, log: DecisionLog, annotator: str, *, only: str = "all") -> None:
        if only not in ONLY:
            raise TestBedError(f"only cannot be {quoted(only)}: use {', '.join(map(repr, ONLY))}.")
        if not annotator.strip():
            raise TestBedError("annotator must be a name.")
        self.log, self.annotator, self.blind = log, annotator.strip(), only != "disputed"
        log.refresh()
        standing = log.standing()
        wanted = {
            "all": lambda item: True,
            "undecided": lambda item: not self._is_done(item, standing),
            "disputed": lambda item: len(valid := _valid(item, standing)) > 1 and disagree(valid.values()),
        }[only]
        self.items = tuple(filter(wanted, testbed))
        self.position = 0
        self.message = ("", "")  # its kind: "problem", "warning", "done"; one sentence
        self._drafts: dict[str, ShownPhrases] = {}
        self._warned: tuple | None = None  # what a second press will do
        if self.items and self._is_done(self.items[0], standing):
            self._advance()

    @property
    def item(self) -> Item:
        """The item on the screen. There is none if `items` is empty."""
        return self.items[self.position]

    def press(
        self, action: str, item: str, *, selection: Sequence[int] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Do what a key asks for, and set `message` to the result. Do nothing if `item` is not the current item's id.

        selection: the first and the last selected index of `state()["pieces"]`. fields: the text fields by name.
        """
        actions = {
            "accept": self._accept, "reject": self._reject, "undo": self._undo, "clear": self._clear,
            "visual": lambda: self._mark("visual", selection), "text": lambda: self._mark("text", selection),
            "back": lambda: self._move(-1), "next": lambda: self._move(1), "edit": lambda: None,
        }
        if not self.items or item != self.item.id or action not in actions:
            return
        self.message = ("", "")
        try:
            self.log.refresh()
            self._draft = replace(self._draft, **{k: normalize(fields[k]) for k in _FIELDS if k in (fields or {})})
            actions[action]()
        except TestBedError as error:
            self.message = ("problem", str(error))

    def state(self) -> dict:
        """Return what the screen shows, as JSON.

        "pieces" is the question as [text, role]: words and what is between them; role is "visual", "text" or "".
        "replaced" has, by role, the pieces of the question with that constraint replaced. The other fields are named
        as on the screen.
        """
        standing, (kind, text) = self.log.standing(), self.message
        state = {
            "annotator": self.annotator, "total": len(self.items), "position": self.position + 1,
            "done": sum(self._is_done(item, standing) for item in self.items), "others": self._others(standing),
            "message": {"kind": kind, "text": text}, "item": None,
        }
        if not self.items:
            return state
        item, draft, valid = self.item, self._draft, _valid(self.item, standing)
        own = valid.get(self.annotator)
        return state | vars(draft) | {
            "item": item.id, "part": item.part, "entity": item.entity, "answers": list(item.answers),
            "pieces": pieces(item.question, draft), "replaced": replaced(item.question, draft),
            "changed": draft != self._stored(), "corrects": bool(self._corrections()),
            "decision": _told(own) if own else _STALE if self.annotator in standing.get(item.id, {}) else "",
            "decisions": [] if self.blind else [_told(d) for name, d in valid.items() if name != self.annotator],
        }

    # The keys

    def _mark(self, role: str, selection: Sequence[int] | None) -> None:
        marks, doubt = mark(self.item.question, self._draft, role, selection)
        phrase = getattr(marks, f"{role}_constraint")
        sentence = f"“{phrase}” may be no whole noun phrase ({doubt})"
        if doubt and self._warns((self.item.id, role, phrase), sentence, role[0]):
            return
        self._draft = marks

    def _clear(self) -> None:
        if not self._draft.text_constraint:
            raise TestBedError("There is no text constraint to clear.")
        self._draft = replace(self._draft, text_constraint="", text_replacement="")

    def _accept(self) -> None:
        draft, written = self._draft, self._corrections()
        for role in ("visual", "text"):
            constraint, replacement = getattr(draft, f"{role}_constraint"), getattr(draft, f"{role}_replacement")
            if constraint and constraint.casefold() == replacement.casefold():
                raise TestBedError(f"The {role} constraint's replacement is the constraint itself: write another.")
        sentence = "The visual constraint's replacement seems to need the image, too"
        if needs_image(written.get("visual_replacement", "")) and self._warns((self.item.id, draft), sentence, "a"):
            return
        self._decide("correct" if written else "accept", written)

    def _reject(self) -> None:
        self._decide("reject", {})

    def _undo(self) -> None:
        if self._drafts.pop(self.item.id, None):
            self.message = ("done", "The changes that were not accepted are dropped.")
            return
        places = {item.id: place for place, item in enumerate(self.items)}
        mine = [name for name in self.log.decided(self.annotator) if name in places]
        if not mine:
            raise TestBedError("There is nothing to undo.")
        self.position = places[mine[-1]]
        marks = self._stored()
        self.log.undo(self.annotator, mine[-1])
        self._draft = marks  # the marks stay as a draft
        self.message = ("done", f"The decision on question {self.position + 1} is undone.")

    def _move(self, step: int) -> None:
        if not 0 <= self.position + step < len(self.items):
            raise TestBedError(f"This is the {'first' if step < 0 else 'last'} question.")
        self.position += step

    def _decide(self, action: str, written: dict[str, str]) -> None:
        item, draft, place = self.item, self._draft, self.position + 1
        item = item.with_constraints(draft.visual_constraint, draft.text_constraint or None)
        replacements = {name: written.get(name) for name in ("visual_replacement", "text_replacement")}
        self.log.decide(item, self.annotator, action, comment=draft.comment, blind=self.blind, **replacements)
        self._drafts.pop(item.id, None)
        left = self._advance()
        self.message = ("done", f"{DONE[action]} question {place}." + ("" if left else " All are decided."))

    # The state

    @property
    def _draft(self) -> ShownPhrases:
        return self._drafts.get(self.item.id) or self._stored()

    @_draft.setter
    def _draft(self, draft: ShownPhrases) -> None:
        if draft == self._stored():
            self._drafts.pop(self.item.id, None)
        else:
            self._drafts[self.item.id] = draft

    def _stored(self) -> ShownPhrases:
        """The item as the person decided, or as it is in the test bed."""
        own = _valid(self.item, self.log.standing()).get(self.annotator)
        return ShownPhrases.of(as_decided(self.item, [own]), own.comment) if own else ShownPhrases.of(self.item)

    def _corrections(self) -> dict[str, str]:
        """The phrases of the draft that differ from the item."""
        before, now = vars(ShownPhrases.of(self.item)), vars(self._draft)
        return {name: now[name] for name in before if name != "comment" and now[name] != before[name]}

    def _is_done(self, item: Item, standing: dict) -> bool:
        """Whether this person decided; for disputed items, after seeing what others decided."""
        own = _valid(item, standing).get(self.annotator)
        return own is not None and (self.blind or not own.blind)

    def _others(self, standing: dict) -> dict[str, int]:
        """How many of these items each of the others decided, by name."""
        names = Counter(name for item in self.items for name in _valid(item, standing))
        return {name: n for name, n in sorted(names.items()) if name != self.annotator}

    def _advance(self) -> int:
        """Go to the next undecided item, after the last one to the first. Return how many there are."""
        standing = self.log.standing()
        left = [place for place, item in enumerate(self.items) if not self._is_done(item, standing)]
        if left:
            self.position = next((place for place in left if place > self.position), left[0])
        return len(left)

    def _warns(self, asked: tuple, sentence: str, key: str) -> bool:
        """Warn the first time that a person asks for something. The second time return False."""
        if self._warned == asked:
            self._warned = None
            return False
        self._warned, self.message = asked, ("warning", f"{sentence}. Press {key} again if it is right.")
        return True


def pieces(question: str, marks: ShownPhrases) -> Pieces:
    """Return the question as (text, role): its words and what is between them. role is "visual", "text" or ""."""
    question, found, place = normalize(question), [], 0
    spans = constraint_spans(question, marks.visual_constraint, marks.text_constraint)
    for _, letters in itertools.groupby(question, key=_kind):
        text = "".join(letters)
        role = next((role for role, span in spans.items() if overlap(span, (place, place + len(text)))), "")
        found.append((text, role))
        place += len(text)
    return found


def replaced(question: str, marks: ShownPhrases) -> dict[str, Pieces]:
    """Return, by role, the question as (text, role) with that constraint replaced, if it has a replacement."""
    question, found = normalize(question), {}
    for role, (begin, end) in constraint_spans(question, marks.visual_constraint, marks.text_constraint).items():
        replacement = getattr(marks, f"{role}_replacement")
        if replacement:
            found[role] = [(question[:begin], ""), (replacement, role), (question[end:], "")]
    return found


def mark(question: str, marks: ShownPhrases, role: str, selection: Sequence[int] | None) -> tuple[ShownPhrases, str]:
    """Return the marks with the selected words as a constraint, and a doubt about the words ("" without one).

    Punctuation and a possessive at the ends are left out.
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
        raise TestBedError(f"“{phrase}” occurs twice, and tracing uses the {which} one: select more words.")
    if "text" in spans and overlap(spans["visual"], spans["text"]):
        other, remedy = ("text", "clear that (x)") if role == "visual" else ("visual", "mark that again (v)")
        raise TestBedError(f"“{phrase}” overlaps the {other} constraint: {remedy} first.")
    return marks, noun_phrase_problem(question, phrase)


def _kind(letter: str) -> str:
    """The class of a letter: letters, their marks and digits form words; other characters stand with the same one."""
    return "word" if unicodedata.category(letter)[0] in "LMN" else letter


_STALE = "You decided on another wording of the question, so the decision no longer counts."


def _valid(item: Item, standing: Mapping[str, Mapping[str, Decision]]) -> dict[str, Decision]:
    return {name: decision for name, decision in standing.get(item.id, {}).items() if decision.is_on(item)}


def _told(decision: Decision) -> str:
    phrases = [f"“{phrase}”" for phrase in (decision.visual_constraint, decision.text_constraint) if phrase]
    written = (decision.visual_replacement, decision.text_replacement)
    phrases += [f"replaced by “{phrase}”" for phrase in written if phrase]
    comment = f" ({decision.comment})" if decision.comment else ""
    return f"{DONE[decision.action]} by {decision.annotator}: {', '.join(phrases) or 'nothing marked'}{comment}"
