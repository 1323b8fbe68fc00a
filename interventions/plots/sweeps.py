"""Figures that put runs side by side: models, corruptions, constraints and windows (`interventions.tracing.sweeps`)."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..layers import spanned
from ..statistics import NEGLIGIBLE, rows_where
from . import style
from .style import KIND_LOOKS, Look, styled

LEGEND_CHARACTERS = 12  # of the legend's font, on an inch


@styled
def compared_by_layer(
    frame: pd.DataFrame, *, window_rule: str = "centered", by: str = "part", read_at: str = ""
) -> Figure:
    """Draw effects by layer with intervals: a line a series, one row a kind, early layers shaded.

    Args:
        frame: that of `series_by_layer`: series, window, part, kind, layer, effect, low, high, n.
        by: "window" = one column a part and window; "part" = one column a part, where every series has one window.
        read_at: the constraint at whose last token all series are restored, if it is one.
    """
    columns, kinds, looks = _columns(frame, by), style.kinds_of(frame), _looks(frame)
    n_layers = style.depth(frame)
    figure, axes, panels = style.panel_grid(kinds, columns, height=1.1 + 1.45 * len(kinds))
    for axis, (kind, (part, window)) in panels:
        style.zero_line(axis)
        style.shade_early(axis, n_layers)
        cells = _cells(frame, part, window, kind)
        for name, look in looks.items():
            style.line_with_band(axis, rows_where(cells, series=name), look)
        title = _title(part, cells["n"].max(), window, window_rule)
        style.name_panel(axis, title, f"{KIND_LOOKS[kind][0]} effect")
    style.layer_axis(axes[0, 0], n_layers, style.limits(frame))
    series = frame.groupby("series")
    windows = {name: style.window_label(cells["window"].iloc[0], window_rule) for name, cells in series}
    alike = by == "window" or len(set(windows.values())) == 1
    label = "layer, or center of the window" if by == "window" or not alike else windows[min(windows)]
    where = [f"restored at the last token of the {read_at}"] if read_at else []
    figure.supxlabel("\n".join([label, *where, style.early_label(n_layers)]))
    _series_legend(figure, looks, {} if alike else windows)
    return figure


@styled
def peak_histograms(frame: pd.DataFrame, *, n_layers: int, window_rule: str = "centered") -> Figure:
    """Draw in which layer the questions have their largest effect: one row a series and kind, one column a window.

    Bars are shares of all questions. A note says how many have no peak, because all their effects are negligible.

    The frame is that of `series_peaks`.
    """
    columns, looks = _columns(frame, "window"), _looks(frame)
    rows, bins = list(itertools.product(looks, style.kinds_of(frame))), np.arange(n_layers)
    figure, axes, panels = style.panel_grid(rows, columns, height=0.7 + 1.05 * len(rows))
    for axis, ((name, kind), (part, window)) in panels:
        cells = rows_where(_cells(frame, part, window, kind), series=name)
        layers = cells.loc[cells["effect"] >= NEGLIGIBLE, "layer"].to_numpy()
        axis.bar(bins, np.bincount(layers, minlength=n_layers) / len(cells), width=0.85, color=looks[name][0])
        if len(layers):
            axis.axvline(layers.mean(), color=style.INK, linewidth=1, linestyle="--")
        if len(layers) < len(cells):
            note = f"no effect: {1 - len(layers) / len(cells):.0%}"
            axis.text(0.98, 0.95, note, transform=axis.transAxes, ha="right", va="top", fontsize=7)
        label = f"{name}\n{KIND_LOOKS[kind][0]}".replace(", ", ",\n")
        style.name_panel(axis, _title(part, len(cells), window, window_rule), label, looks[name][0])
    for axis, (_, window) in zip(axes[-1], columns, strict=True):
        axis.set_xlabel(style.window_label(window, window_rule))  # pyright: ignore[reportArgumentType]
    style.layer_axis(axes[0, 0], n_layers, (0, 1.02))
    figure.supylabel("share of questions with their peak there (dashed: mean layer)")
    return figure


@styled
def effects_by_window(frame: pd.DataFrame, *, window_rule: str = "centered") -> Figure:
    """Draw the best layer's mean effect by window, with its interval: one row a kind, one column a part.

    A marker is filled where the interval lies above NEGLIGIBLE. The frame is that of `series_windows`.
    """
    kinds, parts, looks = style.kinds_of(frame), style.parts_of(frame), _looks(frame)
    windows = np.array(sorted(set(frame["window"])))
    step = 0.2 * min(np.diff(windows), default=1)  # between series, so that their intervals lie side by side
    margin = 2.4 if len(parts) == 1 else 0.9
    figure, axes, panels = style.panel_grid(kinds, parts, height=1.5 + 1.45 * len(kinds), margin=margin)
    for axis, (kind, part) in panels:
        style.zero_line(axis)
        here = _cells(frame, part, None, kind).sort_values("window")
        for number, (name, (color, marker, line)) in enumerate(looks.items()):
            cells = rows_where(here, series=name)
            x = cells["window"] + step * (number - (len(looks) - 1) / 2)
            axis.plot(x, cells["effect"], line, color=color, linewidth=0.9, zorder=1)
            axis.vlines(x, cells["low"], cells["high"], color=color, linewidth=1.2, zorder=2)
            face = np.where(cells["low"] > NEGLIGIBLE, color, "white")
            axis.scatter(x, cells["effect"], s=16, marker=marker, color=face, edgecolor=color, linewidth=0.9, zorder=3)
        style.name_panel(axis, style.title(part, here["n"].max()), f"{KIND_LOOKS[kind][0]} effect,\nbest layer")
    axes[0, 0].set(xticks=windows, xlim=(windows[0] - 0.7, windows[-1] + 0.7), ylim=style.limits(frame))
    unit = "layers restored together" if window_rule == "centered" else "radius in layers"
    note = f"filled: interval above {NEGLIGIBLE}\n(corrected for the choice of the layer)"
    figure.supxlabel(f"window ({unit})\n{note}")
    _series_legend(figure, looks, {})
    return figure


def _looks(frame: pd.DataFrame) -> dict[str, Look]:
    return dict(zip(dict.fromkeys(frame["series"]), itertools.cycle(style.LOOKS), strict=False))


def _columns(frame: pd.DataFrame, by: str) -> list[tuple[str, int | None]]:
    """(part, window) of every column of panels."""
    windows = dict.fromkeys(frame["window"]) if by == "window" else [None]
    return list(itertools.product(style.parts_of(frame), windows))


def _cells(frame: pd.DataFrame, part: str, window: int | None, kind: str) -> pd.DataFrame:
    return rows_where(frame, part=part, kind=kind, **({} if window is None else {"window": window}))


def _title(part: str, n: float, window: int | None, window_rule: str) -> str:
    if window is None:
        return style.title(part, n)
    layers = spanned(window, window_rule)
    return f"{style.title(part, n)}\nwindow of {layers} layer{'' if layers == 1 else 's'}"


def _series_legend(figure: Figure, looks: dict[str, Look], windows: dict[str, str]) -> None:
    """Name the series above the panels, and those in `windows` with their window."""
    windows = {name: f", {label.removeprefix('center of ')}" for name, label in windows.items()}
    labels = {name: name + windows.get(name, "") for name in looks}
    handles = [style.legend_line(labels[name], look) for name, look in looks.items()]
    characters = sum(len(label) + 7 for label in labels.values())
    rows = int(np.ceil(characters / (LEGEND_CHARACTERS * figure.get_figwidth())))
    style.legend(figure, handles, int(np.ceil(len(handles) / rows)))
