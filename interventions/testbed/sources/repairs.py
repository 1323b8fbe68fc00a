"""Repairs of the visual constraint that a released row names, each one told.

What annotators' tools left behind: marks of punctuation, a possessive, a compound cut short, words that do not stand
together in the question, another Unicode form. What cannot be repaired without guessing is left out.
"""

from __future__ import annotations

import re

from ...text import find_phrase, normalize
from ..phrases import DEMONSTRATIVES, contiguity_problem, cut_short, noun_phrase_problem, trim, words_of
from .new_testbed import LeftOut

_MOST_BETWEEN = 3  # words between those of a constraint that may belong to it, too
_MOST_WORDS = 8
_PLAIN_WORD = re.compile(r"[^\W_]+")  # "well-known" is two, so that hyphens and apostrophes do not count


def repair_constraint(question: str, phrase: str, template: str = "") -> tuple[str, list[str]]:
    """The constraint as it stands in the question, and the kinds of repairs; raises LeftOut where there is none.

    template: that of the fact behind the question ("{} is owned by"): what stands at its {} is the whole constraint.
    """
    question = normalize(question)
    trimmed, removed = trim(phrase)
    repairs = [f"{name} removed" for name in removed]
    if not words_of(trimmed):
        raise LeftOut("no constraint: the row names none")
    if contiguity_problem(question, trimmed):
        joined, at_template = _scattered(question, trimmed), _at_template(question, template)
        if not joined and not at_template:
            raise LeftOut(f"constraint not in the question: {trimmed!r}")
        trimmed = joined or at_template
        repairs.append("words that stood apart joined" if joined else "constraint read from the fact's template")
    begin, end = find_phrase(question, trimmed, "main_entity", last=False)
    rest_of_word = re.match(r"\w*", question[end:])[0]
    if rest_of_word:
        end += len(rest_of_word)
        repairs.append("word completed")
    whole = _at_template(question, template)
    if whole and len(whole) > end - begin and whole.startswith(question[begin:end]):
        end = begin + len(whole)
        repairs.append("compound completed")
    else:
        for _ in range(2):
            missing = cut_short(question, question[begin:end])
            if not missing:
                break
            end += 1 + len(missing)
            repairs.append("compound completed")
    return question[begin:end], list(dict.fromkeys(repairs))


def _scattered(question: str, phrase: str) -> str:
    """The shortest span of the question that has the phrase's words in order, a few others between, or nothing.

    A word may differ by its plural, hyphens and apostrophes do not count.
    """
    words = _PLAIN_WORD.findall(phrase.lower())
    if not words:
        return ""
    spans = [(match.start(), match.end(), match[0].lower()) for match in _PLAIN_WORD.finditer(question)]
    best = ""
    for first in range(len(spans)):
        place, ends = first, []
        for word in words:
            limit = place + 1 if not ends else place + 1 + _MOST_BETWEEN
            place = next((i for i in range(place, min(limit, len(spans))) if _same(spans[i][2], word)), None)
            if place is None:
                break
            ends.append(spans[place][1])
            place += 1
        if len(ends) == len(words):
            span = trim(question[spans[first][0] : ends[-1]])[0]
            best = span if not best or len(span) < len(best) else best
    return best


def _same(word: str, other: str) -> bool:
    return word.removesuffix("s") == other.removesuffix("s")


def _at_template(question: str, template: str) -> str:
    """What stands in the question where the fact's template has its subject, if it is a demonstrative phrase."""
    if template.count("{}") != 1:
        return ""
    before, after = (re.escape(piece.strip()) for piece in template.split("{}"))
    pattern = rf"{before}\s*(.+?)(?:\s+|(?=[,'’])){after}\b" if after else rf"{before}\s*(.+)"
    found = re.match(pattern, question, re.IGNORECASE)
    phrase = trim(found[1])[0] if found else ""
    words = words_of(phrase)
    if not words or words[0] not in DEMONSTRATIVES or len(words) > _MOST_WORDS:
        return ""
    return "" if noun_phrase_problem(question, phrase) else phrase
