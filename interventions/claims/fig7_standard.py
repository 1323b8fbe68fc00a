"""Figure 7: claims about standard causal tracing, compared with replacing the constraint (Figure 3)."""

from __future__ import annotations

import pandas as pd

from ..reports.record import Claim
from ..statistics import Number, rows_where
from ..tracing.averages import window_effects
from ..tracing.causal_trace import KIND_NAMES
from ..tracing.study import TraceStudy
from ..tracing.sweeps import on_common, paired_bests
from .common import SUBSTANTIAL, above, lost_probability, number, number_of

_RECOVERED = "recovered_difference", "recovered_low", "recovered_high"  # columns of `paired_bests`


def fig7_numbers(standard: TraceStudy, replacement: TraceStudy) -> dict[str, Number]:
    """Return Figure 7 in numbers, over the questions that both studies used.

    By part the probabilities of both, by kind their largest effects, what share of the lost probability these recover,
    and the differences within questions (replacement minus standard).
    """
    standard, replacement, bests = _compared(standard, replacement)
    numbers = {}
    for name, study in (("standard", standard), ("replacement", replacement)):
        for part, group in study.questions.groupby("part", sort=False):
            numbers[f"{part}/{name}/p_clean"] = number(group["p_clean"])
            numbers[f"{part}/{name}/p_corrupted"] = number(group["p_corrupted"])
        for _, row in window_effects({study.window: study}).iterrows():
            key, n = f"{row['part']}/{row['kind']}/{name}", int(row["n"])
            numbers[f"{key}/peak_effect"] = number_of(row)
            numbers[f"{key}/peak_layer"] = Number(int(row["layer"]), n=n)
            numbers[f"{key}/recovered"] = Number(row["effect"] / lost_probability(study, row["part"]), n=n)
    for _, row in bests.iterrows():
        numbers[f"{row['part']}/{row['kind']}/difference"] = number_of(row, "difference")
        numbers[f"{row['part']}/{row['kind']}/recovered_difference"] = number_of(row, *_RECOVERED)
    return numbers


def fig7_claims(standard: TraceStudy, replacement: TraceStudy) -> list[Claim]:
    """Return two claims per part and kind: standard tracing recovers nothing, and replacement recovers more.

    "Recovers nothing" holds if noise costs a substantial share of P(answer), and the interval of the largest effect at
    the constraint, corrected for the choice of the layer, ends below a quarter of the lost probability.
    """
    standard, replacement, bests = _compared(standard, replacement)
    effects, claims = window_effects({standard.window: standard}), []
    for _, best in bests.iterrows():
        part, kind = best["part"], best["kind"]
        row = rows_where(effects, part=part, kind=kind).iloc[0]
        effect, lost, shares = number_of(row), lost_probability(standard, part), number_of(best, *_RECOVERED)
        p_clean = rows_where(standard.questions, part=part)["p_clean"].mean()
        claims.append(Claim(
            f"{part}: {KIND_NAMES[kind]}, standard tracing recovers nothing at the {standard.read_at}",
            "no causal state, window 10 of 32 layers",
            f"largest effect {effect} of {lost:.2f} lost, at layer {row['layer']}, "
            f"window {standard.window} of {standard.n_layers}",
            bool(lost >= SUBSTANTIAL * p_clean and effect.high < SUBSTANTIAL * lost),
        ))
        claims.append(Claim(
            f"{part}: {KIND_NAMES[kind]}, replacing the constraint recovers a larger share of the lost probability",
            "causal states in early layers (Figure 3)",
            f"{best['recovered']:.2f} instead of {best['other_recovered']:.2f}, difference {shares} (windows "
            f"{replacement.window} and {standard.window} of {standard.n_layers}); effects {best['effect']:.2f} instead "
            f"of {best['other_effect']:.2f}, difference {number_of(best, 'difference')}",
            above(shares),
        ))
    return claims


def _compared(standard: TraceStudy, replacement: TraceStudy) -> tuple[TraceStudy, TraceStudy, pd.DataFrame]:
    """Both on the questions that both used, and their best layers side by side, replacement first."""
    common = on_common({"standard": {standard.window: standard}, "replacement": {replacement.window: replacement}})
    (standard,), (replacement,) = (tuple(sweep.values()) for sweep in common.values())
    return standard, replacement, paired_bests(replacement, standard)
