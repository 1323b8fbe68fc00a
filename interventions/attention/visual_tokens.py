"""Visual tokens that contribute (paper, section 4.2): how few, whether the same ones, the last ones, in which layer.

Only questions answered right count, as in the paper. The unit is the question; intervals are bootstraps over questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..statistics import bootstrap_interval, joined
from .averages import of_right
from .contributions import FLOWS, VISUAL_TO_CONSTRAINT
from .study import TOP, AttentionStudy

LAST = 16  # the last sixteenth of them: 36 of 576, the paper's 540 to 576
SHUFFLES = 1000


def mean_contributions(study: AttentionStudy, flow: str = VISUAL_TO_CONSTRAINT) -> pd.DataFrame:
    """Return mean ||a|| by layer and visual token (Figure 5). Columns part, layer, index, norm, n.

    index counts the visual tokens from 0. Raises ValueError for a flow that does not start at the visual tokens.
    """
    frames = []
    for norms in _visual_norms(study, flow):
        mean = norms.values.mean(0)  # [layers, tokens]
        layer, index = (place.ravel() for place in np.indices(mean.shape))
        frames.append(pd.DataFrame({
            "part": norms.part, "layer": norms.layers[layer], "index": index, "norm": mean.ravel(), "n": len(norms.ids),
        }))
    return joined(frames, ["part", "layer", "index", "norm", "n"])


def first_layer(study: AttentionStudy, flow: str = VISUAL_TO_CONSTRAINT) -> pd.DataFrame:
    """Compare the first layer's contributions with the other layers'. Columns part, layer, norm, first, difference,
    low, high, n.

    layer has the largest mean ||a|| by visual token, norm. first is that of layer 0. difference is first minus the
    largest of the other layers; every resample of its interval picks the largest anew.
    """
    rows = []
    for norms in _visual_norms(study, flow):
        values = norms.values.mean(-1)  # [questions, layers]
        if values.shape[1] > 1:
            mean = values.mean(0)
            difference, low, high = bootstrap_interval(values, _first_minus_others)
            rows.append({
                "part": norms.part, "layer": int(norms.layers[mean.argmax()]), "norm": mean.max(), "first": mean[0],
                "difference": difference, "low": low, "high": high, "n": len(values),
            })
    return pd.DataFrame(rows, columns=["part", "layer", "norm", "first", "difference", "low", "high", "n"])


def peak_layer(first: pd.DataFrame) -> int:
    """Return the layer of the largest contributions, the lowest of all parts; 0 if `first_layer` had no rows."""
    return min(map(int, first["layer"]), default=0)


def peak_concentration(study: AttentionStudy, first: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `concentration` at each part's layer in `first`, from `first_layer`."""
    return concentration(study).merge(first[["part", "layer"]], on=["part", "layer"])


def concentration(
    study: AttentionStudy, flow: str = VISUAL_TO_CONSTRAINT, top: float = TOP, seed: int = 0
) -> pd.DataFrame:
    """Measure whether few visual tokens carry a flow, whether they are the same in every question, and the last ones.

    Args:
        top: share of the visual tokens that count as the largest, k of them.

    Returns:
        Columns part, layer, n (questions). NaN where a number needs more questions.
            share_top, low, high: share of the summed norm in a question's k largest tokens;
            overlap: |A and B| / k for the k largest tokens of two questions, mean over pairs. One question per entity
                counts (`entities` of them), because questions about one image agree whatever the model does;
            overlap_null, p: overlap of permuted positions (k / n_visual), and its one-sided p;
            share_last, last_low, last_high: share of the last sixteenth of the tokens (the paper's last 36 of 576);
            share_other: largest mean share of another sixteenth.

    Raises:
        ValueError: top is no share, or flow does not start at the visual tokens.
    """
    if not 0 < top <= 1:
        raise ValueError(f"top must be a share of the visual tokens above 0 and up to 1, not {top}.")
    frames, entity = [], study.questions.set_index("id")["entity"]
    for norms in _visual_norms(study, flow):
        generator = np.random.default_rng(seed)
        _, n_layers, n_tokens = norms.values.shape
        k, block = max(1, round(top * n_tokens)), max(1, n_tokens // LAST)
        shares = norms.values / np.maximum(norms.values.sum(-1, keepdims=True), 1e-30)
        is_top = _largest(norms.values, k, generator)
        blocks = shares[..., n_tokens % block:].reshape(len(shares), n_layers, -1, block).sum(-1)
        share_top, low, high = bootstrap_interval((shares * is_top).sum(-1))
        share_last, last_low, last_high = bootstrap_interval(blocks[..., -1])
        others = blocks[..., :-1].mean(0).max(-1) if blocks.shape[-1] > 1 else np.full(n_layers, np.nan)
        named = entity.reindex(norms.ids).fillna("").to_numpy()
        single = ~pd.Series(np.where(named == "", norms.ids, named)).duplicated().to_numpy()
        overlap, p = _overlap(is_top[single], k, generator)
        frames.append(pd.DataFrame({
            "part": norms.part, "layer": norms.layers, "n": len(norms.ids), "share_top": share_top, "low": low,
            "high": high, "overlap": overlap, "overlap_null": k / n_tokens, "p": p, "entities": int(single.sum()),
            "share_last": share_last, "last_low": last_low, "last_high": last_high, "share_other": others,
        }))
    return joined(frames, [
        "part", "layer", "n", "share_top", "low", "high", "overlap", "overlap_null", "p", "entities", "share_last",
        "last_low", "last_high", "share_other",
    ])


@dataclass(frozen=True)
class _Norms:
    """The norms ||a|| [questions, layers, visual tokens] of one part."""

    part: str
    ids: np.ndarray
    layers: np.ndarray
    values: np.ndarray


def _visual_norms(study: AttentionStudy, flow: str) -> Iterator[_Norms]:
    fitting = [name for name, (source, _) in FLOWS.items() if source == "visual"]
    if flow not in fitting:
        raise ValueError(f"flow must start at the visual tokens, so be one of {fitting}, not {flow!r}.")
    for part, _, cells in of_right(study, study.contributions, [flow]):
        cells = cells[cells["role"] == "visual"].sort_values(["id", "layer", "position"])
        ids, layers = cells["id"].astype(str).unique(), np.sort(cells["layer"].unique())
        if len(cells) != len(ids) * len(layers) * study.n_visual:
            raise ValueError(
                f"contributions must have n_visual = {study.n_visual} tokens for every question and layer of "
                f"{flow!r}, but part {part!r} has {len(cells)} rows for {len(ids)} questions and {len(layers)} layers."
            )
        yield _Norms(part, ids, layers, cells["norm"].to_numpy(float).reshape(len(ids), len(layers), study.n_visual))


def _largest(values: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Return whether a value is among the k largest of the last axis; ties are drawn, or their places would agree."""
    order = np.lexsort((generator.random(values.shape, np.float32), -values))
    is_top = np.zeros(values.shape, bool)
    np.put_along_axis(is_top, order[..., :k], True, axis=-1)
    return is_top


def _overlap(is_top: np.ndarray, k: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean |A and B| / k over pairs of questions, and its p, by layer; is_top [questions, layers, tokens].

    Permuted positions are random sets of k tokens in every layer, so one null distribution serves all layers.
    """
    n, n_layers, n_tokens = is_top.shape
    if n < 2:
        return np.full(n_layers, np.nan), np.full(n_layers, np.nan)

    def mean_overlap(counts: np.ndarray) -> np.ndarray:  # counts [..., tokens]: in how many questions' sets
        return ((counts.astype(float) ** 2).sum(-1) - n * k) / (n * (n - 1) * k)

    counts, rows = np.zeros((SHUFFLES, n_tokens), int), np.arange(SHUFFLES)[:, None]
    for _ in range(n):
        drawn = generator.random((SHUFFLES, n_tokens), np.float32)
        counts[rows, np.argpartition(drawn, k - 1)[:, :k]] += 1
    overlap, null = mean_overlap(is_top.sum(0)), mean_overlap(counts)
    return overlap, (1 + (null[:, None] >= overlap - 1e-12).sum(0)) / (1 + SHUFFLES)


def _first_minus_others(values: np.ndarray, axis: int = 0) -> float:
    mean = values.mean(axis)
    return mean[0] - mean[1:].max()
