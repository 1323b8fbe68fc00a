"""The numbers that figures report: the probability of an answer, and intervals over questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor


def answer_probability(logits: Tensor, answer_ids: Tensor | Iterable[int]) -> Tensor:
    """P(answer): the product of the probabilities of its tokens.

    `logits` [..., A, V] are those at the A positions that predict the answer's tokens, `answer_ids` [A] the
    tokens; returns [...] in float32. The paper's probability is the case A = 1: the first token decides.
    """
    answer_ids = torch.as_tensor(answer_ids, dtype=torch.long, device=logits.device)
    if answer_ids.ndim != 1 or logits.shape[-2] != answer_ids.shape[0]:
        raise ValueError(
            f"answer_ids must be one token for each of the {logits.shape[-2]} rows of logits, "
            f"not of shape {tuple(answer_ids.shape)}."
        )
    log_p = logits.float().log_softmax(-1)  # [..., A, V]
    index = answer_ids[:, None].expand(*log_p.shape[:-1], 1)
    return log_p.gather(-1, index).sum((-1, -2)).exp()  # [..., A, 1] -> [...]


def bootstrap_interval(
    values: Iterable[float],
    statistic: Callable[..., np.ndarray] = np.mean,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """(value, low, high): a statistic over questions and its percentile bootstrap interval.

    `values` is one number a question, so what is resampled is questions. `statistic` takes an array and an
    axis (`np.mean`, `np.median`). Deterministic for a seed. One question has no interval: low and high are
    NaN then, and all three are for none.
    """
    values = np.asarray(list(values), dtype=np.float64)  # [questions]
    if values.ndim != 1:
        raise ValueError(f"values must be one number a question, not an array of shape {values.shape}.")
    if np.isnan(values).any():
        raise ValueError("values must not contain NaN: drop the questions that lack the site first.")
    if values.size == 0:
        return float("nan"), float("nan"), float("nan")
    value = float(statistic(values, axis=0))
    if values.size == 1:
        return value, float("nan"), float("nan")
    samples = np.random.default_rng(seed).integers(values.size, size=(n, values.size))
    tail = (1 - level) / 2
    low, high = np.quantile(statistic(values[samples], axis=1), [tail, 1 - tail])
    return value, float(low), float(high)
