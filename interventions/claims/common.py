"""What the claims of all figures share."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..metrics import bootstrap_interval
from ..record import Claim, Number
from ..study import TraceStudy

# "Late" is the second half of the layers; for "early" see `averages.early_layers`.
# An effect below this share of P_clean - P_corrupted is too small to say that the answer comes from there.
SUBSTANTIAL = 0.25
WIDE = 3  # a window of more than a third of the layers cannot localise (the paper's 10 of 32 can)

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


def window_caveat(window: int, n_layers: int) -> str:
    """What a window that covers much of a small model cannot show; empty where it covers little."""
    if window <= n_layers / WIDE:
        return ""
    return (
        f"A window of {window} layers is {window / n_layers:.0%} of this model's {n_layers}: neighbours share most of "
        "their layers, so the effect by layer says little about where in depth the information is stored."
    )


def lost(study: TraceStudy, part: str) -> float:
    """What the corruption takes: the mean of P_clean - P_corrupted over the questions used."""
    used = study.questions[study.questions["used"] & (study.questions["part"] == part)]
    return float((used["p_clean"] - used["p_corrupted"]).mean())


def above(interval: Number, bound: float) -> bool:
    """Whether an interval lies above a bound; a single question has none, its value then decides."""
    return bool((interval.value if math.isnan(interval.low) else interval.low) > bound)


def above_zero(interval: Number) -> bool:
    return above(interval, 0)


def fine(interval: Number) -> str:
    """Contributions have the scale of the model's hidden states: three digits, whatever it is."""
    around = "" if math.isnan(interval.low) else f" [{interval.low:.3g}, {interval.high:.3g}]"
    return f"{interval.value:.3g}{around}"


def p_text(value: float) -> str:
    return "unknown" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def number_of(row: pd.Series, name: str = "effect") -> Number:
    """A row of a table of effects as a number."""
    return Number(*(float(row[column]) for column in (name, "low", "high")), n=int(row["n"]))


def number(values: pd.Series, statistic=np.mean) -> Number:
    """A statistic over questions with its bootstrap interval."""
    values = values.to_numpy(float)
    return Number(*map(float, bootstrap_interval(values, statistic)), n=len(values))
