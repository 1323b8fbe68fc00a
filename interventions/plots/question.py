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
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..tracing.causal_trace import KIND_NAMES
from .style import FAINT, INK, KIND_LOOKS, PARTS, QUANTITIES, kinds_of, layer_axis, styled, window_label
from .words import CHARACTERS, LINE_HEIGHT, LOUD, show_image, token_label, wrapped, write_heading, write_lines

BELOW = {"mlp": "Purples", "attention": "Blues"}  # colours of values below 0; with those above, maps that all can read
UNDEFINED = "#dcdcdc"  # a token without a counterpart in the corrupted question
TOKEN_HEIGHT = 0.125  # inches
RUNS = {"clean": "clean run", "corrupted": "corrupted run", "restored": "restored run"}
NOISED = {"noise": " (noise on the marked words)", "standard": " (noise on the image and the marked words)"}


@styled
def question_maps(
    sites: pd.DataFrame, questions: pd.DataFrame, images: Mapping, *, window: int, window_rule: str = "centered",
    kinds: Iterable[str] | None = None, quantity: str = "effect",
) -> Figure:
    """Figures 8 to 13 of the paper: a row a question, its image beside one token x layer map a kind.

    sites, questions: those of a `TraceStudy`; questions without sites are left out. images: id -> PIL image, or none.
    quantity: "effect" or "p_restored". All maps share one scale, palest at 0; the colour bars say how far it goes.
    Constraint tokens are starred. A clean token that stands for nothing in the corrupted question is grey.
    """
    shown = questions[questions["id"].isin(set(sites["id"]))]
    kinds = [kind for kind in kinds_of(sites) if kinds is None or kind in kinds]
    sites = sites[sites["id"].isin(set(shown["id"])) & sites["kind"].isin(kinds)]
    n_tokens = [sites.loc[sites["id"] == name, "position"].nunique() for name in shown["id"]]
    width = 2.3 + 2.0 * len(kinds)
    headings = [_heading(question, int(CHARACTERS * width)) for question in shown.itertuples()]
    heights = [height for heading, n in zip(headings, n_tokens, strict=True)
               for height in (LINE_HEIGHT * len(heading.splitlines()), TOKEN_HEIGHT * n + 0.2)]
    figure = plt.figure(figsize=(width, sum(heights) + 0.15 * len(shown) + 0.9))
    grid = figure.add_gridspec(
        len(heights), 1 + len(kinds), width_ratios=[1.1] + [1.75] * len(kinds), height_ratios=heights
    )
    limits, axes = _limits(sites[quantity]), {kind: [] for kind in kinds}
    for row, question in enumerate(shown.itertuples()):
        write_heading(figure.add_subplot(grid[2 * row, 0]), headings[row])
        show_image(figure.add_subplot(grid[2 * row + 1, 0]), images.get(question.id))
        for column, kind in enumerate(kinds, start=1):
            axis = figure.add_subplot(grid[2 * row + 1, column])
            cells = sites[(sites["id"] == question.id) & (sites["kind"] == kind)]
            token_map(axis, cells, kind, quantity, limits, labels=column == 1)
            axes[kind].append(axis)
    for kind in kinds:
        axes[kind][-1].set_xlabel(window_label(window, window_rule))
        picture = axes[kind][-1].collections[0]
        pad = 0.15 / figure.get_figheight()
        bar = figure.colorbar(picture, ax=axes[kind], location="bottom", shrink=0.9, pad=pad, aspect=22)
        _name_bar(bar, kind, quantity, sites.loc[sites["kind"] == kind, quantity])
    return figure


@styled
def worked_example(
    example, image=None, *, window: int, window_rule: str = "centered", quantity: str = "effect"
) -> Figure:
    """The paper's Figure 2 on one real question, from an `example.WorkedExample` and its image.

    On top the image, the clean and the corrupted question; then the likeliest answers of the three runs; then the maps
    of all sites, in which the restored site is outlined.
    """
    kinds, n_tokens = kinds_of(example.sites), example.sites["position"].nunique()
    heights = [1.15, 1.25, TOKEN_HEIGHT * n_tokens + 0.3]
    figure = plt.figure(figsize=(6.8, sum(heights) + 0.9))
    rows = figure.add_gridspec(3, 1, height_ratios=heights)
    top = rows[0].subgridspec(1, 2, width_ratios=[1, 4.6])
    show_image(figure.add_subplot(top[0]), image)
    _tell(figure.add_subplot(top[1]), example)
    middle, first = rows[1].subgridspec(1, len(RUNS)), None
    for place, run in enumerate(RUNS):
        first = figure.add_subplot(middle[place], sharex=first)
        answer_bars(first, example.answers[example.answers["run"] == run], RUNS[run])
    bottom, limits = rows[2].subgridspec(1, len(kinds)), _limits(example.sites[quantity])
    for place, kind in enumerate(kinds):
        axis = figure.add_subplot(bottom[place])
        cells = example.sites[example.sites["kind"] == kind]
        picture = token_map(axis, cells, kind, quantity, limits, labels=kind == kinds[0])
        axis.set_xlabel(window_label(window, window_rule))
        bar = figure.colorbar(picture, ax=axis, location="right", aspect=16, pad=0.03)
        _name_bar(bar, kind, quantity, cells[quantity])
        if kind == example.site["kind"]:
            at = sorted(cells["position"].unique()).index(example.site["position"])
            corner = (example.site["layer"] - 0.5, at - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4, zorder=3))
    return figure


def token_map(
    axis: Axes, cells: pd.DataFrame, kind: str, quantity: str, limits: tuple[float, float], labels: bool = True
) -> QuadMesh:
    """One question's map of one kind, tokens from top to bottom as they are read."""
    grid = cells.pivot(index="position", columns="layer", values=quantity).sort_index().astype(float)
    picture = axis.pcolormesh(
        grid.columns, np.arange(len(grid)), np.ma.masked_invalid(grid), shading="nearest",
        cmap=question_colours(kind, *limits), vmin=limits[0], vmax=limits[1], edgecolors="white",
        linewidth=0.4 if grid.shape[1] <= 16 else 0,
    )
    tokens = cells.drop_duplicates("position").sort_values("position")
    names = [token_label(*pair) for pair in zip(tokens["token"], tokens["role"], strict=True)] if labels else []
    axis.set_yticks(range(len(grid)) if labels else [], names, parse_math=False)
    axis.set_ylim(len(grid) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    layer_axis(axis, cells)
    return picture


def question_colours(kind: str, low: float, high: float) -> ListedColormap:
    """Palest at 0, the kind's colours above and another below it, equally strong at equal distances.

    Unlike `averages.mean_colours`, which leaves noise of means white: one question is shown as it is."""
    above, below, reach = colormaps[KIND_LOOKS[kind][2]], colormaps[BELOW[kind]], max(high, -low)
    values = np.linspace(low, high, 512) / reach
    fading = np.clip(values / -0.1, 0, 1)[:, None]  # from the tint of 0, or a hair's breadth below it would be a step
    tail = fading * below(-values) + (1 - fading) * np.array(above(0.0))
    return ListedColormap(np.where(values[:, None] < 0, tail, above(values))).with_extremes(bad=UNDEFINED)


def answer_bars(axis: Axes, answers: pd.DataFrame, name: str) -> None:
    """The likeliest next tokens of a run; the answer's is bold and dark, and below a gap if it is not among them."""
    answers = answers.reset_index(drop=True)
    gap = (answers["rank"] > len(answers)).to_numpy() * 0.4
    places = answers.index.to_numpy() + gap
    colours = np.where(answers["is_answer"], INK, "#b9b9b9")
    axis.barh(places, answers["p"], color=colours, height=0.72)
    for place, p, rank, apart in zip(places, answers["p"], answers["rank"], gap, strict=True):
        value = (f"{p:.2f}" if p >= 0.005 else "< 0.01") + (f"  (rank {rank})" if apart else "")
        axis.text(p + 0.02, place, value, va="center", fontsize=6.5, color=INK)
    axis.set_yticks(places, map(token_label, answers["token"]), parse_math=False)
    for label, is_answer in zip(axis.get_yticklabels(), answers["is_answer"], strict=True):
        label.set_weight("bold" if is_answer else "normal")
    axis.set_ylim(len(answers) - 0.1, -0.6)
    axis.set_xlim(0, 1.18)
    axis.set_xticks([0, 0.5, 1])
    axis.tick_params(axis="y", length=0)
    axis.set_title(name)
    axis.set_xlabel("P(next token)")


def _tell(axis: Axes, example) -> None:
    """The questions in words, and what the restored run restores."""
    lines, faint = [], {"color": FAINT}
    names = {"clean": "Clean question", "corrupted": f"Corrupted question{NOISED.get(example.corruption, '')}"}
    for run, name in names.items():
        pieces = example.texts.loc[example.texts["run"] == run, ["text", "role"]].itertuples(index=False, name=None)
        lines += [[(name, faint)], *wrapped(pieces, 70)]
    first, last = example.site["layers"]
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    lines += [
        [("Restored run", faint)],
        [(f"corrupted question, with the clean {KIND_NAMES[example.site['kind']]} output of {where} at ", LOUD[""]),
         (token_label(example.site["token"]), LOUD["constraint"])],
        [("Answer ", faint), (example.answer, LOUD["constraint"])],
    ]
    write_lines(axis, lines)


def _heading(question, characters: int) -> str:
    probabilities = f"P(clean) {question.p_clean:.2f}, P(corrupted) {question.p_corrupted:.2f}"
    told = (f"{PARTS.get(question.part, question.part)}: {question.question}",
            f"answer: {question.answer}    {probabilities}")
    return "\n".join(textwrap.fill(line, characters) for line in told)


def _limits(values: pd.Series) -> tuple[float, float]:
    return min(0.0, float(values.min())), max(0.1, float(values.max()))


def _name_bar(bar, kind: str, quantity: str, values: pd.Series) -> None:
    bar.set_label(f"{KIND_LOOKS[kind][0]} {QUANTITIES[quantity]}\n({_signed(values.min())} to {_signed(values.max())})")
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    bar.outline.set_visible(False)


def _signed(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "\u2212")
