"""Half precision: what the exact and the fast mode change, and whether it matters for what reports say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..reports.record import Claim
from ..statistics import NEGLIGIBLE, Number
from ..tracing.precision import METHOD_NAMES

MODES = {"rows": "exact mode", "packed": "fast mode"}
OTHERS = {"separate": "separate runs", "float32": "float32"}  # what effects are compared with
EXPECTED = "not in the paper; "


def precision_table(questions: pd.DataFrame) -> pd.DataFrame:
    """One row a dtype and method, over all questions and their sites.

    questions: that of `PrecisionStudy.by_question`. Differences of an effect, without their sign: the largest and, in
    brackets, the mean of all sites. A peak is the site of a question's largest effect at the token that is read.
    """
    rows = []
    for (dtype, method), cells in questions.groupby(["dtype", "method"], sort=False):
        rows.append({
            "precision": dtype, "method": METHOD_NAMES[method], "questions": len(cells), "sites": cells["sites"].sum(),
            **{f"difference to {name} (mean)": f"{_digits(cells[f'to_{other}'].max())} ({_mean_text(cells, other)})"
               for other, name in OTHERS.items()},
            "P(clean) changes by at most": _digits(cells["p_clean_change"].abs().max()),
            "peaks as in float32": f"{cells['same_peak'].sum()} of {len(cells)}",
            "the others lose at most": _digits(cells["peak_loss"].max()),
        })
    return pd.DataFrame(rows)


def precision_numbers(questions: pd.DataFrame, means: pd.DataFrame) -> dict[str, Number]:
    """By dtype and method, the numbers of the table, and the largest change of a mean effect (see `precision_claims`).

    n: questions.
    """
    numbers = {}
    for (dtype, method), cells in questions.groupby(["dtype", "method"], sort=False):
        key, n = f"{dtype}/{METHOD_NAMES[method]}", len(cells)
        for other in OTHERS:
            numbers[f"{key}/to_{other}"] = Number(cells[f"to_{other}"].max(), n=n)
            numbers[f"{key}/mean_to_{other}"] = Number(_mean(cells, other), n=n)
            numbers[f"{key}/means_to_{other}"] = Number(_shift(means, dtype, method, other), n=n)
        numbers[f"{key}/p_clean_change"] = Number(cells["p_clean_change"].abs().max(), n=n)
        numbers[f"{key}/same_peak"] = Number(cells["same_peak"].mean(), n=n)
        numbers[f"{key}/peak_loss"] = Number(cells["peak_loss"].max(), n=n)
    return numbers


def precision_claims(questions: pd.DataFrame, means: pd.DataFrame) -> list[Claim]:
    """Checks of each half precision, none of them the paper's. questions, means: those of a `PrecisionStudy`.

    The exact mode must equal separate runs at every site, to the last bit. Of the fast mode no site may differ from
    them by NEGLIGIBLE, the least effect that reports speak of, and no mean that a figure shows either. Both modes'
    means must be float32's but for less than NEGLIGIBLE, and so must be float32's effects at their peaks.
    """
    claims = []
    for dtype, cells in questions.groupby("dtype", sort=False):
        exact, fast = (cells[cells["method"] == method] for method in MODES)
        below = f"{EXPECTED}below {NEGLIGIBLE}"
        largest, sites = exact["to_separate"].max(), exact["sites"].sum()
        claims.append(Claim(
            f"{dtype}: the exact mode equals separate runs", f"{EXPECTED}the same bits",
            f"differences up to {_digits(largest)} at {sites} sites" if largest else f"the same at all {sites} sites",
            bool(largest == 0),
        ))
        largest = fast["to_separate"].max()
        claims.append(Claim(
            f"{dtype}: the fast mode changes no effect by {NEGLIGIBLE}", below,
            f"differences to separate runs up to {_digits(largest)}, mean {_mean_text(fast, 'separate')}",
            bool(largest < NEGLIGIBLE),
        ))
        change = _shift(means, dtype, "packed", "separate")
        claims.append(Claim(
            f"{dtype}: the fast mode changes no mean of a figure by {NEGLIGIBLE}", below,
            f"means by layer differ by at most {_digits(change)}", bool(change < NEGLIGIBLE),
        ))
        for (method, name), of in zip(MODES.items(), (exact, fast), strict=True):
            change, lost = _shift(means, dtype, method, "float32"), of["peak_loss"].max()
            elsewhere = f", else at one that has {_digits(lost)} less at most" if lost else ""
            claims.append(Claim(
                f"{dtype}: the {name} says what float32 says", below,
                f"means by layer differ by at most {_digits(change)}; the largest effect is at the same site in "
                f"{of['same_peak'].sum()} of {len(of)} questions{elsewhere}",
                bool(change < NEGLIGIBLE and lost < NEGLIGIBLE),
            ))
    return claims


def precision_sentence(questions: pd.DataFrame, device: str) -> str:
    """The numbers in words: what the fast mode adds to the rounding that all modes share. device: where it was run."""
    said = [f"This was run on {device}; another device, or another version of torch, may add up in another order."]
    for dtype, cells in questions.groupby("dtype", sort=False):
        separate, exact, fast = (cells[cells["method"] == method] for method in METHOD_NAMES)
        largest = exact["to_separate"].max()
        equal = f"differs by up to {_digits(largest)} from" if largest else "gives the same bits as"
        said.append(
            f"In {dtype} the exact mode {equal} separate runs. The fast mode differs from them by up to "
            f"{_digits(fast['to_separate'].max())} (mean {_mean_text(fast, 'separate')}), and they themselves differ "
            f"from float32 by up to {_digits(separate['to_float32'].max())} (mean {_mean_text(separate, 'float32')})."
        )
    return " ".join(said)


def _mean(cells: pd.DataFrame, other: str) -> float:
    """The mean difference, of all sites."""
    return float((cells[f"mean_to_{other}"] * cells["sites"]).sum() / cells["sites"].sum())


def _mean_text(cells: pd.DataFrame, other: str) -> str:
    return _digits(_mean(cells, other))


def _shift(means: pd.DataFrame, dtype: str, method: str, other: str) -> float:
    """The largest change of a mean effect, of all parts, kinds and layers."""
    cells = means[(means["dtype"] == dtype) & (means["method"] == method)]
    return float((cells["effect"] - cells[other]).abs().max())


def _digits(value: float) -> str:
    """Two digits that count, however small the value is."""
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")
