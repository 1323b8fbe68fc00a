"""Figures of averages over questions."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from ..layers import early_layers, layer_range
from ..statistics import bootstrap_interval
from .style import (
    FAINT,
    INK,
    KIND_LOOKS,
    PARTS,
    QUANTITIES,
    ROLE_LABELS,
    kinds_of,
    layer_axis,
    limits,
    line_with_band,
    panel_grid,
    panels,
    parts_of,
    quantity_of,
    styled,
    title,
    window_label,
)

RUNS = {  # column of TraceStudy.questions -> label and colour
    "p_clean": ("clean", "#4d4d4d"),
    "p_corrupted": ("corrupted", "#4d4d4d"),
    "p_restored_mlp": ("with\nMLP", KIND_LOOKS["mlp"][1]),
    "p_restored_attention": ("with\nattention", KIND_LOOKS["attention"][1]),
}
SHADE = "#e6e6e6"  # of early layers
NEGATIVE, UNSEEN = "PuBu", 0.02  # colours of effects below -UNSEEN; nearer to 0 they are white
CONTROLS = {  # control of `controls.control_effects` -> label
    "none": "the trace itself",
    "other image": "another image",
    "other position": "another token",
    "other model": "another model",
}


@styled
def effects_by_layer(
    frame: pd.DataFrame, *, window: int, window_rule: str = "centered", read_at: str = "visual constraint"
) -> Figure:
    """The paper's Figure 3: one column a part, one row a kind, effect by layer at the token that is read.

    `frame` is that of `averages.by_layer`: part, kind, layer, effect (or p_restored), low, high, n. read_at: where that
    token is, as `TraceStudy.read_at` names it. Early layers are shaded.
    """
    quantity, parts, kinds = quantity_of(frame), parts_of(frame), kinds_of(frame)
    figure, axes = panel_grid(len(kinds), parts, height=0.85 + 1.45 * len(kinds))
    for axis, kind, part in panels(axes, kinds, parts):
        name, colour, _, marker, line = KIND_LOOKS[kind]
        cells = frame[(frame["part"] == part) & (frame["kind"] == kind)]
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        shade_early(axis, frame)
        line_with_band(axis, cells, (colour, marker, line), alpha=0.22, quantity=quantity)
        if kind == kinds[0]:
            axis.set_title(title(part, cells["n"].max()))
        if part == parts[0]:
            axis.set_ylabel(f"{name} {QUANTITIES[quantity]}", color=colour)
    layer_axis(axes[0, 0], frame)
    axes[0, 0].set_ylim(limits(frame, quantity))
    told = (window_label(window, window_rule), f"restored at the last token of the {read_at}", early_told(frame))
    figure.supxlabel("\n".join(told), fontsize=8)
    return figure


def shade_early(axis: Axes, frame: pd.DataFrame) -> None:
    """A band behind the early layers of a panel whose axis is `layer_axis(axis, frame)`."""
    early = early_layers(int(frame["layer"].max()) + 1)
    axis.axvspan(early.start - 0.5, early.stop - 0.5, color=SHADE, linewidth=0, zorder=-1)


def early_told(frame: pd.DataFrame) -> str:
    n_layers = int(frame["layer"].max()) + 1
    return f"shaded: early layers, {layer_range(early_layers(n_layers))} of {n_layers}"


@styled
def role_layer_maps(frame: pd.DataFrame, *, window: int, window_rule: str = "centered") -> Figure:
    """Heat maps of token role x layer, one column a part and one row a kind, one scale for all of them.

    `frame` is that of `averages.by_role_layer`: part, kind, role, layer, effect (or p_restored), low, high, n.
    Constraint rows are starred. A role that a part lacks stays white. The scale goes below 0 only where there are
    effects below -0.02; these are blue.
    """
    quantity, parts, kinds = quantity_of(frame), parts_of(frame), kinds_of(frame)
    roles = [role for role in ROLE_LABELS if role in set(frame["role"])]
    lowest, highest = frame[quantity].min(), max(0.1, frame[quantity].max())
    figure, axes = panel_grid(len(kinds), parts, height=0.6 + (0.35 + 0.19 * len(roles)) * len(kinds), margin=2.2)
    for axis, kind, part in panels(axes, kinds, parts):
        cells = frame[(frame["part"] == part) & (frame["kind"] == kind)]
        grid = cells.pivot(index="role", columns="layer", values=quantity).reindex(roles).astype(float)
        colours, start = mean_colours(KIND_LOOKS[kind][2], lowest, highest)
        picture = axis.pcolormesh(
            grid.columns, np.arange(len(roles)), grid, shading="nearest", cmap=colours, vmin=start,
            vmax=highest, edgecolors="white", linewidth=0.4 if grid.shape[1] <= 16 else 0,
        )
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if kind == kinds[0]:
            axis.set_title(title(part, cells["n"].max()))
        if part == parts[-1]:
            bar = figure.colorbar(picture, ax=axes[kinds.index(kind)], pad=0.015, aspect=14, shrink=0.92)
            bar.set_label(f"{KIND_LOOKS[kind][0]} {QUANTITIES[quantity]}")
            bar.outline.set_visible(False)
    axes[0, 0].set_yticks(range(len(roles)), [ROLE_LABELS[role] for role in roles])
    axes[0, 0].set_ylim(len(roles) - 0.5, -0.5)
    layer_axis(axes[0, 0], frame)
    figure.supxlabel(window_label(window, window_rule), fontsize=8)
    return figure


@styled
def probabilities(frame: pd.DataFrame) -> Figure:
    """P(answer) in the clean, corrupted and best restored runs: a dot a question, means with intervals.

    `frame` is that of `TraceStudy.probabilities`: id, part, run, p.
    """
    runs, parts = [run for run in RUNS if run in set(frame["run"])], parts_of(frame)
    figure, axes = panel_grid(1, parts, height=2.3)
    jitter = np.random.default_rng(0)
    for axis, part in zip(axes[0], parts, strict=True):
        for place, run in enumerate(runs):
            values = frame.loc[(frame["part"] == part) & (frame["run"] == run), "p"].to_numpy()
            axis.plot(
                place + jitter.uniform(-0.17, 0.17, len(values)), values, ".", color=RUNS[run][1], alpha=0.4,
                markersize=3.5, markeredgewidth=0, zorder=1, clip_on=False,
            )
            mean, low, high = bootstrap_interval(values)
            axis.plot([place - 0.3, place + 0.3], [mean, mean], color=INK, linewidth=1.6, zorder=3)
            axis.plot([place, place], [low, high], color=INK, linewidth=1.0, zorder=3)
        axis.set_title(title(part, len(values)))
        axis.set_xticks(range(len(runs)), [RUNS[run][0] for run in runs])
        axis.set_xlim(-0.6, len(runs) - 0.4)
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[0, 0].set_ylabel("P(answer)")
    return figure


@styled
def effects_and_controls(frame: pd.DataFrame) -> Figure:
    """The trace's largest effect beside its controls at the same layer: one row a kind, one column a part.

    The dotted line is half of the trace's effect, below which a control's whole interval must stay.

    `frame` is that of `controls.control_effects`: part, kind, layer, control, effect, low, high, n.
    """
    parts, kinds = parts_of(frame), kinds_of(frame)
    rows = [control for control in CONTROLS if control in set(frame["control"])]
    figure, axes = panel_grid(len(kinds), parts, height=0.6 + (0.45 + 0.2 * len(rows)) * len(kinds), margin=1.6)
    for axis, kind, part in panels(axes, kinds, parts):
        cells = frame[(frame["part"] == part) & (frame["kind"] == kind)].set_index("control").reindex(rows)
        name, colour, _, marker, _ = KIND_LOOKS[kind]
        places = np.arange(len(rows))
        axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.axvline(cells["effect"].get("none", np.nan) / 2, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axis.hlines(places, cells["low"], cells["high"], color=colour, linewidth=1.2)
        look = {"marker": marker, "edgecolor": colour, "linewidth": 0.9, "zorder": 3}
        axis.scatter(cells["effect"], places, s=16, color=[colour] + ["white"] * (len(rows) - 1), **look)
        for place, n in zip(places, cells["n"].fillna(0).astype(int), strict=True):
            axis.text(1.01, place, f"n = {n}", transform=axis.get_yaxis_transform(), va="center", fontsize=6, color=INK)
        layer = cells["layer"].dropna()
        axis.set_title(f"{PARTS.get(part, part)}, {name}" + (f", layer {int(layer.iloc[0])}" if len(layer) else ""))
    axes[0, 0].set_yticks(range(len(rows)), [CONTROLS[control] for control in rows])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    axes[0, 0].set_xlim(limits(frame, room=1.05))
    note = "dotted: half of it, controls must stay below"
    figure.supxlabel(f"effect at the layer where the trace has its largest\n({note})", fontsize=8)
    return figure


def mean_colours(name: str, lowest: float, highest: float) -> tuple[Colormap, float]:
    """A colour map for values from `lowest` to `highest`, and the value that it starts at: 0, or `lowest` below -0.02.

    Both signs darken at the same pace, so that equal sizes look equally strong. Means a little below 0 are noise
    and stay white; single questions (`question.question_colours`) have no such threshold.
    """
    positive = mpl.colormaps[name]
    if not lowest < -UNSEEN:  # NaN too
        return positive, 0.0
    values = np.linspace(lowest, highest, 1024)
    strength = np.clip(values / highest, -1, 1)
    above = positive(np.maximum(strength, 0))
    below = mpl.colormaps[NEGATIVE](0.2 - 0.8 * np.minimum(strength, 0))  # visible from its first step on
    return ListedColormap(np.where(values[:, None] < -UNSEEN, below, above)), lowest
