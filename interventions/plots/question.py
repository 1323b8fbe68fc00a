"""Figures of single questions: token x layer maps beside the image, and the worked example."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..statistics import rows_where
from ..tracing.causal_trace import KIND_NAMES
from . import style
from .style import INK, KIND_LOOKS, PARTS, QUANTITIES, styled
from .words import CHARACTERS, LINE_HEIGHT, LOUD, show_image, token_label, wrapped, write_heading, write_lines

# Colors of values below 0, legible beside those above.
BELOW = {"mlp": "Purples", "attention": "Blues", "hidden": "Oranges"}
UNDEFINED = "#dcdcdc"  # a token without a counterpart in the corrupted question
TOKEN_HEIGHT = 0.13  # inches
RUNS = {"clean": "clean run", "corrupted": "corrupted run", "restored": "restored run"}
NOISED = {"noise": " (noise on the marked words)", "standard": " (noise on the image and the marked words)"}


@styled
def question_maps(
    sites: pd.DataFrame, questions: pd.DataFrame, images: Mapping, *, window: int, window_rule: str = "centered",
    kinds: Iterable[str] | None = None, quantity: str = "effect",
) -> Figure:
    """Draw the paper's Figures 8 to 13: a row a question, its image beside one token x layer map a kind.

    All maps share one scale, palest at 0. Constraint tokens are starred; a token without a counterpart in the
    corrupted question is gray.

    Args:
        sites: those of a `TraceStudy`.
        questions: those of the same study; questions without sites are left out.
        images: id -> PIL image, or none.
        kinds: the kinds to draw; None draws all.
        quantity: "effect" or "p_restored".
    """
    shown = questions[questions["id"].isin(set(sites["id"]))]
    kinds = [kind for kind in style.kinds_of(sites) if kinds is None or kind in kinds]
    sites = sites[sites["id"].isin(set(shown["id"])) & sites["kind"].isin(kinds)]
    n_tokens = [sites.loc[sites["id"] == name, "position"].nunique() for name in shown["id"]]
    width = 2.3 + 2.0 * len(kinds)
    headings = [_heading(question, int(CHARACTERS * width)) for question in shown.itertuples()]
    heights = [height for heading, n in zip(headings, n_tokens, strict=True)
               for height in (LINE_HEIGHT * len(heading.splitlines()), TOKEN_HEIGHT * n + 0.2)]
    figure = plt.figure(figsize=(width, sum(heights) + 0.15 * len(shown) + 0.9))
    ratios = [1.1] + [1.75] * len(kinds)
    grid = figure.add_gridspec(len(heights), 1 + len(kinds), width_ratios=ratios, height_ratios=heights)
    limits, axes = _limits(sites[quantity]), {kind: [] for kind in kinds}
    for row, question in enumerate(shown.itertuples()):
        write_heading(figure.add_subplot(grid[2 * row, 0]), headings[row])
        show_image(figure.add_subplot(grid[2 * row + 1, 0]), images.get(question.id))
        for column, kind in enumerate(kinds, start=1):
            axes[kind].append(axis := figure.add_subplot(grid[2 * row + 1, column]))
            cells = rows_where(sites, id=question.id, kind=kind)
            token_map(axis, cells, kind, quantity, limits, labels=column == 1)
    for kind in kinds:
        axes[kind][-1].set_xlabel(style.window_label(window, window_rule))
        picture, label = axes[kind][-1].collections[0], _range(kind, quantity, sites)
        pad = 0.15 / figure.get_figheight()
        style.color_bar(figure, picture, axes[kind], label, location="bottom", shrink=0.9, pad=pad, aspect=22)
    return figure


@styled
def worked_example(
    example, image=None, *, window: int, window_rule: str = "centered", quantity: str = "effect"
) -> Figure:
    """Draw the paper's Figure 2 for one real question: the questions, the runs' likeliest answers, maps of all sites.

    Args:
        example: a `WorkedExample`; its restored site is outlined.
        image: its PIL image, or none.
        quantity: "effect" or "p_restored".
    """
    kinds, n_tokens = style.kinds_of(example.sites), example.sites["position"].nunique()
    heights = [1.15, 1.25, TOKEN_HEIGHT * n_tokens + 0.3]
    figure = plt.figure(figsize=(6.8, sum(heights) + 0.9))
    rows = figure.add_gridspec(3, 1, height_ratios=heights)
    top = rows[0].subgridspec(1, 2, width_ratios=[1, 4.6])
    show_image(figure.add_subplot(top[0]), image)
    write_lines(figure.add_subplot(top[1]), _example_lines(example))
    middle, first = rows[1].subgridspec(1, len(RUNS)), None
    for place, run in enumerate(RUNS):
        first = figure.add_subplot(middle[place], sharex=first)
        _answer_bars(first, rows_where(example.answers, run=run), RUNS[run])
    bottom, limits = rows[2].subgridspec(1, len(kinds)), _limits(example.sites[quantity])
    for place, kind in enumerate(kinds):
        axis = figure.add_subplot(bottom[place])
        cells = rows_where(example.sites, kind=kind)
        picture = token_map(axis, cells, kind, quantity, limits, labels=kind == kinds[0])
        axis.set_xlabel(style.window_label(window, window_rule))
        style.color_bar(figure, picture, axis, _range(kind, quantity, cells), aspect=16, pad=0.03, shrink=1)
        if kind == example.site["kind"]:
            corner = (example.site["layer"], sorted(cells["position"].unique()).index(example.site["position"]))
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4, zorder=3))
    return figure


def token_map(
    axis: Axes, cells: pd.DataFrame, kind: str, quantity: str, limits: tuple[float, float], labels: bool = True
) -> QuadMesh:
    """Draw one question's map of one kind, with its tokens from top to bottom."""
    tokens = cells.drop_duplicates("position").sort_values("position")
    names = [token_label(*pair) for pair in zip(tokens["token"], tokens["role"], strict=True)] if labels else []
    grid = cells.pivot(index="position", columns="layer", values=quantity).sort_index()
    return style.heatmap(axis, grid, question_colors(kind, *limits), limits, names)


def question_colors(kind: str, low: float, high: float) -> Colormap:
    """Return a color map palest at 0, with the kind's colors above and others below, equally strong on both sides.

    Unlike `averages.mean_colors`, which leaves noise of means white, it shows a question as it is.
    """
    above, below, reach = colormaps[KIND_LOOKS[kind][2]], colormaps[BELOW[kind]], max(high, -low)
    values = np.linspace(low, high, 512) / reach
    fading = np.clip(values / -0.1, 0, 1)[:, None]  # from the tint of 0: there is no step just below it
    tail = fading * below(-values) + (1 - fading) * np.array(above(0.0))
    return ListedColormap(np.where(values[:, None] < 0, tail, above(values))).with_extremes(bad=UNDEFINED)


def _answer_bars(axis: Axes, answers: pd.DataFrame, name: str) -> None:
    """Draw the likeliest next tokens of a run; the answer is bold and dark, below a gap if it is not among them."""
    answers = answers.reset_index(drop=True)
    gap = (answers["rank"] > len(answers)).to_numpy() * 0.4
    places = answers.index.to_numpy() + gap
    axis.barh(places, answers["p"], color=np.where(answers["is_answer"], INK, "#b9b9b9"), height=0.72)
    for place, p, rank, apart in zip(places, answers["p"], answers["rank"], gap, strict=True):
        value = (f"{p:.2f}" if p >= 0.005 else "< 0.01") + (f"  (rank {rank})" if apart else "")
        axis.text(p + 0.02, place, value, va="center", fontsize=6.5)
    axis.set_yticks(places, map(token_label, answers["token"]), parse_math=False)
    for label, is_answer in zip(axis.get_yticklabels(), answers["is_answer"], strict=True):
        label.set_fontweight("bold" if is_answer else "normal")
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(0, 1.18), ylim=(len(answers) - 0.1, -0.6), xticks=[0, 0.5, 1], title=name, xlabel="P(next token)")


def _example_lines(example) -> list[list[tuple[str, dict]]]:
    """The questions in words, and what the restored run restores."""
    lines, faint = [], LOUD["faint"]
    names = {"clean": "Clean question", "corrupted": f"Corrupted question{NOISED.get(example.corruption, '')}"}
    for run, name in names.items():
        pieces = example.texts.loc[example.texts["run"] == run, ["text", "role"]].itertuples(index=False, name=None)
        lines += [[(name, faint)], *wrapped(pieces, 70)]
    first, last = example.site["layers"]
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    what = f"corrupted question, with the clean {KIND_NAMES[example.site['kind']]} output of {where} at "
    return [*lines, [("Restored run", faint)],
            [(what, LOUD[""]), (token_label(example.site["token"]), LOUD["constraint"])],
            [("Answer ", faint), (example.answer, LOUD["constraint"])]]


def _heading(question, characters: int) -> str:
    probabilities = f"P(clean) {question.p_clean:.2f}, P(corrupted) {question.p_corrupted:.2f}"
    lines = (f"{PARTS.get(question.part, question.part)}: {question.question}",
             f"answer: {question.answer}    {probabilities}")
    return "\n".join(textwrap.fill(line, characters) for line in lines)


def _limits(values: pd.Series) -> tuple[float, float]:
    return min(0.0, float(values.min())), max(0.1, float(values.max()))


def _range(kind: str, quantity: str, sites: pd.DataFrame) -> str:
    """The label of a color bar: how far the values of a kind go."""
    values = rows_where(sites, kind=kind)[quantity]
    low, high = (f"{round(float(value), 2) + 0.0:.2f}".replace("-", "\u2212") for value in (values.min(), values.max()))
    return f"{KIND_LOOKS[kind][0]} {QUANTITIES[quantity]}\n({low} to {high})"
