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
    values: Iterable | np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple:
    """(value, low, high): a statistic over questions and its percentile bootstrap interval.

    `values` is [questions] or [questions, ...]: questions are resampled, all of one together. The three
    results are floats, or arrays [...]. `statistic` takes an array and an axis (`np.mean`, `np.median`).
    Deterministic for a seed. One question has no interval: low and high are NaN then, all three are for none.
    """
    values = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("values must not contain NaN: drop the questions that lack the site first.")
    missing = np.full(values.shape[1:], np.nan)[()]
    if len(values) == 0:
        return missing, missing, missing
    value = statistic(values, axis=0)
    if len(values) == 1:
        return value, missing, missing
    q = len(values)
    samples = np.random.default_rng(seed).integers(q, size=(n, q))
    if (
        statistic is np.mean
    ):  # a matrix product: seconds instead of minutes for many sites
        counts = np.bincount((samples + q * np.arange(n)[:, None]).ravel(), minlength=n * q).reshape(n, q)
        replicas = np.tensordot(counts / q, values, axes=1)  # [n, ...]
    else:
        replicas = np.stack([statistic(values[sample], axis=0) for sample in samples])
    low, high = np.quantile(replicas, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return value, low, high
