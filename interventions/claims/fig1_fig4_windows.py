"""Figures 1 and 4: sweeps over windows, with and without an image, at the text and at the visual constraint."""

from __future__ import annotations

import math
from fractions import Fraction

import pandas as pd

from ..layers import early_and_middle_layers, early_layers, in_layers, layer_range
from ..reports.record import Claim
from ..statistics import NEGLIGIBLE, Number
from ..tracing.averages import effects_at, peak_layers, smallest_window, window_effects
from ..tracing.causal_trace import KIND_NAMES
from ..tracing.study import TraceStudy
from ..tracing.sweeps import Sweep, Sweeps, on_common
from .common import SUBSTANTIAL, above_zero, lost, number, number_of

LARGE = Fraction(6, 32)  # the smallest window of the paper that shows effects at the text constraint


def sweep_numbers(sweeps: Sweeps) -> dict[str, Number]:
    """By part and series: accuracy, P(corrupted), and by kind the smallest windows and, at each window, the peak.

    All but the accuracy are of the questions that every series used. smallest_window: the first whose interval lies
    above 0; ..._not_negligible: above 0.01; ..._substantial: above a quarter of what is lost. NaN: none.
    """
    numbers = {}
    for name, sweep in sweeps.items():
        asked = _first(sweep).questions
        for part, group in asked[asked["answer"].notna()].groupby("part", sort=False):
            numbers[f"{part}/{name}/accuracy"] = number(group["correct"])
    for name, sweep in on_common(sweeps).items():
        for part, group in _first(sweep).questions.groupby("part", sort=False):
            numbers[f"{part}/{name}/p_corrupted"] = number(group["p_corrupted"])
        for (part, kind), cells in window_effects(sweep).groupby(["part", "kind"], sort=False):
            key, n = f"{part}/{name}/{kind}", int(cells["n"].max())
            windows = _smallest(cells, sweep, part)
            for above, window in zip(("", "_not_negligible", "_substantial"), windows, strict=True):
                numbers[f"{key}/smallest_window{above}"] = Number(window, n=n)
            for _, row in cells.iterrows():
                at = f"{key}/window {row['window']}"
                numbers[f"{at}/peak_effect"] = number_of(row)
                numbers[f"{at}/peak_layer"] = Number(int(row["layer"]), n=n)
                numbers[f"{at}/mean_peak_layer"] = number(_peaks(sweep[row["window"]], part, kind)["layer"])
    return numbers


def fig1_claims(sweeps: Sweeps, *, at: int, compared: int) -> list[Claim]:
    """The findings of Figure 1: the first of `sweeps` is the multimodal model's, the others those of the text-only one.

    The multimodal model's effects peak early (at window `at`) and window 1 is enough; those of the text-only model peak
    later (the difference within questions that have effects to speak of in both, at window `compared`) and need a
    larger window. A window is large enough if the interval of its best layer lies above NEGLIGIBLE; a model for which
    none is supports no claim.
    """
    sweeps = on_common(sweeps)
    found = {name: window_effects(sweep) for name, sweep in sweeps.items()}
    (first, ours), *texts = sweeps.items()
    early, n_layers, claims = early_layers(ours[at].n_layers), ours[at].n_layers, []
    for part in dict.fromkeys(ours[at].sites["part"]):
        cells = _cells(found[first], part, "mlp")
        row = cells[cells["window"] == at].iloc[0]
        effect = number_of(row)
        holds = row["layer"] in early and above_zero(effect) and effect.value >= SUBSTANTIAL * lost(ours[at], part)
        claims.append(Claim(
            f"{part}: {first}, MLP effects peak in early layers",
            f"layers 1-4 of 32, early is here {layer_range(early)} of {n_layers}",
            f"largest effect {effect} at layer {row['layer']} (window {at} of {n_layers})", bool(holds),
        ))
        smallest = _smallest(cells, ours, part)
        claims.append(Claim(f"{part}: {first}, one layer is enough", "window 1", _said(smallest), smallest[1] == 1))
        for name, theirs in texts:
            own, other = (_peaks(sweep[compared], part, "mlp") for sweep in (ours, theirs))
            both = own.join(other.rename(columns={"layer": "other"}), how="inner")
            later = number(both["other"] - both["layer"])
            here = (
                f"mean peak layer {both['other'].mean():.1f} instead of {both['layer'].mean():.1f}, difference "
                f"{later} (window {compared} of {n_layers}, n = {later.n})"
            ) if later.n else f"no question has an effect in both (window {compared} of {n_layers})"
            paper = "layers 4-7 of 32 instead of 1-4"
            holds = above_zero(later) if later.n else None
            claims.append(Claim(f"{part}: {name}, MLP effects peak later", paper, here, holds))
            needed = _smallest(_cells(found[name], part, "mlp"), theirs, part)
            claims.append(Claim(
                f"{part}: {name}, a larger window is needed", "window 5 instead of 1", _said(needed),
                needed[1] > smallest[1],
            ))
    return claims


def fig4_claims(sweeps: Sweeps, *, window: int) -> list[Claim]:
    """The findings of Figure 4: `sweeps` are those at the text and at the visual constraint, in this order.

    At the text constraint, at `window`: the largest effect lies in an early or middle layer, is above 0 and
    substantial; more layers reach half of a question's largest effect than at the visual constraint; and no window
    below 6/32 of the depth shows an effect to speak of, but one of that size or more does.
    """
    sweeps = on_common(sweeps)
    (text, ours), (visual, others) = sweeps.items()
    study, found, claims = ours[window], window_effects(ours), []
    expected, large = early_and_middle_layers(study.n_layers), in_layers(LARGE, study.n_layers)
    kinds = [kind for kind in KIND_NAMES if kind in set(study.sites["kind"])]
    for part in dict.fromkeys(study.sites["part"]):
        cells, taken = {kind: _cells(found, part, kind) for kind in kinds}, lost(study, part)
        for kind in kinds:
            row = cells[kind][cells[kind]["window"] == window].iloc[0]
            effect = number_of(row)
            holds = row["layer"] in expected and above_zero(effect) and effect.value >= SUBSTANTIAL * taken
            claims.append(Claim(
                f"{part}: {KIND_NAMES[kind]} at the {text}", f"high effect in early and middle layers, here "
                f"{layer_range(expected)} of {study.n_layers}; window 6 of 32",
                f"largest effect {effect} of {taken:.2f} lost, at layer {row['layer']}, window {window} of "
                f"{study.n_layers}",
                bool(holds),
            ))
        wider = {
            kind: number((_breadth(study, part, kind) - _breadth(others[window], part, kind)).dropna())
            for kind in kinds
        }
        claims.append(Claim(
            f"{part}: a broader set of layers at the {text} than at the {visual}", "early and middle, not only early",
            "; ".join(f"{KIND_NAMES[kind]}: difference {more} layers" for kind, more in wider.items()),
            all(map(above_zero, wider.values())),
        ))
        smallest = {kind: _smallest(cells[kind], ours, part) for kind in kinds}
        claims.append(Claim(
            f"{part}: a large window is needed at the {text}", f"at least 6 of 32, here {large} of {study.n_layers}",
            "; ".join(f"{KIND_NAMES[kind]}: {_said(windows)}" for kind, windows in smallest.items()),
            all(windows[1] >= large for windows in smallest.values()),
        ))
    return claims


def _first(sweep: Sweep) -> TraceStudy:
    """Which questions are used, and what the corruption takes, does not depend on the window."""
    return next(iter(sweep.values()))


def _cells(frame: pd.DataFrame, part: str, kind: str) -> pd.DataFrame:
    return frame[(frame["part"] == part) & (frame["kind"] == kind)]


def _peaks(study: TraceStudy, part: str, kind: str) -> pd.DataFrame:
    """The best layer of every question that has an effect to speak of; index id, column layer."""
    peaks = _cells(peak_layers(study), part, kind).set_index("id")
    return peaks.loc[peaks["effect"] >= NEGLIGIBLE, ["layer"]]


def _breadth(study: TraceStudy, part: str, kind: str) -> pd.Series:
    """How many layers reach half of the question's largest effect; index id."""
    effects = effects_at(study.sites, part, kind)
    return effects.ge(effects.max(axis=1) / 2, axis=0).sum(axis=1).rename(index=str)


def _smallest(cells: pd.DataFrame, sweep: Sweep, part: str) -> tuple[float, float, float]:
    """The smallest window whose interval lies above 0, NEGLIGIBLE and a quarter of what is lost (NaN: none)."""
    bounds = 0, NEGLIGIBLE, SUBSTANTIAL * lost(_first(sweep), part)
    return tuple(float(smallest_window(cells, bound)["window"].iloc[0]) for bound in bounds)


def _said(smallest: tuple[float, float, float]) -> str:
    _, visible, substantial = ("at no window" if math.isnan(window) else f"first at window {window:.0f}"
                               for window in smallest)
    return f"above {NEGLIGIBLE} {visible}, above a quarter of what is lost {substantial}"
