"""Single questions whose attention contributions are shown (Figure 15, and Figure 5's patches)."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ..draws import drawn
from .averages import right
from .contributions import VISUAL_TO_CONSTRAINT
from .study import AttentionStudy


def patch_examples(
    study: AttentionStudy, layer: int, ids: Iterable[str] | None = None, *, each: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Contributions visual -> constraint of single questions at one layer: id, part, question, constraint, answer,
    index (of the visual token, from 0), norm.

    ids: the questions; None = `each` of every part, answered right, drawn by a hash of seed and id. constraint is the
    text of the visual constraint's tokens ("" if the study does not have them). Raises ValueError for an unknown id.
    """
    if ids is None:
        by_part = study.questions[right(study.questions)].groupby("part", sort=False)["id"]
        chosen = [name for _, names in by_part for name in drawn(names, each, seed)]
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
    """Rows of `study.questions`, for Figure 15: at most `each` right and `each` wrong questions, drawn by a hash."""
    answered = study.questions[study.questions["answered"].eq(True)]
    is_right = right(answered)
    groups = answered[is_right], answered[~is_right]  # drawn from all parts together
    chosen = [name for group in groups for name in drawn(group["id"], each, seed)]
    return answered.set_index("id", drop=False).loc[chosen].reset_index(drop=True)
