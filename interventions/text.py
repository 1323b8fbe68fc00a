"""How messages quote what a user gave: short, however long it is."""

from __future__ import annotations

QUOTED = 80  # characters that a message shows of a longer value
PATH = 300  # characters of a path that is shown whole: its end says most
_MARK = "…"


def shortened(text: str, most: int = QUOTED) -> str:
    """The text, or of one longer than `most` characters the first QUOTED and "…"."""
    return text if len(text) <= most else text[:QUOTED] + _MARK


def quoted(value: object, most: int = QUOTED) -> str:
    """A value as a message shows it: texts, bytes and paths in quotation marks, long ones by their first characters.

    Anything else (an array, a tensor, a list) is told by its type where it is long.
    """
    if hasattr(value, "__fspath__"):
        return quoted(value.__fspath__(), PATH)
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value) if len(value) <= most else repr(value[:QUOTED])[:-1] + _MARK + repr(value[:0])[-1]
    if hasattr(value, "shape"):  # the text of an array has many lines
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return shortened(repr(value).replace("\n", " "), most)
