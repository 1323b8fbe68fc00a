"""Figures 15 to 17: claims about whether contributions distinguish right from wrong answers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..attention.contributions import CONSTRAINT_TO_LAST
from ..attention.failure_prediction import FEW
from ..layers import early_and_middle_layers, early_layers
from ..reports.record import Claim
from ..statistics import LEVEL, Number, rows_where
from .common import above, largest_row, number, number_of, p_text, three_digits
from .fig5_attention import NONE_RIGHT

ONE_OUTCOME = "all answers are right, or all are wrong"


def fig15_numbers(contributions: pd.DataFrame, questions: pd.DataFrame) -> dict[str, Number]:
    """Return, by outcome, the largest contribution of the constraint's last token over all layers."""
    return {f"{outcome}/largest": number(values) for outcome, values in _largest(contributions, questions).items()}


def fig15_claims(contributions: pd.DataFrame, questions: pd.DataFrame) -> list[Claim]:
    """Return the finding of Figure 15 for the questions shown, from an `AttentionStudy`: undecided, as for examples."""
    right, wrong = _largest(contributions, questions).values()
    title, paper = "constraint -> last token is stronger in the right answers shown", "stronger when right"
    if right.empty or wrong.empty:
        return [Claim(title, paper, ONE_OUTCOME, None)]
    here = "; ".join(
        f"{outcome}: {values.mean():.3g}, {values.min():.3g} to {values.max():.3g} (n = {len(values)})"
        for outcome, values in (("right", right), ("wrong", wrong))
    )
    return [Claim(title, paper, f"largest contribution, {here}; Figure 16 tests it", None)]


def fig15_table(contributions: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Return the contributions of the questions shown, with the answer and whether it is right; dataset is the part."""
    columns = ["id", "part", "question", "answer", "correct", "confidence"]
    cells = rows_where(contributions, flow=CONSTRAINT_TO_LAST).astype({"id": str, "token": str})
    return questions[columns].rename(columns={"part": "dataset"}).merge(
        cells[["id", "layer", "position", "token", "norm"]], on="id")


def fig16_numbers(outcome: pd.DataFrame, tests: pd.DataFrame) -> dict[str, Number]:
    """Return Figure 16 in numbers by part, from `outcome_by_layer` and `outcome_tests`.

    The largest contribution by outcome, the largest difference, and its p.
    """
    numbers = {}
    for (part, name), cells in outcome.groupby(["part", "outcome"], sort=False):
        best = largest_row(cells, "norm")
        numbers[f"{part}/{name}/peak_contribution"] = number_of(best, "norm")
        numbers[f"{part}/{name}/peak_layer"] = Number(int(best["layer"]), n=int(best["n"]))
    for part, cells in tests.groupby("part", sort=False):
        best = largest_row(cells, "difference")
        n = int(best["n_right"] + best["n_wrong"])
        numbers[f"{part}/difference"] = Number(float(best["difference"]), n=n)
        numbers[f"{part}/difference_layer"] = Number(int(best["layer"]), n=n)
        numbers[f"{part}/difference_p_corrected"] = Number(float(best["p_corrected"]), n=n)
        numbers[f"{part}/difference_p_within"] = Number(float(best["p_within"]), n=n)
    return numbers


def fig16_claims(outcome: pd.DataFrame, tests: pd.DataFrame) -> list[Claim]:
    """Return the findings of Figure 16 by part. The arguments are those of `fig16_numbers`.

    Contributions are higher when the answer is right (at the layer of the largest difference, p corrected for the
    number of layers is below 0.05), middle layers are the most active, and the difference lies there. Middle layers
    are those behind the early ones up to the last that the paper names: 6 to 17 of 32.
    """
    claims, n_layers = [], int(outcome["layer"].max()) + 1 if len(outcome) else 0
    middle = range(early_layers(n_layers).stop, early_and_middle_layers(n_layers).stop)
    paper = f"layers 16-17 of 32, middle is here {middle.start}-{middle.stop - 1} of {n_layers}"
    for part in dict.fromkeys(outcome["part"]):
        cells, right = rows_where(tests, part=part), rows_where(outcome, part=part, outcome="right")
        higher = there = (ONE_OUTCOME, None)
        if len(cells):
            best = largest_row(cells, "difference")
            enough = min(best["n_right"], best["n_wrong"]) >= FEW
            significant = bool(best["p_corrected"] < LEVEL) if enough else None
            # No interval: the layer was chosen for its size, and only p is corrected for that.
            higher = (
                f"right - wrong {best['difference']:.3g} at layer {best['layer']}, p {p_text(best['p_corrected'])}, "
                f"corrected, {p_text(best['p_within'])} within kinds of question (n = {best['n_right']} right, "
                f"{best['n_wrong']} wrong{_too_few(enough)})", significant,
            )
            there = (
                f"at layer {best['layer']}" + ("" if significant else ", but not above chance"),
                bool(significant and best["layer"] in middle) if enough else None,
            )
        active = (NONE_RIGHT, None)
        if len(right):
            peak = largest_row(right, "norm")
            contribution = three_digits(number_of(peak, "norm"))
            active = f"right answers: {contribution} at layer {peak['layer']}", peak["layer"] in middle
        claims += [
            Claim(f"{part}: higher when the answer is right", "higher when right", *higher),
            Claim(f"{part}: middle layers most active", paper, *active),
            Claim(f"{part}: the difference is largest in middle layers", paper, *there),
        ]
    return claims


def fig17_numbers(table: pd.DataFrame, lead: Mapping | None = None) -> dict[str, Number]:
    """Return Figure 17 in numbers: AUROC by part and predictor, and how much earlier the contribution is known.

    The arguments are the frame of `failure_table` and, if it was measured, the result of `lead_time`.
    """
    numbers = {f"{row['part']}/{row['predictor']}/auroc": number_of(row, "auroc") for _, row in table.iterrows()}
    for part, cells in table.groupby("part", sort=False):
        numbers[f"{part}/wrong"] = Number(int(cells["wrong"].max()), n=int(cells["n"].max()))
    if lead is not None:
        numbers |= {name: Number(lead[name]) for name in ("layers_needed", "n_layers")}
        numbers["time_ratio"] = lead["time_ratio"]
    return numbers


def fig17_claims(table: pd.DataFrame, differences: pd.DataFrame) -> list[Claim]:
    """Return the findings of Figure 17 by part: the contribution predicts right answers, and confidence does better.

    The first holds if the interval of its AUROC lies above 0.5, the second if that of the paired difference lies
    above 0. Fewer than FEW right or wrong answers leave both undecided. The frames are those of `failure_table` and
    `confidence_minus`.
    """
    claims = []
    for part in dict.fromkeys(table["part"]):
        areas = rows_where(table, part=part).set_index("predictor")
        first = second = (f"scored: {ONE_OUTCOME}", None)
        if "contribution" in areas.index and not pd.isna(areas.loc["contribution", "auroc"]):
            area, wrong = number_of(areas.loc["contribution"], "auroc"), int(areas.loc["contribution", "wrong"])
            more = number_of(rows_where(differences, part=part, predictor="contribution").iloc[0], "difference")
            enough = min(wrong, area.n - wrong) >= FEW
            few, confidence = _too_few(enough), areas.loc["confidence", "auroc"]
            first = f"AUROC {area} (n = {area.n}, {wrong} wrong{few})", above(area, 0.5) if enough else None
            second = (f"AUROC {confidence:.2f} instead of {area.value:.2f}, difference {more}{few}",
                      above(more) if enough else None)
        claims += [
            Claim(f"{part}: the contribution predicts right answers", "AUROC 0.63, layers 16-17 of 32", *first),
            Claim(f"{part}: confidence predicts them better", "AUROC 0.76 instead of 0.63", *second),
        ]
    return claims


def _too_few(enough: bool) -> str:
    return "" if enough else ", too few to decide"


def _largest(contributions: pd.DataFrame, questions: pd.DataFrame) -> dict[str, pd.Series]:
    """outcome -> the largest contribution over layers from the constraint's last token to the last, by question."""
    cells = rows_where(contributions, flow=CONSTRAINT_TO_LAST, role="constraint_last")
    largest = cells.groupby("id", observed=True)["norm"].max().rename(index=str)
    return {outcome: largest.reindex(questions.loc[questions["correct"].eq(value), "id"]).dropna()
            for outcome, value in (("right", True), ("wrong", False))}
