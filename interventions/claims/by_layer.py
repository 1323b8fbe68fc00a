"""Figures 3 and 4: effects by layer at the constraint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..averages import by_role_layer, early_layers
from ..record import Claim, Number
from ..study import TraceStudy
from .common import KIND_NAMES, SUBSTANTIAL, number


def fig3_numbers(study: TraceStudy) -> dict[str, Number]:
    """Figure 3 in numbers, by part: accuracy, probabilities, the largest effect at the constraint by kind."""
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
    return numbers


def fig3_claims(study: TraceStudy) -> list[Claim]:
    """The finding of Figure 3, once a part and kind.

    It holds if the largest effect at the visual constraint's last token lies in an early layer, its interval
    stays above 0, it is substantial, and no late layer reaches half of it.
    """
    early = early_layers(study.n_layers)
    used = study.questions[study.questions["used"]]
    claims = []
    for (part, kind), cells in _at_constraint(study):
        title = f"{part}: {KIND_NAMES[kind]} at the visual constraint"
        paper = f"high effect in early layers, here {early[0]}-{early[-1]} of {study.n_layers}"
        if cells.empty:
            claims.append(Claim(title, paper, "no question could be used", False))
            continue
        layer, effect = _peak(cells)
        late = cells.loc[cells["layer"] >= study.n_layers / 2, "effect"].max()
        lost = (used["p_clean"] - used["p_corrupted"])[used["part"] == part].mean()
        above_zero = effect.low > 0 or np.isnan(effect.low)  # a single question has no interval
        substantial = effect.value >= SUBSTANTIAL * lost
        holds = layer in early and above_zero and substantial and late < effect.value / 2
        here = f"largest effect {effect} at layer {layer}, at most {late:.2f} in the second half"
        claims.append(Claim(title, paper, here, bool(holds)))
    return claims


def _at_constraint(study: TraceStudy) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """((part, kind), effects by layer at the visual constraint's last token, none if no question was used)"""
    effects = by_role_layer(study.sites)
    effects = effects[effects["role"] == study.role]
    for part in study.questions["part"].unique():
        for kind in effects["kind"].unique():
            yield (part, kind), effects[(effects["part"] == part) & (effects["kind"] == kind)]


def _peak(cells: pd.DataFrame) -> tuple[int, Number]:
    row = cells.loc[cells["effect"].astype(float).idxmax()]
    value, low, high = (float(row[name]) for name in ("effect", "low", "high"))
    return int(row["layer"]), Number(value, low, high, n=int(row["n"]))
