"""The parameters of every notebook that draws a tracing figure; the defaults are those of its `parameters` cell."""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace

from .causal_trace import KINDS
from .conditions import CONSTRAINTS, CORRUPTIONS, Conditions
from .model import VisionLanguageModel
from .parameters import ParameterError, Parameters, at_least, by_id, closest, listed, one_of, shard_of
from .testbed import TestBed, load_testbed


@dataclass(frozen=True)
class TraceParameters(Parameters):
    """What the notebooks that trace take besides; each adds the window, or windows, that its figure has."""

    window_rule: str = ""
    corruption: str = ""
    corrupted: str = ""
    noise_samples: int = 10
    constraints: str = "single"
    parts: str = "known,okvqa,movies"
    items: str = ""
    min_p_clean: float = 0.1
    shard: str = ""

    def check(self) -> None:
        super().check()
        for name in ("window", "windows", "compared_window"):
            if hasattr(self, name):
                as_windows(name, getattr(self, name))
        at_least("noise_samples", self.noise_samples, 1, "effects are means over so many draws of noise")
        one_of("window_rule", self.window_rule, ("", "centered", "radius"))
        one_of("corruption", self.corruption, ("", *CORRUPTIONS))
        one_of("corrupted", self.corrupted, ("", *CONSTRAINTS))
        one_of("constraints", self.constraints, ("single", "multi"))
        if self.constraints == "single" and self.corrupted in ("text", "both"):
            raise ParameterError(
                f"Parameter 'corrupted' cannot be {self.corrupted!r} where constraints is 'single': these questions "
                "have no text constraint, so use 'visual' or set constraints to 'multi'."
            )
        if not 0 <= self.min_p_clean < 1:
            raise ParameterError(
                f"Parameter 'min_p_clean' must be from 0 to below 1, not {self.min_p_clean}."
            )
        if self.shard:
            shard_of(self.shard)

    def select(self, testbed: TestBed) -> TestBed:
        if self.items:
            return by_id(testbed, listed(self.items))
        parts = listed(self.parts) or list(testbed.parts)
        for part in parts:
            if part not in testbed.parts:
                raise ParameterError(
                    f"Parameter 'parts': test bed {testbed.name!r} has no part {part!r}: "
                    f"{closest(part, testbed.parts)}"
                )
        selected = testbed.select(parts, constraints=self.constraints, limit=self.limit, seed=self.seed)
        for part in parts:
            if part not in selected.parts:
                raise ParameterError(
                    f"Parameter 'parts': part {part!r} of test bed {testbed.name!r} has no question with "
                    f"{self.constraints} constraints: leave that part out."
                )
        return selected

    def check_model(self, model: VisionLanguageModel) -> None:
        self.check_windows(model)

    def check_windows(self, model: VisionLanguageModel) -> None:
        """A window that the model is too small for is refused."""
        for name in ("window", "windows", "compared_window"):
            for window in as_windows(name, getattr(self, name)) if hasattr(self, name) else ():
                if window > model.n_layers:
                    raise ParameterError(
                        f"Parameter {name!r} is {window}, but model {model.name!r} has {model.n_layers} layers: "
                        f"choose 1 to {model.n_layers}."
                    )

    @property
    def swept(self) -> list[int]:
        """The windows of a sweep and the figure's own, smallest first."""
        own = [self.window] if hasattr(self, "window") else []
        return sorted({*as_windows("windows", self.windows), *own})

    @property
    def rule(self) -> str:
        """The window rule, the protocol's if none is named."""
        return Conditions(self.protocol, self.window_rule).window_rule

    def for_study(self, window: int | None = None, **changes) -> dict:
        """The arguments of `study.trace_study`, or of `sweeps.trace_windows`, which sets the window.

        Changes replace fields of `Conditions`.
        """
        chosen = {name: getattr(self, name) for name in
                  ("protocol", "window_rule", "corruption", "corrupted", "noise_samples")}
        return {
            "window": window,
            "conditions": Conditions(**chosen | {"noise_seed": self.seed} | changes),
            "min_p_clean": self.min_p_clean,
            "results_dir": self.results,
            "remote": self.remote,
            "required": bool(self.items),
            "shard": self.shard,
        }


@dataclass(frozen=True)
class Fig1Parameters(TraceParameters):
    """notebooks/fig1_windows.ipynb"""

    text_model: str = "mini-text"
    windows: str = "1,2,3,4,5,6,8"
    shown: str = "1,5"
    parts: str = "known"

    figure: typing.ClassVar[str] = "fig1_windows"

    def check(self) -> None:
        super().check()
        swept = as_windows("windows", self.windows)
        for window in as_windows("shown", self.shown):
            if window not in swept:
                raise ParameterError(
                    f"Parameter 'shown' names window {window}, which is not among windows: choose from {self.windows}."
                )

    @property
    def shown_windows(self) -> list[int]:
        """The windows that are drawn by layer, smallest first."""
        return sorted(as_windows("shown", self.shown))

    def load_text_model(self) -> VisionLanguageModel:
        """The text-only model that `model` is compared with."""
        model = self.load_model("text_model")
        if model.is_multimodal:
            raise ParameterError(
                f"Parameter 'text_model': {self.text_model!r} sees images, so nothing would be compared: "
                "name a text-only model, such as mini-text."
            )
        self.check_windows(model)
        return model


@dataclass(frozen=True)
class QuestionParameters(TraceParameters):
    """What the notebooks that show single questions share."""

    def pool(self) -> TestBed:
        """All questions that the sample is drawn from, in its order, see `example.first_used`."""
        return replace(self, limit=0).select(load_testbed(self.testbed))


@dataclass(frozen=True)
class Fig2Parameters(QuestionParameters):
    """notebooks/fig2_example.ipynb"""

    window: int = 3
    limit: int = 5
    parts: str = "known"

    figure: typing.ClassVar[str] = "fig2_example"


@dataclass(frozen=True)
class Fig3Parameters(TraceParameters):
    """notebooks/fig3_trace.ipynb"""

    window: int = 3
    controls: int = 10
    control_model: str = ""

    figure: typing.ClassVar[str] = "fig3_trace"

    def check(self) -> None:
        super().check()
        at_least("controls", self.controls, 0, "it counts the questions of each part that controls run on")

    def for_controls(self) -> dict:
        """The arguments of `controls.run_controls`."""
        return {
            "limit": self.controls,
            "twin": self.load_control_model(),
            "seed": self.seed,
            "min_p_clean": self.min_p_clean,
            "results_dir": self.results,
            "remote": self.remote,
        }

    def load_control_model(self) -> VisionLanguageModel | None:
        """A model that takes another route: `control_model`, or the twin of `mini`; None without controls or a twin."""
        name = self.control_model or {"mini": "mini-free"}.get(self.model, "")
        if not name or not self.controls:
            return None
        model = replace(self, control_model=name).load_model("control_model")
        self.check_windows(model)
        return model


@dataclass(frozen=True)
class Fig4Parameters(TraceParameters):
    """notebooks/fig4_constraints.ipynb"""

    window: int = 6
    windows: str = "1,3,6,8"
    constraints: str = "multi"

    figure: typing.ClassVar[str] = "fig4_constraints"

    def check(self) -> None:
        super().check()
        if self.constraints != "multi":
            raise ParameterError(
                f"Parameter 'constraints' must be 'multi', not {self.constraints!r}: this figure is about questions "
                "with two."
            )
        if self.corrupted:
            raise ParameterError(
                f"Parameter 'corrupted' cannot be {self.corrupted!r} here, where the text constraint is corrupted and "
                "then the visual one: leave it empty."
            )

    def select(self, testbed: TestBed) -> TestBed:
        selected = super().select(testbed)
        for item in selected:
            if item.constraints != "multi":
                raise ParameterError(
                    f"Parameter 'items': question {item.id!r} has no text constraint: name questions with two."
                )
        return selected


@dataclass(frozen=True)
class Fig7Parameters(TraceParameters):
    """notebooks/fig7_standard.ipynb; a window larger than the model becomes all its layers."""

    window: int = 10
    compared_window: int = 3
    corruption: str = "standard"
    parts: str = "known,movies"

    figure: typing.ClassVar[str] = "fig7_standard"

    def check_model(self, model: VisionLanguageModel) -> None:
        replace(self, window=self.clipped(model)).check_windows(model)

    def clipped(self, model: VisionLanguageModel) -> int:
        """The window that is used: the paper's 10 of 32 layers, all layers of a smaller model."""
        return min(self.window, model.n_layers)


@dataclass(frozen=True)
class Fig8Parameters(QuestionParameters):
    """notebooks/fig8_questions.ipynb, which draws Figures 8 to 13; its files are named by the figure."""

    figure: str = "fig8_questions"
    window: int = 1
    limit: int = 1
    kinds: str = "mlp,attention"

    def check(self) -> None:
        super().check()
        one_of("figure", self.figure, [f"fig{number}_questions" for number in range(8, 14)])
        for kind in self.shown_kinds or [""]:
            one_of("kinds", kind, KINDS)

    @property
    def shown_kinds(self) -> list[str]:
        """The kinds that have a map; both are traced, so that they can be compared."""
        return listed(self.kinds)


@dataclass(frozen=True)
class Table1Parameters(Parameters):
    """notebooks/table1_testbed.ipynb"""

    limit: int = 0
    parts: str = ""
    examples: int = 3

    figure: typing.ClassVar[str] = "table1_testbed"

    def check(self) -> None:
        super().check()
        at_least("examples", self.examples, 1, "it counts the questions shown of each part")

    def select(self, testbed: TestBed) -> TestBed:
        for part in listed(self.parts):
            one_of("parts", part, testbed.parts)
        return testbed.select(listed(self.parts) or None)


def as_windows(name: str, value: int | str) -> list[int]:
    """The windows that a parameter holds: one number, or several separated by commas."""
    if isinstance(value, int):
        at_least(name, value, 1, "it counts the layers that are restored together")
        return [value]
    entries = listed(value)
    if not entries or not all(entry.isdecimal() and int(entry) >= 1 for entry in entries):
        raise ParameterError(
            f"Parameter {name!r} must be whole numbers of layers, at least 1, not {value!r}: write for example 1,3,6."
        )
    return [int(entry) for entry in entries]
