"""The form with the question: picked from a test bed, edited by hand, or about an image of the user."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path

from ipywidgets import HTML, Dropdown, FileUpload, HBox, Image, Layout, Text, VBox, Widget

from ..plots.style import PARTS
from ..testbed import Item, TestBed, TestBedError
from ..testbed.images import image_problem
from ..testbed.phrases import question_pieces
from .draft import DRAFT_ERRORS, Draft, suggestions
from .pictures import thumbnail
from .widgets import WIDE, button, field, heading

CONSTRAINTS = (("any constraints", ""), ("one constraint", "single"), ("two constraints", "multi"))


class QuestionForm:
    """The form. `changed` is called whenever the draft changes; `picked` is the picked question, if any."""

    def __init__(self, testbed: TestBed, report: Callable[[str], None]) -> None:
        """`report` is called with a sentence when an image cannot be used."""
        self._picker, self._report = Picker(testbed), report
        self._folder = tempfile.TemporaryDirectory(prefix="explorer-")  # of uploaded images
        self._image: Path | None = None
        self._filling = False
        self.changed: Callable[[], None] = lambda: None
        self.picked: Item | None = None
        self._fields = {
            "question": field("Question", lines=2, hint="The capital of this country is"),
            "visual_constraint": field("Visual constraint", hint="this country"),
            "visual_replacement": field("replaced by", hint="Sri Lanka"),
            "text_constraint": field("Text constraint", hint="none"),
            "text_replacement": field("replaced by", hint="none"),
            "answers": field("Right answers", hint="optional: one; another"),
        }
        self._suggested, self._preview = HBox(layout=Layout(flex_flow="row wrap")), HTML()
        question, constraint, *others = self._fields.values()
        self.box = VBox(
            [*self._picker_rows(), *self._image_rows(), question, constraint, self._suggested, *others, self._preview],
            layout=Layout(flex="0 1 370px", min_width="340px", padding="0 12px 0 0"),
        )
        self.box.add_class("explorer-question")
        for widget in self._fields.values():
            widget.observe(lambda _: self._edited(), "value")
        self._use_picked()

    def _picker_rows(self) -> list[Widget]:
        half = Layout(width="50%", min_width="0")
        parts = [("all parts", ""), *((PARTS.get(name, name), name) for name in self._picker.testbed.parts)]
        self._part, self._constraints = Dropdown(options=parts, layout=half), Dropdown(options=CONSTRAINTS, layout=half)
        self._search = Text(placeholder="Search in questions, entities, answers", layout=WIDE)
        for widget in (self._part, self._constraints, self._search):
            widget.observe(lambda _: self._pick(self._picker.choose, self._part.value or None,
                                                self._constraints.value or None, self._search.value), "value")
        self._buttons = [
            button("Previous", lambda: self._pick(self._picker.move, -1)),
            button("Next", lambda: self._pick(self._picker.move, 1)),
            button("Random", lambda: self._pick(self._picker.move_randomly)),
        ]
        self._place = HTML()
        return [heading("From the test bed"), HBox([self._part, self._constraints]), self._search,
                HBox([*self._buttons, self._place])]

    def _image_rows(self) -> list[Widget]:
        self._picture = Image(format="png", layout=Layout(height="150px", max_width="100%", object_fit="contain"))
        self._upload = FileUpload(accept="image/*", description="Use my own image", layout=WIDE)
        self._upload.observe(lambda _: self._uploaded(), "value")
        self._clear = button("Clear the fields", lambda: self._fill(dict.fromkeys(self._fields, "")))
        return [heading("The question"), self._picture, HBox([self._upload, self._clear])]

    @property
    def draft(self) -> Draft:
        return Draft(image=self._image, **{name: widget.value for name, widget in self._fields.items()})

    def enable(self, idle: bool) -> None:
        """Lock the form while an action runs."""
        for widget in (self._part, self._constraints, self._search, *self._buttons, self._upload, self._clear,
                       *self._fields.values(), *self._suggested.children):
            widget.disabled = not idle

    def _pick(self, move: Callable, *arguments) -> None:
        move(*arguments)
        self._use_picked()

    def _use_picked(self) -> None:
        """Put the picked question into the form; if none matches, leave the form as it is."""
        n, item = len(self._picker.items), self._picker.item
        self._place.value = f"{self._picker.place + 1} of {n}" if n else "none matches"
        if item is not None:
            self.picked, self._upload.value = item, ()
            draft = Draft.of(item)
            self._show_image(draft.image)
            self._fill({name: getattr(draft, name) for name in self._fields})

    def _fill(self, values: dict[str, str]) -> None:
        self._filling = True
        for name, value in values.items():
            self._fields[name].value = value
        self._filling = False
        self._edited()

    def _edited(self) -> None:
        if self._filling:
            return
        draft = self.draft
        self._suggested.children = [
            button(f"Mark “{phrase}”", lambda phrase=phrase: self._fill({"visual_constraint": phrase}))
            for phrase in suggestions(draft.question)
            if phrase.casefold() != draft.visual_constraint.strip().casefold()
        ]
        self._preview.value = preview(draft)
        self.changed()

    def _uploaded(self) -> None:
        if not self._upload.value:
            return
        [file] = self._upload.value
        path = Path(self._folder.name) / f"{len(list(Path(self._folder.name).iterdir()))}{Path(file['name']).suffix}"
        path.write_bytes(file["content"])
        problem = image_problem(path)
        if problem:
            self._upload.value = ()
            self._report(f"The file {file['name']!r} cannot be used: {problem}.")
            return
        self.picked = None
        self._show_image(path)
        self._fill({"answers": ""})  # they belonged to another image

    def _show_image(self, path: Path | None) -> None:
        self._image = path
        try:
            self._picture.value = b"" if path is None else thumbnail(path)
        except TestBedError:  # `Draft.problem` reports it
            self._picture.value = b""


class Picker:
    """The questions of a test bed that match, and one picked among them."""

    def __init__(self, testbed: TestBed) -> None:
        self.testbed = testbed
        self._selection = None, None
        self._selected = self.items = tuple(testbed.select())
        self.place = 0

    @property
    def item(self) -> Item | None:
        """The picked question; None if none matches."""
        return self.items[self.place] if self.items else None

    def choose(self, part: str | None, constraints: str | None, text: str) -> None:
        """Keep questions whose wording, entity, answers or id have all words. The picked one stays if it matches."""
        before = self.item
        if (part, constraints) != self._selection:
            self._selection, self._selected = (part, constraints), tuple(self.testbed.select(part, constraints))
        words = text.casefold().split()
        self.items = tuple(item for item in self._selected if all(word in _searchable(item) for word in words))
        self.place = self.items.index(before) if before in self.items else 0

    def move(self, step: int) -> None:
        """Move by a number of questions; the first follows the last."""
        if self.items:
            self.place = (self.place + step) % len(self.items)

    def move_randomly(self) -> None:
        if self.items:
            self.place = random.randrange(len(self.items))


def preview(draft: Draft) -> str:
    """Return the HTML of the clean and the corrupted question, constraints in bold; "" for an incomplete draft."""
    try:
        item = draft.item()
        phrases = {"constraint": item.visual_replacement, "text_constraint": item.text_replacement}
        name = "both replaced" if item.text_constraint else "replaced"
        replaced = question_pieces(item, {k: v for k, v in phrases.items() if v})
        versions = (("clean", question_pieces(item)), (name, replaced))
    except DRAFT_ERRORS:
        return ""
    return "".join(
        f'<p><span class="faint">{name}: </span>'
        + "".join(f"<b>{escape(text)}</b>" if role else escape(text) for text, role in pieces) + "</p>"
        for name, pieces in versions
    )


def _searchable(item: Item) -> str:
    return " ".join((item.question, item.entity, *item.answers, item.id)).casefold()
