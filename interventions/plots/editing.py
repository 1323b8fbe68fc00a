"""Figures 6 and 14, editing in numbers, from the frames of `interventions.editing.averages`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from ..editing.averages import PAPER, known_first
from ..editing.items import TASKS
from ..editing.study import EDIT_METHODS, KNOWN_ANSWER, OURS
from ..layers import early_layers, layer_range
from ..statistics import NOT_MEASURED, rows_where
from . import style
from .style import BLUE, FAINT, GRAY, INK, LOOKS, PURPLE, SKY_BLUE, VERMILION, styled

TASK_NAMES = {
    "correct": "errors corrected", "insert": "new facts inserted", KNOWN_ANSWER: "inserted, answer known",
}
METHOD_LOOKS = dict(zip(EDIT_METHODS, (
    (GRAY, "v"), (BLUE, "o"), (SKY_BLUE, "^"), (VERMILION, "s"), (PURPLE, "D")), strict=True))
METRICS = {  # name in titles, label of the axis, format of a value
    "efficacy": ("efficacy", "P(target),\nthe edited question", ".2f"),
    "exact": ("whole answers", "share of answers that\nare exactly the target", ".2f"),
    "generalisation": ("generalization", "P(target),\nparaphrased questions", ".2f"),
    "specificity": ("specificity", "change in accuracy on\nunrelated questions (points)", "z.1f"),
    "pictures": ("other pictures", "P(target), other pictures\nof the same entity", ".2f"),
    "following": ("consequences", "P(target), questions that\nfollow from the fact", ".2f"),
    "kl": ("KL", "KL on unrelated questions\n(nats, linear below 0.001)", ".2g"),
}
METRIC_LOOKS = dict(zip(("efficacy", "generalisation"), LOOKS, strict=False))
SEQUENTIAL_TITLES = {
    "p_target": "efficacy\nP(target), all facts kept", "p_paraphrase": "generalization\nP(target), paraphrases",
    "accuracy_after": "specificity\naccuracy, unrelated questions",
}
BEFORE: dict[str, Any] = {"color": FAINT, "linewidth": 0.9, "linestyle": (0, (5, 3))}
DOTTED = {"color": INK, "linewidth": 0.8, "linestyle": ":"}
TICK = {"color": "black", "marker": "|", "linestyle": "none", "markersize": 10, "markeredgewidth": 1.3}
LINEAR = 0.001  # KL below it is drawn on a linear scale: that of no edit is 0


@styled
def methods_by_metric(means: pd.DataFrame) -> Figure:
    """Draw the paper's Figure 6: a row a task, a column a metric, a dot with its interval a method.

    The share of whole answers, beside efficacy, is not in the paper. Values stand at the right, with n where it is not
    that of the panel. Upright ticks are values that the paper's text gives. The frame is that of `method_means`.
    """
    return _methods(means, ("efficacy", "exact", "generalisation", "specificity"))


@styled
def further_metrics(means: pd.DataFrame) -> Figure:
    """Draw metrics that the paper does not report as Figure 6: other pictures, questions that follow, KL."""
    return _methods(means, ("pictures", "following", "kl"))


@styled
def efficacy_by_layer(means: pd.DataFrame, n_layers: int, layer: int | None = None) -> Figure:
    """Draw the paper's Figure 14: efficacy, with its interval, and generalization by edited layer, a column a task.

    The frame is that of `layer_means`. A dotted line marks `layer`, the one that MultEdit edits.
    """
    if means.empty:
        return style.nothing_to_show("no layer was edited")
    tasks = known_first(means["task"], TASKS)
    figure, axes, panels = style.panel_grid([""], tasks, height=2.9, margin=1.2)
    for axis, (_, task) in panels:
        cells = rows_where(means, task=task)
        style.shade_early(axis, n_layers)
        if layer is not None:
            axis.axvline(layer, **DOTTED, zorder=1)
        for metric, look in METRIC_LOOKS.items():
            values = rows_where(cells, metric=metric)
            style.line_with_band(axis, values, look, "value", band=metric == "efficacy")  # a second would hide it
        table = cells.pivot(index="layer", columns="metric", values="value").astype(float)
        axis.axhline((table["efficacy"] - table["gain"]).mean(), **BEFORE, zorder=1)  # the same at every layer
        title = style.title(TASK_NAMES.get(task) or task, rows_where(cells, metric="efficacy")["n"].max())
        style.name_panel(axis, title, "P(target) after the edit")
    style.layer_axis(axes[0, 0], n_layers, (-0.03, 1.03))
    figure.supxlabel("edited layer")
    handles = [style.legend_line(METRICS[metric][0], look) for metric, look in METRIC_LOOKS.items()]
    handles += [Line2D([], [], **BEFORE, label="efficacy before the edit"),
                Patch(color=style.SHADE, label=f"early layers, {layer_range(early_layers(n_layers))}")]
    if layer is not None:
        handles.append(Line2D([], [], **DOTTED, label=f"MultEdit's layer, {layer}"))
    style.legend(figure, handles, min(3, 1 + len(tasks)))
    return figure


@styled
def sequential(frame: pd.DataFrame) -> Figure:
    """Draw what many edits kept at once do: a panel a quantity, a line a task, by number of edits (log scale).

    One edit is a single fact, not a mean: an open marker apart from the line. Dashed lines are the accuracy before any
    edit. The frame is that of `sequential_edits`.
    """
    frame = frame[frame["edits"] > 0].sort_values("edits")
    if frame.empty:
        return style.nothing_to_show("no edits were kept")
    looks = dict(zip(known_first(frame["task"], TASKS), METRIC_LOOKS.values(), strict=False))
    figure, axes, panels = style.panel_grid([""], SEQUENTIAL_TITLES, height=2.6, margin=1.2)
    for axis, (_, quantity) in panels:
        axis.set_title(SEQUENTIAL_TITLES[quantity])
        for task, look in looks.items():
            cells, color = rows_where(frame, task=task), look[0]
            several = cells[cells["edits"] > 1]
            style.line_with_band(axis, several, look, quantity, "edits", band=quantity == "p_target")
            single = rows_where(cells, edits=1)
            axis.plot(single["edits"], single[quantity], look[1], color=color, markerfacecolor="white")
            if quantity == "accuracy_after":
                for before in set(cells["accuracy_before"].dropna()):
                    axis.axhline(before, **{**BEFORE, "color": color}, zorder=0)
    counts = sorted(set(frame["edits"].astype(int)))
    axes[0, 0].set(xscale="log", xticks=counts, xticklabels=map(str, counts))
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    axes[0, 0].set(xlim=(counts[0] / 1.3, counts[-1] * 1.3), ylim=(-0.03, 1.03))
    note = "; open: a single fact, without an interval" if counts[0] == 1 else ""
    figure.supxlabel(f"edits kept at once, n (log scale{note})")
    handles = [style.legend_line(TASK_NAMES.get(task, task), look) for task, look in looks.items()]
    handles.append(Line2D([], [], **BEFORE, label="accuracy before any edit, in the color of its task"))
    style.legend(figure, handles)
    return figure


def _methods(means: pd.DataFrame, metrics: tuple[str, ...]) -> Figure:
    shown = means[means["metric"].isin(metrics)]
    if not len(shown) or not shown["n"].any():
        return style.nothing_to_show("no item was edited")
    tasks, methods = known_first(shown["task"], TASKS), known_first(shown["method"], EDIT_METHODS)
    height = 0.95 + (0.55 + 0.19 * len(methods)) * len(tasks)
    figure, axes, panels = style.panel_grid(tasks, metrics, height=height, margin=1.5, width=1.9, sharex="col")
    paper = {key: value for key, value in PAPER.items() if key[0] in tasks and key[1] in methods and key[2] in metrics}
    for axis, (task, metric) in panels:
        cells = rows_where(shown, task=task, metric=metric).set_index("method").reindex(methods)
        n, (name, label, written) = int(cells["n"].fillna(0).max()), METRICS[metric]
        _dots(axis, cells, written, n)
        for place, method in enumerate(methods):
            if (task, method, metric) in paper:
                axis.plot(paper[task, method, metric], place, **TICK, zorder=4)
        axis.set_title(f"{TASK_NAMES.get(task, task)}\n{name} (n = {n})")
        axis.set_xlabel(label)
        axis.label_outer()
    for axis, metric in zip(axes[0], metrics, strict=True):
        _limit(axis, metric, rows_where(shown, metric=metric))
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    for label in (label for axis in axes[:, 0] for label in axis.get_yticklabels()):
        label.set_weight("bold" if label.get_text() == OURS else "normal")
    if paper:
        style.legend(figure, [Line2D([], [], **TICK, label="the paper's value, LLaVA-1.5-7B")])
    return figure


def _dots(axis: Axes, cells: pd.DataFrame, written: str, n: int) -> None:
    axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    if not n:
        axis.text(0.5, 0.5, NOT_MEASURED, transform=axis.transAxes, ha="center", va="center", fontsize=7)
    for place, (method, row) in enumerate(cells.iterrows()):
        if pd.isna(row["value"]):
            continue
        color, marker = METHOD_LOOKS.get(method, (INK, "P"))
        axis.hlines(place, row["low"], row["high"], color=color, linewidth=1.4)
        axis.plot(row["value"], place, marker, color=color, markersize=5, clip_on=False, zorder=3, **style.EDGE)
        text = format(round(row["value"], 6) + 0.0, written).replace("-", "\u2212")  # a KL of -1e-8 is rounding
        text += f"\n(n = {row['n']:.0f})" if row["n"] != n else ""
        axis.text(1.03, place, text, transform=axis.get_yaxis_transform(), va="center", fontsize=6.5, linespacing=0.9)


def _limit(axis: Axes, metric: str, cells: pd.DataFrame) -> None:
    drawn = cells[["value", "low", "high"]].to_numpy(float)
    drawn = drawn[~np.isnan(drawn)]
    if metric == "specificity":
        lowest, highest = min([-2.0, *drawn]), max([0.0, *drawn])
        room = 0.06 * (highest - lowest)
        axis.set_xlim(lowest - room, highest + room)
    elif metric == "kl":
        axis.set_xscale("symlog", linthresh=LINEAR)
        axis.set_xlim(-0.1 * LINEAR, 1.3 * max([10 * LINEAR, *drawn]))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
