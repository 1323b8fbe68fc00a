"""Repair the visual constraint of a released row.

Annotation tools left punctuation, possessives, compounds cut short, words that are not contiguous in the question, and
other Unicode forms. A row that needs a guess is left out.
"""

from __future__ import annotations

import re

from ...text import find_phrase, normalize
from ..phrases import DEMONSTRATIVES, contiguity_problem, cut_short, noun_phrase_problem, trim, words_of
from .new_testbed import LeftOut

_MOST_BETWEEN = 3  # other words between two words of a constraint
_MOST_WORDS = 8
_PLAIN_WORD = re.compile(r"[^\W_]+")  # "well-known" is two, so that hyphens and apostrophes do not count


def repair_constraint(question: str, phrase: str, template: str = "") -> tuple[str, list[str]]:
    """Return the constraint as the question has it, and the kinds of repairs; raise LeftOut if it is not in it.

    The words at the {} of the template of the fact behind the question ("{} is owned by") are the whole constraint.
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
    """The shortest span of the question with the phrase's words in order and few others between, or "".

    Plurals, hyphens and apostrophes do not count.
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
    """The words of the question in the place of the template's subject, if they are a demonstrative phrase."""
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
