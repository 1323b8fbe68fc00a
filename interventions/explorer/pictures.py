"""The pictures of the explorer as PNG. Actions draw in their own threads, so a lock protects the state of pyplot."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..plots import style
from ..plots.attention import FLOW_LOOKS, room_behind
from ..plots.patches import patches_over
from ..plots.question import worked_example
from ..plots.words import token_label
from ..testbed.images import small_image
from .exploration import ContributionResult, KnockoutResult, TraceResult

DPI = 150
LARGEST = 600  # pixels of a side of a shown image
_DRAWING = threading.RLock()


def thumbnail(path: Path | None, side: int = LARGEST) -> bytes:
    """Return an image as PNG, at most `side` pixels wide and high; raise TestBedError if it cannot be read."""
    file = io.BytesIO()
    small_image(path, side).save(file, "PNG")
    return file.getvalue()


class TracePicture:
    """The worked example of a trace as `png`, with the sites in it."""

    def __init__(self, traced: TraceResult) -> None:
        image, settings = small_image(traced.item.image, LARGEST), traced.settings
        self._traced, self._kinds = traced, style.kinds_of(traced.example.sites)
        with _DRAWING:
            self._figure = worked_example(
                traced.example, image, window=settings.window, window_rule=settings.conditions.window_rule,
                quantity=settings.conditions.reported,
            )
            self.png = _png(self._figure)

    def site_at(self, x: float, y: float) -> tuple[str, int, int] | None:
        """Return the site (kind, position, layer) at a place from (0, 0), the upper left, to (1, 1); None if none."""
        maps = [axis for axis in self._figure.axes if axis.collections and axis.get_label() != "<colorbar>"]
        for kind, axis in zip(self._kinds, maps, strict=True):
            box = axis.get_position()
            if box.x0 <= x < box.x1 and box.y0 < 1 - y <= box.y1:
                (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
                layer = int(left + (x - box.x0) / box.width * (right - left))
                row = int(bottom + (1 - y - box.y0) / box.height * (top - bottom))
                return kind, self._traced.result.positions[row], layer
        return None


def contributions_png(result: ContributionResult, reader: str, layer: int) -> bytes:
    """Draw the visual tokens' contributions over the image in one layer, their sum and the constraint's by layer."""
    with _DRAWING:
        return _png(_contributions(result, reader, layer))


def knockout_png(knockout: KnockoutResult) -> bytes:
    """Draw P(answer) with each flow blocked, by the center of the window; the chosen window is shaded."""
    with _DRAWING:
        return _png(_knockout(knockout))


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with plt.rc_context(style.STYLE):
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


@style.styled
def _contributions(result: ContributionResult, reader: str, layer: int) -> Figure:
    norms, names = result.visual[reader], [token_label(token) for token in result.tokens]
    n_layers, last = len(norms), result.to_last
    figure = plt.figure(figsize=(6.8, 3.1 + 0.125 * len(names)))
    left, right = figure.add_gridspec(1, 2, width_ratios=[1, 1.15])
    over = figure.add_subplot(left)
    patches_over(over, small_image(result.image, LARGEST), norms[layer].reshape(result.grid), view=result.view)
    over.set_anchor("C")
    over.set_title(f"visual tokens → {_reader(reader)}, layer {layer}")
    text = f"largest ||a||: {norms[layer].max():.3g} here, {norms.max():.3g} in any layer"
    over.text(0.5, -0.03, text, transform=over.transAxes, va="top", ha="center", fontsize=7, color=style.INK)

    upper, lower = right.subgridspec(2, 1, height_ratios=[2.2, 0.5 + 0.25 * len(names)])
    bars = figure.add_subplot(upper)
    colors = [style.KIND_LOOKS["attention"][1] if i == layer else "#d9b3aa" for i in range(n_layers)]
    bars.bar(range(n_layers), norms.sum(1), color=colors, width=0.8)
    bars.set(xlim=(-0.5, n_layers - 0.5), xticks=range(0, n_layers, style.layer_step(n_layers)), ylabel="sum of ||a||",
             title=f"visual tokens → {_reader(reader)}, by layer")
    grid = figure.add_subplot(lower)
    picture = style.heatmap(grid, pd.DataFrame(last.T), style.CONTRIBUTION_COLORS, (0, last.max() or 1), names)
    grid.add_patch(Rectangle((layer, 0), 1, len(names), fill=False, edgecolor=style.INK, linewidth=1))
    grid.set_title("constraint → last token, by layer")
    style.contribution_bar(figure, picture, grid, 8)
    grid.set_xlabel("layer")
    return figure


@style.styled
def _knockout(knockout: KnockoutResult) -> Figure:
    result, n_layers = knockout.result, len(knockout.result.layers)
    figure, axis = plt.subplots(figsize=(6.8, 2.7))
    beyond = room_behind(n_layers)  # for "all"
    axis.axhline(result.p_clean, color=style.FAINT, linewidth=0.8, linestyle=(0, (4, 3)), label="nothing blocked")
    center = knockout.first + result.window // 2
    axis.axvspan(center - 0.4, center + 0.4, color=style.SHADE, zorder=0)
    for place, flow in enumerate(result.flows):
        color, marker, line = FLOW_LOOKS[flow]
        look: dict[str, Any] = {"color": color, "marker": marker} | style.EDGE
        axis.plot(result.layers, result.p_blocked[place], line, label=style.arrow(flow), **look)
        x = n_layers - 1 + beyond * (0.8 + 0.2 * place)
        axis.plot([x], result.p_all_blocked[place], markersize=5, **look)
    layers = range(0, n_layers, style.layer_step(n_layers))
    axis.set_xticks([*layers, n_layers - 1 + beyond], [*map(str, layers), "all"])
    axis.set(xlim=(-0.5, n_layers - 1 + 1.5 * beyond), ylim=(-0.03, 1.03), ylabel="P(answer)")
    axis.set_xlabel(f"{style.window_label(result.window)} (shaded: the chosen one; all: every layer at once)")
    figure.legend(loc="outside upper center", ncols=len(result.flows) + 1)
    return figure


def _reader(reader: str) -> str:
    return "last token" if reader == "last" else "constraint"
