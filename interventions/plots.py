"""Every figure, from tidy frames only: nothing here runs a model or knows where the numbers come from.

The look is the field's: green for MLPs and red for attention as in ROME's traces, constraint tokens starred,
the window named under the axis. Colour never stands alone: kinds also differ in panel, marker and line, and
the colour maps are ordered by lightness, so the figures survive colour blindness and grey print. Each
function returns a Figure; `save_figure` writes it as PNG and PDF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from .metrics import bootstrap_interval

_STYLE = {
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
_KINDS = {  # name, colour, colour map, marker, line
    "mlp": ("MLP", "#00714f", "Greens", "o", "-"),
    "attention": ("Attention", "#c8432b", "Reds", "s", "--"),
}
_PARTS = {"known": "Known", "okvqa": "OK-VQA", "movies": "Movies"}
_ROLES = {
    "visual": "visual tokens",
    "before": "question, before",
    "constraint": "visual constraint, other*",
    "constraint_last": "visual constraint, last*",
    "between": "question, after",
    "text_constraint": "text constraint, other*",
    "text_constraint_last": "text constraint, last*",
    "last": "last token",
}
_QUANTITIES = {"effect": "effect", "p_restored": "P(restored)"}
_RUNS = {  # column of TraceStudy.questions -> label and colour
    "p_clean": ("clean", "#4d4d4d"),
    "p_corrupted": ("corrupted", "#4d4d4d"),
    "p_restored_mlp": ("restored\nMLP", _KINDS["mlp"][1]),
    "p_restored_attention": ("restored\nattention", _KINDS["attention"][1]),
}
_INK, _FAINT = "#333333", "#9a9a9a"


def _styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the one style, lay out once, and leave showing the figure to whoever gets it."""

    @wraps(function)
    def draw(*arguments, **options) -> Figure:
        with plt.rc_context(_STYLE):
            figure = function(*arguments, **options)
            figure.get_layout_engine().execute(figure)
            plt.close(figure)  # a notebook shows what is returned, once
            return figure

    return draw


def window_label(window: int, window_rule: str = "centered") -> str:
    """What the layer axis means; by the scripts' rule a radius W spans 2 W + 1 layers, but W = 1 only one."""
    layers = window if window_rule == "centered" or window == 1 else 2 * window + 1
    return "layer" if layers == 1 else f"centre of window of {layers} layers"


@_styled
def effects_by_layer(
    frame: pd.DataFrame, *, window: int, window_rule: str = "centered", role: str = "constraint_last"
) -> Figure:
    """The paper's Figure 3: one column a part, one row a kind, effect by layer at one role, with intervals.

    `frame` is that of `averages.by_role_layer`: part, kind, role, layer, effect (or p_restored), low, high, n.
    """
    quantity, parts, kinds = _quantity(frame), _parts(frame), _kinds(frame)
    at_role = frame[frame["role"] == role]
    figure, axes = _grid(len(kinds), parts, height=0.7 + 1.45 * len(kinds))
    for axis, kind, part in _panels(axes, kinds, parts):
        name, colour, _, marker, line = _KINDS[kind]
        cells = at_role[(at_role["part"] == part) & (at_role["kind"] == kind)].sort_values("layer")
        layers, mean, low, high = cells[["layer", quantity, "low", "high"]].to_numpy(float).T
        axis.axhline(0, color=_FAINT, linewidth=0.6, zorder=0)
        axis.fill_between(layers, low, high, color=colour, alpha=0.22, linewidth=0)
        axis.plot(layers, mean, line, color=colour, marker=marker, markersize=3, linewidth=1.2)
        if kind == kinds[0]:
            axis.set_title(_title(part, cells["n"].max()))
        if part == parts[0]:
            axis.set_ylabel(f"{name} {_QUANTITIES[quantity]}", color=colour)
    _layer_axis(axes[0, 0], frame)
    drawn = at_role[[quantity, "low", "high"]].to_numpy(float)
    axes[0, 0].set_ylim(min(-0.05, np.nanmin(drawn) - 0.03), max(0.2, 1.08 * np.nanmax(drawn)))
    where = f"restored at: {_ROLES[role].rstrip('*')}"
    figure.supxlabel(f"{window_label(window, window_rule)}\n({where})", fontsize=8)
    return figure


@_styled
def role_layer_maps(frame: pd.DataFrame, *, window: int, window_rule: str = "centered") -> Figure:
    """Heat maps of token role x layer, one column a part and one row a kind, one scale for all of them.

    `frame` as for `effects_by_layer`. Constraint rows are starred. A role that a part lacks stays white.
    """
    quantity, parts, kinds = _quantity(frame), _parts(frame), _kinds(frame)
    roles = [role for role in _ROLES if role in set(frame["role"])]
    highest = max(0.1, frame[quantity].max())
    figure, axes = _grid(len(kinds), parts, height=0.6 + (0.35 + 0.19 * len(roles)) * len(kinds), margin=2.2)
    for axis, kind, part in _panels(axes, kinds, parts):
        cells = frame[(frame["part"] == part) & (frame["kind"] == kind)]
        grid = cells.pivot(index="role", columns="layer", values=quantity).reindex(roles).astype(float)
        picture = axis.pcolormesh(
            grid.columns, np.arange(len(roles)), grid, shading="nearest", cmap=_KINDS[kind][2], vmin=0,
            vmax=highest, edgecolors="white", linewidth=0.4 if grid.shape[1] <= 16 else 0,
        )
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if kind == kinds[0]:
            axis.set_title(_title(part, cells["n"].max()))
        if part == parts[-1]:
            bar = figure.colorbar(picture, ax=axes[kinds.index(kind)], pad=0.015, aspect=14, shrink=0.92)
            bar.set_label(f"{_KINDS[kind][0]} {_QUANTITIES[quantity]}")
            bar.outline.set_visible(False)
    axes[0, 0].set_yticks(range(len(roles)), [_ROLES[role] for role in roles])
    axes[0, 0].set_ylim(len(roles) - 0.5, -0.5)
    _layer_axis(axes[0, 0], frame)
    figure.supxlabel(window_label(window, window_rule), fontsize=8)
    return figure


@_styled
def probabilities(frame: pd.DataFrame) -> Figure:
    """P(answer) in the clean, corrupted and best restored runs: a dot a question, means with intervals.

    `frame` is that of `TraceStudy.probabilities`: id, part, run, p.
    """
    runs, parts = [run for run in _RUNS if run in set(frame["run"])], _parts(frame)
    figure, axes = _grid(1, parts, height=2.3)
    jitter = np.random.default_rng(0)
    for axis, part in zip(axes[0], parts, strict=True):
        for place, run in enumerate(runs):
            values = frame.loc[(frame["part"] == part) & (frame["run"] == run), "p"].to_numpy()
            axis.plot(
                place + jitter.uniform(-0.17, 0.17, len(values)), values, ".", color=_RUNS[run][1], alpha=0.4,
                markersize=3.5, markeredgewidth=0, zorder=1, clip_on=False,
            )
            mean, low, high = bootstrap_interval(values)
            axis.plot([place - 0.3, place + 0.3], [mean, mean], color=_INK, linewidth=1.6, zorder=3)
            axis.plot([place, place], [low, high], color=_INK, linewidth=1.0, zorder=3)
        axis.set_title(_title(part, len(values)))
        axis.set_xticks(range(len(runs)), [_RUNS[run][0] for run in runs])
        axis.set_xlim(-0.6, len(runs) - 0.4)
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[0, 0].set_ylabel("P(answer)")
    return figure


def save_figure(figure: Figure, stem: str | Path) -> Figure:
    """Write `<stem>.png` and `<stem>.pdf`; returns the figure, so that a notebook cell shows it."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(_STYLE):
        figure.savefig(stem.with_name(stem.name + ".png"), dpi=200)
        figure.savefig(stem.with_name(stem.name + ".pdf"), metadata={"CreationDate": None})
    return figure


def _quantity(frame: pd.DataFrame) -> str:
    return next(name for name in _QUANTITIES if name in frame.columns)


def _parts(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["part"]))


def _kinds(frame: pd.DataFrame) -> list[str]:
    return [kind for kind in _KINDS if kind in set(frame["kind"])]


def _grid(rows: int, parts: list[str], *, height: float, margin: float = 0.9) -> tuple[Figure, np.ndarray]:
    """Panels [rows, parts] with common axes, of a size at which the font is that of a paper's figure."""
    size = (margin + 2.0 * len(parts), height)
    return plt.subplots(rows, len(parts), figsize=size, sharex=True, sharey=True, squeeze=False)


def _panels(axes: np.ndarray, kinds: list[str], parts: list[str]) -> Iterator[tuple[Axes, str, str]]:
    for row, kind in enumerate(kinds):
        for column, part in enumerate(parts):
            yield axes[row, column], kind, part


def _title(part: str, n: float) -> str:
    return f"{_PARTS.get(part, part)}  (n = {0 if pd.isna(n) else int(n)})"


def _layer_axis(axis: Axes, frame: pd.DataFrame) -> None:
    """One tick a layer while they fit; `frame` says how many layers there are."""
    n_layers = int(frame["layer"].max()) + 1
    axis.set_xlim(-0.5, n_layers - 0.5)
    axis.xaxis.set_major_locator(MultipleLocator(1 if n_layers <= 12 else 2 if n_layers <= 16 else 4))
