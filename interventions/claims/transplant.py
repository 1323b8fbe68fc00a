"""Transplants: what the restored output carries, as claims, numbers and a table of any figure that traces.

All functions take {series: shares}, where a series says what was traced (a constraint, a model) and shares come from
`transplant_shares`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from ..reports.record import Claim
from ..statistics import Number
from ..studies.transplant import BOTH, CANNOT_SAY, CARRIES, PRESENT, strongest
from ..tracing.causal_trace import KIND_NAMES
from .common import number_of

Shares = Mapping[str, pd.DataFrame]
SHARES = {"fact": ("fact", "fact_low", "fact_high"), "word": ("word", "word_low", "word_high")}


def transplant_claims(shares: Shares) -> list[Claim]:
    """Return one claim per series and kind: what is restored where the effect is largest. They are not in the paper.

    A claim holds if in every part that is decided what is restored carries the answer. It is undecided if no part is.
    """
    claims = []
    for series, kind, rows in _by_kind(shares):
        verdicts = set(rows["verdict"]) - {CANNOT_SAY}
        here = "; ".join(
            f"{said} ({'; '.join(_shares(row) for _, row in group.iterrows())})"
            for said, group in rows.groupby("verdict", sort=False)
        )
        claims.append(Claim(
            f"transplant: {KIND_NAMES[kind]}, {series}",
            f"not in the paper, which takes an effect for a stored fact; {CARRIES} (its share's interval lies above "
            f"{PRESENT})",
            here, verdicts <= {CARRIES, BOTH} if verdicts else None,
        ))
    return claims


def transplant_numbers(shares: Shares) -> dict[str, Number]:
    """Return the effect and its two shares, of the largest effect and of every layer where there are shares."""
    numbers = {}
    for series, frame in shares.items():
        best = strongest(frame)
        for _, row in best.iterrows():
            numbers[f"{_place(series, row)}/layer"] = Number(int(row["layer"]), n=int(row["n"]))
        for rows, at_layer in ((best, False), (frame.dropna(subset="fact"), True)):
            for _, row in rows.iterrows():
                place = _place(series, row) + (f"/layer {row['layer']}" if at_layer else "")
                numbers[f"{place}/effect"] = number_of(row)
                numbers |= {f"{place}/{name}": number_of(row, *columns) for name, columns in SHARES.items()}
    return numbers


def transplant_table(shares: Shares) -> pd.DataFrame:
    """Return a table to show: the largest effects, their shares and the verdicts."""
    return pd.DataFrame([
        {
            "traced": series, "part": row["part"], "kind": KIND_NAMES[kind], "n": row["n"], "best layer": row["layer"],
            "effect [95 %]": str(number_of(row)),
            "share that carries the answer": _share(row, "fact"),
            "share that only takes the replacement away": _share(row, "word"),
            "verdict": row["verdict"],
        }
        for series, kind, rows in _by_kind(shares) for _, row in rows.iterrows()
    ])


def _by_kind(shares: Shares) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(series, kind, the rows of its parts where their effect is largest)"""
    for series, frame in shares.items():
        best = strongest(frame)
        for kind in dict.fromkeys(best["kind"]):
            yield series, kind, best[best["kind"] == kind]


def _place(series: str, row: pd.Series) -> str:
    return f"{row['part']}/{row['kind']}/transplant/{series}"


def _share(row: pd.Series, name: str) -> str | None:
    """A share as text; None where there is no effect to share."""
    return None if pd.isna(row[name]) else str(number_of(row, *SHARES[name]))


def _shares(row: pd.Series) -> str:
    if pd.isna(row["fact"]):
        return f"{row['part']}: effect {row['effect']:.2f}"
    answer, word = (number_of(row, *columns) for columns in SHARES.values())
    return f"{row['part']}: answer {answer}, replacement {word} of {row['effect']:.2f}"
