"""The four tabs of the explorer: trace, contributions, knock-out and edit."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from ipywidgets import HTML, BoundedIntText, Box, Combobox, HBox, IntRangeSlider, IntSlider, Layout, VBox

from ..attention.contributions import FLOWS
from ..engine.windows import WINDOW_RULES, window_spans
from ..plots.style import arrow
from ..plots.words import token_label
from ..studies.conditions import CONSTRAINTS, CORRUPTIONS, PROTOCOLS, Conditions
from ..tracing.causal_trace import ANSWER_SCORES, KIND_NAMES, KINDS
from .exploration import READERS, Exploration, Settings, TraceResult
from .pictures import TracePicture, contributions_png, knockout_png, thumbnail
from .widgets import LABEL, WIDE, ClickablePicture, button, choice, field, heading, inline_image, paragraph, table
from .worker import Steps

BY_PROTOCOL = ("as in the protocol", "")
NARROW, SLIDER = Layout(width="290px"), Layout(width="420px")
GRID = Layout(display="flex", flex_flow="row wrap")


class Panel:
    """One tab: a `title` and a `box`. `show` draws the result; `enable` is told whether an action can start."""

    def __init__(self, exploration: Exploration, run: Callable[[str, Steps, Callable[[], None]], None]) -> None:
        """`run` starts an action by its name and then shows its result."""
        self._exploration, self._run_action = exploration, run

    def _run(self, name: str, steps: Steps) -> None:
        self._run_action(name, steps, self.show)

    def show(self) -> None:
        """Draw the result."""


class TracePanel(Panel):
    """The three runs and the maps of all sites; a click on a site restores it."""

    title = "Trace"

    def __init__(self, exploration: Exploration, run: Callable, changed: Callable[[], None]) -> None:
        """`changed` is called when a setting changes."""
        super().__init__(exploration, run)
        self._filling = False
        self._shown = self._drawn = None  # a trace, and its picture
        both = ("MLP and attention", KINDS)
        self._window = BoundedIntText(value=3, min=1, description="Window (layers)", style=LABEL, layout=NARROW)
        self._kinds = choice("Restored", [both, *((KIND_NAMES[kind], (kind,)) for kind in KINDS)])
        self._protocol = choice("Protocol", PROTOCOLS)
        self._rule = choice("Window rule", [BY_PROTOCOL, *WINDOW_RULES])
        self._corruption = choice("Corruption", [BY_PROTOCOL, *CORRUPTIONS])
        self._corrupted = choice("Corrupted", [BY_PROTOCOL, *CONSTRAINTS])
        self._samples = BoundedIntText(value=10, min=1, max=100, description="Noise samples", style=LABEL,
                                       layout=NARROW)
        self._score = choice("P(answer) of", [(name.replace("_", " "), name) for name in ANSWER_SCORES])
        inputs = [self._window, self._kinds, self._protocol, self._rule, self._corruption, self._corrupted,
                  self._samples, self._score]
        self._start = button("Trace", lambda: self._run("Trace", exploration.trace(self.settings)), primary=True)
        self._problem = HTML()
        self._kind, self._token, self._layer = self._site = [
            choice(name, []) for name in ("Restored site", "at token", "in layer")]
        self._best = button("Best at the constraint", lambda: self._restore(exploration.trace_result.best))
        self._text, self._picture = HTML(), ClickablePicture("The three runs and the maps of all sites", self._clicked)
        hint = HTML(paragraph("Click a site in a map, or choose one, to see what the model says with it restored.",
                              "faint"))
        self._result = VBox([self._text, self._picture, hint, Box([*self._site, self._best], layout=GRID)])
        self.box = VBox([Box(inputs, layout=GRID), HBox([self._start, self._problem]), self._result])
        for widget in inputs:
            widget.observe(lambda _: changed(), "value")
        for widget in self._site:
            widget.observe(lambda _: self._restore((self._kind.value, self._token.value, self._layer.value)), "value")

    @property
    def settings(self) -> Settings:
        conditions = Conditions(
            self._protocol.value, self._rule.value, self._corruption.value, self._corrupted.value,
            noise_samples=self._samples.value,
        )
        return Settings(self._window.value, self._kinds.value, self._score.value, conditions)

    def enable(self, ready: bool) -> None:
        self._window.max = self._exploration.model.n_layers
        conditions = self.settings.conditions
        problem = self._exploration.problem(conditions) if ready else ""
        self._problem.value = paragraph(problem, "problem")
        self._start.disabled = not ready or bool(problem)
        self._samples.disabled = not conditions.is_noise
        self._corrupted.disabled = not self._exploration.draft.text_constraint.strip()
        for widget in (*self._site, self._best):
            widget.disabled = not ready
        if ready and self._exploration.trace_result:
            self._select_site()

    def show(self) -> None:
        traced = self._exploration.trace_result
        if traced is not self._shown:
            self._shown, self._drawn = traced, traced and TracePicture(traced)
            right = traced and self._exploration.is_right(traced.result.answer_text)
            self._text.value = describe(traced, right) if traced else ""
            self._picture.png = self._drawn.png if traced else b""
        self._result.layout.display = "" if traced else "none"

    def _clicked(self, x: float, y: float) -> None:
        site = self._drawn and self._drawn.site_at(x, y)
        if site:
            self._restore(site)

    def _restore(self, site: tuple[str, int, int]) -> None:
        if not self._filling:
            self._run("Restore", self._exploration.restore(site))

    def _select_site(self) -> None:
        """Select the site that is shown in the lists, also after another one could not be restored."""
        self._filling, traced = True, self._exploration.trace_result
        result, site = traced.result, traced.example.site
        names = map(token_label, result.tokens, result.roles)
        for widget, options, value in (
            (self._kind, tuple((KIND_NAMES[kind], kind) for kind in result.kinds), site["kind"]),
            (self._token, tuple(zip(names, result.positions, strict=True)), site["position"]),
            (self._layer, result.layers, site["layer"]),
        ):
            if widget.options != options:
                widget.options = options
            widget.value = value
        self._filling = False


class ContributionsPanel(Panel):
    """Contributions of the image over its patches, and of the constraint to the last token."""

    title = "Contributions"

    def __init__(self, exploration: Exploration, run: Callable) -> None:
        super().__init__(exploration, run)
        self._start = button(
            "Show contributions", lambda: self._run("Contributions", exploration.compute_contributions()), primary=True)
        self._reader = choice("Image read by", zip(("the constraint", "the last token"), READERS, strict=True))
        self._layer = IntSlider(description="Layer", continuous_update=False, style=LABEL, layout=SLIDER)
        self._picture = ClickablePicture("Contributions over the image, and by layer")
        self._result = VBox([self._reader, self._layer, self._picture])
        hint = HTML(paragraph("How much the image's tokens contribute to a token that reads them: norms of Eq. 1.",
                              "faint"))
        self.box = VBox([hint, self._start, self._result])
        for widget in (self._reader, self._layer):
            widget.observe(lambda _: self.show(), "value")

    def enable(self, ready: bool) -> None:
        self._start.disabled = not ready
        self._layer.max = self._exploration.model.n_layers - 1

    def show(self) -> None:
        result = self._exploration.contributions
        self._picture.png = contributions_png(result, self._reader.value, self._layer.value) if result else b""
        self._result.layout.display = "" if result else "none"


class KnockoutPanel(Panel):
    """A flow between tokens, blocked in a range of layers."""

    title = "Knock-out"

    def __init__(self, exploration: Exploration, run: Callable) -> None:
        super().__init__(exploration, run)
        self._shown = None
        every = ("all three", tuple(FLOWS))
        self._flows = choice("Blocked flow", [every, *((arrow(name), (name,)) for name in FLOWS)])
        self._layers = IntRangeSlider(value=(0, 2), max=7, description="In layers", style=LABEL, layout=SLIDER)
        self._start = button(
            "Block", lambda: self._run("Knock-out", exploration.block(self._flows.value, *self._layers.value)),
            primary=True)
        self._text, self._picture = HTML(), ClickablePicture("P(answer) with each flow blocked, by layer")
        self._result = VBox([self._text, self._picture])
        hint = HTML(paragraph("In these layers, the tokens after the arrow cannot read the tokens before it.", "faint"))
        self.box = VBox([hint, self._flows, self._layers, self._start, self._result])

    def enable(self, ready: bool) -> None:
        self._start.disabled = not ready
        self._layers.max = self._exploration.model.n_layers - 1

    def show(self) -> None:
        knockout = self._exploration.knockout
        if knockout is not self._shown:
            self._shown = knockout
            self._picture.png = knockout_png(knockout) if knockout else b""
        if knockout:
            result, first, last = knockout.result, knockout.first, knockout.last
            where = f"in layer {first}" if first == last else f"in layers {first} to {last}"
            rows = [(arrow(flow), f"{result.p_clean:.3f}", f"<b>{knockout.p_blocked(flow):.3f}</b>", f"{p_all:.3f}")
                    for flow, p_all in zip(result.flows, result.p_all_blocked, strict=True)]
            columns = ["blocked", f"P({result.answer_text}) before", f"after, {where}", "after, in all layers"]
            self._text.value = table(columns, rows)
        self._result.layout.display = "" if knockout else "none"


class EditPanel(Panel):
    """Make an edit, ask the unedited and the edited model, and undo it."""

    title = "Edit"

    def __init__(self, exploration: Exploration, run: Callable, related: Callable[[], tuple[str, ...]]) -> None:
        """`related` returns other questions about the image."""
        super().__init__(exploration, run)
        self._related, self._ready, self._shown = related, False, None
        self._target = field("Target answer", hint="what the model should say")
        self._layer = BoundedIntText(value=2, min=0, description="Edited layer", style=LABEL, layout=NARROW)
        self._make = button(
            "Make the edit", lambda: self._run("Edit", exploration.edit(self._target.value.strip(), self._layer.value)),
            primary=True)
        self._question = Combobox(description="Question", placeholder="another question about this image",
                                  style=LABEL, layout=WIDE)
        self._ask = button("Ask both models", lambda: self._run("Ask", exploration.ask(self._question.value.strip())))
        self._edits, self._answers = VBox(), HTML()
        self.box = VBox([
            heading("Change the model's answer to the question"), self._target, HBox([self._layer, self._make]),
            heading("Active edits"), self._edits,
            heading("Ask again"), self._question, HBox([self._ask]), self._answers,
        ])
        for widget in (self._target, self._question):
            widget.observe(lambda _: self.enable(self._ready), "value")

    def enable(self, ready: bool) -> None:
        self._ready = ready
        self._layer.max = max(0, self._exploration.model.n_layers - 2)  # no token reads a value of the last layer
        self._make.disabled = not (ready and self._target.value.strip())
        self._ask.disabled = not (ready and self._question.value.strip())
        self._question.options = self._related()
        for row in self._edits.children:
            for widget in row.children[:-1]:
                widget.disabled = not ready

    def show(self) -> None:
        edits, answers = self._exploration.edits, self._exploration.answers
        if answers is self._shown:  # every edit and every question makes another tuple
            return
        self._shown = answers
        self._edits.children = [self._edit_row(i, edit) for i, edit in enumerate(edits)] or [
            HBox([HTML(paragraph("none", "faint"))])]
        rows = [
            (inline_image(thumbnail(pair.image, 60)), escape(pair.question), escape(pair.unedited),
             f"<b>{escape(pair.edited)}</b>" if pair.edited != pair.unedited else escape(pair.edited))
            for pair in reversed(answers)
        ]
        self._answers.value = table(["image", "question", "unedited", "edited"], rows) if rows else ""

    def _edit_row(self, index: int, edit) -> HBox:
        later, [fact] = len(self._exploration.edits) - index - 1, edit.facts
        text = f"“{fact.question}” → “{fact.target}”, layer {edit.layers[0]}"
        text += f": P {fact.p_before:.3f} → {fact.p_target:.3f}"
        undo = button(f"Undo, with {later} later" if later else "Undo",
                      lambda: self._run("Undo", self._exploration.undo(index)))
        return HBox([undo, HTML(paragraph(text))], layout=Layout(align_items="center"))


def describe(traced: TraceResult, is_right: bool | None) -> str:
    """Return the HTML of the probabilities of the three runs and of the best site."""
    result, example = traced.result, traced.example
    kind, position, layer = traced.best
    p_best = result.restored[result.kinds.index(kind), result.positions.index(position), layer]
    token = token_label(result.tokens[result.positions.index(position)])
    likeliest = example.answers.loc[example.answers["run"] == "corrupted", "token"].iloc[0]
    note = {None: "", True: ", an accepted answer", False: ", not an accepted answer"}[is_right]
    p = f"P({escape(example.answer)})" if traced.settings.answer_score == "sequence" else "P(answer)"
    start, stop = window_spans(result.window, result.window_rule, len(result.layers))[layer]
    layers = f"layer {start}" if stop - start == 1 else f"layers {start} to {stop - 1}"
    return table(["run", p, ""], [
        ("clean", f"{result.p_clean:.3f}", f"the model says <b>{escape(result.answer_text)}</b>{note}"),
        ("corrupted", f"{result.p_corrupted:.3f}", f"the likeliest token is <b>{escape(token_label(likeliest))}</b>"),
        ("best restored", f"{p_best:.3f}",
         f"{KIND_NAMES[kind]} of {layers} at <b>{escape(token)}</b>, the last token of the corrupted constraint"),
    ])
