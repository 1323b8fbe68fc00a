"""Averages of attention contributions and knockouts over questions, and examples of them (paper, sections 4.2 to 4.4).

Averages are over questions answered right, as in the paper. The unit is the question; intervals are bootstraps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..draws import sample
from ..statistics import best_layer, bootstrap_interval, joined, means_by_layer
from .contributions import FLOWS, VISUAL_TO_CONSTRAINT
from .study import SUBSETS, AttentionStudy

RESAMPLES = 500  # of rank correlations


def flow_shares(study: AttentionStudy) -> pd.DataFrame:
    """Return the mean share of each flow by layer. Columns part, flow, layer, share, low, high, n.

    A share is the summed norm of the source's tokens over that of all tokens the target's last token reads, 0 to 1.
    """
    frames = [means_by_layer(shares, "share").assign(part=part, flow=flow) for part, flow, shares in _shares(study)]
    return joined(frames, ["part", "flow", "layer", "share", "low", "high", "n"])


def knockout_drops(study: AttentionStudy) -> pd.DataFrame:
    """Return the mean P_clean - P_blocked of each flow. Columns part, flow, window, layer, drop, low, high, n.

    The window of all layers (`study.n_layers`) has one row per flow, with the middle layer as its center.
    """
    frames = [means_by_layer(drops, "drop").assign(part=part, flow=flow, window=window)
              for part, flow, window, drops in _drops(study)]
    return joined(frames, ["part", "flow", "window", "layer", "drop", "low", "high", "n"])


def largest_drops(study: AttentionStudy) -> pd.DataFrame:
    """Return the layer at which blocking a flow costs most. Columns part, flow, layer, drop, low, high, n.

    The interval is `simultaneous_interval`, valid at the best layer.
    """
    rows = [{"part": part, "flow": flow} | best_layer(drops, "drop")
            for part, flow, window, drops in _drops(study) if window == study.window]
    return pd.DataFrame(rows, columns=["part", "flow", "layer", "drop", "low", "high", "n"])


def blocked_entirely(study: AttentionStudy) -> pd.DataFrame:
    """Return the drop of each question with a flow (or SUBSETS) blocked everywhere. Columns id, part, flow, drop."""
    frames = []
    for part, flow, window, drops in _drops(study):
        if window == study.n_layers:
            whole = drops[study.n_layers // 2]  # where `AttentionKnockout.to_frame` has it
            frames.append(pd.DataFrame({
                "id": whole.index.astype(str), "part": part, "flow": flow, "drop": whole.to_numpy(float)
            }))
    return joined(frames, ["id", "part", "flow", "drop"])


def total_shares(study: AttentionStudy) -> pd.DataFrame:
    """Return the share of each flow by question, mean over layers. Columns id, part, flow, share."""
    frames = [
        pd.DataFrame({"id": shares.index.astype(str), "part": part, "flow": flow,
                      "share": shares.mean(axis=1).to_numpy(float)})
        for part, flow, shares in _shares(study)
    ]
    return joined(frames, ["id", "part", "flow", "share"])


def agreement(study: AttentionStudy) -> pd.DataFrame:
    """Return the rank correlation of contributions and knockouts over layers.

    Columns part, flow, rho, low, high, peak_share, peak_drop, n. rho: Spearman's, between the mean share and the mean
    drop with that layer as center of the window; 0 if either is constant. The interval is a bootstrap over
    the questions that have both. peak_share, peak_drop: the layers of the largest means.
    """
    drops, rows = {(part, flow): table for part, flow, window, table in _drops(study) if window == study.window}, []
    for part, flow, shares in _shares(study):
        if (part, flow) not in drops:
            continue
        ids = shares.index.intersection(drops[part, flow].index)
        layers = shares.columns.intersection(drops[part, flow].columns)
        if len(ids) == 0 or len(layers) < 2:
            continue
        pair = [table.loc[ids, layers].to_numpy(float) for table in (shares, drops[part, flow])]
        values = np.stack(pair, axis=1)  # [questions, 2, layers]
        rho, low, high = bootstrap_interval(values, _rank_correlation, n=RESAMPLES)
        peaks = layers[values.mean(0).argmax(-1)]
        rows.append({"part": part, "flow": flow, "rho": rho, "low": low, "high": high, "peak_share": int(peaks[0]),
                     "peak_drop": int(peaks[1]), "n": len(ids)})
    return pd.DataFrame(rows, columns=["part", "flow", "rho", "low", "high", "peak_share", "peak_drop", "n"])


def right(questions: pd.DataFrame) -> pd.Series:
    """Return whether each question was answered right."""
    return questions["answered"].eq(True) & questions["correct"].eq(True)


def of_right(
    study: AttentionStudy, frame: pd.DataFrame, flows: Iterable[str] = tuple(FLOWS)
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (part, flow, rows of frame) of questions answered right, if there are rows."""
    asked = study.questions[right(study.questions)]
    for part, questions in asked.groupby("part", sort=False):
        of_part = frame[frame["id"].isin(questions["id"])]
        for flow in flows:
            cells = of_part[of_part["flow"] == flow]
            if len(cells):
                yield part, flow, cells


def _shares(study: AttentionStudy) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (part, flow, shares [questions, layers]); index id, columns layer."""
    for part, flow, cells in of_right(study, study.contributions):
        summed = cells.groupby(["id", "layer"], observed=True)["share"].sum().unstack("layer")
        yield part, flow, summed.rename(index=str)


def _drops(study: AttentionStudy) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """Yield (part, flow, window, drops [questions, layers]); index id, columns layer."""
    for part, flow, cells in of_right(study, study.knockouts, (*FLOWS, *SUBSETS)):
        for window, rows in cells.groupby("window"):
            table = rows.set_index(["id", "layer"])["drop"].unstack("layer")
            yield part, flow, int(window), table.rename(index=str)


def _rank_correlation(values: np.ndarray, axis: int = 0) -> float:
    """Return Spearman's rho of the means of values [questions, 2, layers]."""
    ranks = rankdata(np.round(values.mean(axis), 5), axis=-1)  # rounding errors have ranks as well
    ranks -= ranks.mean(-1, keepdims=True)
    size = np.sqrt((ranks**2).sum(-1).prod())
    return ranks.prod(0).sum() / size if size else 0.0


def patch_examples(
    study: AttentionStudy, layer: int, ids: Iterable[str] | None = None, *, each: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Return the contributions visual -> constraint of single questions at one layer.

    ids: the questions; None samples `each` right ones of every part. Columns id, part, question, constraint (the text
    of the visual constraint's tokens, "" if the study lacks them), answer, index (of the visual token, from 0), norm.
    Raises ValueError for an unknown id.
    """
    if ids is None:
        by_part = study.questions[right(study.questions)].groupby("part", sort=False)["id"]
        chosen = [name for _, names in by_part for name in sample(names, each, seed)]
    else:
        chosen = list(ids)
    unknown = sorted(set(chosen) - set(study.questions["id"]))
    if unknown:
        raise ValueError(f"ids must be questions of the study, but {unknown[0]!r} is none of them.")
    cells = study.contributions
    cells = cells[cells["id"].isin(chosen) & (cells["layer"] == layer)]
    words = cells[cells["role"].isin(("constraint", "constraint_last"))].drop_duplicates(["id", "position"])
    words = words.astype({"id": str, "token": str}).sort_values("position")
    spoken = words.groupby("id")["token"].agg(lambda tokens: "".join(tokens).strip())
    is_patch = (cells["flow"] == VISUAL_TO_CONSTRAINT) & (cells["role"] == "visual")
    patches = cells[is_patch].sort_values(["id", "position"])
    patches = patches.astype({"id": str}).assign(index=patches.groupby("id", observed=True).cumcount())
    told = study.questions.set_index("id").reindex(chosen)[["part", "question", "answer"]]
    told["constraint"] = spoken.reindex(chosen).fillna("")
    found = told.reset_index(names="id").merge(patches[["id", "index", "norm"]], on="id")
    return found[["id", "part", "question", "constraint", "answer", "index", "norm"]]


def outcome_examples(study: AttentionStudy, each: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return rows of `study.questions` for Figure 15: a sample of at most `each` right and `each` wrong questions."""
    answered = study.questions[study.questions["answered"].eq(True)]
    is_right = right(answered)
    groups = answered[is_right], answered[~is_right]  # drawn from all parts together
    chosen = [name for group in groups for name in sample(group["id"], each, seed)]
    return answered.set_index("id", drop=False).loc[chosen].reset_index(drop=True)
