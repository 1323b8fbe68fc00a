"""Figure 3 and other averages over questions: effects by layer, maps of token roles, probabilities, controls."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from ..statistics import bootstrap_interval, rows_where
from . import style
from .style import FAINT, INK, KIND_LOOKS, QUANTITIES, ROLE_LABELS, styled

RUNS = {  # column of TraceStudy.questions -> label and color
    "p_clean": ("clean", "#4d4d4d"),
    "p_corrupted": ("corrupted", "#4d4d4d"),
    "p_restored_mlp": ("with\nMLP", KIND_LOOKS["mlp"][1]),
    "p_restored_attention": ("with\nattention", KIND_LOOKS["attention"][1]),
}
NEGATIVE, UNSEEN = "PuBu", 0.02  # colors of effects below -UNSEEN; nearer to 0 they are white
CONTROLS = {  # control of `controls.control_effects` -> label
    "none": "the trace itself",
    "other position": "another token",
    "other model": "another model",
}


@styled
def effects_by_layer(
    frame: pd.DataFrame, *, window: int, window_rule: str = "centered", read_at: str = "visual constraint"
) -> Figure:
    """Draw the paper's Figure 3: effect by layer, one column a part and one row a kind, early layers shaded.

    Args:
        frame: that of `averages.by_layer`: part, kind, layer, effect (or p_restored), low, high, n.
        window: layers that are restored together.
        window_rule: "centered" or "radius".
        read_at: where the restored token is, as `TraceStudy.read_at` names it.
    """
    quantity, parts, kinds = style.quantity_of(frame), style.parts_of(frame), style.kinds_of(frame)
    n_layers = style.depth(frame)
    figure, axes, panels = style.panel_grid(kinds, parts, height=0.85 + 1.45 * len(kinds))
    for axis, (kind, part) in panels:
        name, color, _, marker, line = KIND_LOOKS[kind]
        cells = rows_where(frame, part=part, kind=kind)
        style.zero_line(axis)
        style.shade_early(axis, n_layers)
        style.line_with_band(axis, cells, (color, marker, line), quantity)
        style.name_panel(axis, style.title(part, cells["n"].max()), f"{name} {QUANTITIES[quantity]}", color)
    style.layer_axis(axes[0, 0], n_layers, style.limits(frame, quantity))
    lines = (style.window_label(window, window_rule), f"restored at the last token of the {read_at}",
             style.early_label(n_layers))
    figure.supxlabel("\n".join(lines))
    return figure


@styled
def role_layer_maps(frame: pd.DataFrame, *, window: int, window_rule: str = "centered") -> Figure:
    """Draw heat maps of token role x layer, one column a part and one row a kind, on one scale.

    Constraint rows are starred. A role that a part lacks stays white. Effects below -0.02 are blue, if there are any.

    Args:
        frame: that of `averages.by_role_layer`: part, kind, role, layer, effect (or p_restored), low, high, n.
        window: layers that are restored together.
        window_rule: "centered" or "radius".
    """
    quantity, parts, kinds = style.quantity_of(frame), style.parts_of(frame), style.kinds_of(frame)
    roles = [role for role in ROLE_LABELS if role in set(frame["role"])]
    labels = [ROLE_LABELS[role] for role in roles]
    lowest, highest = frame[quantity].min(), max(0.1, frame[quantity].max())
    height = 0.6 + (0.35 + 0.19 * len(roles)) * len(kinds)
    figure, axes, panels = style.panel_grid(kinds, parts, height=height, margin=2.2)
    for axis, (kind, part) in panels:
        cells = rows_where(frame, part=part, kind=kind)
        grid = cells.pivot(index="role", columns="layer", values=quantity).reindex(roles)
        colors, start = mean_colors(KIND_LOOKS[kind][2], lowest, highest)
        picture = style.heatmap(axis, grid, colors, (start, highest), labels)
        style.name_panel(axis, style.title(part, cells["n"].max()))
        if part == parts[-1]:
            name = f"{KIND_LOOKS[kind][0]} {QUANTITIES[quantity]}"
            style.color_bar(figure, picture, axes[kinds.index(kind)], name, aspect=14, shrink=0.92)
    figure.supxlabel(style.window_label(window, window_rule))
    return figure


@styled
def probabilities(frame: pd.DataFrame) -> Figure:
    """Draw P(answer) in the clean, corrupted and best restored runs: a dot a question, means with intervals.

    The frame is that of `TraceStudy.probabilities`.
    """
    runs, parts = [run for run in RUNS if run in set(frame["run"])], style.parts_of(frame)
    figure, axes, panels = style.panel_grid([""], parts, height=2.3)
    jitter = np.random.default_rng(0)  # seaborn's stripplot would use the global state
    for axis, (_, part) in panels:
        for place, run in enumerate(runs):
            values = rows_where(frame, part=part, run=run)["p"].to_numpy()
            axis.plot(
                place + jitter.uniform(-0.17, 0.17, len(values)), values, ".", color=RUNS[run][1], alpha=0.4,
                markersize=4, markeredgewidth=0, zorder=1, clip_on=False,
            )
            mean, low, high = bootstrap_interval(values)
            axis.hlines(mean, place - 0.3, place + 0.3, color=INK, linewidth=1.8, zorder=3)
            axis.vlines(place, low, high, color=INK, linewidth=1.2, zorder=3)
        style.name_panel(axis, style.title(part, len(values)), "P(answer)")
        axis.set_xticks(range(len(runs)), [RUNS[run][0] for run in runs])
        axis.set_xlim(-0.6, len(runs) - 0.4)
    axes[0, 0].set_ylim(-0.02, 1.02)
    return figure


@styled
def effects_and_controls(frame: pd.DataFrame) -> Figure:
    """Draw the trace's largest effect beside its controls at the same layer: one row a kind, one column a part.

    The dotted line is half of the trace's effect: a control's whole interval must stay below it.

    The frame is that of `controls.control_effects`.
    """
    parts, kinds = style.parts_of(frame), style.kinds_of(frame)
    rows = [control for control in CONTROLS if control in set(frame["control"])]
    height = 0.6 + (0.45 + 0.2 * len(rows)) * len(kinds)
    figure, axes, panels = style.panel_grid(kinds, parts, height=height, margin=1.6)
    for axis, (kind, part) in panels:
        cells = rows_where(frame, part=part, kind=kind).set_index("control").reindex(rows)
        name, color, _, marker, _ = KIND_LOOKS[kind]
        places = np.arange(len(rows))
        axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.axvline(cells["effect"].get("none", np.nan) / 2, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axis.hlines(places, cells["low"], cells["high"], color=color, linewidth=1.4)
        axis.scatter(cells["effect"], places, s=18, marker=marker, color=[color] + ["white"] * (len(rows) - 1),
                     edgecolor=color, linewidth=0.9, zorder=3)
        for place, n in enumerate(cells["n"].fillna(0).astype(int)):
            axis.text(1.01, place, f"n = {n}", transform=axis.get_yaxis_transform(), va="center", fontsize=6)
        layer = cells["layer"].dropna()
        at = f", layer {int(layer.iloc[0])}" if len(layer) else ""
        axis.set_title(f"{style.PARTS.get(part, part)}, {name}{at}")
    axes[0, 0].set_yticks(range(len(rows)), [CONTROLS[control] for control in rows])
    axes[0, 0].set(xlim=style.limits(frame, room=1.05), ylim=(len(rows) - 0.5, -0.5))
    figure.supxlabel("effect at the layer where the trace is strongest\n(dotted: half of it; controls must stay below)")
    return figure


def mean_colors(name: str, lowest: float, highest: float) -> tuple[Colormap, float]:
    """Return a color map for means from `lowest` to `highest`, and the value where it starts: 0, or lowest < -0.02.

    Equal sizes look equally strong on both sides of 0. Means a little below 0 are noise and stay white; single
    questions (`question.question_colors`) have no such threshold.
    """
    positive = mpl.colormaps[name]
    if not lowest < -UNSEEN:  # NaN too
        return positive, 0.0
    values = np.linspace(lowest, highest, 1024)
    strength = np.clip(values / highest, -1, 1)
    above = positive(np.maximum(strength, 0))
    below = mpl.colormaps[NEGATIVE](0.2 - 0.8 * np.minimum(strength, 0))  # visible from its first step on
    return ListedColormap(np.where(values[:, None] < -UNSEEN, below, above)), lowest
