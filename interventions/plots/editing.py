"""Figures 6 and 14, editing in numbers, from the frames of `interventions.editing.averages`."""

from __future__ import annotations

import matplotlib.pyplot as plt
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
from ..statistics import NOT_MEASURED
from .averages import SHADE
from .style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    LOOKS,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    layer_axis,
    legend_line,
    line_with_band,
    nothing_to_show,
    panel_grid,
    styled,
)

TASK_NAMES = {
    "correct": "errors corrected", "insert": "new facts inserted", KNOWN_ANSWER: "inserted, answer known",
}
METHOD_LOOKS = dict(zip(EDIT_METHODS, (
    (GREY, "v"), (BLUE, "o"), (SKY_BLUE, "^"), (VERMILION, "s"), (PURPLE, "D")), strict=True))
METRIC_LOOKS = dict(zip(("efficacy", "generalisation"), LOOKS, strict=False))
AXES = {  # what the axis of a metric says
    "efficacy": "P(target),\nthe edited question",
    "generalisation": "P(target),\nparaphrased questions",
    "specificity": "change in accuracy on\nunrelated questions (points)",
    "exact": "share of answers that\nare the target, as a whole",
    "pictures": "P(target), other pictures\nof the same entity",
    "following": "P(target), questions that\nfollow from the fact",
    "kl": "KL on unrelated questions\n(nats, linear below 0.001)",
}
METRIC_NAMES = {"exact": "whole answers", "pictures": "other pictures", "following": "what follows", "kl": "KL"}
SEQUENTIAL_TITLES = {
    "p_target": "efficacy\nP(target), all facts kept", "p_paraphrase": "generalisation\nP(target), paraphrases",
    "accuracy_after": "specificity\naccuracy, unrelated questions",
}
BEFORE = {"color": FAINT, "linewidth": 0.9, "linestyle": (0, (5, 3))}
LINEAR = 0.001  # KL below it is drawn on a linear scale: that of no edit is 0


@styled
def methods_by_metric(means: pd.DataFrame) -> Figure:
    """The paper's Figure 6: a row a task, a column a metric, a dot with its interval a method.

    Beside efficacy, P(O*), stands the share of answers that are O* as a whole, which the paper does not report.
    means: that of `edit_averages.method_means`: task, method, metric, value, low, high, n. Values stand at the right,
    with n where it is not that of the panel. Upright ticks are the paper's values, where its text gives them.
    """
    return _methods(means, ("efficacy", "exact", "generalisation", "specificity"))


@styled
def further_metrics(means: pd.DataFrame) -> Figure:
    """What the paper does not report, drawn as Figure 6: other pictures, questions that follow, KL."""
    return _methods(means, ("pictures", "following", "kl"))


@styled
def efficacy_by_layer(means: pd.DataFrame, n_layers: int, layer: int | None = None) -> Figure:
    """The paper's Figure 14: efficacy, with its interval, and generalisation by edited layer, a column a task.

    means: that of `edit_averages.layer_means`. layer: the one that MultEdit edits, marked. Early layers are shaded.
    """
    if means.empty:
        return nothing_to_show("no layer was edited")
    tasks, early = known_first(means["task"], TASKS), early_layers(n_layers)
    figure, axes = panel_grid(1, tasks, height=2.9, margin=1.2)
    for axis, task in zip(axes[0], tasks, strict=True):
        cells = means[means["task"] == task]
        axis.axvspan(early.start - 0.5, early.stop - 0.5, color=SHADE, linewidth=0, zorder=0)
        if layer is not None:
            axis.axvline(layer, color=INK, linewidth=0.8, linestyle=":", zorder=1)
        for metric, look in METRIC_LOOKS.items():
            values = cells[cells["metric"] == metric]
            if metric != "efficacy":  # its band would lie over that of efficacy, and neither be seen
                values = values.assign(low=np.nan, high=np.nan)
            line_with_band(axis, values, look, alpha=0.2, quantity="value")
        table = cells.pivot(index="layer", columns="metric", values="value").astype(float)
        before = (table["efficacy"] - table["gain"]).mean()  # the same at every layer
        axis.axhline(before, **BEFORE, zorder=1)
        axis.set_title(_title(task, cells.loc[cells["metric"] == "efficacy", "n"].max()))
    layer_axis(axes[0, 0], pd.DataFrame({"layer": [n_layers - 1]}))
    axes[0, 0].set_ylim(-0.03, 1.03)
    axes[0, 0].set_ylabel("P(target) after the edit")
    figure.supxlabel("edited layer", fontsize=8)
    handles = [legend_line(metric, look) for metric, look in METRIC_LOOKS.items()]
    handles += [Line2D([], [], **BEFORE, label="efficacy before the edit"),
                Patch(color=SHADE, label=f"early layers, {layer_range(early)}")]
    if layer is not None:
        handles.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label=f"MultEdit's layer, {layer}"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, 1 + len(tasks)), handlelength=3)
    return figure


@styled
def sequential(frame: pd.DataFrame) -> Figure:
    """What many edits kept at once do: a panel a quantity, a line a task, by number of edits (log scale).

    frame: that of `sequential_edits.sequential_edits`: task, edits, p_target, low, high, p_paraphrase,
    accuracy_before (dashed), accuracy_after. One edit is a single fact, not a mean: an open marker apart from the line.
    """
    frame = frame[frame["edits"] > 0].sort_values("edits")
    if frame.empty:
        return nothing_to_show("no edits were kept")
    looks = dict(zip(known_first(frame["task"], TASKS), METRIC_LOOKS.values(), strict=False))
    figure, axes = plt.subplots(1, len(SEQUENTIAL_TITLES), figsize=(7.2, 2.6), sharex=True, sharey=True)
    for axis, (quantity, label) in zip(axes, SEQUENTIAL_TITLES.items(), strict=True):
        for task, (colour, marker, line) in looks.items():
            cells = frame[frame["task"] == task]
            x, y, low, high = cells.loc[cells["edits"] > 1, ["edits", quantity, "low", "high"]].to_numpy(float).T
            if quantity == "p_target":
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(x, y, line, color=colour, marker=marker, markersize=3.5, linewidth=1.2)
            single = cells[cells["edits"] == 1]
            axis.plot(single["edits"], single[quantity], marker, color=colour, markerfacecolor="white", markersize=3.5)
            if quantity == "accuracy_after":
                for before in set(cells["accuracy_before"].dropna()):
                    axis.axhline(before, **BEFORE | {"color": colour}, zorder=0)
        axis.set_title(label)
    counts = sorted(set(frame["edits"].astype(int)))
    axes[0].set_xscale("log")
    axes[0].set_xlim(counts[0] / 1.3, counts[-1] * 1.3)
    axes[0].set_xticks(counts, map(str, counts))
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylim(-0.03, 1.03)
    note = "; open: a single fact, without an interval" if counts[0] == 1 else ""
    figure.supxlabel(f"edits kept at once, n (log scale{note})", fontsize=8)
    handles = [legend_line(TASK_NAMES.get(task, task), look) for task, look in looks.items()]
    handles.append(Line2D([], [], **BEFORE, label="accuracy before any edit, in the colour of its task"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=3)
    return figure


def _methods(means: pd.DataFrame, metrics: tuple[str, ...]) -> Figure:
    shown = means[means["metric"].isin(metrics)]
    if not len(shown) or not shown["n"].any():
        return nothing_to_show("no item was edited")
    tasks, methods = known_first(shown["task"], TASKS), known_first(shown["method"], EDIT_METHODS)
    size = (1.5 + 1.9 * len(metrics), 0.95 + (0.55 + 0.19 * len(methods)) * len(tasks))
    figure, axes = plt.subplots(len(tasks), len(metrics), figsize=size, sharex="col", sharey=True, squeeze=False)
    marked = False
    for column, metric in enumerate(metrics):
        for axis, task in zip(axes[:, column], tasks, strict=True):
            cells = shown[(shown["task"] == task) & (shown["metric"] == metric)].set_index("method").reindex(methods)
            n = int(cells["n"].fillna(0).max())
            _dots(axis, cells, {"specificity": "z.1f", "kl": ".2g"}.get(metric, ".2f"), n)
            for place, method in enumerate(methods):
                if (task, method, metric) in PAPER:
                    axis.plot(PAPER[task, method, metric], place, "|", color="black", markersize=11,
                              markeredgewidth=1.3, zorder=4)
                    marked = True
            axis.set_title(f"{TASK_NAMES.get(task, task)}\n{METRIC_NAMES.get(metric, metric)} (n = {n})")
        _limit(axes[0, column], metric, shown[shown["metric"] == metric])
        axes[-1, column].set_xlabel(AXES[metric])
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    for label in (label for axis in axes[:, 0] for label in axis.get_yticklabels()):
        label.set_weight("bold" if label.get_text() == OURS else "normal")
    if marked:
        handle = Line2D([], [], color="black", marker="|", linestyle="none", markersize=9, markeredgewidth=1.3,
                        label="the paper's value, LLaVA-1.5-7B")
        figure.legend(handles=[handle], loc="outside upper center")
    return figure


def _dots(axis: Axes, cells: pd.DataFrame, written: str, n: int) -> None:
    axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    if not n:
        axis.text(0.5, 0.5, NOT_MEASURED, transform=axis.transAxes, ha="center", va="center", fontsize=7, color=INK)
    for place, (method, row) in enumerate(cells.iterrows()):
        colour, marker = METHOD_LOOKS.get(method, (INK, "P"))
        if pd.isna(row["value"]):
            continue
        axis.hlines(place, row["low"], row["high"], color=colour, linewidth=1.4)
        axis.plot(row["value"], place, marker, color=colour, markersize=4.5, zorder=3, clip_on=False)
        told = format(round(row["value"], 6) + 0.0, written).replace("-", "\u2212")  # a KL of -1e-8 is rounding
        told += f"\n(n = {row['n']:.0f})" if row["n"] != n else ""
        axis.text(1.03, place, told, transform=axis.get_yaxis_transform(), va="center", fontsize=6, color=INK,
                  linespacing=0.9)


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
        axis.set_xlim(-0.03, 1.03)
        axis.set_xticks([0, 0.5, 1])


def _title(task: str, n: float) -> str:
    return f"{TASK_NAMES.get(task, task)}  (n = {0 if pd.isna(n) else int(n)})"
