"""Figures of averages over questions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..metrics import bootstrap_interval
from .style import (
    FAINT,
    INK,
    KINDS,
    QUANTITIES,
    ROLES,
    kinds_of,
    layer_axis,
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
    "p_restored_mlp": ("restored\nMLP", KINDS["mlp"][1]),
    "p_restored_attention": ("restored\nattention", KINDS["attention"][1]),
}


@styled
def effects_by_layer(
    frame: pd.DataFrame, *, window: int, window_rule: str = "centered", role: str = "constraint_last"
) -> Figure:
    """The paper's Figure 3: one column a part, one row a kind, effect by layer at one role, with intervals.

    `frame` is that of `averages.by_role_layer`: part, kind, role, layer, effect (or p_restored), low, high, n.
    """
    quantity, parts, kinds = quantity_of(frame), parts_of(frame), kinds_of(frame)
    at_role = frame[frame["role"] == role]
    figure, axes = panel_grid(len(kinds), parts, height=0.7 + 1.45 * len(kinds))
    for axis, kind, part in panels(axes, kinds, parts):
        name, colour, _, marker, line = KINDS[kind]
        cells = at_role[(at_role["part"] == part) & (at_role["kind"] == kind)].sort_values("layer")
        layers, mean, low, high = cells[["layer", quantity, "low", "high"]].to_numpy(float).T
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.fill_between(layers, low, high, color=colour, alpha=0.22, linewidth=0)
        axis.plot(layers, mean, line, color=colour, marker=marker, markersize=3, linewidth=1.2)
        if kind == kinds[0]:
            axis.set_title(title(part, cells["n"].max()))
        if part == parts[0]:
            axis.set_ylabel(f"{name} {QUANTITIES[quantity]}", color=colour)
    layer_axis(axes[0, 0], frame)
    drawn = at_role[[quantity, "low", "high"]].to_numpy(float)
    axes[0, 0].set_ylim(min(-0.05, np.nanmin(drawn) - 0.03), max(0.2, 1.08 * np.nanmax(drawn)))
    where = f"restored at: {ROLES[role].rstrip('*')}"
    figure.supxlabel(f"{window_label(window, window_rule)}\n({where})", fontsize=8)
    return figure


@styled
def role_layer_maps(frame: pd.DataFrame, *, window: int, window_rule: str = "centered") -> Figure:
    """Heat maps of token role x layer, one column a part and one row a kind, one scale for all of them.

    `frame` as for `effects_by_layer`. Constraint rows are starred. A role that a part lacks stays white.
    """
    quantity, parts, kinds = quantity_of(frame), parts_of(frame), kinds_of(frame)
    roles = [role for role in ROLES if role in set(frame["role"])]
    highest = max(0.1, frame[quantity].max())
    figure, axes = panel_grid(len(kinds), parts, height=0.6 + (0.35 + 0.19 * len(roles)) * len(kinds), margin=2.2)
    for axis, kind, part in panels(axes, kinds, parts):
        cells = frame[(frame["part"] == part) & (frame["kind"] == kind)]
        grid = cells.pivot(index="role", columns="layer", values=quantity).reindex(roles).astype(float)
        picture = axis.pcolormesh(
            grid.columns, np.arange(len(roles)), grid, shading="nearest", cmap=KINDS[kind][2], vmin=0,
            vmax=highest, edgecolors="white", linewidth=0.4 if grid.shape[1] <= 16 else 0,
        )
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if kind == kinds[0]:
            axis.set_title(title(part, cells["n"].max()))
        if part == parts[-1]:
            bar = figure.colorbar(picture, ax=axes[kinds.index(kind)], pad=0.015, aspect=14, shrink=0.92)
            bar.set_label(f"{KINDS[kind][0]} {QUANTITIES[quantity]}")
            bar.outline.set_visible(False)
    axes[0, 0].set_yticks(range(len(roles)), [ROLES[role] for role in roles])
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
