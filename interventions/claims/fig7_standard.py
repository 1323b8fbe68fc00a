"""Figure 7: standard causal tracing, and the same cells traced by replacing the constraint (Figure 3)."""

from __future__ import annotations

import pandas as pd

from ..reports.record import Claim
from ..statistics import Number
from ..tracing.averages import window_effects
from ..tracing.causal_trace import KIND_NAMES
from ..tracing.study import TraceStudy
from ..tracing.sweeps import on_common, paired_bests
from .common import SUBSTANTIAL, above_zero, lost, number, number_of

RECOVERED = "recovered_difference", "recovered_low", "recovered_high"  # columns of `sweeps.paired_bests`


def fig7_numbers(standard: TraceStudy, replacement: TraceStudy) -> dict[str, Number]:
    """By part: the probabilities of both runs; by kind: both largest effects and their difference within questions.

    Of the questions that both used. `recovered` is the largest effect as a share of what is lost. Differences are
    replacement minus standard.
    """
    standard, replacement, bests = _compared(standard, replacement)
    numbers = {}
    for name, study in (("standard", standard), ("replacement", replacement)):
        for part, group in study.questions.groupby("part", sort=False):
            numbers[f"{part}/{name}/p_clean"] = number(group["p_clean"])
            numbers[f"{part}/{name}/p_corrupted"] = number(group["p_corrupted"])
        for _, row in window_effects({study.window: study}).iterrows():
            key = f"{row['part']}/{row['kind']}/{name}"
            numbers[f"{key}/peak_effect"] = number_of(row)
            numbers[f"{key}/peak_layer"] = Number(int(row["layer"]), n=int(row["n"]))
            numbers[f"{key}/recovered"] = Number(row["effect"] / lost(study, row["part"]), n=int(row["n"]))
    for _, row in bests.iterrows():
        numbers[f"{row['part']}/{row['kind']}/difference"] = number_of(row, "difference")
        numbers[f"{row['part']}/{row['kind']}/recovered_difference"] = number_of(row, *RECOVERED)
    return numbers


def fig7_claims(standard: TraceStudy, replacement: TraceStudy) -> list[Claim]:
    """The finding of Figure 7, and the comparison that the paper's method rests on, once a part and kind.

    "Nothing is recovered" holds if the noise costs the answer, and the whole interval of the largest effect at the
    token that is read, corrected for the choice of the layer, lies below a quarter of what is lost: an effect of that
    size is what the other figures' claims ask for.
    """
    standard, replacement, bests = _compared(standard, replacement)
    found, claims = window_effects({standard.window: standard}), []
    for _, best in bests.iterrows():
        part, kind = best["part"], best["kind"]
        row = found[(found["part"] == part) & (found["kind"] == kind)].iloc[0]
        effect, taken, shares = number_of(row), lost(standard, part), number_of(best, *RECOVERED)
        p_clean = standard.questions.loc[standard.questions["part"] == part, "p_clean"].mean()
        claims.append(Claim(
            f"{part}: {KIND_NAMES[kind]}, standard tracing recovers nothing at the {standard.read_at}",
            "no causal state, window 10 of 32 layers",
            f"largest effect {effect} of {taken:.2f} lost, at layer {row['layer']}, "
            f"window {standard.window} of {standard.n_layers}",
            bool(taken >= SUBSTANTIAL * p_clean and effect.high < SUBSTANTIAL * taken),
        ))
        claims.append(Claim(
            f"{part}: {KIND_NAMES[kind]}, replacing the constraint recovers a larger share of what is lost",
            "causal states in early layers (Figure 3)",
            f"{best['recovered']:.2f} instead of {best['other_recovered']:.2f}, difference {shares} (windows "
            f"{replacement.window} and {standard.window} of {standard.n_layers}); effects {best['effect']:.2f} instead "
            f"of {best['other_effect']:.2f}, difference {number_of(best, 'difference')}",
            above_zero(shares),
        ))
    return claims


def _compared(standard: TraceStudy, replacement: TraceStudy) -> tuple[TraceStudy, TraceStudy, pd.DataFrame]:
    """Both on the questions that both used, and their best layers side by side, replacement first."""
    common = on_common({"standard": {standard.window: standard}, "replacement": {replacement.window: replacement}})
    (standard,), (replacement,) = (tuple(sweep.values()) for sweep in common.values())
    return standard, replacement, paired_bests(replacement, standard)
