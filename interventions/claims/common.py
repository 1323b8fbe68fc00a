"""What the claims of all figures share: thresholds, intervals as text, caveats and the closing sentences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..layers import early_and_middle_layers, early_layers, layer_range, spanned
from ..reports.record import Claim
from ..statistics import Number, bootstrap_interval
from ..tracing.study import TraceStudy

SUBSTANTIAL = 0.25  # a smaller share of P_clean - P_corrupted does not show that the answer comes from a site
WIDE = 4  # a window is wide if it covers more than one layer in 4

_CAVEATS = {
    "mini": (
        "`mini` was trained to pass facts through the visual constraint in early layers. That these numbers show this "
        "route shows that the tool works. It is no evidence for the paper's claim about 7B models."
    ),
    "mini-bunny": (
        "`mini-bunny` has the architecture of Bunny and was trained, like `mini`, to pass facts through the visual "
        "constraint in early layers. That these numbers show this route shows that the tool works on this "
        "architecture. It is no evidence for the paper's claim about Phi-2."
    ),
    "mini-free": (
        "`mini-free` is the negative control of `mini`: it was trained without a given route, so facts may go straight "
        "from the image to the last token. Small effects at the constraint show that the tool distinguishes the two "
        "routes. They are no evidence against the paper's claim about 7B models."
    ),
    "smol": (
        "`smol` is a small pretrained language model that learned to see from the cross-entropy of answers alone: "
        "nobody taught it a route. An effect does not say whether what is restored is the fact; a transplant does. A "
        "model of 135 million parameters and pictures of 64 pixels are no evidence for or against the paper's claim "
        "about 7B models."
    ),
}


def closing_sentence(claims: list[Claim]) -> str:
    """Return a sentence that says in how many claims the paper's finding holds; undecided claims are not counted."""
    if not claims:
        return "No question could be used, so these numbers say nothing about the paper's finding."
    decided, failed = _decided_and_failed(claims)
    n, held = len(decided), len(decided) - len(failed)
    if not decided:
        return "These questions cannot decide whether the paper's finding holds here."
    if not failed:
        where = "the one case" if n == 1 else f"all {n} cases"
    elif not held:
        where = "no case" if n == 1 else f"none of the {n} cases"
    else:
        where = f"{held} of the {n} cases"
    exceptions = f", but not for {'; '.join(failed)}" if held and failed else ""
    undecided = f" These questions cannot decide {len(claims) - n} more." if n < len(claims) else ""
    return f"The paper's finding holds here in {where} of the table{exceptions}.{undecided}"


def checks_sentence(checks: list[Claim]) -> str:
    """Return a sentence on checks that are not in the paper: how many pass, and which fail ("" if none is decided)."""
    decided, failed = _decided_and_failed(checks)
    if not decided:
        return ""
    failures = f" Failed: {'; '.join(failed)}." if failed else ""
    return (
        f"Of {len(decided)} further checks, which the paper does not make, {len(decided) - len(failed)} pass.{failures}"
    )


def caveat(model_name: str) -> str:
    """Return what the numbers of an embedded or pretrained model are no evidence for; "" for any other model."""
    return _CAVEATS.get(model_name, "")


def window_caveat(window: int, n_layers: int, window_rule: str = "centered") -> str:
    """Return what a window that covers more than a quarter of the layers cannot show; "" for a narrower one."""
    layers = min(n_layers, spanned(window, window_rule))
    if layers == 1 or layers * WIDE <= n_layers:
        return ""
    return (
        f"The window is wide for the depth: it restores {layers} of {n_layers} layers together. Every window that "
        "contains a causal layer shows its effect, so a peak locates the depth to within one window, not one layer."
    )


def expected_layers(study: TraceStudy) -> tuple[range, str]:
    """Return the layers where the paper finds effects at the corrupted constraint, and their name.

    Early layers at the visual constraint, early and middle ones at the text constraint (Figures 3 and 4). A run of both
    kinds of questions expects early layers, which is stricter.
    """
    early = study.role != "text_constraint_last"
    layers = (early_layers if early else early_and_middle_layers)(study.n_layers)
    name = "early" if early else "early and middle"
    return layers, f"{name} layers, here {layer_range(layers)} of {study.n_layers}"


def lost_probability(study: TraceStudy, part: str) -> float:
    """Return the mean of P_clean - P_corrupted over the questions used."""
    used = study.questions[study.questions["used"] & (study.questions["part"] == part)]
    return float((used["p_clean"] - used["p_corrupted"]).mean())


def above(interval: Number, bound: float = 0) -> bool:
    """Return whether the interval lies above a bound; a single question has no interval, so its value decides."""
    return bool((interval.value if math.isnan(interval.low) else interval.low) > bound)


def largest_row(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame.loc[frame[column].astype(float).idxmax()]


def three_digits(interval: Number) -> str:
    """Format a contribution, whose scale is that of the hidden states, with three significant digits."""
    around = "" if math.isnan(interval.low) else f" [{interval.low:.3g}, {interval.high:.3g}]"
    return f"{interval.value:.3g}{around}"


def p_text(value: float) -> str:
    return "unknown" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def number_of(row: pd.Series, name: str = "effect", low: str = "low", high: str = "high") -> Number:
    """Return a row's value and interval, by the names of their columns, with the row's n."""
    return Number(*(float(row[column]) for column in (name, low, high)), n=int(row["n"]))


def number(values: pd.Series, statistic=np.mean) -> Number:
    """Return a statistic over questions with its bootstrap interval."""
    values = values.to_numpy(float)
    return Number(*map(float, bootstrap_interval(values, statistic)), n=len(values))


def _decided_and_failed(claims: list[Claim]) -> tuple[list[Claim], list[str]]:
    decided = [claim for claim in claims if claim.holds is not None]
    return decided, [claim.claim for claim in decided if not claim.holds]
