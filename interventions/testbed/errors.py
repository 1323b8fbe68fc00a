"""The one error of test beds, and how errors and reasons are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..text import shortened


class TestBedError(ValueError):
    """A test bed, an item, a source or an image that cannot be used; the message is one sentence with the remedy."""

    __test__ = False  # pytest would otherwise collect a class of this name


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough to stand in brackets."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return shortened(line, 200)  # it may quote what it was given


def reason_kinds(reasons: Iterable[str]) -> Counter[str]:
    """How often there is a reason of each kind: what stands before its colon. Empty ones do not count."""
    return Counter(reason.partition(":")[0] for reason in reasons if reason)


def reasons(texts: Iterable[str]) -> str:
    """How often there was each kind of reason, the most frequent first; "none" if there was none."""
    return ", ".join(f"{count} {kind}" for kind, count in reason_kinds(texts).most_common()) or "none"
