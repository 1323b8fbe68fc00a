"""Figures 1 and 4: claims about windows of different widths, with and without an image, at both constraints."""

from __future__ import annotations

import math
from fractions import Fraction

import pandas as pd

from ..layers import early_and_middle_layers, early_layers, in_layers, layer_range
from ..reports.record import Claim
from ..statistics import NEGLIGIBLE, Number, rows_where
from ..tracing.averages import effects_at, peak_layers, smallest_window, window_effects
from ..tracing.causal_trace import KIND_NAMES
from ..tracing.study import TraceStudy
from ..tracing.sweeps import Sweep, Sweeps, on_common
from .common import SUBSTANTIAL, above, lost_probability, number, number_of

LARGE = Fraction(6, 32)  # the smallest window with which the paper finds effects at the text constraint


def sweep_numbers(sweeps: Sweeps) -> dict[str, Number]:
    """Return the accuracy of each part and series and, over the questions that all series used, their effects.

    These are P(corrupted), by kind the smallest windows whose interval lies above 0 (`smallest_window`), above 0.01
    (`_not_negligible`) and above a quarter of the lost probability (`_substantial`; NaN if there is none), and the
    peak at each window.
    """
    numbers = {}
    for name, sweep in sweeps.items():
        questions = _any_window(sweep).questions
        for part, group in questions[questions["answer"].notna()].groupby("part", sort=False):
            numbers[f"{part}/{name}/accuracy"] = number(group["correct"])
    for name, sweep in on_common(sweeps).items():
        for part, group in _any_window(sweep).questions.groupby("part", sort=False):
            numbers[f"{part}/{name}/p_corrupted"] = number(group["p_corrupted"])
        for (part, kind), cells in window_effects(sweep).groupby(["part", "kind"], sort=False):
            key, n = f"{part}/{name}/{kind}", int(cells["n"].max())
            windows = _smallest_windows(cells, sweep, part)
            for suffix, window in zip(("", "_not_negligible", "_substantial"), windows, strict=True):
                numbers[f"{key}/smallest_window{suffix}"] = Number(window, n=n)
            for _, row in cells.iterrows():
                at = f"{key}/window {row['window']}"
                numbers[f"{at}/peak_effect"] = number_of(row)
                numbers[f"{at}/peak_layer"] = Number(int(row["layer"]), n=n)
                numbers[f"{at}/mean_peak_layer"] = number(_peaks(sweep[row["window"]], part, kind)["layer"])
    return numbers


def fig1_claims(sweeps: Sweeps, *, at: int, compared: int) -> list[Claim]:
    """Return the findings of Figure 1 by part.

    The effects of the multimodal model peak in early layers, and window 1 suffices. The effects of a text-only model
    peak later (by the difference within questions with a visible effect in both models), and it needs a larger window.
    A window suffices if the interval of its best layer lies above NEGLIGIBLE. If no window does, the claim fails. The
    first sweep is that of the multimodal model, whose peak is read at the window `at`. The peaks of two models are
    compared at the window `compared`.
    """
    sweeps = on_common(sweeps)
    effects = {name: window_effects(sweep) for name, sweep in sweeps.items()}
    (first, ours), *texts = sweeps.items()
    early, n_layers, claims = early_layers(ours[at].n_layers), ours[at].n_layers, []
    for part in dict.fromkeys(ours[at].sites["part"]):
        cells = rows_where(effects[first], part=part, kind="mlp")
        row = rows_where(cells, window=at).iloc[0]
        effect, smallest = number_of(row), _smallest_windows(cells, ours, part)
        claims.append(Claim(
            f"{part}: {first}, MLP effects peak in early layers",
            f"layers 1-4 of 32, early is here {layer_range(early)} of {n_layers}",
            f"largest effect {effect} at layer {row['layer']} (window {at} of {n_layers})",
            bool(row["layer"] in early and _is_substantial(effect, ours[at], part)),
        ))
        claims.append(Claim(f"{part}: {first}, one layer is enough", "window 1", _text(smallest), smallest[1] == 1))
        for name, theirs in texts:
            own, other = (_peaks(sweep[compared], part, "mlp") for sweep in (ours, theirs))
            both = own.join(other.rename(columns={"layer": "other"}), how="inner")
            later = number(both["other"] - both["layer"])
            here = (
                f"mean peak layer {both['other'].mean():.1f} instead of {both['layer'].mean():.1f}, difference "
                f"{later} (window {compared} of {n_layers}, n = {later.n})"
            ) if later.n else f"no question has an effect in both (window {compared} of {n_layers})"
            claims.append(Claim(
                f"{part}: {name}, MLP effects peak later", "layers 4-7 of 32 instead of 1-4", here,
                above(later) if later.n else None,
            ))
            needed = _smallest_windows(rows_where(effects[name], part=part, kind="mlp"), theirs, part)
            claims.append(Claim(
                f"{part}: {name}, a larger window is needed", "window 5 instead of 1", _text(needed),
                needed[1] > smallest[1],
            ))
    return claims


def fig4_claims(sweeps: Sweeps, *, window: int) -> list[Claim]:
    """Return the findings of Figure 4 by part.

    At the text constraint the largest effect lies in an early or middle layer, lies above 0 and is substantial; more
    layers reach half of a question's largest effect than at the visual constraint; and effects are visible at
    windows of 6/32 of the depth or more, but at no smaller one. The first sweep is the one at the text constraint.
    """
    sweeps = on_common(sweeps)
    (text, ours), (visual, others) = sweeps.items()
    study, effects, claims = ours[window], window_effects(ours), []
    expected, large = early_and_middle_layers(study.n_layers), in_layers(LARGE, study.n_layers)
    kinds = [kind for kind in KIND_NAMES if kind in set(study.sites["kind"])]
    for part in dict.fromkeys(study.sites["part"]):
        cells = {kind: rows_where(effects, part=part, kind=kind) for kind in kinds}
        for kind in kinds:
            row = rows_where(cells[kind], window=window).iloc[0]
            effect = number_of(row)
            claims.append(Claim(
                f"{part}: {KIND_NAMES[kind]} at the {text}",
                f"high effect in early and middle layers, here {layer_range(expected)} of {study.n_layers}; window 6 "
                "of 32",
                f"largest effect {effect} of {lost_probability(study, part):.2f} lost, at layer {row['layer']}, window "
                f"{window} of {study.n_layers}",
                bool(row["layer"] in expected and _is_substantial(effect, study, part)),
            ))
        wider = {
            kind: number((_breadth(study, part, kind) - _breadth(others[window], part, kind)).dropna())
            for kind in kinds
        }
        claims.append(Claim(
            f"{part}: a broader set of layers at the {text} than at the {visual}", "early and middle, not only early",
            "; ".join(f"{KIND_NAMES[kind]}: difference {more} layers" for kind, more in wider.items()),
            all(map(above, wider.values())),
        ))
        smallest = {kind: _smallest_windows(cells[kind], ours, part) for kind in kinds}
        claims.append(Claim(
            f"{part}: a large window is needed at the {text}", f"at least 6 of 32, here {large} of {study.n_layers}",
            "; ".join(f"{KIND_NAMES[kind]}: {_text(windows)}" for kind, windows in smallest.items()),
            all(windows[1] >= large for windows in smallest.values()),
        ))
    return claims


def _any_window(sweep: Sweep) -> TraceStudy:
    """The study of any window: the questions used and the lost probability do not depend on it."""
    return next(iter(sweep.values()))


def _is_substantial(effect: Number, study: TraceStudy, part: str) -> bool:
    return above(effect) and effect.value >= SUBSTANTIAL * lost_probability(study, part)


def _peaks(study: TraceStudy, part: str, kind: str) -> pd.DataFrame:
    """The best layer of every question with a visible effect; index id, column layer."""
    peaks = rows_where(peak_layers(study), part=part, kind=kind).set_index("id")
    return peaks.loc[peaks["effect"] >= NEGLIGIBLE, ["layer"]]


def _breadth(study: TraceStudy, part: str, kind: str) -> pd.Series:
    """How many layers reach half of each question's largest effect; index id."""
    effects = effects_at(study.sites, part, kind)
    return effects.ge(effects.max(axis=1) / 2, axis=0).sum(axis=1).rename(index=str)


def _smallest_windows(cells: pd.DataFrame, sweep: Sweep, part: str) -> tuple[float, ...]:
    """The smallest window whose interval lies above 0, NEGLIGIBLE and a quarter of the lost probability (NaN: none)."""
    bounds = 0, NEGLIGIBLE, SUBSTANTIAL * lost_probability(_any_window(sweep), part)
    return tuple(float(smallest_window(cells, bound)["window"].iloc[0]) for bound in bounds)


def _text(smallest: tuple[float, ...]) -> str:
    _, visible, substantial = ("at no window" if math.isnan(window) else f"first at window {window:.0f}"
                               for window in smallest)
    return f"above {NEGLIGIBLE} {visible}, above a quarter of the lost probability {substantial}"
