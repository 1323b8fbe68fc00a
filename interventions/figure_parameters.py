"""The parameters of every notebook that draws a tracing figure; the defaults are those of its `parameters` cell."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass

from .conditions import CONSTRAINTS, CORRUPTIONS, Conditions
from .model import VisionLanguageModel
from .parameters import ParameterError, Parameters, at_least, by_id, closest, listed, one_of
from .testbed import TestBed


@dataclass(frozen=True)
class TraceParameters(Parameters):
    """What the notebooks that trace take besides."""

    window: int = 3
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
        at_least("window", self.window, 1, "it counts the layers that are restored together")
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
        self.check_window("window", self.window, model)

    def check_window(self, parameter: str, window: int, model: VisionLanguageModel) -> None:
        """A window that the model is too small for is refused."""
        if window > model.n_layers:
            raise ParameterError(
                f"Parameter {parameter!r} is {window}, but model {model.name!r} has {model.n_layers} layers: "
                f"choose 1 to {model.n_layers}."
            )

    def for_study(self, **changes) -> dict:
        """The arguments of `study.trace_study` that come from parameters; changes replace fields of `Conditions`."""
        chosen = {name: getattr(self, name) for name in
                  ("protocol", "window_rule", "corruption", "corrupted", "noise_samples")}
        return {
            "window": self.window,
            "conditions": Conditions(**chosen | {"noise_seed": self.seed} | changes),
            "min_p_clean": self.min_p_clean,
            "results_dir": self.results,
            "remote": self.remote,
            "required": bool(self.items),
            "shard": self.shard,
        }


@dataclass(frozen=True)
class Fig3Parameters(TraceParameters):
    """notebooks/fig3_trace.ipynb"""

    controls: int = 10
    control_model: str = ""

    figure: typing.ClassVar[str] = "fig3_trace"

    def check(self) -> None:
        super().check()
        at_least("controls", self.controls, 0, "it counts the questions of each part that controls run on")
