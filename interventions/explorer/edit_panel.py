"""Edits: make one, ask the unedited and the edited model side by side, take it back."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from ipywidgets import HTML, BoundedIntText, Combobox, HBox, Layout, VBox

from .exploration import Exploration
from .panels import NARROW, Run
from .parts import LABEL, WIDE, button, field, heading, inline_image, paragraph, table
from .pictures import thumbnail


class EditPanel:
    """others: what else is worth asking about the image, called with nothing."""

    title = "Edit"

    def __init__(self, exploration: Exploration, run: Run, others: Callable[[], tuple[str, ...]]) -> None:
        self._exploration, self._run, self._others, self._ready, self._shown = exploration, run, others, False, None
        self._target = field("Target answer", hint="what the model shall say")
        self._layer = BoundedIntText(value=2, min=0, description="Edited layer", style=LABEL, layout=NARROW)
        self._make = button("Make the edit", self._edit, primary=True)
        self._question = Combobox(description="Question", placeholder="another question about this image",
                                  style=LABEL, layout=WIDE)
        self._ask = button("Ask both models", self._ask_both)
        self._edits, self._answers = VBox(), HTML()
        self.box = VBox([
            heading("Change what the model says to the question"), self._target, HBox([self._layer, self._make]),
            heading("Edits in force"), self._edits,
            heading("Ask again"), self._question, HBox([self._ask]), self._answers,
        ])
        for widget in (self._target, self._question):
            widget.observe(lambda _: self.enable(self._ready), "value")

    def enable(self, ready: bool) -> None:
        self._ready = ready
        self._layer.max = max(0, self._exploration.model.n_layers - 2)  # behind the last one, no token reads the value
        self._make.disabled = not (ready and self._target.value.strip())
        self._ask.disabled = not (ready and self._question.value.strip())
        self._question.options = self._others()
        for row in self._edits.children:
            for widget in row.children[:-1]:
                widget.disabled = not ready

    def show(self) -> None:
        edits, asked = self._exploration.edits, self._exploration.asked
        if asked is self._shown:  # every edit and every question makes another tuple
            return
        self._shown = asked
        self._edits.children = [self._row(place, edit) for place, edit in enumerate(edits)] or [
            HBox([HTML(paragraph("none", "faint"))])]
        rows = [
            (inline_image(thumbnail(one.image, 60)), escape(one.question), escape(one.unedited),
             f"<b>{escape(one.edited)}</b>" if one.edited != one.unedited else escape(one.edited))
            for one in reversed(asked)
        ]
        self._answers.value = table(["image", "question", "unedited", "edited"], rows) if rows else ""

    def _row(self, place: int, edit) -> HBox:
        later, [fact] = len(self._exploration.edits) - place - 1, edit.facts
        text = f"“{fact.question}” → “{fact.target}”, layer {edit.layers[0]}"
        text += f": P {fact.p_before:.3f} → {fact.p_target:.3f}"
        undo = button(f"Undo, with {later} later" if later else "Undo", lambda: self._undo(place))
        return HBox([undo, HTML(paragraph(text))], layout=Layout(align_items="center"))

    def _edit(self) -> None:
        self._run("Edit", self._exploration.edit(self._target.value.strip(), self._layer.value), self.show)

    def _ask_both(self) -> None:
        self._run("Ask", self._exploration.ask(self._question.value.strip()), self.show)

    def _undo(self, place: int) -> None:
        self._run("Undo", self._exploration.undo(place), self.show)
