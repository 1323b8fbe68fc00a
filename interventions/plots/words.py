"""Words and images in panels: tokens, questions with their constraints marked, lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker

from .style import FAINT, INK

LINE_HEIGHT = 0.15  # inches
CHARACTERS = 16  # an inch of text at the size of a title
LOUD = {"": {"color": INK}, "constraint": {"color": INK, "weight": "bold"},
        "text_constraint": {"color": INK, "weight": "bold", "style": "italic"}, "faint": {"color": FAINT}}


def token_label(token: str, role: str = "", longest: int = 16) -> str:
    """Return the label of a token: outer spaces are cut, invisible characters are signs, constraints are starred."""
    if role == "visual":
        return "last visual token"
    text = token.replace("\n", "\u21b5").replace("\t", "\u21e5").strip(" ") or "\u2423"
    text = text if len(text) <= longest else f"{text[: longest - 1]}\u2026"
    return f"{text}*" if "constraint" in role else text


def show_image(axis: Axes, image) -> None:
    """Show a PIL image at the upper left of a panel, or nothing if it is None."""
    axis.set_axis_off()
    if image is not None:
        axis.imshow(image)
        axis.set_anchor("NW")


def write_heading(axis: Axes, text: str) -> None:
    """Write a text above a panel without widening its column, as a title would."""
    axis.set_axis_off()
    axis.text(0, -0.2, text, fontsize=8, va="bottom", parse_math=False, in_layout=False)


def write_lines(axis: Axes, lines: Iterable[Iterable[tuple[str, dict]]], size: float = 8, gap: float = 3) -> None:
    """Write lines of pieces (text, font properties) from the upper left corner of a panel."""
    rows: list[Artist] = [
        HPacker(children=[TextArea(text, textprops={"size": size, "parse_math": False} | look) for text, look in line],
                pad=0, sep=0, align="baseline")
        for line in lines
    ]
    box = AnchoredOffsetbox(
        "upper left", child=VPacker(children=rows, pad=0, sep=gap, align="left"), frameon=False, pad=0, borderpad=0,
        bbox_to_anchor=(0, 1), bbox_transform=axis.transAxes,
    )
    box.set_in_layout(False)
    axis.add_artist(box)
    axis.set_axis_off()


def wrapped(pieces: Iterable[tuple[str, str]], characters: int) -> list[list[tuple[str, dict]]]:
    """Break a question of pieces (text, role) between words into lines of pieces (text, font properties)."""
    letters = [(" " if letter.isspace() else letter, role) for text, role in pieces for letter in text]
    text, lines, end = "".join(letter for letter, _ in letters), [], 0
    for line in textwrap.wrap(text, characters, break_long_words=False, break_on_hyphens=False):
        begin = text.index(line, end)
        end, runs = begin + len(line), []
        for letter, role in letters[begin:end]:
            if runs and runs[-1][1] == role:
                runs[-1][0] += letter
            else:
                runs.append([letter, role])
        lines.append([(run, LOUD[role]) for run, role in runs])
    return lines
