"""Figure 3: effects by layer at the constraint, their statistics and their controls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..layers import early_layers, layer_range
from ..reports.record import Claim
from ..statistics import Number
from ..tracing.averages import by_layer, early_tests, layer_tests
from ..tracing.causal_trace import KIND_NAMES
from ..tracing.study import TraceStudy
from .common import SUBSTANTIAL, above_zero, expected_layers, lost, number, number_of, p_text

CONTROL_NAMES = {
    "other image": "the clean run sees another image",
    "other position": "a token outside of the constraints is restored there",
    "other model": "a model that takes another route",
}

EARLY = "difference", "low_early", "high_early"  # columns of `_tests`


def fig3_numbers(study: TraceStudy, controls: pd.DataFrame | None = None) -> dict[str, Number]:
    """Figure 3 in numbers, by part: accuracy, probabilities, the largest effect at the constraint by kind, its p.

    controls: the frame of `controls.control_effects`; each control's effect at the layer of the largest.
    """
    numbers = {}
    for part, asked in study.questions.groupby("part", sort=False):
        used = asked[asked["used"]]
        answered = asked[asked["answer"].notna()]  # a question that failed or was refused is not a wrong answer
        numbers[f"{part}/accuracy"] = number(answered["correct"])
        numbers[f"{part}/p_corrupted_median"] = number(used["p_corrupted"], np.median)
        for column in asked.columns[asked.columns.str.startswith("p_")]:
            numbers[f"{part}/{column}"] = number(used[column])
    for (part, kind), cells in _at_constraint(study):
        if cells.empty:
            continue
        layer, effect = _peak(cells)
        numbers[f"{part}/{kind}/peak_effect"] = effect
        numbers[f"{part}/{kind}/peak_layer"] = Number(layer, n=effect.n)
    for _, row in _tests(study).iterrows():
        name, n = f"{row['part']}/{row['kind']}", int(row["n"])
        numbers[f"{name}/peak_p_corrected"] = Number(row["p_corrected"], n=n)
        numbers[f"{name}/early_difference"] = number_of(row, *EARLY)
        numbers[f"{name}/early_p"] = Number(row["p_early"], n=n)
    for _, row in () if controls is None else controls[controls["control"] != "none"].iterrows():
        numbers[f"{row['part']}/{row['kind']}/control/{row['control']}"] = number_of(row)
    return numbers


def fig3_claims(study: TraceStudy) -> list[Claim]:
    """The finding of Figure 3, once a part and kind.

    It holds if the largest effect at the token that is read lies in the layers that the paper names for it (early ones
    at the visual constraint, see `expected_layers`), its interval stays above 0, it is substantial, and no layer of the
    second half behind them reaches half of it. A part of which no question could be used cannot say.
    """
    expected, where = expected_layers(study)
    behind = max(expected.stop, study.n_layers / 2)
    claims = []
    for (part, kind), cells in _at_constraint(study):
        title, paper = f"{part}: {KIND_NAMES[kind]} at the {study.read_at}", f"high effect in {where}"
        if cells.empty:
            claims.append(Claim(title, paper, "no question could be used", None))
            continue
        layer, effect = _peak(cells)
        late = cells.loc[cells["layer"] >= behind, "effect"].max()
        substantial = effect.value >= SUBSTANTIAL * lost(study, part)
        holds = layer in expected and above_zero(effect) and substantial and not late >= effect.value / 2
        here = f"largest effect {effect} at layer {layer}"
        if not np.isnan(late):
            here += f", at most {late:.2f} in layers {math.ceil(behind)}-{study.n_layers - 1}"
        claims.append(Claim(title, paper, here, bool(holds)))
    return claims


def fig3_statistics(study: TraceStudy) -> pd.DataFrame:
    """A table for readers: the best layer, its p corrected for the number of layers, early against other layers."""
    early = f"early ({layer_range(early_layers(study.n_layers))} of {study.n_layers})"
    rows = [
        {
            "part": row["part"], "kind": KIND_NAMES[row["kind"]], "n": row["n"], "best layer": row["layer"],
            "effect [95 %]": str(number_of(row)),
            f"p, corrected for {study.n_layers} layers": p_text(row["p_corrected"]),
            f"{early} − other layers [95 %]": str(number_of(row, *EARLY)), "p, early > others": p_text(row["p_early"]),
        }
        for _, row in _tests(study).iterrows()
    ]
    return pd.DataFrame(rows)


def control_claims(controls: pd.DataFrame) -> list[Claim]:
    """Whether each control comes out as it should; not the paper's findings, but what makes a trace believable.

    `controls` is the frame of `controls.control_effects`. A control passes if, wherever the trace's own effect is above
    0, the upper end of its interval lies below half of that effect: what a late layer must not reach either
    (`fig3_claims`). Where the trace has no effect of its own, a control cannot say.
    """
    keys = ["part", "kind"]
    trace = controls[(controls["control"] == "none") & (controls["low"].isna() | (controls["low"] > 0))].set_index(keys)
    claims = []
    for control, cells in controls[controls["control"] != "none"].groupby("control", sort=False):
        title = f"control: {CONTROL_NAMES[control]}"
        expected = "not in the paper; the upper end of its interval must stay below half of the trace's effect"
        cells = cells.set_index(keys).join(trace["effect"].rename("own"), how="inner")
        cells = cells[cells["own"] > 0]
        if cells.empty:
            claims.append(Claim(title, expected, "the trace itself shows no effect", None))
            continue
        bound = cells["high"].fillna(cells["effect"])
        part, kind = (bound / cells["own"]).idxmax()  # where it comes closest to failing
        row = cells.loc[part, kind]
        here = (
            f"{number_of(row)} beside the trace's {row['own']:.2f}, half of it is {row['own'] / 2:.2f} "
            f"({part}, {KIND_NAMES[kind]}, n = {row['n']:.0f}: where it comes closest)"
        )
        claims.append(Claim(title, expected, here, bool((bound < cells["own"] / 2).all())))
    return claims


def _tests(study: TraceStudy) -> pd.DataFrame:
    """By part and kind, the row of `layer_tests` of its best layer beside that of `early_tests` (columns *_early)."""
    layers = layer_tests(study)
    best = layers.loc[layers.groupby(["part", "kind"], sort=False)["effect"].idxmax()]
    early = early_tests(study).drop(columns="n")
    return best.merge(early, how="left", on=["part", "kind"], suffixes=("", "_early"))


def _at_constraint(study: TraceStudy) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """((part, kind), effects by layer at the token that is read, none if no question was used)"""
    effects = by_layer(study)
    for part in study.questions["part"].unique():
        for kind in effects["kind"].unique():
            yield (part, kind), effects[(effects["part"] == part) & (effects["kind"] == kind)]


def _peak(cells: pd.DataFrame) -> tuple[int, Number]:
    row = cells.loc[cells["effect"].idxmax()]
    return int(row["layer"]), number_of(row)
