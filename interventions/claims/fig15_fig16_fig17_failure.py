"""Figures 15 to 17: whether contributions tell right from wrong answers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..attention.contributions import CONSTRAINT_TO_LAST
from ..attention.failure_prediction import FEW
from ..layers import early_and_middle_layers, early_layers
from ..reports.record import Claim
from ..statistics import LEVEL, Number
from .common import above, above_zero, fine, number, number_of, p_text
from .fig5_attention import NONE_RIGHT

ONE_OUTCOME = "all answers are right, or all are wrong"


def fig15_numbers(contributions: pd.DataFrame, questions: pd.DataFrame) -> dict[str, Number]:
    """Of the questions shown, by outcome, the largest contribution of the constraint's last token over all layers."""
    return {f"{outcome}/largest": number(values) for outcome, values in _largest(contributions, questions).items()}


def fig15_claims(contributions: pd.DataFrame, questions: pd.DataFrame) -> list[Claim]:
    """The finding of Figure 15 on the questions shown: examples, not statistics (these are Figure 16's).

    contributions, questions: those of an `AttentionStudy`, the latter only those shown. So few questions cannot say
    whether it holds; they are told side by side.
    """
    is_right, is_wrong = _largest(contributions, questions).values()
    title, paper = "constraint -> last token is stronger in the right answers shown", "stronger when right"
    if is_right.empty or is_wrong.empty:
        return [Claim(title, paper, ONE_OUTCOME, None)]
    here = "; ".join(
        f"{outcome}: {values.mean():.3g}, {values.min():.3g} to {values.max():.3g} (n = {len(values)})"
        for outcome, values in (("right", is_right), ("wrong", is_wrong))
    )
    return [Claim(title, paper, f"largest contribution, {here}; Figure 16 tests it", None)]


def fig15_table(contributions: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """The contributions of the questions shown, with the answer and whether it is right; dataset is the part."""
    told = questions[["id", "part", "question", "answer", "correct", "confidence"]].rename(columns={"part": "dataset"})
    cells = contributions[contributions["flow"] == CONSTRAINT_TO_LAST].astype({"id": str, "token": str})
    return told.merge(cells[["id", "layer", "position", "token", "norm"]], on="id")


def fig16_numbers(outcome: pd.DataFrame, tests: pd.DataFrame) -> dict[str, Number]:
    """Figure 16 in numbers, by part: largest contribution by outcome and largest difference, their layers, and its p.

    outcome, tests: those of `outcomes.outcome_by_layer` and `outcomes.outcome_tests`.
    """
    numbers = {}
    for (part, name), cells in outcome.groupby(["part", "outcome"], sort=False):
        best = cells.loc[cells["norm"].astype(float).idxmax()]
        numbers[f"{part}/{name}/peak_contribution"] = number_of(best, "norm")
        numbers[f"{part}/{name}/peak_layer"] = Number(int(best["layer"]), n=int(best["n"]))
    for part in dict.fromkeys(tests["part"]):
        best, n = _largest_difference(tests, part)
        numbers[f"{part}/difference"] = Number(float(best["difference"]), n=n)
        numbers[f"{part}/difference_layer"] = Number(int(best["layer"]), n=n)
        numbers[f"{part}/difference_p_corrected"] = Number(float(best["p_corrected"]), n=n)
        numbers[f"{part}/difference_p_within"] = Number(float(best["p_within"]), n=n)
    return numbers


def fig16_claims(outcome: pd.DataFrame, tests: pd.DataFrame) -> list[Claim]:
    """The findings of Figure 16, by part: higher when right, middle layers most active, and the difference there.

    Higher: at the layer of the largest difference, p corrected for the number of layers is below 0.05. Middle layers
    lie behind the early ones, up to those that the paper names (`averages.early_and_middle_layers`): 6 to 17 of 32.
    """
    claims, n_layers = [], int(outcome["layer"].max()) + 1 if len(outcome) else 0
    middle = range(early_layers(n_layers).stop, early_and_middle_layers(n_layers).stop)
    paper = f"layers 16-17 of 32, middle is here {middle.start}-{middle.stop - 1} of {n_layers}"
    for part in dict.fromkeys(outcome["part"]):
        higher, active, there = f"{part}: higher when the answer is right", f"{part}: middle layers most active", (
            f"{part}: the difference is largest in middle layers")
        best, higher_holds = None, None
        if part in set(tests["part"]):
            best, _ = _largest_difference(tests, part)
            enough = min(best["n_right"], best["n_wrong"]) >= FEW
            higher_holds = bool(best["p_corrected"] < LEVEL) if enough else None
            few = "" if enough else ", too few to say"
            # No interval at the layer that was picked for its size: its p is corrected for that, the interval is not.
            here = (f"right - wrong {best['difference']:.3g} at layer {best['layer']}, p "
                    f"{p_text(best['p_corrected'])}, corrected, {p_text(best['p_within'])} within kinds of question "
                    f"(n = {best['n_right']} right, {best['n_wrong']} wrong{few})")
        claims.append(Claim(higher, "higher when right", ONE_OUTCOME if best is None else here, higher_holds))
        cells = outcome[(outcome["part"] == part) & (outcome["outcome"] == "right")]
        if cells.empty:
            claims.append(Claim(active, paper, NONE_RIGHT, None))
        else:
            peak = cells.loc[cells["norm"].astype(float).idxmax()]
            here = f"right answers: {fine(number_of(peak, 'norm'))} at layer {peak['layer']}"
            claims.append(Claim(active, paper, here, peak["layer"] in middle))
        if best is None:
            claims.append(Claim(there, paper, ONE_OUTCOME, None))
        else:
            here = f"at layer {best['layer']}" + ("" if higher_holds else ", but not above chance")
            found = None if higher_holds is None else bool(higher_holds and best["layer"] in middle)
            claims.append(Claim(there, paper, here, found))
    return claims


def fig17_numbers(table: pd.DataFrame, lead: Mapping | None = None) -> dict[str, Number]:
    """Figure 17 in numbers: AUROC by part and predictor, and how much earlier the contribution is known.

    table: that of `failure.failure_table`. lead: layers_needed, n_layers and time_ratio (a Number: the time of a
    forward that ends after the last layer needed, over that of the whole one); None leaves it out.
    """
    numbers = {f"{row['part']}/{row['predictor']}/auroc": number_of(row, "auroc") for _, row in table.iterrows()}
    for part, cells in table.groupby("part", sort=False):
        numbers[f"{part}/wrong"] = Number(int(cells["wrong"].max()), n=int(cells["n"].max()))
    if lead is not None:
        numbers |= {name: Number(lead[name]) for name in ("layers_needed", "n_layers")}
        numbers["time_ratio"] = lead["time_ratio"]
    return numbers


def fig17_claims(table: pd.DataFrame, differences: pd.DataFrame) -> list[Claim]:
    """The findings of Figure 17, by part: the contribution predicts right answers, and confidence does so better.

    table, differences: those of `failure.failure_table` and `failure.confidence_minus`. The first holds if the interval
    of its AUROC lies above 0.5, the second if that of the paired difference lies above 0; fewer than FEW right or wrong
    answers cannot say.
    """
    claims = []
    for part in dict.fromkeys(table["part"]):
        areas = table[table["part"] == part].set_index("predictor")
        minus = differences[(differences["part"] == part) & (differences["predictor"] == "contribution")]
        first = (f"{part}: the contribution predicts right answers", "AUROC 0.63, layers 16-17 of 32")
        second = (f"{part}: confidence predicts them better", "AUROC 0.76 instead of 0.63")
        if "contribution" not in areas.index or pd.isna(areas.loc["contribution", "auroc"]):
            claims += [Claim(*first, f"scored: {ONE_OUTCOME}", None), Claim(*second, f"scored: {ONE_OUTCOME}", None)]
            continue
        area = number_of(areas.loc["contribution"], "auroc")
        wrong = int(areas.loc["contribution", "wrong"])
        enough = min(wrong, area.n - wrong) >= FEW
        few = "" if enough else ", too few to say"
        here = f"AUROC {area} (n = {area.n}, {wrong} wrong{few})"
        claims.append(Claim(*first, here, above(area, 0.5) if enough else None))
        more = number_of(minus.iloc[0], "difference")
        here = f"AUROC {areas.loc['confidence', 'auroc']:.2f} instead of {area.value:.2f}, difference {more}{few}"
        claims.append(Claim(*second, here, above_zero(more) if enough else None))
    return claims


def _largest(contributions: pd.DataFrame, questions: pd.DataFrame) -> dict[str, pd.Series]:
    """outcome -> the largest contribution over layers of the constraint's last token to the last, by question."""
    cells = contributions[contributions["flow"] == CONSTRAINT_TO_LAST]
    largest = cells[cells["role"] == "constraint_last"].groupby("id", observed=True)["norm"].max().rename(index=str)
    return {outcome: largest.reindex(questions.loc[questions["correct"].eq(value), "id"]).dropna()
            for outcome, value in (("right", True), ("wrong", False))}


def _largest_difference(tests: pd.DataFrame, part: str) -> tuple[pd.Series, int]:
    """The layer's row, and the number of questions."""
    cells = tests[tests["part"] == part]
    best = cells.loc[cells["difference"].astype(float).idxmax()]
    return best, int(best["n_right"] + best["n_wrong"])
