"""The explorer as one widget: the model and the status above, the question at the left, the actions at the right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape

from ipywidgets import HTML, Combobox, HBox, Layout, Tab, VBox

from ..models.checkpoints import ALIASES
from ..models.model import VisionLanguageModel
from ..testbed import TestBed
from .exploration import Exploration
from .form import QuestionForm
from .panels import ContributionsPanel, EditPanel, KnockoutPanel, TracePanel
from .widgets import LABEL, STYLE, button, paragraph
from .worker import Steps, Worker


class Explorer(VBox):
    """A widget to display in a cell.

    Attributes:
        exploration: The model, the question and the results.
        worker: The running action; `worker.error` is the last exception.
    """

    def __init__(self, model: VisionLanguageModel, testbed: TestBed, **loading) -> None:
        """`loading` holds the arguments of `load_model` for every model that is loaded in the explorer."""
        self.exploration, self.worker = Exploration(model, testbed, **loading), Worker(self._refresh)
        self._lock = threading.RLock()  # clicks and results come from different threads
        self._name = Combobox(value=model.name, options=[name for name in ALIASES if name != "mini-text"],
                              description="Model", style=LABEL, ensure_option=False,
                              placeholder="a directory or a Hub id", layout=Layout(width="420px"))
        self._load = button("Load", lambda: self.run("Load", self.exploration.load(self._name.value), self._show))
        self._model, self._status = HTML(), HTML()
        self._stop = button("Stop", self.worker.stop)
        self._stop.layout.flex = "0 0 auto"
        self._form = QuestionForm(testbed, lambda problem: self._changed("problem", problem))
        self._panels = (
            TracePanel(self.exploration, self.run, self._changed),
            ContributionsPanel(self.exploration, self.run),
            KnockoutPanel(self.exploration, self.run),
            EditPanel(self.exploration, self.run, self._related_questions),
        )
        tabs = Tab([panel.box for panel in self._panels], titles=[panel.title for panel in self._panels],
                   layout=Layout(flex="1 1 560px", min_width="0"))
        top = Layout(align_items="center", flex_flow="row wrap")
        super().__init__([
            HTML(STYLE), HBox([self._name, self._load, self._model], layout=top),
            HBox([self._stop, self._status], layout=Layout(align_items="center", min_height="34px")),
            HBox([self._form.box, tabs], layout=Layout(flex_flow="row wrap", align_items="flex-start")),
        ])
        self.add_class("explorer")
        self._form.changed = self._changed
        self._show()
        self._refresh()

    def __repr__(self) -> str:
        return f"This explorer needs JupyterLab; its model is {self.exploration.model.name!r}"

    def run(self, name: str, steps: Steps, then: Callable[[], None]) -> None:
        """Start an action in a thread, and show its result with `then`."""
        self.worker.start(name, steps, then)
        self._refresh()

    def _changed(self, kind: str = "", message: str = "") -> None:
        """Replace the message of the last action after an input has changed."""
        self.worker.message = (kind, message)
        self._refresh()

    def _show(self) -> None:
        for panel in self._panels:
            panel.show()

    def _related_questions(self) -> tuple[str, ...]:
        """Paraphrases of the picked question, and other questions of the test bed about the same entity."""
        picked = self._form.picked
        if picked is None:
            return ()
        same = (item.question for item in self.exploration.testbed if picked.entity and item.entity == picked.entity)
        return tuple(dict.fromkeys((*picked.paraphrases, *same)))

    def _refresh(self) -> None:
        """Update the status and what can be pressed. A question edited during an action is read when that ends."""
        with self._lock:
            model, step, draft = self.exploration.model, self.worker.step, self._form.draft
            if step is None and draft != self.exploration.draft:
                self.exploration.draft = draft
                self._show()
            problem = "" if step else self.exploration.problem()
            text = f"{model.name}: {model.n_layers} layers, {model.dtype} on {model.device}".replace("torch.", "")
            self._model.value = paragraph(text, "faint")
            self._status.value = status(self.worker, problem)
            self._load.disabled = step is not None
            self._stop.disabled = step is None or self.worker.stopping
            self._form.enable(step is None)
            for panel in self._panels:
                panel.enable(step is None and not problem)


def status(worker: Worker, problem: str) -> str:
    """Return the HTML of the progress, the outcome of the last action, or what is wrong with the question."""
    (kind, text), step = worker.message, worker.step
    if step is None:
        return paragraph(text, kind) or paragraph(problem, "problem") or paragraph("Ready.", "faint")
    amount = f' value="{step.done}" max="{step.total}"' if step.total else ""
    doing = escape(step.doing) + (f" ({step.done} of {step.total})" if step.total else "")
    return f"<p><progress{amount}></progress>{'Stopping after this step: ' if worker.stopping else ''}{doing}</p>"
