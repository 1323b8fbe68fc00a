"""A figure for the tests: how long a model's answers are, by part of the test bed."""

from __future__ import annotations

import typing

import pandas as pd
from matplotlib.figure import Figure

from ..reports.record import Claim
from ..statistics import Number, bootstrap_interval
from ..studies.answers import item_answer
from ..studies.loop import question_loop
from ..studies.parameters import SampleParameters


class LengthParameters(SampleParameters):
    figure: typing.ClassVar[str] = "length_answers"


def answer_lengths(model, testbed, run) -> pd.DataFrame:
    """Return a row per question: id, part, length (characters)."""

    def compute(item) -> pd.DataFrame:
        answer = item_answer(model, item, results_dir=run.results_dir)
        return pd.DataFrame([{"length": len(answer.text), "reason": ""}])

    key = {"table": "answer_lengths", "version": 1}
    results = question_loop(model, testbed, compute, key=key, purpose=("measure", "measured"), run=run)
    return pd.DataFrame([result.row(["length"]) for result in results])


def length_numbers(lengths: pd.DataFrame) -> dict[str, Number]:
    groups = {part: group["length"] for part, group in lengths.groupby("part")}
    return {part: Number(*map(float, bootstrap_interval(group)), n=len(group)) for part, group in groups.items()}


def length_claims(numbers: dict[str, Number]) -> list[Claim]:
    return [Claim(f"answers of {part} are short", "-", str(n), n.value < 20) for part, n in numbers.items()]


def length_plot(lengths: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(4, 2.5))
    lengths.groupby("part")["length"].mean().plot.bar(ax=figure.add_subplot())
    return figure
