"""The parameters of every notebook that draws a tracing figure; the defaults are those of its `parameters` cell."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, replace

from .conditions import CONSTRAINTS, CORRUPTIONS, Conditions
from .model import VisionLanguageModel
from .parameters import ParameterError, Parameters, at_least, by_id, closest, listed, one_of
from .testbed import TestBed


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
        shard = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if self.shard and not (shard and 1 <= int(shard[1]) <= int(shard[2])):
            raise ParameterError(
                f"Parameter 'shard' must be like '2/8' (the second of eight parts), not {self.shard!r}."
            )

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

    def for_study(self, window: int, **changes) -> dict:
        """The arguments of `study.trace_study`; changes replace fields of `Conditions`."""
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


@dataclass(frozen=True)
class Fig2Parameters(TraceParameters):
    """notebooks/fig2_example.ipynb"""

    window: int = 3
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


@dataclass(frozen=True)
class Fig4Parameters(TraceParameters):
    """notebooks/fig4_constraints.ipynb"""

    window: int = 6
    windows: str = "1,3,6,8"
    constraints: str = "multi"

    figure: typing.ClassVar[str] = "fig4_constraints"


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
class Fig8Parameters(TraceParameters):
    """notebooks/fig8_questions.ipynb"""

    window: int = 1
    limit: int = 1

    figure: typing.ClassVar[str] = "fig8_questions"


@dataclass(frozen=True)
class Table1Parameters(Parameters):
    """notebooks/table1_testbed.ipynb"""

    parts: str = ""
    examples: int = 2

    figure: typing.ClassVar[str] = "table1_testbed"

    def check(self) -> None:
        super().check()
        at_least("examples", self.examples, 1, "it counts the questions shown of each part")


def as_windows(name: str, value: int | str) -> list[int]:
    """The windows that a parameter holds: one number, or several separated by commas."""
    if isinstance(value, int):
        at_least(name, value, 1, "it counts the layers that are restored together")
        return [value]
    entries = listed(value)
    if not entries or not all(entry.isdigit() and int(entry) >= 1 for entry in entries):
        raise ParameterError(
            f"Parameter {name!r} must be whole numbers of layers, at least 1, not {value!r}: write for example 1,3,6."
        )
    return [int(entry) for entry in entries]
