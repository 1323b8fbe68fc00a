"""The explorer as one widget: above the model and what runs, at the left the question, at the right what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape

from ipywidgets import HTML, Combobox, HBox, Layout, Tab, VBox

from ..models.checkpoints import ALIASES
from ..models.model import VisionLanguageModel
from ..testbed import TestBed
from .edit_panel import EditPanel
from .exploration import Exploration
from .form import QuestionForm
from .panels import ContributionsPanel, KnockoutPanel, TracePanel
from .parts import LABEL, STYLE, button, paragraph
from .work import Steps, Work

SEEING = [name for name in ALIASES if name != "mini-text"]


class Explorer(VBox):
    """Display it in a cell. What it found out is in `exploration`; the last error in `work.error`.

    loading: arguments of `load_model` for every model that is loaded from within it.
    """

    def __init__(self, model: VisionLanguageModel, testbed: TestBed, **loading) -> None:
        self.exploration, self.work = Exploration(model, testbed, **loading), Work(self._refresh)
        self._lock = threading.RLock()  # clicks come in one thread, results in another
        self._name = Combobox(value=model.name, options=SEEING, description="Model", style=LABEL, ensure_option=False,
                              placeholder="a directory or a Hub id", layout=Layout(width="420px"))
        self._load = button("Load", lambda: self.run("Load", self.exploration.load(self._name.value), self._show))
        self._model, self._status = HTML(), HTML()
        self._stop = button("Stop", self.work.stop)
        self._stop.layout.flex = "0 0 auto"
        self._form = QuestionForm(testbed, self._tell)
        self._panels = (
            TracePanel(self.exploration, self.run, self._changed),
            ContributionsPanel(self.exploration, self.run),
            KnockoutPanel(self.exploration, self.run),
            EditPanel(self.exploration, self.run, self._other_questions),
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
        """Start an action in a thread of its own, and show its result."""
        self.work.start(name, steps, then)
        self._refresh()

    def _changed(self) -> None:
        """Another question stands in the form, or other settings of a trace."""
        self.work.message = ("", "")
        self._refresh()

    def _show(self) -> None:
        for panel in self._panels:
            panel.show()

    def _tell(self, problem: str) -> None:
        self.work.message = ("problem", problem)
        self._refresh()

    def _other_questions(self) -> tuple[str, ...]:
        """Paraphrases of the question that was picked, and the test bed's others about the same thing."""
        picked = self._form.picked
        if picked is None:
            return ()
        same = (item.question for item in self.exploration.testbed if picked.entity and item.entity == picked.entity)
        return tuple(dict.fromkeys((*picked.paraphrases, *same)))

    def _refresh(self) -> None:
        """What can be pressed now, and what is said. A question that was still being written when something was started
        is looked at when that is over."""
        with self._lock:
            model, step, draft = self.exploration.model, self.work.step, self._form.draft
            if step is None and draft != self.exploration.draft:
                self.exploration.draft = draft
                self._show()
            problem = "" if step else self.exploration.problem()
            told = f"{model.name}: {model.n_layers} layers, {model.dtype} on {model.device}".replace("torch.", "")
            self._model.value = paragraph(told, "faint")
            self._status.value = status(self.work, problem)
            self._load.disabled = step is not None
            self._stop.disabled = step is None or self.work.stopping
            self._form.enable(step is None)
            for panel in self._panels:
                panel.enable(step is None and not problem)


def status(work: Work, problem: str) -> str:
    """HTML: what runs and how far it is, or what came of the last action, or what is wrong with the question."""
    kind, text = work.message
    if work.step is None:
        return paragraph(text, kind) or paragraph(problem, "problem") or paragraph("Ready.", "faint")
    amount = f' value="{work.step.done}" max="{work.step.total}"' if work.step.total else ""
    doing = escape(work.step.doing) + (f" ({work.step.done} of {work.step.total})" if work.step.total else "")
    return f"<p><progress{amount}></progress>{'Stopping after this step: ' if work.stopping else ''}{doing}</p>"
