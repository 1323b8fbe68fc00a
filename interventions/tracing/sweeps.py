"""Comparisons of traces at several windows, of several models or under several corruptions.

A *sweep* holds one study per window, `{window: TraceStudy}`. Named sweeps, `{series: sweep}`, are compared by their
effects at the token that each study reads, on the questions that all of them used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ..errors import ParameterError
from ..models.model import VisionLanguageModel
from ..statistics import NEGLIGIBLE, bootstrap_interval
from ..studies.conditions import Conditions
from ..studies.loop import DEFAULT_RUN, RunOptions
from ..testbed import Item
from .averages import (
    by_layer,
    by_part_and_kind,
    effects_at,
    on_common_questions,
    peak_layers,
    smallest_window,
    window_effects,
)
from .study import TraceStudy, trace_study

Sweep = Mapping[int, TraceStudy]
Sweeps = Mapping[str, Sweep]


def trace_windows(
    model: VisionLanguageModel, testbed: Iterable[Item], windows: Iterable[int], *, run: RunOptions = DEFAULT_RUN,
    **options
) -> Sweep:
    """Run `trace_study` at every window, only for the token that is read; options are those of `trace_study`."""
    items = list(testbed)
    return {
        window: trace_study(
            model, items, window=window, only_read=True, run=replace(run, label=f"window {window}"), **options
        )
        for window in windows
    }


def trace_models(
    model: VisionLanguageModel, text_models: Mapping[str, VisionLanguageModel], testbed: Iterable[Item], *,
    conditions: Conditions, noise: Conditions, **options
) -> Sweeps:
    """Run `trace_windows` on a multimodal model and on text-only ones, these with noise in place of a replacement, too.

    Args:
        model: the series "multimodal".
        text_models: {series: text-only model}. With noise, the series ends with ", noise".
        testbed: the items.
        conditions: those of the figure.
        noise: those of the further runs of the text-only models.
        options: those of `trace_windows`.

    Returns:
        The sweeps, the multimodal model's first.
    """
    sweeps = {"multimodal": trace_windows(model, testbed, conditions=conditions, **options)}
    for series, text_model in text_models.items():
        sweeps[series] = trace_windows(text_model, testbed, conditions=conditions, **options)
        sweeps[f"{series}, noise"] = trace_windows(text_model, testbed, conditions=noise, **options)
    return sweeps


def on_common(sweeps: Sweeps) -> Sweeps:
    """Return the sweeps, restricted to the questions that all studies used; ParameterError if there is none."""
    places = [(name, window) for name, sweep in sweeps.items() for window in sweep]
    common = on_common_questions(*(sweeps[name][window] for name, window in places))
    if common[0].questions.empty:
        raise ParameterError(
            f"Parameter 'limit': no question could be used by all of {', '.join(map(repr, sweeps))}: choose a larger "
            "limit."
        )
    restricted = {name: {} for name in sweeps}
    for (name, window), study in zip(places, common, strict=True):
        restricted[name][window] = study
    return restricted


def summaries(sweeps: Sweeps) -> pd.DataFrame:
    """Return `TraceStudy.summary` of each series, with the number of questions that all series used (compared).

    The window does not decide whether a question is used, so the first window stands for all.
    """
    common = next(iter(next(iter(on_common(sweeps).values())).values())).questions["part"].value_counts()
    frames = []
    for name, sweep in sweeps.items():
        summary = next(iter(sweep.values())).summary()
        summary.insert(0, "series", name)
        summary.insert(4, "compared", summary["part"].map(common).fillna(0).astype(int))
        frames.append(summary)
    return pd.concat(frames, ignore_index=True)


def series_by_layer(sweeps: Sweeps) -> pd.DataFrame:
    """Return mean effects by layer. Columns series, window, part, kind, layer, effect, low, high, n."""
    return _each(sweeps, by_layer)


def series_peaks(sweeps: Sweeps) -> pd.DataFrame:
    """Return the best layer of each question. Columns series, window, id, part, kind, layer, effect."""
    return _each(sweeps, peak_layers)


def series_windows(sweeps: Sweeps) -> pd.DataFrame:
    """Return `window_effects` of each series. Columns series, window, part, kind, layer, effect, low, high, n."""
    frames = [window_effects(sweep).assign(series=name) for name, sweep in sweeps.items()]
    found = pd.concat(frames, ignore_index=True)
    return found[["series", *found.columns.drop("series")]]


def smallest_windows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the smallest windows whose intervals lie above 0 and above NEGLIGIBLE; `frame` is from `series_windows`.

    Columns series, part, kind, above 0, above 0.01 (text: a window, or "none").
    """
    def smallest(cells: pd.DataFrame, least: float) -> str:
        window = smallest_window(cells, least)["window"].iloc[0]
        return "none" if np.isnan(window) else f"{window:.0f}"

    rows = [
        {"series": series, "part": part, "kind": kind, "above 0": smallest(cells, 0),
         f"above {NEGLIGIBLE}": smallest(cells, NEGLIGIBLE)}
        for (series, part, kind), cells in frame.groupby(["series", "part", "kind"], sort=False)
    ]
    return pd.DataFrame(rows)


def paired_bests(one: TraceStudy, other: TraceStudy) -> pd.DataFrame:
    """Compare the best layers of two studies on the questions that both used.

    Columns part, kind, n; layer, effect, recovered (effect divided by what the corruption took), and the same as
    other_*; difference (first minus other effect), low, high; recovered_difference, recovered_low, recovered_high.
    """
    studies, rows = on_common_questions(one, other), []
    for part, kind, own in by_part_and_kind(studies[0]):
        tables = own, effects_at(studies[1].sites, part, kind)
        both = tables[0].index.intersection(tables[1].index)
        if both.empty:
            continue
        row, columns = {"part": part, "kind": kind, "n": len(both)}, []
        for prefix, study, table in zip(("", "other_"), studies, tables, strict=True):
            layer = table.loc[both].mean().idxmax()
            questions = study.questions.set_index("id").loc[list(both)]
            effect, taken = table.loc[both, layer], questions["p_clean"] - questions["p_corrupted"]
            row |= {f"{prefix}layer": int(layer), f"{prefix}effect": effect.mean(),
                    f"{prefix}recovered": effect.mean() / taken.mean()}
            columns += [effect.to_numpy(float), taken.to_numpy(float)]
        row |= dict(zip(("difference", "low", "high"), bootstrap_interval(columns[0] - columns[2]), strict=True))
        shares = bootstrap_interval(np.stack(columns, axis=1), _share_difference)
        row |= dict(zip(("recovered_difference", "recovered_low", "recovered_high"), shares, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _share_difference(values: np.ndarray, axis: int = 0) -> float:
    """Return the difference of recovered shares; values [questions, (effect, taken, other effect, other taken)]."""
    effect, taken, other_effect, other_taken = values.mean(axis)
    return effect / taken - other_effect / other_taken


def _each(sweeps: Sweeps, function: Callable[[TraceStudy], pd.DataFrame]) -> pd.DataFrame:
    frames = []
    for name, sweep in sweeps.items():
        for window, study in sweep.items():
            found = function(study)
            found.insert(0, "series", name)
            found.insert(1, "window", window)
            frames.append(found)
    return pd.concat(frames, ignore_index=True)
