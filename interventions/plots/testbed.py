"""Table 1's picture: example questions beside their images."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .style import PARTS, styled
from .words import show_image, wrapped, write_heading, write_lines

CHARACTERS = 21  # a line of a question
KINDS_OF_QUESTION = {"single": "one constraint", "multi": "two constraints"}


@styled
def example_questions(examples: pd.DataFrame, images: Mapping, counts: Mapping | None = None) -> Figure:
    """Example questions with their images: a row for each part and number of constraints.

    examples: that of `census.example_frame`; the visual constraint is bold, the text constraint bold italic. images:
    id -> PIL image. counts: (part, constraints) -> number of questions, for the rows' headings.
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
            told = (example.pieces, [("Answer ", "faint"), (example.answer, "")])
            write_lines(words, [line for pieces in told for line in wrapped(pieces, CHARACTERS)], size=7.5, gap=2.5)
    return figure
