"""Examples in words and images: Figure 18's single edits, and questions of the test bed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .style import FAINT, INK, KIND_LOOKS, PARTS, nothing_to_show, styled
from .words import CHARACTERS, LINE_HEIGHT, show_image, wrapped, write_heading, write_lines

GREEN, RED = KIND_LOOKS["mlp"][1], KIND_LOOKS["attention"][1]
NARROW = 21  # a line of a question
KINDS_OF_QUESTION = {"single": "one constraint", "multi": "two constraints"}


@styled
def edited_examples(examples: pd.DataFrame, images: Mapping) -> Figure:
    """Draw the paper's Figure 18 with what the edit did: image, question, answers before and after, a row an item.

    The frame is that of `edit_examples`, images are by id, and the constraint is bold.
    """
    if examples.empty:
        return nothing_to_show("no item was edited")
    widths = (0.9, 2.5, 1.35, 1.35, 1.35)
    heading = ("Question", "Answer before", "Target", "Answer after")
    cells = [_cells(example, widths) for example in examples.itertuples()]
    heights = [0.2] + [max(0.85, 0.1 + 1.1 * LINE_HEIGHT * max(map(len, row))) for row in cells]
    figure = plt.figure(figsize=(sum(widths) + 0.3, 1.12 * sum(heights) + 0.1))
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    for column, name in enumerate(heading, start=1):
        write_lines(figure.add_subplot(grid[0, column]), [[(name, {"color": FAINT})]])
    for row, (example, words) in enumerate(zip(examples.itertuples(), cells, strict=True), start=1):
        show_image(figure.add_subplot(grid[row, 0]), images.get(example.id))
        for column, lines in enumerate(words, start=1):
            write_lines(figure.add_subplot(grid[row, column]), lines)
    return figure


@styled
def example_questions(examples: pd.DataFrame, images: Mapping, counts: Mapping | None = None) -> Figure:
    """Draw example questions with their images: a row for each part and number of constraints.

    The frame is that of `example_frame`. The visual constraint is bold, the text constraint bold italic. Images are by
    id, and counts of questions, for the headings, by (part, constraints).
    """
    groups = list(examples.groupby(["part", "constraints"], sort=False))
    columns = max(len(group) for _, group in groups)
    figure = plt.figure(figsize=(0.3 + 2.3 * columns, 1.2 * len(groups)))
    rows = figure.add_gridspec(2 * len(groups), columns, height_ratios=[0.18, 0.9] * len(groups))
    for row, ((part, constraints), group) in enumerate(groups):
        n = None if counts is None else counts.get((part, constraints))
        heading = f"{PARTS.get(part, part)}, {KINDS_OF_QUESTION[constraints]}" + (f"  (n = {n:,})" if n else "")
        write_heading(figure.add_subplot(rows[2 * row, 0]), heading)
        for column, example in enumerate(group.itertuples()):
            cell = rows[2 * row + 1, column].subgridspec(1, 2, width_ratios=[1, 1.6])
            picture, words = (figure.add_subplot(place) for place in cell)
            show_image(picture, images.get(example.id))
            parts = (example.pieces, [("Answer ", "faint"), (example.answer, "")])
            write_lines(words, [line for pieces in parts for line in wrapped(pieces, NARROW)], size=7.5, gap=2.5)
    return figure


def _cells(example, widths: tuple[float, ...]) -> list[list[list[tuple[str, dict]]]]:
    """Lines of the four columns of words of a row."""
    answer = int(0.85 * CHARACTERS * widths[-1])  # bold letters are wide
    done = bool(example.exact == 1)  # neither NaN nor None is
    word = {"correct": "corrected", "insert": "inserted"}.get(example.task, "edited")
    look = {"color": GREEN if done else RED, "weight": "bold"}
    plain, faint = {"color": INK}, {"color": FAINT}

    def lines(text: object, look: dict) -> list[list[tuple[str, dict]]]:
        string = "\u2014" if pd.isna(text) or not str(text).strip() else str(text)
        return [[(line, look)] for line in textwrap.wrap(string, answer, max_lines=3, placeholder=" \u2026")]

    def target_probability(p: float) -> list[list[tuple[str, dict]]]:
        return [] if pd.isna(p) else [[(f"P(target) {p:.2f}", faint)]]

    return [
        wrapped(example.pieces, int(CHARACTERS * widths[1])),
        lines(example.before, plain) + target_probability(example.p_before),
        lines(example.target, plain),
        [*lines(example.after, look), [(f"{'' if done else 'not '}{word}", look | {"weight": "normal"})],
         *target_probability(example.p_target)],
    ]
