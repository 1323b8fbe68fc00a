"""Find phrases in a question, and quote values in messages, short however long they are."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .errors import PromptError


def normalize(text: str) -> str:
    """Return the text in NFC without outer space, so the same letters written in two ways are one string."""
    return unicodedata.normalize("NFC", text).strip()


def must_be_text(name: str, value) -> None:
    """Raise PromptError if the value of the argument `name` is no text."""
    if not isinstance(value, str):
        raise PromptError(f"{name} must be a text, not {quoted(value)}.")


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two spans [begin, end) have a place in common."""
    return one[0] < other[1] and other[0] < one[1]


def find_phrase(question: str, phrase: str, name: str, *, last: bool) -> tuple[int, int]:
    """Return the character span of a phrase in a question, preferring whole words and the same case.

    Args:
        question: the normalized question.
        name: the argument that an error names.
        last: return the last occurrence instead of the first.

    Raises:
        PromptError: the phrase is not in the question.
    """
    must_be_text(name, phrase)
    phrase = normalize(phrase)
    if not phrase:
        raise PromptError(f"{name} is empty: give words of the question.")
    literal = re.escape(phrase)
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal):
        for flags in (0, re.IGNORECASE):
            found = [match.span() for match in re.finditer(pattern, question, flags)]
            if pattern != literal:  # vowel signs, as of Hindi, are marks and no letters, but belong to the word
                found = [(a, b) for a, b in found if not _has_mark(question[max(a - 1, 0) : a] + question[b : b + 1])]
            if found:
                return found[-1 if last else 0]
    raise PromptError(
        f"{name} {quoted(phrase)} is not in the question {quoted(question)}: copy words of the question."
    )


def constraint_spans(question: str, visual_constraint: str, text_constraint: str | None) -> dict[str, tuple[int, int]]:
    """Return the spans of the marked constraints in `normalize(question)`, by "visual" and "text".

    Raises:
        PromptError: a constraint is not in the question.
    """
    question, spans = normalize(question), {}
    if visual_constraint:
        spans["visual"] = find_phrase(question, visual_constraint, "visual_constraint", last=False)
    if text_constraint:
        spans["text"] = find_phrase(question, text_constraint, "text_constraint", last=True)
    return spans


def _has_mark(text: str) -> bool:
    return any(unicodedata.category(character).startswith("M") for character in text)


QUOTED = 80  # characters that a message shows of a longer value
PATH = 300  # characters of a path that is shown whole: its end says most
_MARK = "…"


def shortened(text: str, most: int = QUOTED) -> str:
    """Return the text, or the first QUOTED characters and "…" of one longer than `most` characters."""
    return text if len(text) <= most else text[:QUOTED] + _MARK


def quoted(value: Any, most: int = QUOTED) -> str:
    """Return a value as a message shows it: texts and paths quoted, long ones cut, arrays by their shape."""
    if hasattr(value, "__fspath__"):
        return quoted(value.__fspath__(), PATH)
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value) if len(value) <= most else repr(value[:QUOTED])[:-1] + _MARK + repr(value[:0])[-1]
    if hasattr(value, "shape"):  # the text of an array has many lines
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return shortened(repr(value).replace("\n", " "), most)


def first_line(error: BaseException) -> str:
    """Return the first line of an error of another library, short enough to stand in brackets."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return shortened(line, 200)  # it may quote what it was given


def count_reasons(reasons: Iterable[str]) -> Counter[str]:
    """Count reasons by their kind, the text before the colon. Empty reasons do not count."""
    return Counter(reason.partition(":")[0] for reason in reasons if reason)


def list_reasons(texts: Iterable[str]) -> str:
    """Return the count of each kind of reason, the most frequent first, or "none"."""
    return ", ".join(f"{count} {kind}" for kind, count in count_reasons(texts).most_common()) or "none"
