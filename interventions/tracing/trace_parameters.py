"""The parameters that all notebooks share which trace, and windows as parameters name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ..engine.windows import WINDOW_RULES
from ..layers import in_layers, spanned
from ..models.model import VisionLanguageModel
from ..studies.conditions import CONSTRAINTS, CORRUPTIONS, Conditions
from ..studies.parameters import ParameterError, at_least, listed, one_of
from ..studies.selection import SampleParameters


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
        for name, windows in self._windows().items():
            for window in windows:
                parse_window(name, window)
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
                resolve_window(name, window, model.n_layers)

    def _windows(self) -> dict[str, list[int | str]]:
        """Parameter -> its windows as they are written, of those that the figure has."""
        found = {name: [getattr(self, name)] for name in ("window", "compared_window") if hasattr(self, name)}
        return found | ({"windows": window_list("windows", self.windows)} if hasattr(self, "windows") else {})

    def window_in(self, model: VisionLanguageModel, name: str = "window") -> int:
        """How many layers a parameter's window has in this model."""
        return resolve_window(name, getattr(self, name), model.n_layers)

    def swept(self, model: VisionLanguageModel) -> list[int]:
        """The windows of a sweep and the figure's own in layers of this model, smallest first."""
        written = [(name, window) for name, windows in self._windows().items() for window in windows]
        return sorted({resolve_window(name, window, model.n_layers) for name, window in written})

    def for_sweep(self, model: VisionLanguageModel, **changes) -> dict:
        """The arguments of `sweeps.trace_windows`; changes are those of `for_study`."""
        return self.for_study(**changes) | {"windows": self.swept(model)}

    def windows_in_layers(self, model: VisionLanguageModel) -> dict[str, int | list[int]]:
        """What the record keeps beside the parameters: their windows in layers of this model."""
        single = {f"{name}_layers": self.window_in(model, name)
                  for name in ("window", "compared_window") if hasattr(self, name)}
        return single | ({"windows_layers": self.swept(model)} if hasattr(self, "windows") else {})

    def windows_told(self, model: VisionLanguageModel) -> str:
        """A sentence for each window parameter: "Window: 10/32 of the depth, 3 of 8 layers."."""
        return " ".join(window_sentence(name, getattr(self, name), model.n_layers, self.rule)
                        for name in self._windows())

    @property
    def rule(self) -> str:
        """The window rule, the protocol's if none is named."""
        return Conditions(self.protocol, self.window_rule).window_rule

    def for_study(self, window: int | None = None, **changes) -> dict:
        """The arguments of `study.trace_study`; changes replace fields of `Conditions`."""
        chosen = {name: getattr(self, name) for name in
                  ("protocol", "window_rule", "corruption", "corrupted", "noise_samples")}
        return {
            "window": window,
            "conditions": Conditions(**chosen | {"noise_seed": self.seed} | changes),
            "min_p_clean": self.min_p_clean,
        } | self.asking()


def resolve_window(name: str, value: int | str, n_layers: int) -> int:
    """How many layers a window has that parameter `name` gives in layers (3) or as a share of the depth ("10/32").

    A share is rounded to whole layers, halves up, and is at least one layer. Raises ParameterError.
    """
    share = parse_window(name, value)
    if isinstance(share, Fraction):
        return in_layers(share, n_layers)
    if share > n_layers:
        raise ParameterError(
            f"Parameter {name!r} is {value}, but the model has {n_layers} layers: choose 1 to {n_layers}, or a share "
            "of the depth such as 10/32."
        )
    return share


def window_list(name: str, value: int | str) -> list[int | str]:
    """The windows that a parameter holds, as they are written: one, or several separated by commas."""
    windows = [value] if isinstance(value, int) else listed(value) or [""]
    for window in windows:
        parse_window(name, window)
    return windows


def window_sentence(name: str, value: int | str, n_layers: int, rule: str = "centered") -> str:
    """What a window parameter means in a model of so many layers: "Window: 10/32 of the depth, 3 of 8 layers."."""
    told = []
    for written in window_list(name, value):
        layers = resolve_window(name, written, n_layers)
        share = f"{written} of the depth, " if "/" in str(written) else ""
        if rule == "radius":
            together = min(n_layers, spanned(layers, rule))
            told.append(f"{share}a radius of {layers}, which restores {together} of {n_layers} layers together")
        else:
            told.append(f"{share}{layers} of {n_layers} layers")
    return f"{name.replace('_', ' ').capitalize()}: {'; '.join(told)}."


def parse_window(name: str, value: int | str) -> int | Fraction:
    """A window as it is written: a number of layers, or a share of the depth. Raises ParameterError."""
    if isinstance(value, int):
        at_least(name, value, 1, "it counts layers")
        return value
    found = re.fullmatch(r"([0-9]+)(?:/([0-9]+))?", value.strip())
    if found and found[2] is None and int(found[1]) >= 1:
        return int(found[1])
    if found and found[2] is not None and 1 <= int(found[1]) <= int(found[2]):
        return Fraction(int(found[1]), int(found[2]))
    raise ParameterError(
        f"Parameter {name!r} must name windows as numbers of layers, at least 1, or as shares of the depth, not "
        f"{value!r}: write for example 3, or 10/32 for ten of the 32 layers of the paper's models."
    )
