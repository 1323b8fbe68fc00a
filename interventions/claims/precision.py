"""Half precision: what the exact and the fast mode change, and whether it affects what reports say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..reports.record import Claim
from ..statistics import NEGLIGIBLE, Number
from ..tracing.precision import METHOD_NAMES

MODES = {"rows": "exact mode", "packed": "fast mode"}
REFERENCES = {"separate": "separate runs", "float32": "float32"}


def precision_table(questions: pd.DataFrame) -> pd.DataFrame:
    """Return one row per dtype and method, over all questions and their sites.

    Absolute differences of an effect: the largest and, in parentheses, the mean over all sites. A peak is the site
    of a question's largest effect at the corrupted constraint. The frame is that of `PrecisionStudy.by_question`.
    """
    return pd.DataFrame(
        {
            "precision": dtype, "method": METHOD_NAMES[method], "questions": len(cells), "sites": cells["sites"].sum(),
            **{f"difference to {name} (mean)": f"{_digits(cells[f'to_{other}'].max())} ({_digits(_mean(cells, other))})"
               for other, name in REFERENCES.items()},
            "P(clean) changes by at most": _digits(cells["p_clean_change"].abs().max()),
            "peaks as in float32": f"{cells['same_peak'].sum()} of {len(cells)}",
            "the others lose at most": _digits(cells["peak_loss"].max()),
        }
        for (dtype, method), cells in questions.groupby(["dtype", "method"], sort=False)
    )


def precision_numbers(questions: pd.DataFrame, means: pd.DataFrame) -> dict[str, Number]:
    """Return, by dtype and method, the numbers of the table and the largest change of a mean effect; n: questions."""
    numbers = {}
    for (dtype, method), cells in questions.groupby(["dtype", "method"], sort=False):
        values = {}
        for other in REFERENCES:
            values[f"to_{other}"] = cells[f"to_{other}"].max()
            values[f"mean_to_{other}"] = _mean(cells, other)
            values[f"means_to_{other}"] = _shift(means, dtype, method, other)
        values["p_clean_change"] = cells["p_clean_change"].abs().max()
        values["same_peak"], values["peak_loss"] = cells["same_peak"].mean(), cells["peak_loss"].max()
        for name, value in values.items():
            numbers[f"{dtype}/{METHOD_NAMES[method]}/{name}"] = Number(value, n=len(cells))
    return numbers


def precision_claims(questions: pd.DataFrame, means: pd.DataFrame) -> list[Claim]:
    """Return checks of each half precision; they are not in the paper.

    The exact mode must equal separate runs at every site, bit by bit. The fast mode must change no site and no mean
    that a figure shows by NEGLIGIBLE. The means and the peaks of both modes must agree with float32 within NEGLIGIBLE.
    The frames are `by_question` and `means` of a `PrecisionStudy`.
    """
    claims, paper = [], "not in the paper; "
    below = f"{paper}below {NEGLIGIBLE}"
    for dtype, cells in questions.groupby("dtype", sort=False):
        exact, fast = (cells[cells["method"] == method] for method in MODES)
        separate, fast_separate, sites = exact["to_separate"].max(), fast["to_separate"].max(), exact["sites"].sum()
        change = _shift(means, dtype, "packed", "separate")
        claims += [
            Claim(f"{dtype}: the exact mode equals separate runs", f"{paper}the same bits",
                  f"differences up to {_digits(separate)} at {sites} sites" if separate else
                  f"the same at all {sites} sites", bool(separate == 0)),
            Claim(f"{dtype}: the fast mode changes no effect by {NEGLIGIBLE}", below,
                  f"differences to separate runs up to {_digits(fast_separate)}, mean "
                  f"{_digits(_mean(fast, 'separate'))}", bool(fast_separate < NEGLIGIBLE)),
            Claim(f"{dtype}: the fast mode changes no mean of a figure by {NEGLIGIBLE}", below,
                  f"means by layer differ by at most {_digits(change)}", bool(change < NEGLIGIBLE)),
        ]
        for (method, name), rows in zip(MODES.items(), (exact, fast), strict=True):
            change, loss = _shift(means, dtype, method, "float32"), rows["peak_loss"].max()
            elsewhere = f", otherwise at a site whose effect is at most {_digits(loss)} smaller" if loss else ""
            claims.append(Claim(
                f"{dtype}: the {name} says what float32 says", below,
                f"means by layer differ by at most {_digits(change)}; the largest effect is at the same site in "
                f"{rows['same_peak'].sum()} of {len(rows)} questions{elsewhere}",
                bool(change < NEGLIGIBLE and loss < NEGLIGIBLE),
            ))
    return claims


def precision_sentence(questions: pd.DataFrame, device: str) -> str:
    """Return the numbers in words, from `PrecisionStudy.by_question`: what the fast mode adds to rounding."""
    text = [f"This was run on {device}. Another device or another version of torch may add numbers in another order."]
    for dtype, cells in questions.groupby("dtype", sort=False):
        separate, exact, fast = (cells[cells["method"] == method] for method in METHOD_NAMES)
        largest = exact["to_separate"].max()
        equal = f"differs by up to {_digits(largest)} from" if largest else "gives the same bits as"
        text.append(
            f"In {dtype} the exact mode {equal} separate runs. The fast mode differs from separate runs by up to "
            f"{_digits(fast['to_separate'].max())} (mean {_digits(_mean(fast, 'separate'))}), and separate runs differ "
            f"from float32 by up to {_digits(separate['to_float32'].max())} (mean "
            f"{_digits(_mean(separate, 'float32'))})."
        )
    return " ".join(text)


def _mean(cells: pd.DataFrame, other: str) -> float:
    """The mean difference over all sites."""
    return float((cells[f"mean_to_{other}"] * cells["sites"]).sum() / cells["sites"].sum())


def _shift(means: pd.DataFrame, dtype: str, method: str, other: str) -> float:
    """The largest change of a mean effect over all parts, kinds and layers."""
    cells = means[(means["dtype"] == dtype) & (means["method"] == method)]
    return float((cells["effect"] - cells[other]).abs().max())


def _digits(value: float) -> str:
    """Format a value with two significant digits and no exponent."""
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")
