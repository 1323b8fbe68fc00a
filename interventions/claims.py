"""What the paper says about a figure, and whether the numbers at hand agree: claims and a closing sentence.

Every text here is computed from a study's numbers, so a report cannot say what its figure does not show.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from .averages import by_role_layer, early_layers
from .metrics import bootstrap_interval
from .record import Claim, Number
from .study import TraceStudy

# "Late" is the second half of the layers; for "early" see `averages.early_layers`.
# An effect below this share of P_clean - P_corrupted is too small to say that the answer comes from there.
SUBSTANTIAL = 0.25
_KIND_NAMES = {"mlp": "MLP", "attention": "self-attention"}

ORGANISMS = {
    "mini": (
        "`mini` is a model organism with a taught route: its training forced every fact to pass through the "
        "visual constraint in early layers. That the trace finds this route shows that the tool works; it is "
        "no evidence for the paper's claim about 7B models."
    ),
    "mini-free": (
        "`mini-free` is the untaught twin of `mini`, the negative control: its facts may go straight from "
        "the image to the last token. Small effects at the constraint show that the tool tells the two "
        "routes apart; they are no evidence against the paper's claim about 7B models."
    ),
}


def fig3_numbers(study: TraceStudy) -> dict[str, Number]:
    """Figure 3 in numbers, by part: accuracy, probabilities, the largest effect at the constraint by kind."""
    numbers = {}
    for part, asked in study.questions.groupby("part", sort=False):
        used = asked[asked["used"]]
        answered = asked[asked["answer"].notna()]  # a question that failed or was refused is not a wrong answer
        numbers[f"{part}/accuracy"] = _number(answered["correct"])
        numbers[f"{part}/p_corrupted_median"] = _number(used["p_corrupted"], np.median)
        for column in asked.columns[asked.columns.str.startswith("p_")]:
            numbers[f"{part}/{column}"] = _number(used[column])
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
        title = f"{part}: {_KIND_NAMES[kind]} at the visual constraint"
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


def closing_sentence(claims: list[Claim]) -> str:
    """Whether the figure's finding shows here, counted from its claims."""
    if not claims:
        return "No question could be used, so these numbers say nothing about the paper's finding."
    held = [claim.claim for claim in claims if claim.holds]
    if len(held) == len(claims):
        return f"The paper's finding shows here in all {len(claims)} cases of the table."
    if not held:
        return f"The paper's finding shows here in none of the {len(claims)} cases of the table."
    missing = "; ".join(claim.claim for claim in claims if not claim.holds)
    return (
        f"The paper's finding shows here in {len(held)} of the {len(claims)} cases of the table, "
        f"not in {missing}."
    )


def caveat(model_name: str) -> str:
    """What an embedded model's numbers are not evidence for; empty for any other model."""
    return ORGANISMS.get(model_name, "")


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


def _number(values: pd.Series, statistic=np.mean) -> Number:
    values = values.to_numpy(float)
    return Number(*map(float, bootstrap_interval(values, statistic)), n=len(values))
