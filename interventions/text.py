"""How messages quote what a user gave: short, however long it is."""

from __future__ import annotations

QUOTED = 80  # characters of a value that a message shows
_MARK = "…"


def shortened(text: str, characters: int = QUOTED) -> str:
    """The text, or its first characters and "…"."""
    return text if len(text) <= characters else text[:characters] + _MARK


def quoted(value: object, characters: int = QUOTED) -> str:
    """A value as a message shows it: texts, bytes and paths in quotation marks, at most so many characters of them.

    Anything else (an array, a tensor, a list) is told by its type where it is long.
    """
    if isinstance(value, (str, bytes, bytearray)):
        if len(value) <= characters:
            return repr(value)
        return repr(value[:characters])[:-1] + _MARK + repr(value[:0])[-1]
    if hasattr(value, "__fspath__"):
        return quoted(value.__fspath__(), characters)
    if hasattr(value, "shape"):  # the text of an array has many lines
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return shortened(repr(value).replace("\n", " "), characters)
