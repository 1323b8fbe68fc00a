"""Trace, contributions and knock-outs: settings, a button, and the picture of what came out.

A panel has a box, `show` (draw what the exploration knows) and `enable` (whether something can be started now).
`run` starts an action, by its name, and shows its result.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from ipywidgets import HTML, BoundedIntText, Box, HBox, IntRangeSlider, IntSlider, Layout, VBox

from ..attention.contributions import FLOWS
from ..engine.windows import WINDOW_RULES, window_spans
from ..plots.style import arrow
from ..plots.words import token_label
from ..studies.conditions import CONSTRAINTS, CORRUPTIONS, PROTOCOLS, Conditions
from ..tracing.causal_trace import ANSWER_SCORES, KIND_NAMES, KINDS
from .exploration import READERS, Exploration, Settings, Traced
from .parts import LABEL, ClickablePicture, button, choice, paragraph, table
from .pictures import TracePicture, contributions_png, knockout_png
from .work import Steps

Run = Callable[[str, Steps, Callable[[], None]], None]
BY_PROTOCOL = ("as in the protocol", "")
NARROW = Layout(width="290px")
GRID = Layout(display="flex", flex_flow="row wrap")


class TracePanel:
    """Three runs and the maps of all sites; a click on one restores it."""

    title = "Trace"

    def __init__(self, exploration: Exploration, run: Run, changed: Callable[[], None]) -> None:
        self._exploration, self._run, self._filling = exploration, run, False
        self._shown = self._drawn = None  # a trace, and the picture of it
        both = ("MLP and attention", KINDS)
        self._window = BoundedIntText(value=3, min=1, description="Window (layers)", style=LABEL, layout=NARROW)
        self._kinds = choice("Restored", [both, *((name, (kind,)) for kind, name in KIND_NAMES.items())])
        self._protocol = choice("Protocol", PROTOCOLS)
        self._rule = choice("Window rule", [BY_PROTOCOL, *WINDOW_RULES])
        self._corruption = choice("Corruption", [BY_PROTOCOL, *CORRUPTIONS])
        self._corrupted = choice("Corrupted", [BY_PROTOCOL, *CONSTRAINTS])
        self._samples = BoundedIntText(value=10, min=1, max=100, description="Draws of noise", style=LABEL,
                                       layout=NARROW)
        self._score = choice("P(answer) of", [(name.replace("_", " "), name) for name in ANSWER_SCORES])
        self._chosen = [self._window, self._kinds, self._protocol, self._rule, self._corruption, self._corrupted,
                        self._samples, self._score]
        self._start, self._problem = button("Trace", self._trace, primary=True), HTML()
        self._kind, self._token, self._layer = (
            choice(name, []) for name in ("Restored site", "at token", "in layer"))
        self._site = [self._kind, self._token, self._layer]
        self._best = button("Best at the constraint", lambda: self._restore(exploration.traced.best))
        self._told, self._picture = HTML(), ClickablePicture("The three runs and the maps of all sites", self._clicked)
        hint = HTML(paragraph("Click a site in a map, or choose one, to see what is said with it restored.", "faint"))
        self._result = VBox([self._told, self._picture, hint, Box([*self._site, self._best], layout=GRID)])
        self.box = VBox([Box(self._chosen, layout=GRID), HBox([self._start, self._problem]), self._result])
        for widget in self._chosen:
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
        if ready and self._exploration.traced:
            self._name_site()

    def show(self) -> None:
        traced = self._exploration.traced
        if traced is not self._shown:
            self._shown, self._drawn = traced, traced and TracePicture(traced)
            self._told.value = told(traced, self._exploration.is_right(traced.result.answer_text)) if traced else ""
            self._picture.png = self._drawn.png if traced else b""
        self._result.layout.display = "" if traced else "none"

    def _trace(self) -> None:
        self._run("Trace", self._exploration.trace(self.settings), self.show)

    def _clicked(self, x: float, y: float) -> None:
        site = self._drawn and self._drawn.site_at(x, y)
        if site:
            self._restore(site)

    def _restore(self, site: tuple[str, int, int]) -> None:
        if not self._filling:
            self._run("Restore", self._exploration.restore(site), self.show)

    def _name_site(self) -> None:
        """Let the lists say which site is shown; after one that could not be restored, too."""
        self._filling, result, site = True, self._exploration.traced.result, self._exploration.traced.example.site
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


def told(traced: Traced, is_right: bool | None) -> str:
    """HTML: the probabilities of the three runs, and where the best site is."""
    result, example = traced.result, traced.example
    kind, position, layer = traced.best
    p_best = result.restored[result.kinds.index(kind), result.positions.index(position), layer]
    token = token_label(result.tokens[result.positions.index(position)])
    likeliest = example.answers.loc[example.answers["run"] == "corrupted", "token"].iloc[0]
    note = {None: "", True: ", an accepted answer", False: ", none of the accepted answers"}[is_right]
    p = f"P({escape(example.answer)})" if traced.settings.answer_score == "sequence" else "P(answer)"
    start, stop = window_spans(result.window, result.window_rule, len(result.layers))[layer]
    layers = f"layer {start}" if stop - start == 1 else f"layers {start} to {stop - 1}"
    rows = [
        ("clean", f"{result.p_clean:.3f}", f"the model says <b>{escape(result.answer_text)}</b>{note}"),
        ("corrupted", f"{result.p_corrupted:.3f}", f"the likeliest token is <b>{escape(token_label(likeliest))}</b>"),
        ("best restored", f"{p_best:.3f}",
         f"{KIND_NAMES[kind]} of {layers} at <b>{escape(token)}</b>, the last token of the corrupted constraint"),
    ]
    return table(["run", p, ""], rows)


class ContributionsPanel:
    """Which patches are read, over the image, and what the last token reads from the constraint."""

    title = "Contributions"

    def __init__(self, exploration: Exploration, run: Run) -> None:
        self._exploration, self._run = exploration, run
        self._start = button("Show contributions", self._contribute, primary=True)
        self._reader = choice("Image read by", zip(("the constraint", "the last token"), READERS, strict=True))
        self._layer = IntSlider(description="Layer", continuous_update=False, style=LABEL, layout=Layout(width="420px"))
        self._picture = ClickablePicture("Contributions over the image, and by layer")
        self._result = VBox([self._reader, self._layer, self._picture])
        hint = HTML(paragraph("How much the image's tokens add to a token that reads them: norms of Eq. 1.", "faint"))
        self.box = VBox([hint, self._start, self._result])
        for widget in (self._reader, self._layer):
            widget.observe(lambda _: self.show(), "value")

    def enable(self, ready: bool) -> None:
        self._start.disabled = not ready
        self._layer.max = self._exploration.model.n_layers - 1

    def show(self) -> None:
        found = self._exploration.contributed
        self._picture.png = contributions_png(found, self._reader.value, self._layer.value) if found else b""
        self._result.layout.display = "" if found else "none"

    def _contribute(self) -> None:
        self._run("Contributions", self._exploration.contribute(), self.show)


class KnockoutPanel:
    """A flow between tokens, blocked in a range of layers."""

    title = "Knock-out"

    def __init__(self, exploration: Exploration, run: Run) -> None:
        self._exploration, self._run, self._shown = exploration, run, None
        every = ("all three", tuple(FLOWS))
        self._flows = choice("Blocked flow", [every, *((arrow(name), (name,)) for name in FLOWS)])
        self._layers = IntRangeSlider(value=(0, 2), max=7, description="In layers", style=LABEL,
                                      layout=Layout(width="420px"))
        self._start = button("Block", self._block, primary=True)
        self._told, self._picture = HTML(), ClickablePicture("P(answer) with each flow blocked, by layer")
        self._result = VBox([self._told, self._picture])
        hint = HTML(paragraph("In these layers, tokens at the arrow's head do not read those at its tail.", "faint"))
        self.box = VBox([hint, self._flows, self._layers, self._start, self._result])

    def enable(self, ready: bool) -> None:
        self._start.disabled = not ready
        self._layers.max = self._exploration.model.n_layers - 1

    def show(self) -> None:
        blocked = self._exploration.blocked
        if blocked is not self._shown:
            self._shown = blocked
            self._picture.png = knockout_png(blocked) if blocked else b""
        if blocked:
            found, first, last = blocked.found, blocked.first, blocked.last
            where = f"in layer {first}" if first == last else f"in layers {first} to {last}"
            rows = [(arrow(flow), f"{found.p_clean:.3f}", f"<b>{blocked.p_blocked(flow):.3f}</b>", f"{entirely:.3f}")
                    for flow, entirely in zip(found.flows, found.p_all_blocked, strict=True)]
            columns = ["blocked", f"P({found.answer_text}) before", f"after, {where}", "after, in all layers"]
            self._told.value = table(columns, rows)
        self._result.layout.display = "" if blocked else "none"

    def _block(self) -> None:
        self._run("Knock-out", self._exploration.block(self._flows.value, *self._layers.value), self.show)
