"""Figures that put runs side by side: models, corruptions, constraints and windows (`interventions.tracing.sweeps`).

A series keeps its colour, marker and line in every panel, named by a key above the panels.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..layers import spanned
from ..statistics import NEGLIGIBLE
from .averages import early_told, shade_early
from .style import (
    FAINT,
    INK,
    KIND_LOOKS,
    LOOKS,
    kinds_of,
    layer_axis,
    legend_line,
    limits,
    line_with_band,
    panel_grid,
    panels,
    parts_of,
    styled,
    title,
    window_label,
)

KEY_CHARACTERS = 13  # of the key's font, on an inch


@styled
def compared_by_layer(
    frame: pd.DataFrame, *, window_rule: str = "centered", by: str = "part", read_at: str = ""
) -> Figure:
    """Effects by layer with intervals, a line a series; one row a kind.

    `frame` is that of `sweeps.series_by_layer`: series, window, part, kind, layer, effect, low, high, n.
    by: "window" = one column a part and window; "part" = one column a part, where every series has a single window
    (the key names it if they differ). read_at: the constraint at whose last token all series are read, if it is one.
    Early layers are shaded.
    """
    columns, kinds, looks = _columns(frame, by), kinds_of(frame), _looks(frame)
    figure, axes = panel_grid(len(kinds), columns, height=1.1 + 1.45 * len(kinds))
    for axis, kind, (part, window) in panels(axes, kinds, columns):
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        shade_early(axis, frame)
        cells = _cells(frame, part, window, kind)
        for name, look in looks.items():
            line_with_band(axis, cells[cells["series"] == name], look, alpha=0.18)
        if kind == kinds[0]:
            axis.set_title(_title(part, cells["n"].max(), window, window_rule))
        axis.set_ylabel(f"{KIND_LOOKS[kind][0]} effect")
        axis.label_outer()
    layer_axis(axes[0, 0], frame)
    axes[0, 0].set_ylim(limits(frame))
    labels = {name: window_label(cells["window"].iloc[0], window_rule) for name, cells in frame.groupby("series")}
    alike = by == "window" or len(set(labels.values())) == 1
    label = "layer, or centre of the window" if by == "window" or not alike else labels[min(labels)]
    where = [f"restored at the last token of the {read_at}"] if read_at else []
    figure.supxlabel("\n".join([label, *where, early_told(frame)]), fontsize=8)
    _name_series(figure, looks, {} if alike else labels)
    return figure


@styled
def peak_histograms(frame: pd.DataFrame, *, n_layers: int, window_rule: str = "centered") -> Figure:
    """Where the questions have their largest effect: one row a series and kind, one column a part and window.

    `frame` is that of `sweeps.series_peaks`: series, window, part, kind, layer, effect. Bars are shares of all
    questions; one whose effects are all negligible has no peak, a note says how many these are.
    """
    columns, looks = _columns(frame, "window"), _looks(frame)
    rows = list(itertools.product(looks, kinds_of(frame)))
    figure, axes = panel_grid(len(rows), columns, height=0.7 + 1.05 * len(rows))
    bins = np.arange(n_layers)
    for axis, (name, kind), (part, window) in panels(axes, rows, columns):
        cells = _cells(frame, part, window, kind)
        cells = cells[cells["series"] == name]
        layers = cells.loc[cells["effect"] >= NEGLIGIBLE, "layer"].to_numpy()
        axis.bar(bins, [(layers == layer).sum() / len(cells) for layer in bins], width=0.85, color=looks[name][0])
        if len(layers):
            axis.axvline(layers.mean(), color=INK, linewidth=1, linestyle="--")
        if len(layers) < len(cells):
            note = f"no effect: {1 - len(layers) / len(cells):.0%}"
            axis.text(0.98, 0.95, note, transform=axis.transAxes, ha="right", va="top", fontsize=7, color=INK)
        if (name, kind) == rows[0]:
            axis.set_title(_title(part, len(cells), window, window_rule))
        if (name, kind) == rows[-1]:
            axis.set_xlabel(window_label(window, window_rule))
        axis.set_ylabel(f"{name}\n{KIND_LOOKS[kind][0]}".replace(", ", ",\n"), color=looks[name][0])
        axis.label_outer()
    layer_axis(axes[0, 0], pd.DataFrame({"layer": bins}))
    axes[0, 0].set_ylim(0, 1.02)
    figure.supylabel("share of questions that peak there (dashed: mean layer)", fontsize=8)
    return figure


@styled
def effects_by_window(frame: pd.DataFrame, *, window_rule: str = "centered") -> Figure:
    """The best layer's mean effect by window, with its interval: one row a kind, one column a part.

    A marker is filled where the interval lies above NEGLIGIBLE.
    `frame` is that of `sweeps.series_windows`: series, window, part, kind, layer, effect, low, high, n.
    """
    kinds, parts, looks = kinds_of(frame), parts_of(frame), _looks(frame)
    windows = np.array(sorted(set(frame["window"])))
    step = 0.2 * min(np.diff(windows), default=1)  # between series, so that their intervals lie side by side
    figure, axes = panel_grid(len(kinds), parts, height=1.5 + 1.45 * len(kinds), margin=2.4 if len(parts) == 1 else 0.9)
    for axis, kind, part in panels(axes, kinds, parts):
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        here = _cells(frame, part, None, kind).sort_values("window")
        for number, (name, (colour, marker, line)) in enumerate(looks.items()):
            cells = here[here["series"] == name]
            x = cells["window"] + step * (number - (len(looks) - 1) / 2)
            axis.plot(x, cells["effect"], line, color=colour, linewidth=0.9, zorder=1)
            axis.vlines(x, cells["low"], cells["high"], color=colour, linewidth=1.2, zorder=2)
            face = np.where(cells["low"] > NEGLIGIBLE, colour, "white")
            axis.scatter(x, cells["effect"], s=16, marker=marker, color=face, edgecolor=colour, linewidth=0.9, zorder=3)
        if kind == kinds[0]:
            axis.set_title(title(part, here["n"].max()))
        axis.set_ylabel(f"{KIND_LOOKS[kind][0]} effect,\nbest layer")
        axis.label_outer()
    axes[0, 0].set_xticks(windows)
    axes[0, 0].set_xlim(windows[0] - 0.7, windows[-1] + 0.7)
    axes[0, 0].set_ylim(limits(frame))
    unit = "layers restored together" if window_rule == "centered" else "radius in layers"
    note = f"filled: interval above {NEGLIGIBLE}\n(corrected for the choice of the layer)"
    figure.supxlabel(f"window ({unit})\n{note}", fontsize=8)
    _name_series(figure, looks, {})
    return figure


def _looks(frame: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of every series."""
    return dict(zip(dict.fromkeys(frame["series"]), itertools.cycle(LOOKS), strict=False))


def _columns(frame: pd.DataFrame, by: str) -> list[tuple[str, int | None]]:
    """(part, window) of every column of panels."""
    return list(itertools.product(parts_of(frame), dict.fromkeys(frame["window"]) if by == "window" else [None]))


def _cells(frame: pd.DataFrame, part: str, window: int | None, kind: str) -> pd.DataFrame:
    found = frame[(frame["part"] == part) & (frame["kind"] == kind)]
    return found if window is None else found[found["window"] == window]


def _title(part: str, n: float, window: int | None, window_rule: str) -> str:
    """The part and its number of questions, and the window where panels differ in it."""
    if window is None:
        return title(part, n)
    layers = spanned(window, window_rule)
    return f"{title(part, n)}\nwindow of {layers} layer{'' if layers == 1 else 's'}"


def _name_series(figure: Figure, looks: dict, windows: dict[str, str]) -> None:
    """Names of the series above the panels, with what `window_label` says of each in `windows`."""
    handles = []
    for name, look in looks.items():
        label = f"{name}, {windows[name].removeprefix('centre of ')}" if name in windows else name
        handles.append(legend_line(label, look))
    characters = sum(len(handle.get_label()) + 7 for handle in handles)
    rows = int(np.ceil(characters / (KEY_CHARACTERS * figure.get_figwidth())))
    figure.legend(handles=handles, loc="outside upper center", ncols=int(np.ceil(len(handles) / rows)), handlelength=3)
