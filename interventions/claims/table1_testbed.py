"""Table 1: claims about the size and the structure of the test bed."""

from __future__ import annotations

import pandas as pd

from ..reports.record import Claim
from ..statistics import Number
from ..studies.testbed_summary import PAPER_COUNTS


def table1_numbers(counts: pd.DataFrame) -> dict[str, Number]:
    """Return the counts of the test bed's summary, by part and constraints, and in all."""
    columns = ["questions", "entities", "images", "relations", "checked", "found"]
    numbers = {
        f"{row['part']}/{row['constraints']}/{name}": Number(int(row[name])) for _, row in counts.iterrows()
        for name in columns
    }
    totals = counts.groupby("constraints")["questions"].sum()
    return numbers | {f"all/{name}/questions": Number(int(n)) for name, n in totals.items()}


def table1_claims(counts: pd.DataFrame) -> list[Claim]:
    """Return claims that compare the structure of VQA-Constraints with this test bed."""
    questions = counts.set_index(["part", "constraints"])["questions"]
    paper_parts = list(dict.fromkeys(part for part, _ in PAPER_COUNTS))
    by_kind = {kind: questions.xs(kind, level="constraints") for kind in ("single", "multi")}
    has = {kind: list(column[column > 0].index) for kind, column in by_kind.items()}
    single, multi = (int(column.sum()) for column in by_kind.values())
    found, checked = int(counts["found"].sum()), int(counts["checked"].sum())
    return [
        Claim("three parts", ", ".join(paper_parts), ", ".join(counts["part"].unique()),
              set(paper_parts) == set(counts["part"])),
        Claim("questions with one constraint", "in all three parts", ", ".join(has["single"]) or "none",
              set(has["single"]) >= set(paper_parts)),
        Claim("questions with two constraints", "in okvqa and movies", ", ".join(has["multi"]) or "none",
              set(has["multi"]) >= {"okvqa", "movies"}),
        Claim("number of questions", "9,700 with one constraint and 650 with two",
              f"{single:,} with one constraint and {multi:,} with two", single >= 9700 and multi >= 650),
        Claim("constraints can be traced", "marked in every question",
              f"found in the model's tokens in {found:,} of {checked:,} questions", found == checked > 0),
    ]
