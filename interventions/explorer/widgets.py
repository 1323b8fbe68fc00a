"""Small widgets and pieces of HTML that the explorer is built from."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

import anywidget
import traitlets
from ipywidgets import HTML, Button, Dropdown, Layout, Text, Textarea

STYLE = f"<style>\n{Path(__file__).with_name('explorer.css').read_text(encoding='utf-8')}</style>"
LABEL = {"description_width": "118px"}
WIDE = Layout(width="auto")


class ClickablePicture(anywidget.AnyWidget):
    """A PNG as wide as its container that reports clicks."""

    _esm = Path(__file__).with_name("picture.js")
    png = traitlets.Bytes().tag(sync=True)  # empty: nothing is shown
    alt = traitlets.Unicode().tag(sync=True)
    clickable = traitlets.Bool().tag(sync=True)

    def __init__(self, alt: str, clicked: Callable[[float, float], None] | None = None) -> None:
        """`clicked` gets the place of a click, from (0, 0) at the upper left to (1, 1)."""
        super().__init__(alt=alt, clickable=clicked is not None)
        if clicked:
            self.on_msg(lambda _, message, __: clicked(message["x"], message["y"]))


def button(text: str, clicked: Callable[[], None], *, primary: bool = False) -> Button:
    layout = Layout(width="auto", align_self="flex-start")
    widget = Button(description=text, button_style="primary" if primary else "", layout=layout)
    widget.on_click(lambda _: clicked())
    return widget


def field(name: str, *, lines: int = 1, hint: str = "") -> Text | Textarea:
    options = {"description": name, "placeholder": hint, "style": LABEL, "layout": WIDE}
    return Text(**options) if lines == 1 else Textarea(**options, rows=lines)


def choice(name: str, options: Iterable) -> Dropdown:
    """Return a dropdown. Options are values, or pairs of a name and a value."""
    pairs = [option if isinstance(option, tuple) else (str(option), option) for option in options]
    return Dropdown(description=name, options=pairs, style=LABEL, layout=Layout(width="290px"))


def paragraph(text: str = "", kind: str = "") -> str:
    """Return the HTML of a plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return the HTML of a table whose cells are HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def inline_image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def heading(text: str) -> HTML:
    return HTML(f"<h4>{escape(text)}</h4>")
