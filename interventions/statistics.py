"""Intervals and tests over questions: bootstraps, AUROC and sign flips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVEL = 0.05
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Number:
    """A value over `n` questions and its interval; `low` and `high` are NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:z.2f}, {self.high:z.2f}]"
        return f"{self.value:z.2f}{interval}"  # z: no -0.00


# Intervals


def bootstrap_counts(q: int, n: int = 2000, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Return how often each of q questions is drawn in each of n resamples, [n, q]."""
    samples = np.random.default_rng(seed).integers(q, size=(n, q))
    return np.bincount((samples + q * np.arange(n)[:, None]).ravel(), minlength=n * q).reshape(n, q)


def bootstrap_interval(
    values: Iterable | np.ndarray, statistic: Callable[..., np.ndarray | float] = np.mean, n: int = 2000,
    seed: int = 0, level: float = 0.95,
) -> tuple:
    """Return (value, low, high): a statistic over questions and its percentile bootstrap interval.

    Args:
        values: [questions] or [questions, ...]; a question's values are resampled together.
        statistic: takes an array and an axis, such as `np.mean`.

    Returns:
        Floats, or arrays [...]. low and high are NaN for one question; all three are NaN for none.
    """
    values = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("values must not contain NaN: drop the questions that lack the site first.")
    if len(values) == 0:
        missing = np.full(values.shape[1:], np.nan)[()]
        return missing, missing, missing
    value = statistic(values, axis=0)
    if len(values) == 1:
        missing = np.full(np.shape(value), np.nan)[()]  # a statistic may make one number of a whole row
        return value, missing, missing
    q = len(values)
    if statistic is np.mean:  # a matrix product: seconds instead of minutes for many sites
        replicas = np.tensordot(bootstrap_counts(q, n, seed) / q, values, axes=1)  # [n, ...]
    else:
        samples = np.random.default_rng(seed).integers(q, size=(n, q))
        replicas = np.stack([statistic(values[sample], axis=0) for sample in samples])
    return value, *_percentiles(replicas, level)


def means_by_layer(values: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return means over questions of values [questions, layers]. Columns layer, <name>, low, high, n."""
    mean, low, high = bootstrap_interval(values.to_numpy(float))
    return pd.DataFrame({"layer": values.columns.astype(int), name: mean, "low": low, "high": high, "n": len(values)})


def best_layer(values: pd.DataFrame, name: str) -> dict:
    """Return the layer of the largest mean of values [questions, layers], with its `simultaneous_interval`."""
    mean, low, high = simultaneous_interval(values.to_numpy(float))
    best = int(np.argmax(mean))
    return {"layer": int(values.columns[best]), name: mean[best], "low": low[best], "high": high[best],
            "n": len(values)}


def auroc(scores: Iterable, labels: Iterable, n: int = 2000, seed: int = 0, level: float = 0.95) -> tuple:
    """Return (value, low, high): the area under the ROC curve and its percentile bootstrap interval over questions.

    A higher score expects a label of 1 (True). The area is the probability that a question of label 1 has the higher
    score; ties count half. Resamples with only one label are dropped; all three are NaN if the questions have only one.
    If the scores separate the labels perfectly, the interval is a point, even for few questions.
    """
    labels = _checked_labels(labels)
    return _with_interval(_aurocs(_checked_scores("scores", scores, labels), labels, n, seed), level)


def paired_auroc_difference(
    scores_a: Iterable, scores_b: Iterable, labels: Iterable, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple:
    """Return (value, low, high) of AUROC of scores_a minus that of scores_b, on the same resamples; see `auroc`."""
    labels = _checked_labels(labels)
    a, b = (
        _aurocs(_checked_scores(name, scores, labels), labels, n, seed)
        for name, scores in (("scores_a", scores_a), ("scores_b", scores_b))
    )
    return _with_interval(a - b, level)


def _aurocs(scores: np.ndarray, labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return areas [1 + n]: of the questions, then of n resamples; NaN if there is only one label."""
    values, rank = np.unique(scores, return_inverse=True)
    if len(values) == 0 or labels.all() or not labels.any():
        return np.full(1 + n, np.nan)
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(len(values)))  # of the runs of equal scores
    areas = []
    for counts in (np.ones((1, len(scores)), int), *np.array_split(bootstrap_counts(len(scores), n, seed), 20)):
        ones, zeros = (
            np.add.reduceat((counts * chosen)[:, order], starts, axis=1, dtype=float) for chosen in (labels, ~labels)
        )  # [resamples, different scores]
        below = zeros.cumsum(1) - zeros / 2
        with np.errstate(invalid="ignore"):
            areas.append((ones * below).sum(1) / (ones.sum(1) * zeros.sum(1)))
    return np.concatenate(areas)


def _with_interval(values: np.ndarray, level: float) -> tuple:
    """Return (value, low, high) of values [1 + n]; resamples that are NaN are dropped."""
    found = values[1:][~np.isnan(values[1:])]
    return (float(values[0]), *map(float, _percentiles(found, level))) if len(found) else (np.nan,) * 3


def _percentiles(replicas: np.ndarray, level: float) -> tuple:
    return tuple(np.quantile(replicas, [(1 - level) / 2, (1 + level) / 2], axis=0))


def _checked_labels(labels: Iterable) -> np.ndarray:
    labels = np.asarray(labels if isinstance(labels, np.ndarray) else list(labels))
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be True or False (or 1 and 0): score answers as right or wrong first.")
    return labels.astype(bool)


def _checked_scores(name: str, scores: Iterable, labels: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores if isinstance(scores, np.ndarray) else list(scores), dtype=np.float64)
    if scores.shape != labels.shape:
        raise ValueError(f"{name} must be one number for each of the {len(labels)} labels, not {len(scores)}.")
    if np.isnan(scores).any():
        raise ValueError(f"{name} must not contain NaN: drop the questions that have no score first.")
    return scores


FLIPS = 10_000
# Probabilities that a restored token lifts from 0.0001 to 0.0002 are surely above 0, but nothing to speak of.
NEGLIGIBLE = 0.01
RESOLUTION = 1e-5  # of a probability: what the trace itself is exact to


def simultaneous_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return (mean, low, high) of values [questions, layers], such that the intervals of all layers hold at once.

    A wild bootstrap: sign flips of the deviations from the mean show how large the largest t of all layers gets by
    chance. Percentiles far in the tail of a plain bootstrap are too narrow for ten or twenty questions. Effects are
    differences of probabilities, so intervals stay within -1 to 1. Two or three questions allow too few flips and get
    the whole range; one question has no interval (NaN).
    """
    n, mean = len(values), values.mean(0)
    if n < 4:
        unknown = np.full_like(mean, 1 if n > 1 else np.nan)
        return mean, -unknown, unknown
    deviations = values - mean
    flipped, squares = sign_flips(deviations, seed)[1:], (deviations**2).sum(0)
    t = np.abs(flipped) / (np.sqrt(np.maximum(squares - n * flipped**2, 0) / (n - 1) / n) + 1e-12)
    reach = np.quantile(t.max(1), level) * np.sqrt(squares / (n - 1) / n)
    return mean, np.maximum(mean - reach, -1), np.minimum(mean + reach, 1)


def sign_flips(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return means [1 + FLIPS, ...] of values [questions, ...] with questions' signs flipped; the first is unflipped.

    Values below RESOLUTION count as 0: rounding errors of one sign must not look like an effect.
    """
    signs = np.random.default_rng(seed).integers(2, size=(FLIPS, len(values))) * 2.0 - 1
    return np.concatenate([np.ones((1, len(values))), signs]) @ _resolved(values) / len(values)


def _resolved(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < RESOLUTION, 0, values)


def rows_where(frame: pd.DataFrame, **values) -> pd.DataFrame:
    """Return the rows whose columns have these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Return the frames as one with these columns; an empty frame if there are none."""
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
