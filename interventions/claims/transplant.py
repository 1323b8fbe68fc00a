"""Transplants: what a restored output or a flow carries, as claims, numbers and a table.

Those of figures that trace take {series: shares}, where a series says what was traced (a constraint, a model) and
shares come from `transplant_shares`. Those of flows take the frame of `flow_transplant_shares`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from ..reports.record import Claim
from ..statistics import Number
from ..studies.transplant import BOTH, CANNOT_SAY, CARRIES, PRESENT, TAKES_AWAY, strongest
from ..tracing.causal_trace import KIND_NAMES
from .common import number_of

Shares = Mapping[str, pd.DataFrame]
# What the verdicts say of a flow.
READ = {
    CARRIES: "what is read carries the answer",
    TAKES_AWAY: "what is read is needed, but that of another image will do",
    BOTH: BOTH, CANNOT_SAY: CANNOT_SAY,
}
SHARES = {"fact": ("fact", "fact_low", "fact_high"), "word": ("word", "word_low", "word_high")}


def transplant_claims(shares: Shares) -> list[Claim]:
    """Return one claim per series and kind: what is restored where the effect is largest. They are not in the paper.

    A claim holds if in every part that is decided what is restored carries the answer. It is undecided if no part is.
    """
    paper = f"not in the paper, which takes an effect for a stored fact; {CARRIES}"
    return [
        _claim(f"transplant: {KIND_NAMES[kind]}, {series}", paper, rows, "replacement")
        for series, kind, rows in _by_kind(shares)
    ]


def flow_claims(shares: pd.DataFrame) -> list[Claim]:
    """Return one claim per flow to the last token, blocked in all layers. They are not in the paper.

    A claim holds if in every part that is decided what is read carries the answer. It is undecided if no part is.
    """
    paper = f"not in the paper, which looks at contributions alone; {READ[CARRIES]}"
    return [
        _claim(f"transplant: {flow}", paper, rows.assign(verdict=rows["verdict"].map(READ)), "own answer kept")
        for flow, rows in shares.groupby("flow", sort=False)
    ]


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


def flow_numbers(shares: pd.DataFrame) -> dict[str, Number]:
    """Return the drop of each flow and its two shares."""
    numbers = {}
    for _, row in shares.iterrows():
        place = f"{row['part']}/{row['flow']}/transplant"
        numbers[f"{place}/drop"] = number_of(row)
        numbers |= {f"{place}/{name}": number_of(row, *columns) for name, columns in SHARES.items()}
    return numbers


def flow_table(shares: pd.DataFrame) -> pd.DataFrame:
    """Return a table to show: the drops, their shares and the verdicts."""
    return pd.DataFrame([
        {
            "flow": row["flow"], "part": row["part"], "n": row["n"], "drop [95 %]": str(number_of(row)),
            "share that carries the answer": _share(row, "fact"),
            "share that another image gives back": _share(row, "word"),
            "verdict": READ[row["verdict"]],
        }
        for _, row in shares.iterrows()
    ])


def _claim(title: str, paper: str, rows: pd.DataFrame, word: str) -> Claim:
    """A claim about the parts in `rows`, which have a column verdict. word: what its other share is of."""
    verdicts = set(rows["verdict"]) - {CANNOT_SAY}
    here = "; ".join(
        f"{said} ({'; '.join(_shares(row, word) for _, row in group.iterrows())})"
        for said, group in rows.groupby("verdict", sort=False)
    )
    holds = verdicts <= {CARRIES, READ[CARRIES], BOTH} if verdicts else None
    return Claim(title, f"{paper} (its share's interval lies above {PRESENT})", here, holds)


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


def _shares(row: pd.Series, word: str) -> str:
    if pd.isna(row["fact"]):
        return f"{row['part']}: effect {row['effect']:.2f}"
    answer, rest = (number_of(row, *columns) for columns in SHARES.values())
    return f"{row['part']}: answer {answer}, {word} {rest} of {row['effect']:.2f}"
