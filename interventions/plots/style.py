"""The look of every figure: seaborn's ticks on a paper's scale, with the colors and labels of the field.

MLPs are green and attention is red as in ROME, constraint tokens are starred, the axis names the window. Color never
stands alone: series also differ in marker and line, and color maps get darker away from 0.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter, MaxNLocator, MultipleLocator

from ..layers import early_layers, layer_range, spanned

INK, FAINT, SHADE = "#333333", "#9a9a9a", "#ececec"
STYLE: dict[Any, Any] = sns.axes_style("ticks") | sns.plotting_context("paper", font_scale=0.83) | {
    "font.sans-serif": ["DejaVu Sans"],  # the same on every machine
    "figure.dpi": 120, "figure.labelsize": 8, "axes.titlesize": 9, "legend.title_fontsize": 9,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06, "figure.constrained_layout.h_pad": 0.06,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.handlelength": 3,
    "lines.linewidth": 1.3, "lines.markersize": 4.2,
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.7),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "pdf.fonttype": 42,  # text stays text in the PDF
}
# Symbols of formulas in places of their own, and a font of boxes that say which script a character is of.
NO_TEXT_FONTS = ("cm", "STIXNonUnicode", "STIXSize", "Last Resort")
KIND_LOOKS = {  # name, color, color map, marker, line
    "mlp": ("MLP", "#00714f", "Greens", "o", "-"),
    "attention": ("Attention", "#c8432b", "Reds", "s", "--"),
    "hidden": ("Hidden state", "#6a51a3", "Purples", "D", "-."),
}
PARTS = {"known": "Known", "okvqa": "OK-VQA", "movies": "Movies"}
ROLE_LABELS = {
    "visual": "last visual token",  # the only one that is traced
    "before": "question, before",
    "constraint": "visual constraint, other*",
    "constraint_last": "visual constraint, last*",
    "between": "question, after",
    "text_constraint": "text constraint, other*",
    "text_constraint_last": "text constraint, last*",
    "last": "last token",
}
QUANTITIES = {"effect": "effect", "p_restored": "P(restored)"}
BLUE, VERMILION, PURPLE, SKY_BLUE = (sns.color_palette("colorblind").as_hex()[index] for index in (0, 3, 4, 9))
GRAY = "#595959"
Look = tuple[str, str, Any]  # color, marker, line
LOOKS: tuple[Look, ...] = ((BLUE, "o", "-"), (VERMILION, "s", "--"), (GRAY, "^", ":"), (PURPLE, "D", "-."))
EDGE = {"markeredgecolor": "white", "markeredgewidth": 0.4}
CONTRIBUTION_LABEL, CONTRIBUTION_COLORS = "contribution ||a||", KIND_LOOKS["attention"][2]


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw a figure in the one style, lay it out once, and close it: a notebook shows what is returned."""

    @wraps(function)
    def draw(*arguments, **options) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*arguments, **options)
            show_all_characters(figure)
            figure.get_layout_engine().execute(figure)
            plt.close(figure)
            return figure

    return draw


def save_figure(figure: Figure, stem: str | Path) -> Figure:
    """Write `<stem>.png` and `<stem>.pdf`, and return the figure, so that a notebook cell shows it."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(stem.with_name(stem.name + ".png"), dpi=200)
        figure.savefig(stem.with_name(stem.name + ".pdf"), metadata={"CreationDate": None})
    return figure


def nothing_to_show(why: str) -> Figure:
    """Return a figure that says why it is empty: a small sample may leave nothing to draw, and the report goes on."""
    figure, axis = plt.subplots(figsize=(3.5, 0.5))
    axis.set_axis_off()
    figure.text(0.5, 0.5, f"nothing to show: {why}", ha="center", va="center")
    return figure


# Panels


def panel_grid(
    rows: Collection, columns: Collection, *, height: float, margin: float = 0.9, width: float = 2.0,
    sharex: bool | Literal["row", "col"] = True, sharey: bool | Literal["row", "col"] = True,
) -> tuple[Figure, np.ndarray, list[tuple[Axes, tuple[Any, Any]]]]:
    """Return a figure, its axes [rows, columns] on shared scales, and every axis with its (row, column).

    Sizes are in inches: `height` is the figure's, `width` is a column's.
    """
    size = (margin + width * len(columns), height)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, axes, list(zip(axes.flat, itertools.product(rows, columns), strict=True))


def name_panel(axis: Axes, title: str, label: str = "", color: str = INK) -> None:
    """Write the title above a panel of the first row, and the label beside a panel of the first column."""
    place = axis.get_subplotspec()
    if place is not None and place.is_first_row():
        axis.set_title(title)
    if place is not None and place.is_first_col():
        axis.set_ylabel(label, color=color)  # pyright: ignore[reportAttributeAccessIssue]


def quantity_of(frame: pd.DataFrame) -> str:
    return next(name for name in QUANTITIES if name in frame.columns)


def parts_of(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["part"]))


def kinds_of(frame: pd.DataFrame) -> list[str]:
    return [kind for kind in KIND_LOOKS if kind in set(frame["kind"])]


def depth(frame: pd.DataFrame) -> int:
    """The number of layers of a frame by layer."""
    return int(frame["layer"].max()) + 1


# Text


def window_label(window: int, window_rule: str = "centered") -> str:
    """Return what the layer axis means; by the scripts' rule a radius W spans 2 W + 1 layers, but W = 1 only one."""
    layers = spanned(window, window_rule)
    return "layer" if layers == 1 else f"center of window of {layers} layers"


def title(name: str, n: float) -> str:
    return f"{PARTS.get(name, name)}  (n = {0 if pd.isna(n) else int(n)})"


def early_label(n_layers: int) -> str:
    return f"shaded: early layers, {layer_range(early_layers(n_layers))} of {n_layers}"


def arrow(flow: str) -> str:
    return flow.replace("->", "\u2192")


# Drawing


def line_with_band(
    axis: Axes, cells: pd.DataFrame, look: Look, quantity: str = "effect", x: str = "layer", band: bool = True
) -> None:
    """Draw means as a line and their intervals (low, high) as a band; missing values leave a gap in both."""
    cells = cells[[x, quantity, "low", "high"]].astype(float).sort_values(x)
    color, marker, line = look
    if band:
        axis.fill_between(cells[x], cells["low"], cells["high"], color=color, alpha=0.2, linewidth=0)
    small = {} if len(cells) <= 16 else {"markersize": 2.4, "markeredgewidth": 0}
    axis.plot(cells[x], cells[quantity], color=color, marker=marker, linestyle=line, **EDGE | small)


def heatmap(
    axis: Axes, grid: pd.DataFrame, colors, limits: tuple[float, float], labels: Sequence[str] = (), n_layers: int = 0
) -> QuadMesh:
    """Draw a table [rows, layers] as a heat map, its first row on top, with `labels` of the rows.

    Cells of up to 16 layers are divided by lines; `n_layers` counts the layers where the columns are something else.
    """
    axis.figure.set_visible(False)  # seaborn would draw all of it to see whether labels overlap
    sns.heatmap(
        grid.astype(float), ax=axis, cmap=colors, vmin=limits[0], vmax=limits[1], cbar=False,
        linewidths=0.4 if (n_layers or grid.shape[1]) <= 16 else 0, xticklabels=False, yticklabels=False,
    )
    axis.figure.set_visible(True)
    step = layer_step(grid.shape[1])
    axis.set_xticks(np.arange(0, grid.shape[1], step) + 0.5, map(str, grid.columns[::step]))
    axis.set_yticks(np.arange(len(labels)) + 0.5, labels, parse_math=False)
    axis.tick_params(length=0)
    axis.set(xlabel="", ylabel="")
    return axis.collections[0]  # pyright: ignore[reportReturnType]


def color_bar(figure: Figure, picture, axes, label: str, **options) -> None:
    """Draw a color bar without an outline, with few ticks."""
    bar = figure.colorbar(picture, ax=axes, **(dict[str, Any](pad=0.015, shrink=0.95) | options))
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()


def contribution_bar(figure: Figure, picture, axes, aspect: float = 0) -> None:
    color_bar(figure, picture, axes, CONTRIBUTION_LABEL, aspect=aspect or 9 * figure.get_figheight())


def legend(figure: Figure, handles: Sequence, columns: int = 0, **options) -> None:
    """Put one legend for all panels above them."""
    figure.legend(handles=handles, loc="outside upper center", ncols=columns or len(handles), **options)


def legend_line(label: str, look: Look) -> Line2D:
    """Return what a legend shows of a series with this look."""
    color, marker, line = look
    return Line2D([], [], color=color, marker=marker, linestyle=line, label=label, **EDGE)


def zero_line(axis: Axes) -> None:
    axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)


def shade_early(axis: Axes, n_layers: int) -> None:
    """Shade the early layers of a panel."""
    early = early_layers(n_layers)
    axis.axvspan(early.start - 0.5, early.stop - 0.5, color=SHADE, linewidth=0, zorder=-1)


def limits(frame: pd.DataFrame, quantity: str = "effect", room: float = 1.08) -> tuple[float, float]:
    """Return limits of an axis for these values and intervals: 0 is on it, and noise does not fill it."""
    drawn = frame[[quantity, "low", "high"]].to_numpy(float)
    return min(-0.05, np.nanmin(drawn) - 0.03), max(0.2, room * np.nanmax(drawn))


def layer_step(n_layers: int) -> int:
    return 1 if n_layers <= 12 else 2 if n_layers <= 16 else 4


def layer_axis(axis: Axes, n_layers: int, limits: tuple[float, float]) -> None:
    """Scale an axis to the layers, with a tick a layer while they fit, and its values to these limits."""
    axis.set(xlim=(-0.5, n_layers - 0.5), ylim=limits)
    axis.xaxis.set_major_locator(MultipleLocator(layer_step(n_layers)))


# Characters


def show_all_characters(figure: Figure) -> None:
    """Give texts with characters that their font lacks (names may be in any script) a second font that has them.

    Where no installed font has a character, the text spells it in ASCII or as its code, and a printed sentence says so.
    """
    lacking = {text: _lacking(text) for text in figure.findobj(Text)}
    fonts, left = _fonts_with(frozenset().union(*lacking.values()))
    for text, characters in lacking.items():
        if characters:
            text.set_text(_spelled(text.get_text(), left))
            text.set_fontfamily(list(dict.fromkeys((*text.get_fontfamily(), *fonts))))
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):  # an axis rewrites its labels
        if not isinstance(axis.get_major_formatter(), (FixedFormatter, FuncFormatter)):  # its labels are numbers
            continue
        labels = axis.get_ticklabels()
        if any(lacking.get(label) for label in labels):
            if left:
                axis.set_ticks(axis.get_ticklocs(), [_spelled(label.get_text(), left) for label in labels])
            axis.set_tick_params(labelfontfamily=list(dict.fromkeys((*labels[0].get_fontfamily(), *fonts))))


def _lacking(text: Text) -> frozenset[str]:
    """The characters of a text that its font does not have."""
    string = text.get_text()
    found = frozenset() if string.isascii() else _characters(font_manager.findfont(text.get_fontproperties()))
    return frozenset(one for one in string if not one.isascii() and ord(one) not in found and one.isprintable())


@cache
def _fonts_with(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of installed fonts that have these characters together, and the characters that none has."""
    names, left, fonts = [], set(characters), font_manager.fontManager.ttflist if characters else []
    for font in sorted(fonts, key=lambda one: (one.name != "DejaVu Sans", one.style != "normal", one.name)):
        usable = left and font.name not in names and not font.name.startswith(NO_TEXT_FONTS)
        has = {one for one in left if ord(one) in _characters(font.fname)} if usable else set()
        if has:
            names.append(font.name)
            left -= has
    if left:
        print(
            f"No installed font has the characters {''.join(sorted(left))}: figures write them in ASCII or as their "
            "codes. Install one that has them, such as Noto Sans CJK for Chinese, Japanese and Korean."
        )
    return tuple(names), frozenset(left)


@cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font file can draw."""
    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def _spelled(string: str, characters: frozenset[str]) -> str:
    """Return a string with these characters in ASCII: without their accents, or else as their codes."""
    for one in characters:
        plain = unicodedata.normalize("NFKD", one).encode("ascii", "ignore")
        string = string.replace(one, (plain or one.encode("ascii", "backslashreplace")).decode())
    return string
