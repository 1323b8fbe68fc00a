"""Figure 3: claims about effects by layer at the constraint, their statistics and their controls."""

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
from .common import SUBSTANTIAL, above, expected_layers, largest_row, lost_probability, number, number_of, p_text

CONTROL_NAMES = {
    "other position": "a token outside of the constraints is restored",
    "other model": "a model that takes another route",
}
_EARLY = "difference", "low_early", "high_early"  # columns of `_tests`


def fig3_numbers(study: TraceStudy, controls: pd.DataFrame | None = None) -> dict[str, Number]:
    """Return Figure 3 in numbers, by part: accuracy, probabilities, and by kind the largest effect and its tests.

    `controls` is the frame of `control_effects`: each control's effect at the layer of the largest effect.
    """
    numbers = {}
    for part, rows in study.questions.groupby("part", sort=False):
        used = rows[rows["used"]]
        # A question that failed or was refused is not a wrong answer.
        numbers[f"{part}/accuracy"] = number(rows.loc[rows["answer"].notna(), "correct"])
        numbers[f"{part}/p_corrupted_median"] = number(used["p_corrupted"], np.median)
        for column in rows.columns[rows.columns.str.startswith("p_")]:
            numbers[f"{part}/{column}"] = number(used[column])
    for (part, kind), cells in _at_constraint(study):
        if len(cells):
            peak = largest_row(cells, "effect")
            numbers[f"{part}/{kind}/peak_effect"] = number_of(peak)
            numbers[f"{part}/{kind}/peak_layer"] = Number(int(peak["layer"]), n=int(peak["n"]))
    for _, row in _tests(study).iterrows():
        name, n = f"{row['part']}/{row['kind']}", int(row["n"])
        numbers[f"{name}/peak_p_corrected"] = Number(row["p_corrected"], n=n)
        numbers[f"{name}/early_difference"] = number_of(row, *_EARLY)
        numbers[f"{name}/early_p"] = Number(row["p_early"], n=n)
    for _, row in () if controls is None else controls[controls["control"] != "none"].iterrows():
        numbers[f"{row['part']}/{row['kind']}/control/{row['control']}"] = number_of(row)
    return numbers


def fig3_claims(study: TraceStudy) -> list[Claim]:
    """Return the finding of Figure 3 as one claim per part and kind.

    It holds if the largest effect at the constraint lies in the layers that the paper names (`expected_layers`), its
    interval lies above 0, it is substantial, and no layer behind them in the second half of the model reaches half of
    it. It is undecided for a part without a question that could be used.
    """
    expected, name = expected_layers(study)
    late_start = max(expected.stop, study.n_layers / 2)
    claims = []
    for (part, kind), cells in _at_constraint(study):
        title, paper = f"{part}: {KIND_NAMES[kind]} at the {study.read_at}", f"high effect in {name}"
        if cells.empty:
            claims.append(Claim(title, paper, "no question could be used", None))
            continue
        peak = largest_row(cells, "effect")
        layer, effect = int(peak["layer"]), number_of(peak)
        late = cells.loc[cells["layer"] >= late_start, "effect"].max()
        substantial = effect.value >= SUBSTANTIAL * lost_probability(study, part)
        holds = layer in expected and above(effect) and substantial and not late >= effect.value / 2
        here = f"largest effect {effect} at layer {layer}"
        if not np.isnan(late):
            here += f", at most {late:.2f} in layers {math.ceil(late_start)}-{study.n_layers - 1}"
        claims.append(Claim(title, paper, here, bool(holds)))
    return claims


def fig3_statistics(study: TraceStudy) -> pd.DataFrame:
    """Return a table to show: each best layer, its p corrected for the number of layers, early against other layers."""
    early = f"early ({layer_range(early_layers(study.n_layers))} of {study.n_layers})"
    return pd.DataFrame(
        {
            "part": row["part"], "kind": KIND_NAMES[row["kind"]], "n": row["n"], "best layer": row["layer"],
            "effect [95 %]": str(number_of(row)),
            f"p, corrected for {study.n_layers} layers": p_text(row["p_corrected"]),
            f"{early} − other layers [95 %]": str(number_of(row, *_EARLY)), "p, early > others": p_text(row["p_early"]),
        }
        for _, row in _tests(study).iterrows()
    )


def control_claims(controls: pd.DataFrame) -> list[Claim]:
    """Return one claim per control of the trace; they are not in the paper.

    A control passes if its interval ends below half of the trace's effect wherever the trace's effect lies above 0. It
    is undecided where the trace has no effect. The frame is that of `control_effects`.
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
        part, kind = (bound / cells["own"]).idxmax()  # where it is closest to failing
        row = cells.loc[part, kind]
        here = (
            f"{number_of(row)} beside the trace's {row['own']:.2f}, half of it is {row['own'] / 2:.2f} "
            f"({part}, {KIND_NAMES[kind]}, n = {row['n']:.0f}: closest to failing)"
        )
        claims.append(Claim(title, expected, here, bool((bound < cells["own"] / 2).all())))
    return claims


def _tests(study: TraceStudy) -> pd.DataFrame:
    """By part and kind, the row of `layer_tests` of its best layer beside that of `early_tests` (columns *_early)."""
    layers = layer_tests(study)
    best = layers.loc[layers.groupby(["part", "kind"], sort=False)["effect"].idxmax()]
    return best.merge(early_tests(study).drop(columns="n"), how="left", on=["part", "kind"], suffixes=("", "_early"))


def _at_constraint(study: TraceStudy) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """((part, kind), effects by layer at the constraint; empty if no question was used)"""
    effects = by_layer(study)
    for part in study.questions["part"].unique():
        for kind in effects["kind"].unique():
            yield (part, kind), effects[(effects["part"] == part) & (effects["kind"] == kind)]
