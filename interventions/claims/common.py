"""What the claims of all figures share."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..layers import early_and_middle_layers, early_layers, layer_range, spanned
from ..reports.record import Claim
from ..statistics import Number, bootstrap_interval
from ..tracing.study import TraceStudy

# "Late" is the second half of the layers; for "early" see `averages.early_layers`.
# An effect below this share of P_clean - P_corrupted is too small to say that the answer comes from there.
SUBSTANTIAL = 0.25
WIDE = 4  # a window of more than a quarter of the layers says little about the depth

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
    """The same for what the paper does not have: how many of the further rows of the table pass, and which fail."""
    decided = [check for check in checks if check.holds is not None]
    failed = [check.claim for check in decided if not check.holds]
    if not decided:
        return ""
    passed = len(decided) - len(failed)
    return f"Of {len(decided)} further checks, which the paper does not make, {passed} pass." + (
        f" Failed: {'; '.join(failed)}." if failed else ""
    )


def caveat(model_name: str) -> str:
    """What an embedded model's numbers are not evidence for; empty for any other model."""
    return ORGANISMS.get(model_name, "")


def window_caveat(window: int, n_layers: int, window_rule: str = "centered") -> str:
    """What a window that covers much of the model cannot show; empty where it covers little."""
    layers = min(n_layers, spanned(window, window_rule))
    if layers == 1 or layers * WIDE <= n_layers:
        return ""
    return (
        f"The window is wide for the depth: {layers} of {n_layers} layers are restored together. A window that reaches "
        "a layer from either side finds it, so a peak tells the depth to within a window, not a layer."
    )


def expected_layers(study: TraceStudy) -> tuple[range, str]:
    """The layers in which the paper finds effects at the token that is read, and what a claim says of them.

    They are early at the visual constraint, early and middle at the text constraint (Figures 3 and 4). In a run of both
    they are early, which is the stricter of the two.
    """
    early = study.role != "text_constraint_last"
    layers = (early_layers if early else early_and_middle_layers)(study.n_layers)
    name = "early" if early else "early and middle"
    return layers, f"{name} layers, here {layer_range(layers)} of {study.n_layers}"


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
