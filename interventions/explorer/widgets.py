"""Small widgets and pieces of HTML that the explorer is built from."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from html import escape

import anywidget
import traitlets
from ipywidgets import HTML, Button, Dropdown, Layout, Text, Textarea

STYLE = """<style>
.explorer { --jp-widgets-inline-height: 26px }
.explorer h4 { margin: 6px 0 2px; font-size: 13px; font-weight: 600 }
.explorer p, .explorer td, .explorer th { line-height: 1.45; margin: 2px 0; font-size: 13px; text-align: left }
.explorer table { border-collapse: collapse; margin: 4px 0 }
.explorer td, .explorer th { padding: 3px 14px 3px 0; vertical-align: middle; font-weight: normal }
.explorer th { color: var(--jp-ui-font-color2); border-bottom: 1px solid var(--jp-border-color2) }
.explorer td:first-child { white-space: nowrap }
.explorer td img { height: 30px; display: block }
.explorer .faint { color: var(--jp-ui-font-color2) }
.explorer .problem { color: var(--jp-error-color1) }
.explorer .done { color: var(--jp-success-color1) }
.explorer .stopped { color: var(--jp-warn-color1) }
.explorer progress { width: 220px; vertical-align: middle; margin-right: 8px }
.explorer-question img { align-self: flex-start }
</style>"""
LABEL = {"description_width": "118px"}
WIDE = Layout(width="auto")


class ClickablePicture(anywidget.AnyWidget):
    """A PNG as wide as its container that reports clicks."""

    _esm = """
    function render({ model, el }) {
      const image = document.createElement("img");
      let address = "";
      const draw = () => {
        URL.revokeObjectURL(address);
        address = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
        image.src = address;
        image.alt = model.get("alt");
        image.hidden = model.get("png").byteLength === 0;
      };
      image.style.cssText = "width: 100%; max-width: 860px; background: white; display: block";
      image.style.cursor = model.get("clickable") ? "crosshair" : "default";
      image.addEventListener("click", event => {
        const box = image.getBoundingClientRect();
        model.send({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
      });
      model.on("change:png", draw);
      draw();
      el.append(image);
      return () => { model.off("change:png", draw); URL.revokeObjectURL(address); };
    }
    export default { render };
    """
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
