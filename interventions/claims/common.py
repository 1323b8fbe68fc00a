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
        "`mini` is a model organism with a taught route: its training made facts pass through the visual "
        "constraint in early layers. That these numbers show this route shows that the tool works; it is "
        "no evidence for the paper's claim about 7B models."
    ),
    "mini-bunny": (
        "`mini-bunny` is a model organism with a taught route, as `mini` is, in the shape of Bunny: its training "
        "made facts pass through the visual constraint in early layers. That these numbers show this route shows "
        "that the tool works on this architecture; it is no evidence for the paper's claim about Phi-2."
    ),
    "mini-free": (
        "`mini-free` is the untaught twin of `mini`, the negative control: its facts may go straight from "
        "the image to the last token. Small effects at the constraint show that the tool tells the two "
        "routes apart; they are no evidence against the paper's claim about 7B models."
    ),
}


def closing_sentence(claims: list[Claim]) -> str:
    """Whether the figure's finding shows here, counted from its claims; those that cannot say do not count."""
    if not claims:
        return "No question could be used, so these numbers say nothing about the paper's finding."
    decided = [claim for claim in claims if claim.holds is not None]
    missing = [claim.claim for claim in decided if not claim.holds]
    n, held = len(decided), len(decided) - len(missing)
    if not decided:
        return "Whether the paper's finding shows here cannot be said from these questions."
    if not missing:
        where = "the one case" if n == 1 else f"all {n} cases"
    elif not held:
        where = "no case" if n == 1 else f"none of the {n} cases"
    else:
        where = f"{held} of the {n} cases"
    apart = f", not in {'; '.join(missing)}" if held and missing else ""
    left = f" Of {len(claims) - n} more these questions cannot say." if n < len(claims) else ""
    return f"The paper's finding shows here in {where} of the table{apart}.{left}"


def checks_sentence(checks: list[Claim]) -> str:
    """The same for what the paper does not have: how many of the further rows of the table come out."""
    decided = [check for check in checks if check.holds is not None]
    failed = [check.claim for check in decided if not check.holds]
    if not decided:
        return ""
    return f"Of {len(decided)} further checks, which the paper does not make, {len(decided) - len(failed)} come out" + (
        f", not: {'; '.join(failed)}." if failed else "."
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


def number_of(row: pd.Series, name: str = "effect", low: str = "low", high: str = "high") -> Number:
    """Columns of a row, those of the value and of its interval, as a number; its n is that of the row."""
    return Number(*(float(row[column]) for column in (name, low, high)), n=int(row["n"]))


def number(values: pd.Series, statistic=np.mean) -> Number:
    """A statistic over questions with its bootstrap interval."""
    values = values.to_numpy(float)
    return Number(*map(float, bootstrap_interval(values, statistic)), n=len(values))
