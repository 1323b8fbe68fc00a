"""Figure 5's visual tokens: by layer, as the image's patches, and over the images of single questions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..attention.visual_tokens import LAST
from ..statistics import rows_where
from ..testbed.images import seen_box
from . import style
from .style import INK, PARTS, styled
from .words import CHARACTERS, LINE_HEIGHT, LOUD, show_image, wrapped, write_lines

OVERLAY = LinearSegmentedColormap.from_list("overlay", [(0.8, 0.05, 0.05, 0), (0.8, 0.05, 0.05, 0.9)])
NO_GRID = "the visual tokens form no square grid"
PALE = 0.45  # the image below the overlay


@styled
def visual_token_maps(frame: pd.DataFrame, n_visual: int) -> Figure:
    """Draw the paper's Figure 5: mean contribution by visual token and layer, a column a part, one scale for all.

    The dashed line is where the last sixteenth of the tokens begins. The frame is that of `mean_contributions`.
    """
    if frame.empty:
        return style.nothing_to_show("no question was answered right")
    parts, n_layers = style.parts_of(frame), style.depth(frame)
    figure, axes, panels = style.panel_grid([""], parts, height=1.3 + min(1.8, 0.16 * n_layers), margin=1.2, width=2.3)
    extent, start = (-0.5, n_visual - 0.5, -0.5, n_layers - 0.5), n_visual - max(1, n_visual // LAST)
    for axis, (_, part) in panels:
        cells = rows_where(frame, part=part)
        grid = cells.pivot(index="layer", columns="index", values="norm").reindex(range(n_layers)).to_numpy(float)
        # A panel with fewer pixels than tokens needs smoothing, which must not blur the edges of larger cells.
        fine = np.repeat(np.repeat(grid, 16, axis=0), max(1, 1024 // n_visual), axis=1)
        picture = _show(axis, fine, frame["norm"], origin="lower", extent=extent, aspect="auto")
        axis.axvline(start - 0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        style.name_panel(axis, style.title(part, cells["n"].max()), "layer")
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(8, integer=True))
    style.contribution_bar(figure, picture, axes)
    figure.supxlabel(f"visual token (dashed: the last {n_visual - start} of {n_visual})")
    return figure


@styled
def patch_maps(frame: pd.DataFrame, layer: int) -> Figure:
    """Draw the same at one layer, laid out as the image's patches: the first token at the upper left, row by row."""
    if frame.empty:
        return style.nothing_to_show("no question was answered right")
    cells = rows_where(frame, layer=layer).sort_values("index")
    groups = {part: rows_where(cells, part=part) for part in style.parts_of(frame)}
    squares = {}
    for part, group in groups.items():
        square = _square(group["norm"].to_numpy(float))
        if square is None:
            return style.nothing_to_show(NO_GRID)
        squares[part] = square
    figure, axes, panels = style.panel_grid([""], groups, height=2.15, width=1.7)
    for axis, (_, part) in panels:
        picture = _show(axis, squares[part], cells["norm"], interpolation="nearest")
        style.name_panel(axis, style.title(part, groups[part]["n"].max()), "row of patches")
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    style.contribution_bar(figure, picture, axes)
    figure.supxlabel(f"column of patches (layer {layer})")
    return figure


@styled
def patches_over_images(examples: pd.DataFrame, images: Mapping, *, view: str = "cropped") -> Figure:
    """Draw single questions: the image beside the same in pale gray with each patch's contribution over it in red.

    Every question has its own scale, from 0 (clear) to its largest patch, whose value is written below. The frame is
    that of `patch_examples`, images are by id, and `view` is what the model sees of them (framed), see `image_view`.
    """
    ids = [name for name in dict.fromkeys(examples["id"]) if images.get(name) is not None]
    if not ids:
        return style.nothing_to_show("no question with an image was answered right")
    columns = min(3, len(ids))
    rows = -(-len(ids) // columns)
    lines = {name: _lines(examples[examples["id"] == name].iloc[0]) for name in ids}
    heading = LINE_HEIGHT * max(map(len, lines.values()))
    figure = plt.figure(figsize=(0.2 + 2.75 * columns, (heading + 1.6) * rows))
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[heading, 1.45] * rows)
    for place, name in enumerate(ids):
        row, column = divmod(place, columns)
        write_lines(figure.add_subplot(grid[2 * row, column]), lines[name])
        plain, over = (figure.add_subplot(cell) for cell in grid[2 * row + 1, column].subgridspec(1, 2))
        show_image(plain, images[name])
        norms = _square(examples[examples["id"] == name].sort_values("index")["norm"].to_numpy(float))
        if norms is None:
            return style.nothing_to_show(NO_GRID)
        patches_over(over, images[name], norms, view=view)
        over.text(0, -0.04, f"largest ||a||: {norms.max():.3g}", transform=over.transAxes, va="top", fontsize=7)
    return figure


def patches_over(axis: Axes, image, norms: np.ndarray, *, view: str) -> None:
    """Draw the image in pale gray, and each patch's contribution over it in red, from 0 (clear) to the largest.

    norms: [rows, columns] of patches.
    """
    show_image(axis, image.convert("L").point(lambda gray: 255 - PALE * (255 - gray)).convert("RGB"))
    left, top, width, height = seen_box(image.size, view)
    box = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    options = {"vmin": 0, "vmax": norms.max() or 1, "extent": box, "interpolation": "nearest", "aspect": "equal"}
    axis.imshow(norms, cmap=OVERLAY, **options)
    axis.add_patch(Rectangle((box[0], box[3]), width, height, fill=False, edgecolor=INK, linewidth=0.5))
    axis.set_xlim(min(-0.5, box[0]), max(image.width - 0.5, box[1]))  # the model sees the margin, too
    axis.set_ylim(max(image.height - 0.5, box[2]), min(-0.5, box[3]))


def _show(axis: Axes, grid: np.ndarray, scale: pd.Series, **options):
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return axis.imshow(grid, cmap=style.CONTRIBUTION_COLORS, vmin=0, vmax=scale.max() or 1, **options)


def _square(norms: np.ndarray) -> np.ndarray | None:
    """Return the norms of a square image's patches as a grid; None if they form none, as those of tiles."""
    side = math.isqrt(len(norms))
    return norms.reshape(side, side) if side**2 == len(norms) else None


def _lines(example) -> list[list[tuple[Any, dict]]]:
    """The part, the question with its constraint in bold, and the answer."""
    before, constraint, after = example.question.partition(example.constraint or "\0")
    characters = int(CHARACTERS * 2.5)
    question = wrapped([(before, ""), (constraint, "constraint"), (after, "")], characters)
    answer = textwrap.shorten(str(example.answer), characters - 10, placeholder="\u2026")
    faint = LOUD["faint"]
    return [[(PARTS.get(example.part, example.part), faint)], *question, [("Answer ", faint), (answer, LOUD[""])]]
