"""Figures of attention contributions and knock-outs (Figures 5 and 15): how information travels between tokens.

Contributions are red as all that is attention; a flow keeps its colour, marker and line in every figure.
"""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..attention.contributions import CONSTRAINT_TO_LAST, VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST
from .style import (
    CONTRIBUTION_COLOURS,
    FAINT,
    LOOKS,
    arrow,
    contribution_bar,
    layer_axis,
    legend_line,
    limits,
    line_with_band,
    nothing_to_show,
    panels,
    parts_of,
    styled,
    title,
    window_label,
)
from .words import token_label

FLOW_LOOKS = dict(zip((VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST, CONSTRAINT_TO_LAST), LOOKS, strict=False))


@styled
def flows_by_layer(shares: pd.DataFrame, drops: pd.DataFrame, heading: str = "") -> Figure:
    """What flows between tokens contribute, above what blocking them costs: a line a flow, a column a part.

    shares, drops: those of `attention_averages.flow_shares` and `knockout_drops`; without drops, the upper row alone.
    The knock-out of all layers stands at "all". Bands and bars are 95 % intervals.
    """
    if shares.empty:
        return nothing_to_show("no question was answered right")
    drops = drops[drops["flow"].isin(FLOW_LOOKS)]  # parts of a flow that are blocked alone have no line
    parts = list(dict.fromkeys([*parts_of(shares), *parts_of(drops)]))
    rows = ["share", "drop"] if len(drops) else ["share"]
    n_layers = int(shares["layer"].max()) + 1
    size = (0.9 + 2.0 * len(parts), 1.25 + 1.45 * len(rows))
    figure, axes = plt.subplots(len(rows), len(parts), figsize=size, sharex=True, sharey="row", squeeze=False)
    window = int(drops["window"].min()) if len(drops) else 1
    for axis, quantity, part in panels(axes, rows, parts):
        frame = shares if quantity == "share" else drops
        cells = frame[frame["part"] == part]
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        for place, (flow, (colour, marker, line)) in enumerate(FLOW_LOOKS.items()):
            found = cells[cells["flow"] == flow]
            by_layer = found[found["window"] == window] if quantity == "drop" else found
            line_with_band(axis, by_layer, (colour, marker, line), alpha=0.18, quantity=quantity)
            axis.lines[-1].set_markersize(3 if n_layers <= 16 else 1.8)
            if quantity == "share":
                continue
            whole = found[(found["window"] == n_layers) & (found["layer"] == n_layers // 2)]
            x = [n_layers + room_behind(n_layers) * (0.4 + 0.3 * place)] * len(whole)
            axis.vlines(x, whole["low"], whole["high"], color=colour, linewidth=1.2)
            axis.plot(x, whole[quantity], color=colour, marker=marker, markersize=3.5)
        counted = title(part, cells["n"].max())
        if quantity == rows[0]:
            axis.set_title(counted)
        elif counted != axes[0, parts.index(part)].get_title():
            axis.set_title(f"n = {counted.rpartition('n = ')[2].rstrip(')')}", fontsize=7)
        axis.set_ylabel({"share": "contribution share", "drop": "drop in P(answer)\nwhen blocked"}[quantity])
        axis.label_outer()
    layer_axis(axes[0, 0], shares)
    axes[0, 0].set_ylim(limits(shares, "share"))
    if len(drops):
        axes[1, 0].set_ylim(limits(drops, "drop"))
        step = max(1, int(np.diff(axes[0, 0].get_xticks())[0]))
        places = [*range(0, n_layers, step), n_layers + 0.7 * room_behind(n_layers)]
        axes[-1, 0].set_xticks(places, [*map(str, places[:-1]), "all"])
        axes[-1, 0].set_xlim(-0.5, n_layers + 1.4 * room_behind(n_layers))
    below = ["layer", f"below: {window_label(window)}, all: every layer at once"][: len(rows)]
    figure.supxlabel("\n".join(below).replace(", all", ", all" if len(parts) > 1 else ",\nall"), fontsize=8)
    handles = [legend_line(arrow(flow), look) for flow, look in FLOW_LOOKS.items()]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles) if len(parts) > 1 else 1, handlelength=3,
        title=heading or None, title_fontsize=9,
    )
    return figure


@styled
def question_contributions(contributions: pd.DataFrame, questions: pd.DataFrame) -> Figure:
    """The paper's Figure 15: constraint -> last token by layer, right answers in the upper row and wrong ones below.

    contributions, questions: those of an `AttentionStudy`, the latter only those to show, as
    `attention_examples.outcome_examples` draws them. One scale for all; the constraint's last token is the rightmost.
    """
    cells = contributions[(contributions["flow"] == CONSTRAINT_TO_LAST) & contributions["id"].isin(questions["id"])]
    shown = questions[questions["id"].isin(set(cells["id"]))]
    groups = [(name, shown[shown["correct"].eq(value)]) for name, value in (("right", True), ("wrong", False))]
    groups = [(name, rows) for name, rows in groups if len(rows)]
    if not groups:
        return nothing_to_show("no question was answered")
    columns, n_layers = max(len(rows) for _, rows in groups), int(cells["layer"].max()) + 1
    size = (0.9 + 1.75 * columns, (1.35 + min(1.6, 0.13 * n_layers)) * len(groups))
    figure, axes = plt.subplots(len(groups), columns, figsize=size, sharey=True, squeeze=False)
    for row, (outcome, rows) in enumerate(groups):
        for axis, question in zip(axes[row], rows.itertuples(), strict=False):
            here = cells[cells["id"] == question.id]
            grid = here.pivot(index="layer", columns="position", values="norm").sort_index(axis=1)
            picture = axis.pcolormesh(
                np.arange(grid.shape[1]), grid.index, grid, shading="nearest", cmap=CONTRIBUTION_COLOURS, vmin=0,
                vmax=float(cells["norm"].max()) or 1, edgecolors="white", linewidth=0.4 if n_layers <= 16 else 0,
            )
            tokens = here.drop_duplicates("position").sort_values("position")["token"]
            names = [token_label(str(token), longest=12) for token in tokens]
            axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 2 else 0, parse_math=False)
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            answer = textwrap.shorten(str(question.answer), 24, placeholder="\u2026")
            told = [*textwrap.wrap(question.question, 32), f"{answer} ({outcome})"]
            if outcome == "wrong":
                told.append(textwrap.shorten(f"right: {question.expected}", 28, placeholder="\u2026"))
            axis.set_title("\n".join(told), fontsize=7, loc="left", parse_math=False)
        axes[row, 0].set_ylabel("layer")
        for axis in axes[row, len(rows):]:
            axis.remove()
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(8, integer=True))
    contribution_bar(figure, picture, figure.axes)
    figure.supxlabel("tokens of the constraint", fontsize=8)
    return figure


def room_behind(n_layers: int) -> float:
    """Room behind the last layer, in layers: the same on paper for every depth."""
    return max(1.0, n_layers / 9)
