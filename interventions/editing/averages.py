"""Averages of edits over items, by method and by layer, and the examples that Figure 18 shows (paper, section 5).

They read `EditStudy.results`. The unit is the edited item: intervals are bootstraps over items, and methods are
compared on the same items. An item without a metric (without paraphrases, say) does not count for it; n is how many do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from ..draws import sample
from ..errors import EditError
from ..layers import early_layers, layer_range
from ..statistics import bootstrap_interval, joined
from ..testbed import Item
from ..testbed.phrases import question_pieces
from .items import TASKS
from .study import EDIT_METHODS, OURS

PROBABILITIES = {"efficacy": "p_target", "exact": "exact", "generalisation": "p_paraphrase", "pictures": "p_pictures",
                 "following": "p_following"}
PRODUCT, GAIN = "efficacy x generalisation", "gain"
PAPER = {  # LLaVA-1.5-7B: (task, method, metric) -> value; specificity in points of 100
    ("correct", "no edit", "efficacy"): 0.07,
    ("correct", OURS, "efficacy"): 0.82, ("correct", OURS, "generalisation"): 0.76,
    ("correct", OURS, "specificity"): -1.5,
    ("insert", OURS, "efficacy"): 0.83, ("insert", OURS, "generalisation"): 0.79, ("insert", OURS, "specificity"): -1.4,
}


def method_means(results: pd.DataFrame) -> pd.DataFrame:
    """Average what each method achieves (Figure 6), from `EditStudy.results`.

    Returns:
        Columns task, method, metric, value, low, high, n. A metric that no item has is NaN with n = 0. Metrics:
            efficacy: P(O*) of the edited question;
            exact: the share of answers that are O*;
            generalisation, pictures, following: P(O*) over those questions;
            efficacy x generalisation: their product, item by item;
            specificity: VQA accuracy on unrelated questions after minus before the edit, in points of 100;
            kl: in nats.
    """
    return _means(results, "method", known_first(results["method"], EDIT_METHODS))


def layer_means(by_layer: pd.DataFrame) -> pd.DataFrame:
    """Average what MultEdit achieves in each layer (Figure 14), from the results of `edit_every_layer`.

    Returns the columns and metrics of `method_means`, with layer for method, and gain: efficacy minus P(O*) before.
    """
    edited = by_layer[by_layer["layer"] >= 0]
    return _means(edited, "layer", sorted(map(int, set(edited["layer"]))), _values_and_gain)


def method_differences(results: pd.DataFrame, than: str = OURS) -> pd.DataFrame:
    """Subtract the method `than` from every other method, over the same items.

    Returns:
        Columns task, method, metric, difference, low, high, n (items that have the metric with both methods).

    Raises:
        EditError: `than` is no method.
    """
    known = known_first(results["method"], EDIT_METHODS)
    if than not in {*known, *EDIT_METHODS}:
        raise EditError(f"than must be a method ({', '.join(map(repr, EDIT_METHODS))}), not {than!r}.")
    frames = []
    for task in known_first(results["task"], TASKS):
        rows = results[results["task"] == task]
        values = {method: _values(rows[rows["method"] == method]) for method in known}
        for method in known:
            if method != than and len(values[method]) and len(values.get(than, ())):
                paired = values[method] - values[than]  # by id; an item that one of them lacks is NaN
                intervals = _intervals(paired).rename(columns={"value": "difference"})
                frames.append(intervals.assign(task=task, method=method))
    columns = ["task", "method", "metric", "difference", "low", "high", "n"]
    return joined(frames, columns)


def early_advantage(by_layer: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """Compare efficacy in early layers (`early_layers`) with the others, by task.

    `by_layer` are the results of `edit_every_layer`. The last layer is left out: no later token reads an edit there.
    Items that have every other layer count.

    Returns:
        Columns task, early_layers (their range), early, others (mean efficacy), difference, low, high (within items),
        gain, gain_low, gain_high (efficacy minus P(O*) before, over the other layers), n.
    """
    columns = ["task", "early_layers", "early", "others", "difference", "low", "high", "gain", "gain_low", "gain_high",
               "n"]
    rows, early = [], early_layers(n_layers)
    edited = by_layer[by_layer["layer"].between(0, n_layers - 2)]
    for task in known_first(edited["task"], TASKS):
        cells = edited[edited["task"] == task]
        values = _values_and_gain(cells).set_index(cells["layer"].to_numpy(int), append=True)
        table = values[["efficacy", GAIN]].unstack().dropna()  # [items, (metric, layer)]
        efficacy, gains = table["efficacy"], table[GAIN]
        is_early = efficacy.columns.isin(early)
        if efficacy.empty or is_early.all() or not is_early.any():
            continue
        means = efficacy.loc[:, is_early].mean(axis=1), efficacy.loc[:, ~is_early].mean(axis=1)
        difference = bootstrap_interval((means[0] - means[1]).to_numpy())
        gain = bootstrap_interval(gains.loc[:, ~is_early].mean(axis=1).to_numpy())
        rows.append((task, layer_range(early), means[0].mean(), means[1].mean(), *difference, *gain, len(efficacy)))
    return pd.DataFrame(rows, columns=columns)


def edit_examples(
    results: pd.DataFrame, items: Iterable[Item] = (), *, task: str = "insert", n: int = 4, seed: int = 0
) -> pd.DataFrame:
    """Sample MultEdit's edits of single items to show (Figure 18), by a hash of seed and id.

    Returns columns id, task, question, pieces (see `question_pieces`; the marks come from `items`, the test bed),
    target, before, after, exact, p_before, p_target.
    """
    rows = results[(results["task"] == task) & (results["method"] == OURS)].astype({"id": str})
    chosen = sample(rows["id"], n, seed)
    shown = rows.set_index("id", drop=False).loc[chosen].reset_index(drop=True)
    marked = {item.id: question_pieces(item) for item in items if item.id in set(chosen)}
    pieces = [marked.get(row.id, [(row.question, "")]) for row in shown.itertuples()]
    shown = shown.assign(pieces=pd.Series(pieces, dtype=object))
    return shown[["id", "task", "question", "pieces", "target", "before", "after", "exact", "p_before", "p_target"]]


def _means(frame: pd.DataFrame, key: str, groups: list, values: Callable | None = None) -> pd.DataFrame:
    frames = []
    for task in known_first(frame["task"], TASKS):
        rows = frame[frame["task"] == task]
        for group in groups:
            chosen = rows[rows[key] == group]
            if len(chosen):
                frames.append(_intervals((values or _values)(chosen)).assign(**{"task": task, key: group}))
    columns = ["task", key, "metric", "value", "low", "high", "n"]
    return joined(frames, columns)


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """[items, metrics], NaN where a row lacks a metric; index id."""
    values = {metric: _column(rows, name) for metric, name in PROBABILITIES.items()}
    values[PRODUCT] = values["efficacy"] * values["generalisation"]
    values["specificity"] = 100 * (_column(rows, "accuracy_after") - _column(rows, "accuracy_before"))
    return pd.DataFrame(values | {"kl": _column(rows, "kl")}, index=rows["id"].astype(str))


def _values_and_gain(rows: pd.DataFrame) -> pd.DataFrame:
    values = _values(rows)
    return values.assign(**{GAIN: values["efficacy"] - _column(rows, "p_before")})


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    return rows[name].to_numpy(float, na_value=np.nan)  # None too is a missing value


def _intervals(values: pd.DataFrame) -> pd.DataFrame:
    """metric, value, low, high, n of values [items, metrics]."""
    rows = []
    for metric, found in values.items():
        found = found.dropna().to_numpy(float)
        value, low, high = map(float, bootstrap_interval(found)) if len(found) else (np.nan,) * 3
        rows.append({"metric": metric, "value": value, "low": low, "high": high, "n": len(found)})
    return pd.DataFrame(rows)


def known_first(names: pd.Series, known: tuple[str, ...]) -> list[str]:
    """The names there are: known ones in their order, then the others."""
    found = list(dict.fromkeys(names))
    return [name for name in known if name in found] + [name for name in found if name not in known]
