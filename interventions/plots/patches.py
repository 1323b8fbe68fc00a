"""Figure 5's visual tokens: by layer, as the image's patches, and over the images of single questions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..attention.visual_tokens import LAST
from ..testbed.images import seen_box
from .style import CONTRIBUTION_COLOURS, FAINT, INK, PARTS, contribution_bar, nothing_to_show, parts_of, styled, title
from .words import CHARACTERS, LINE_HEIGHT, show_image, wrapped, write_lines

OVERLAY = LinearSegmentedColormap.from_list("overlay", [(0.8, 0.05, 0.05, 0), (0.8, 0.05, 0.05, 0.9)])
PALE = 0.45  # the image below the overlay


@styled
def visual_token_maps(frame: pd.DataFrame, n_visual: int) -> Figure:
    """The paper's Figure 5: mean contribution by visual token and layer, a column a part, one scale for all.

    frame: that of `concentration.mean_contributions`: part, layer, index, norm, n. The dashed line is where the
    last sixteenth of the tokens begins. A model with more tokens than a panel has pixels shows means of neighbours.
    """
    if frame.empty:
        return nothing_to_show("no question was answered right")
    parts, n_layers = parts_of(frame), int(frame["layer"].max()) + 1
    size = (1.2 + 2.3 * len(parts), 1.3 + min(1.8, 0.16 * n_layers))
    figure, axes = plt.subplots(1, len(parts), figsize=size, sharex=True, sharey=True, squeeze=False)
    extent, start = (-0.5, n_visual - 0.5, -0.5, n_layers - 0.5), n_visual - max(1, n_visual // LAST)
    for axis, part in zip(axes[0], parts, strict=True):
        cells = frame[frame["part"] == part]
        grid = cells.pivot(index="layer", columns="index", values="norm").reindex(range(n_layers)).to_numpy(float)
        # Smoothing, which a panel with fewer pixels than tokens needs, must not blur the edges of what is larger.
        fine = np.repeat(np.repeat(grid, 16, axis=0), max(1, 1024 // n_visual), axis=1)
        picture = axis.imshow(
            fine, origin="lower", extent=extent, aspect="auto", cmap=CONTRIBUTION_COLOURS, vmin=0,
            vmax=frame["norm"].max() or 1,
        )
        axis.axvline(start - 0.5, color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
        axis.set_title(title(part, cells["n"].max()))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].set_ylabel("layer")
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(8, integer=True))
    contribution_bar(figure, picture, axes)
    figure.supxlabel(f"visual token (dashed: the last {n_visual - start} of {n_visual})", fontsize=8)
    return figure


@styled
def patch_maps(frame: pd.DataFrame, layer: int) -> Figure:
    """The same at one layer, laid out as the image's patches are: the first token at the upper left, row by row.

    frame: as for `visual_token_maps`. Raises ValueError if the visual tokens fill no square grid.
    """
    if frame.empty:
        return nothing_to_show("no question was answered right")
    parts, cells = parts_of(frame), frame[frame["layer"] == layer]
    side = _side(int(frame["index"].max()) + 1)
    size = (0.9 + 1.7 * len(parts), 2.15)
    figure, axes = plt.subplots(1, len(parts), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        here = cells[cells["part"] == part].sort_values("index")
        grid = here["norm"].to_numpy(float).reshape(side, side)
        picture = axis.imshow(
            grid, cmap=CONTRIBUTION_COLOURS, vmin=0, vmax=cells["norm"].max() or 1, interpolation="nearest"
        )
        axis.set_title(title(part, here["n"].max()))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].set_ylabel("row of patches")
    contribution_bar(figure, picture, axes)
    figure.supxlabel(f"column of patches (layer {layer})", fontsize=8)
    return figure


@styled
def patches_over_images(examples: pd.DataFrame, images: Mapping, *, view: str = "cropped") -> Figure:
    """Single questions: the image beside the same in pale grey with each patch's contribution over it in red.

    examples: that of `attention_examples.patch_examples`: id, part, question, constraint, answer, index, norm. images:
    id -> PIL image. view: what of an image the model sees, which is framed, see `model.image_view`. Every question has
    its own scale, from 0 (clear) to its largest patch, which is named below.
    Raises ValueError if the visual tokens fill no square grid.
    """
    ids = [name for name in dict.fromkeys(examples["id"]) if images.get(name) is not None]
    if not ids:
        return nothing_to_show("no question with an image was answered right")
    columns = min(3, len(ids))
    rows = -(-len(ids) // columns)
    told = {name: _told(examples[examples["id"] == name].iloc[0]) for name in ids}
    heading = LINE_HEIGHT * max(map(len, told.values()))
    figure = plt.figure(figsize=(0.2 + 2.75 * columns, (heading + 1.6) * rows))
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[heading, 1.45] * rows)
    for place, name in enumerate(ids):
        row, column = divmod(place, columns)
        write_lines(figure.add_subplot(grid[2 * row, column]), told[name])
        plain, over = (figure.add_subplot(cell) for cell in grid[2 * row + 1, column].subgridspec(1, 2))
        show_image(plain, images[name])
        norms = examples[examples["id"] == name].sort_values("index")["norm"].to_numpy(float)
        patches_over(over, images[name], norms, view=view)
        largest = f"largest ||a||: {norms.max():.3g}"
        over.text(0, -0.04, largest, transform=over.transAxes, va="top", fontsize=7, color=INK)
    return figure


def patches_over(axis: Axes, image, norms: np.ndarray, *, view: str) -> None:
    """The image in pale grey, each patch's contribution over it in red, from 0 (clear) to the largest."""
    show_image(axis, image.convert("L").point(lambda grey: 255 - PALE * (255 - grey)).convert("RGB"))
    side, (left, top, width, height) = _side(len(norms)), seen_box(image.size, view)
    box = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    axis.imshow(
        norms.reshape(side, side), cmap=OVERLAY, vmin=0, vmax=norms.max() or 1, extent=box, interpolation="nearest",
        aspect="equal",
    )
    axis.add_patch(Rectangle((box[0], box[3]), width, height, fill=False, edgecolor=INK, linewidth=0.5))
    axis.set_xlim(min(-0.5, box[0]), max(image.width - 0.5, box[1]))  # a margin belongs to what is seen
    axis.set_ylim(max(image.height - 0.5, box[2]), min(-0.5, box[3]))


def _side(n_visual: int) -> int:
    side = round(n_visual**0.5)
    if side**2 != n_visual:
        raise ValueError(f"frame must hold a square grid of visual tokens (64, 576, 729), not {n_visual} of them.")
    return side


def _told(example) -> list[list[tuple[str, dict]]]:
    """Lines: part, question with its constraint in bold, and answer."""
    before, constraint, after = example.question, "", ""
    if example.constraint:
        before, constraint, after = example.question.partition(example.constraint)
    characters = int(CHARACTERS * 2.5)
    asked = wrapped([(before, ""), (constraint, "constraint"), (after, "")], characters)
    answer = textwrap.shorten(str(example.answer), characters - 10, placeholder="\u2026")
    faint, plain = {"color": FAINT}, {"color": INK}
    return [[(PARTS.get(example.part, example.part), faint)], *asked, [("Answer ", faint), (answer, plain)]]
