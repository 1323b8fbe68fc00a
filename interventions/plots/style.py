"""The look of every figure.

It is the field's: green for MLPs and red for attention as in ROME's traces, constraint tokens starred, the window
named under the axis. Colour never stands alone: kinds also differ in panel, marker and line, and the colour maps are
ordered by lightness, so the figures survive colour blindness and grey print.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter, MultipleLocator

from ..layers import spanned

STYLE = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text in the PDF
}
# Symbols of formulas in places of their own, and a font of boxes that say which script a character is of.
NO_TEXT_FONTS = ("cm", "STIXNonUnicode", "STIXSize", "Last Resort")
KIND_LOOKS = {  # name, colour, colour map, marker, line
    "mlp": ("MLP", "#00714f", "Greens", "o", "-"),
    "attention": ("Attention", "#c8432b", "Reds", "s", "--"),
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
INK, FAINT = "#333333", "#9a9a9a"
# Colours of Okabe and Ito, told apart by colour-blind readers too, and a grey beside them.
BLUE, VERMILION, PURPLE, SKY_BLUE, GREY = "#0072b2", "#d55e00", "#cc79a7", "#56b4e9", "#595959"
LOOKS = ((BLUE, "o", "-"), (VERMILION, "s", "--"), (GREY, "^", ":"), (PURPLE, "D", "-."))  # colour, marker, line
CONTRIBUTION_LABEL, CONTRIBUTION_COLOURS = "contribution ||a||", KIND_LOOKS["attention"][2]


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the one style, lay out once, and leave showing the figure to whoever gets it."""

    @wraps(function)
    def draw(*arguments, **options) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*arguments, **options)
            show_all_characters(figure)
            figure.get_layout_engine().execute(figure)
            plt.close(figure)  # a notebook shows what is returned, once
            return figure

    return draw


def show_all_characters(figure: Figure) -> None:
    """See to it that every character of a figure is drawn: names and questions may be in any script.

    A text whose font lacks some gets an installed font that has them beside its own. Where none has, they are written
    as their closest ASCII letters or their codes, and a printed sentence says so.
    """
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        if not isinstance(axis.get_major_formatter(), (FixedFormatter, FuncFormatter)):  # numbers
            continue
        labels = axis.get_ticklabels()
        lacking = _lacking("".join(label.get_text() for label in labels), labels)
        if lacking:
            fonts, left = _fonts_with(lacking)
            axis.set_tick_params(labelfontfamily=[*labels[0].get_fontfamily(), *fonts])
            if left:  # the text of a label is written anew by its axis
                axis.set_ticks(axis.get_ticklocs(), [_spelt(label.get_text(), left) for label in labels])
    for text in figure.findobj(Text):
        lacking = _lacking(text.get_text(), [text])
        if lacking:
            fonts, left = _fonts_with(lacking)
            text.set_text(_spelt(text.get_text(), left))
            text.set_fontfamily(list(dict.fromkeys((*text.get_fontfamily(), *fonts))))


def _lacking(string: str, texts: list[Text]) -> frozenset[str]:
    """The characters of a string that the font of these texts does not have."""
    if string.isascii() or not texts:
        return frozenset()
    found = _characters(font_manager.findfont(texts[0].get_fontproperties()))
    return frozenset(one for one in string if ord(one) not in found and one.isprintable())


@cache
def _fonts_with(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of installed fonts that have these characters together, and the characters that none has."""
    names, left = [], set(characters)
    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith(NO_TEXT_FONTS)]
    for font in sorted(fonts, key=lambda one: (one.name != "DejaVu Sans", one.style != "normal", one.name)):
        if not left:
            break
        has = {one for one in left if ord(one) in _characters(font.fname)}
        if has and font.name not in names:
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


def _spelt(string: str, characters: frozenset[str]) -> str:
    """A string with these characters in ASCII: without their accents, or else as their codes."""
    def ascii_of(one: str) -> str:
        plain = unicodedata.normalize("NFKD", one).encode("ascii", "ignore").decode()
        return plain or one.encode("ascii", "backslashreplace").decode()

    return "".join(ascii_of(one) if one in characters else one for one in string)


def window_label(window: int, window_rule: str = "centered") -> str:
    """What the layer axis means; by the scripts' rule a radius W spans 2 W + 1 layers, but W = 1 only one."""
    layers = spanned(window, window_rule)
    return "layer" if layers == 1 else f"centre of window of {layers} layers"


def save_figure(figure: Figure, stem: str | Path) -> Figure:
    """Write `<stem>.png` and `<stem>.pdf`; returns the figure, so that a notebook cell shows it."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(stem.with_name(stem.name + ".png"), dpi=200)
        figure.savefig(stem.with_name(stem.name + ".pdf"), metadata={"CreationDate": None})
    return figure


def quantity_of(frame: pd.DataFrame) -> str:
    return next(name for name in QUANTITIES if name in frame.columns)


def parts_of(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["part"]))


def kinds_of(frame: pd.DataFrame) -> list[str]:
    return [kind for kind in KIND_LOOKS if kind in set(frame["kind"])]


def panel_grid(rows: int, parts: list[str], *, height: float, margin: float = 0.9) -> tuple[Figure, np.ndarray]:
    """Panels [rows, parts] with common axes, of a size at which the font is that of a paper's figure."""
    size = (margin + 2.0 * len(parts), height)
    return plt.subplots(rows, len(parts), figsize=size, sharex=True, sharey=True, squeeze=False)


def panels(axes: np.ndarray, kinds: list[str], parts: list[str]) -> Iterator[tuple[Axes, str, str]]:
    for row, kind in enumerate(kinds):
        for column, part in enumerate(parts):
            yield axes[row, column], kind, part


def title(part: str, n: float) -> str:
    return f"{PARTS.get(part, part)}  (n = {0 if pd.isna(n) else int(n)})"


def line_with_band(
    axis: Axes, cells: pd.DataFrame, look: tuple[str, str, str], *, alpha: float, quantity: str = "effect"
) -> None:
    """Means by layer as a line, intervals as a band. look: colour, marker and line."""
    layers, mean, low, high = cells.sort_values("layer")[["layer", quantity, "low", "high"]].to_numpy(float).T
    colour, marker, line = look
    axis.fill_between(layers, low, high, color=colour, alpha=alpha, linewidth=0)
    axis.plot(layers, mean, line, color=colour, marker=marker, markersize=3, linewidth=1.2)


def limits(frame: pd.DataFrame, quantity: str = "effect", room: float = 1.08) -> tuple[float, float]:
    """Of an axis on which these values and intervals are drawn: 0 is on it, and noise does not fill it."""
    drawn = frame[[quantity, "low", "high"]].to_numpy(float)
    return min(-0.05, np.nanmin(drawn) - 0.03), max(0.2, room * np.nanmax(drawn))


def layer_axis(axis: Axes, frame: pd.DataFrame) -> None:
    """One tick a layer while they fit; `frame` says how many layers there are."""
    n_layers = int(frame["layer"].max()) + 1
    axis.set_xlim(-0.5, n_layers - 0.5)
    axis.xaxis.set_major_locator(MultipleLocator(1 if n_layers <= 12 else 2 if n_layers <= 16 else 4))


def legend_line(label: str, look: tuple[str, str, str]) -> Line2D:
    """What a legend shows of a series that is drawn with this colour, marker and line."""
    colour, marker, line = look
    return Line2D([], [], color=colour, marker=marker, linestyle=line, markersize=3.5, linewidth=1.2, label=label)


def nothing_to_show(why: str) -> Figure:
    """A figure that says so: a small sample may leave nothing to draw, and the report goes on."""
    figure, axis = plt.subplots(figsize=(3.5, 0.5))
    axis.set_axis_off()
    figure.text(0.5, 0.5, f"nothing to show: {why}", ha="center", va="center", color=INK)
    return figure


def arrow(flow: str) -> str:
    return flow.replace("->", "\u2192")


def contribution_bar(figure: Figure, picture, axes) -> None:
    bar = figure.colorbar(picture, ax=axes, pad=0.015, aspect=9 * figure.get_figheight(), shrink=0.95)
    bar.set_label(CONTRIBUTION_LABEL)
    bar.outline.set_visible(False)
