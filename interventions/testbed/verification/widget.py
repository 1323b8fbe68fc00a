"""The widget of notebooks/verify.ipynb: draws a `Verification` in the browser and reads keys and mouse.

An anywidget: its JavaScript and its style are the two files beside this one. Nothing is downloaded.
"""

from __future__ import annotations

import io
from pathlib import Path

import anywidget
import traitlets

from ...errors import TestBedError
from ..images import small_image
from ..schema import Item
from .rounds import Verification

LARGEST = 1024  # pixels a side of a sent image


class VerifyWidget(anywidget.AnyWidget):
    """The screen of one person's round. It does nothing without a browser."""

    _esm = Path(__file__).with_name("widget.js")
    _css = Path(__file__).with_name("widget.css")
    state = traitlets.Dict().tag(sync=True)  # of the `Verification`, with `answered` and `image_problem`
    image = traitlets.Bytes().tag(sync=True)  # JPEG; empty without an image

    def __init__(self, verification: Verification) -> None:
        super().__init__()
        self.verification = verification
        self._drawn, self._problem = None, ""  # the item of the image, and its problem
        self.on_msg(self._receive)
        self._draw()

    def __repr__(self) -> str:
        state = self.verification.state()
        return f"{state['done']} of {state['total']} items decided by {state['annotator']}; keys need JupyterLab"

    def _receive(self, _, message: dict, __) -> None:
        number = message.pop("number")
        self.verification.press(**message)
        self._draw(number)

    def _draw(self, answered: int = 0) -> None:
        """Draw the state. answered: the number of the browser's message."""
        item = self.verification.item if self.verification.items else None
        with self.hold_sync():
            if item != self._drawn:
                self.image, self._problem = picture(item)  # pyright: ignore[reportArgumentType]
                self._drawn = item
            self.state = self.verification.state() | {"answered": answered, "image_problem": self._problem}


def picture(item: Item) -> tuple[bytes, str]:
    """Return an item's image as JPEG, at most LARGEST pixels a side, or no bytes and a sentence that says why."""
    if item.image is None:
        return b"", "This question has no image."
    try:
        image = small_image(item.image, LARGEST)
    except TestBedError as error:
        return b"", str(error)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue(), ""
