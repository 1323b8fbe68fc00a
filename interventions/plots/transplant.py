"""Transplants: how much of an effect carries the answer, and how much only takes the replacement away."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from ..statistics import rows_where
from . import style
from .style import KIND_LOOKS, Look, styled

LINES: dict[str, tuple[str, Look]] = {  # column -> label and look
    "effect": ("effect", (style.GRAY, "o", "-")),
    "fact": ("share that carries the answer", (style.BLUE, "s", "--")),
    "word": ("share that only takes the replacement away", (style.VERMILION, "^", ":")),
}


@styled
def shares_by_layer(
    shares: Mapping[str, pd.DataFrame], *, window: int, window_rule: str = "centered"
) -> Figure:
    """Draw effects and their two shares by layer: one row a series and kind, one column a part, early layers shaded.

    A share is drawn where the effect's interval lies above NEGLIGIBLE.

    Args:
        shares: {series: frame of `transplant.transplant_shares`}.
        window: layers that are restored together.
        window_rule: "centered" or "radius".
    """
    shares = {series: frame for series, frame in shares.items() if len(frame)}
    if not shares:
        return style.nothing_to_show("no question has another item with the same words")
    every = pd.concat(shares.values())
    parts, n_layers = style.parts_of(every), style.depth(every)
    rows = list(itertools.product(shares, style.kinds_of(every)))
    figure, axes, panels = style.panel_grid(rows, parts, height=1.3 + 1.45 * len(rows))
    for axis, ((series, kind), part) in panels:
        cells = rows_where(shares[series], part=part, kind=kind)
        style.zero_line(axis)
        style.shade_early(axis, n_layers)
        for name, (_, look) in LINES.items():
            bounds = {f"{name}_low": "low", f"{name}_high": "high"}
            drawn = cells if name == "effect" else cells.drop(columns=["low", "high"]).rename(columns=bounds)
            style.line_with_band(axis, drawn.dropna(subset=name), look, name)
        style.name_panel(axis, style.title(part, cells["n"].max()), f"{KIND_LOOKS[kind][0]}\n{series}")
    lowest = every[["fact", "word"]].min(axis=None) - 0.05  # below 0 if P(the other answer) falls
    style.layer_axis(axes[0, 0], n_layers, (max(-1.0, min(-0.25, lowest)), 1.25))
    figure.supxlabel("\n".join([style.window_label(window, window_rule), style.early_label(n_layers)]))
    style.legend(figure, [style.legend_line(label, look) for label, look in LINES.values()], 1)
    return figure
