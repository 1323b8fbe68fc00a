"""Contributions of the constraint's last token to the last token when the answer is right and when it is wrong.

Means by layer with intervals, and permutation tests (paper, section 4.4, Figure 16).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..statistics import bootstrap_counts, joined, means_by_layer
from .failure_prediction import FEW, answered_by_part
from .study import AttentionStudy

PERMUTATIONS = 10_000
BATCHES = 20  # that they are drawn in: all labels at once would take much memory


def outcome_by_layer(study: AttentionStudy) -> pd.DataFrame:
    """Return mean contributions of right and wrong answers (Figure 16), with bootstrap intervals over questions.

    Columns part, layer, outcome ("right" | "wrong"), norm, low, high (NaN for a single question), n.
    """
    frames = []
    for questions, table in answered_by_part(study):
        right = questions["correct"].to_numpy()
        for outcome, values in (("right", table[right]), ("wrong", table[~right])):
            if len(values):
                frames.append(means_by_layer(values, "norm").assign(part=questions["part"].iloc[0], outcome=outcome))
    return joined(frames, ["part", "layer", "outcome", "norm", "low", "high", "n"])


def outcome_tests(study: AttentionStudy, seed: int = 0) -> pd.DataFrame:
    """Test by layer whether the contribution is larger when the answer is right.

    Returns:
        Columns part, layer, difference (of the means, right - wrong), low, high, p, p_corrected, p_within, n_right,
        n_wrong. A part with only right or only wrong answers has no row.
            low, high: bootstrap of right and wrong answers apart; NaN for fewer than FEW of either;
            p: one-sided permutation test of the labels;
            p_corrected: p against the largest of all layers (single-step max-t), valid at the best layer;
            p_within: p_corrected with labels permuted within each relation.
    """
    frames = []
    for questions, table in answered_by_part(study):
        values, right = table.to_numpy(), questions["correct"].to_numpy()
        if right.all() or not right.any():
            continue
        low, high = _interval_of_difference(values[right], values[~right], seed)
        p, p_corrected = _permutation_tests(values, right, np.zeros(len(right)), seed)
        _, p_within = _permutation_tests(values, right, pd.factorize(questions["relation"])[0], seed)
        frames.append(pd.DataFrame({
            "part": questions["part"].iloc[0], "layer": table.columns.to_numpy(int),
            "difference": values[right].mean(0) - values[~right].mean(0), "low": low, "high": high, "p": p,
            "p_corrected": p_corrected, "p_within": p_within, "n_right": right.sum(), "n_wrong": (~right).sum(),
        }))
    return joined(frames, [
        "part", "layer", "difference", "low", "high", "p", "p_corrected", "p_within", "n_right", "n_wrong",
    ])


def _interval_of_difference(right: np.ndarray, wrong: np.ndarray, seed: int) -> np.ndarray:
    if min(len(right), len(wrong)) < FEW:
        return np.full((2, right.shape[1]), np.nan)
    means = [bootstrap_counts(len(values), seed=(seed, which)) @ values / len(values)  # drawn apart: two seeds
             for which, values in enumerate((right, wrong))]
    return np.quantile(means[0] - means[1], [0.025, 0.975], axis=0)


def _permutation_tests(
    values: np.ndarray, right: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (p, p_corrected) [layers] of values [questions, layers]; labels are permuted within groups [questions]."""
    centered = values - pd.DataFrame(values).groupby(groups).transform("mean").to_numpy()
    spread = centered.std(0)
    # In units of the spread over all questions, which no permutation changes: ranks as t does. A layer in which all
    # questions are alike up to rounding says nothing.
    scaled = np.where(spread > 1e-6 * np.abs(values).max(0), centered, 0) / np.maximum(spread, 1e-300)
    generator = np.random.default_rng(seed)

    def permuted(_) -> np.ndarray:
        labels = np.tile(right, (PERMUTATIONS // BATCHES, 1))
        for group in np.unique(groups):
            labels[:, groups == group] = generator.permuted(labels[:, groups == group], axis=1)
        return labels @ scaled

    # All values of a layer add up to 0: the mean of the right ones ranks permutations as the difference of means does.
    means = np.concatenate([right[None] @ scaled, *map(permuted, range(BATCHES))])
    means /= right.sum()  # [1 + PERMUTATIONS, layers], the first as observed
    p = (means >= means[0] - 1e-9).mean(0)
    return p, (means.max(1)[:, None] >= means[0] - 1e-9).mean(0)
