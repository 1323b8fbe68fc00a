"""The parameters that all notebooks share which trace."""

from __future__ import annotations

from dataclasses import dataclass

from .causal_trace import WINDOW_RULES
from .conditions import CONSTRAINTS, CORRUPTIONS, Conditions
from .model import VisionLanguageModel
from .parameters import ParameterError, at_least, listed, one_of
from .selection import SampleParameters


@dataclass(frozen=True)
class TraceParameters(SampleParameters):
    """What the notebooks that trace take besides; each adds the window, or windows, that its figure has."""

    window_rule: str = ""
    corruption: str = ""
    corrupted: str = ""
    noise_samples: int = 10
    min_p_clean: float = 0.1

    def check(self) -> None:
        super().check()
        self._windows()  # refuses what is no window
        at_least("noise_samples", self.noise_samples, 1, "effects are means over so many draws of noise")
        one_of("window_rule", self.window_rule, ("", *WINDOW_RULES))
        one_of("corruption", self.corruption, ("", *CORRUPTIONS))
        one_of("corrupted", self.corrupted, ("", *CONSTRAINTS))
        if self.constraints == "single" and self.corrupted in ("text", "both"):
            raise ParameterError(
                f"Parameter 'corrupted' cannot be {self.corrupted!r} where constraints is 'single': these questions "
                "have no text constraint, so use 'visual' or set constraints to 'multi'."
            )
        if not 0 <= self.min_p_clean < 1:
            raise ParameterError(
                f"Parameter 'min_p_clean' must be from 0 to below 1, not {self.min_p_clean}."
            )

    def check_model(self, model: VisionLanguageModel) -> None:
        self.check_windows(model)

    def check_windows(self, model: VisionLanguageModel) -> None:
        """A window that the model is too small for is refused."""
        for name, windows in self._windows().items():
            for window in windows:
                if window > model.n_layers:
                    raise ParameterError(
                        f"Parameter {name!r} is {window}, but model {model.name!r} has {model.n_layers} layers: "
                        f"choose 1 to {model.n_layers}."
                    )

    def _windows(self) -> dict[str, list[int]]:
        """Parameter -> its windows, of those that the figure has."""
        names = ("window", "windows", "compared_window")
        return {name: as_windows(name, getattr(self, name)) for name in names if hasattr(self, name)}

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
        } | self.asking()


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
