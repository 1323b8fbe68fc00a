"""Figures of attention contributions and knock-outs (Figures 5 and 15): how information travels between tokens."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..attention.contributions import CONSTRAINT_TO_LAST, VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST
from ..statistics import rows_where
from . import style
from .style import styled
from .words import token_label

LABELS = {"share": "contribution share", "drop": "drop in P(answer)\nwhen blocked"}
FLOW_LOOKS: dict[str, style.Look] = dict(
    zip((VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST, CONSTRAINT_TO_LAST), style.LOOKS, strict=False)
)


@styled
def flows_by_layer(shares: pd.DataFrame, drops: pd.DataFrame, heading: str = "") -> Figure:
    """Draw what flows contribute (`flow_shares`) above what blocking them costs (`knockout_drops`, which may be empty).

    There is a line a flow and a column a part. The knock-out of all layers stands at "all". Bands and bars are 95 %
    intervals. `heading` is the legend's title.
    """
    if shares.empty:
        return style.nothing_to_show("no question was answered right")
    drops = drops[drops["flow"].isin(FLOW_LOOKS)]  # parts of a flow that are blocked alone have no line
    parts = list(dict.fromkeys([*style.parts_of(shares), *style.parts_of(drops)]))
    rows = {"share": shares, "drop": drops} if len(drops) else {"share": shares}
    n_layers, window = style.depth(shares), int(drops["window"].min()) if len(drops) else 1
    figure, axes, panels = style.panel_grid(rows, parts, height=1.25 + 1.45 * len(rows), sharey="row")
    for axis, (quantity, part) in panels:
        cells = rows_where(rows[quantity], part=part)
        style.zero_line(axis)
        for place, (flow, look) in enumerate(FLOW_LOOKS.items()):
            own = rows_where(cells, flow=flow)
            if quantity == "share":
                style.line_with_band(axis, own, look, quantity)
                continue
            style.line_with_band(axis, rows_where(own, window=window), look, quantity)
            whole = rows_where(own, window=n_layers, layer=n_layers // 2)
            x = [n_layers + room_behind(n_layers) * (0.4 + 0.3 * place)] * len(whole)
            axis.vlines(x, whole["low"], whole["high"], color=look[0], linewidth=1.2)
            axis.plot(x, whole[quantity], color=look[0], marker=look[1], **style.EDGE)
        name, label = style.title(part, cells["n"].max()), LABELS[quantity]
        style.name_panel(axis, name, label)
        if name != axes[0, parts.index(part)].get_title():
            axis.set_title(f"n = {name.rpartition('n = ')[2].rstrip(')')}", fontsize=7)
    label = "layer"
    for row, (quantity, frame) in zip(axes, rows.items(), strict=True):
        style.layer_axis(row[0], n_layers, style.limits(frame, quantity))
    if len(drops):
        layers, room = range(0, n_layers, style.layer_step(n_layers)), room_behind(n_layers)
        axes[-1, 0].set_xticks([*layers, n_layers + 0.7 * room], [*map(str, layers), "all"])
        axes[-1, 0].set_xlim(-0.5, n_layers + 1.4 * room)
        every = ", all: every layer at once" if len(parts) > 1 else ",\nall: every layer at once"
        label += f"\nlower row: {style.window_label(window)}{every}"
    figure.supxlabel(label)
    handles = [style.legend_line(style.arrow(flow), look) for flow, look in FLOW_LOOKS.items()]
    style.legend(figure, handles, 0 if len(parts) > 1 else 1, title=heading or None)
    return figure


@styled
def question_contributions(contributions: pd.DataFrame, questions: pd.DataFrame) -> Figure:
    """Draw the paper's Figure 15: constraint -> last token by layer, right answers above wrong ones, on one scale.

    It takes the contributions of an `AttentionStudy` and the questions to show, see `outcome_examples`.
    """
    cells = rows_where(contributions, flow=CONSTRAINT_TO_LAST)
    cells = cells[cells["id"].isin(questions["id"])]
    shown = questions[questions["id"].isin(set(cells["id"]))]
    groups = [(name, rows) for name, value in (("right", True), ("wrong", False))
              if len(rows := rows_where(shown, correct=value))]
    if not groups:
        return style.nothing_to_show("no question was answered")
    columns, height = max(len(rows) for _, rows in groups), 1.35 + min(1.6, 0.13 * style.depth(cells))
    figure, axes, _ = style.panel_grid(groups, range(columns), height=height * len(groups), width=1.75, sharex=False)
    for row, (outcome, rows) in zip(axes, groups, strict=True):
        for axis, question in zip(row, rows.itertuples(), strict=False):
            here = rows_where(cells, id=question.id).sort_values("position")
            grid = here.pivot(index="layer", columns="position", values="norm").sort_index()
            limits = (0, float(cells["norm"].max()) or 1)
            picture = style.heatmap(axis, grid, style.CONTRIBUTION_COLORS, limits, n_layers=len(grid))
            axis.invert_yaxis()  # layer 0 below
            step = 1 if len(grid) <= 12 else 4
            axis.set_yticks(np.arange(0, len(grid), step) + 0.5, map(str, grid.index[::step]))
            names = [token_label(str(token), longest=12) for token in here.drop_duplicates("position")["token"]]
            axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90 * (len(names) > 2), parse_math=False)
            answer = textwrap.shorten(str(question.answer), 24, placeholder="\u2026")
            lines = [*textwrap.wrap(question.question, 32), f"{answer} ({outcome})"]
            if outcome == "wrong":
                lines.append(textwrap.shorten(f"right: {question.expected}", 28, placeholder="\u2026"))
            axis.set_title("\n".join(lines), fontsize=7, loc="left", parse_math=False)
        row[0].set_ylabel("layer")
        for axis in row[len(rows):]:
            axis.remove()
    style.contribution_bar(figure, picture, figure.axes)
    figure.supxlabel("tokens of the constraint")
    return figure


def room_behind(n_layers: int) -> float:
    """Return the room behind the last layer, in layers: the same on paper for every depth."""
    return max(1.0, n_layers / 9)
