"""Figures 16 and 17: right against wrong answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..statistics import LEVEL, rows_where
from . import style
from .style import BLUE, GRAY, LOOKS, PARTS, PURPLE, VERMILION, styled

OUTCOMES = dict(zip(("right", "wrong"), LOOKS, strict=False))
STAR = {"linestyle": "none", "marker": "*", "color": "black", "markersize": 5, "markeredgewidth": 0}
PREDICTORS = {  # label and look
    "contribution": ("contribution", (BLUE, "", "-")),
    "confidence": ("confidence", (VERMILION, "", "--")),
    "linear": ("linear, all layers", (GRAY, "", ":")),
    "kind": ("kind of question alone", (PURPLE, "", "-.")),
}


@styled
def contributions_by_outcome(frame: pd.DataFrame, tests: pd.DataFrame | None = None) -> Figure:
    """Draw the paper's Figure 16: contribution constraint -> last token by layer, right and wrong answers apart.

    The frames are those of `outcome_by_layer` and `outcome_tests`. A star marks layers whose p_corrected is below 0.05.
    """
    if frame.empty:
        return style.nothing_to_show("no question was answered")
    parts = style.parts_of(frame)
    figure, axes, panels = style.panel_grid([""], parts, height=2.75)
    top = np.nanmax(frame[["norm", "high"]].to_numpy(float))
    for axis, (_, part) in panels:
        counts = []
        for outcome, look in OUTCOMES.items():
            cells = rows_where(frame, part=part, outcome=outcome)
            style.line_with_band(axis, cells, look, "norm")
            counts.append(f"{int(cells['n'].max()) if len(cells) else 0} {outcome}")
        if tests is not None:
            sure = tests.loc[(tests["part"] == part) & (tests["p_corrected"] < LEVEL), "layer"].to_numpy(float)
            axis.plot(sure, np.full(len(sure), 1.13 * top), **STAR)
        label = "contribution ||a||,\nconstraint \u2192 last token"
        style.name_panel(axis, f"{PARTS.get(part, part)}\n(n = {', '.join(counts)})", label)
    style.layer_axis(axes[0, 0], style.depth(frame), (0, 1.2 * top or 1))
    figure.supxlabel("layer")
    handles = [style.legend_line(f"{name} answers", look) for name, look in OUTCOMES.items()]
    if tests is not None:
        handles.append(style.Line2D([], [], **STAR, label=f"right > wrong, corrected p < {LEVEL}"))
    style.legend(figure, handles, min(len(parts), len(handles)))
    return figure


@styled
def roc_curves(points: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw the paper's Figure 17: how well each predictor tells right from wrong answers, a column a part.

    The frames are those of `roc_points` and, for the legend and n, `failure_table`.
    """
    if table.empty:
        return style.nothing_to_show("no question was answered")
    parts = style.parts_of(table)
    figure, axes, panels = style.panel_grid([""], parts, height=4.2 if len(parts) > 1 else 4.5)
    for axis, (_, part) in panels:
        axis.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.8, zorder=0)
        rows = rows_where(table, part=part).set_index("predictor")
        handles = []
        for predictor, (name, look) in PREDICTORS.items():
            if predictor not in rows.index:
                continue
            cells = rows_where(points, part=part, predictor=predictor)
            axis.plot(cells["false_positive_rate"], cells["true_positive_rate"], look[2], color=look[0])
            handles.append(style.legend_line(f"{name}\n{_auroc(rows.loc[predictor])}", look))
        axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.25), handlelength=2.6)
        n, wrong = (int(rows[column].max()) if len(rows) else 0 for column in ("n", "wrong"))
        title = f"{PARTS.get(part, part)}\n(n = {n}, {wrong} wrong)"
        axis.set(title=title, aspect="equal", xlabel="false positive rate")
    ends = {"xlim": (-0.02, 1.02), "ylim": (-0.02, 1.02), "xticks": [0, 0.5, 1], "yticks": [0, 0.5, 1]}
    axes[0, 0].set(**ends, ylabel="true positive rate\n(positive: right answer)")
    return figure


def _auroc(row: pd.Series) -> str:
    if pd.isna(row["auroc"]):
        return "AUROC unknown: one outcome only"
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"AUROC {row['auroc']:.2f}{interval}"
