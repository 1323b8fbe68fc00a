"""Single questions whose attention contributions are shown (Figure 15, and Figure 5's patches)."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .attention_averages import right
from .attention_study import AttentionStudy
from .lots import lot


def patch_examples(
    study: AttentionStudy, layer: int, ids: Iterable[str] | None = None, *, each: int = 1, seed: int = 0,
    flow: str = "visual -> constraint",
) -> pd.DataFrame:
    """Contributions of single questions at one layer: id, part, question, constraint, answer, index, norm.

    ids: the questions; None = `each` of every part, answered right, drawn by a hash of seed and id. constraint is the
    text of the visual constraint's tokens ("" if the study does not have them). Raises ValueError for an unknown id.
    """
    chosen = drawn_questions(study.questions[right(study.questions)], each, seed) if ids is None else list(ids)
    unknown = sorted(set(chosen) - set(study.questions["id"]))
    if unknown:
        raise ValueError(f"ids must be questions of the study, but {unknown[0]!r} is none of them.")
    cells = study.contributions
    cells = cells[cells["id"].isin(chosen) & (cells["layer"] == layer)]
    words = cells[cells["role"].isin(("constraint", "constraint_last"))].drop_duplicates(["id", "position"])
    spoken = words.sort_values("position").groupby("id", observed=True)["token"].agg(
        lambda tokens: "".join(map(str, tokens)).strip())
    patches = cells[(cells["flow"] == flow) & (cells["role"] == "visual")].sort_values(["id", "position"])
    patches = patches.astype({"id": str}).assign(index=patches.groupby("id", observed=True).cumcount())
    told = study.questions.set_index("id").reindex(chosen)[["part", "question", "answer"]]
    told["constraint"] = spoken.rename(index=str).reindex(chosen).fillna("")
    found = told.reset_index(names="id").merge(patches[["id", "index", "norm"]], on="id")
    return found[["id", "part", "question", "constraint", "answer", "index", "norm"]]


def outcome_examples(study: AttentionStudy, each: int = 3, seed: int = 0) -> pd.DataFrame:
    """Rows of `study.questions`, for Figure 15: at most `each` right and `each` wrong questions, drawn by a hash."""
    answered = study.questions[study.questions["answered"].eq(True)]
    is_right = right(answered)
    groups = [answered[is_right].assign(part=""), answered[~is_right].assign(part="")]  # drawn from all parts together
    chosen = [name for group in groups for name in drawn_questions(group, each, seed)]
    return answered.set_index("id", drop=False).loc[chosen].reset_index(drop=True)


def drawn_questions(questions: pd.DataFrame, each: int, seed: int = 0) -> list[str]:
    """Ids of `each` questions of every part, drawn by a hash of seed and id: no one has picked them."""
    draw = [lot(seed, name).hex() for name in questions["id"]]
    drawn = questions.assign(draw=draw).sort_values("draw").groupby("part", sort=False).head(each)
    return [str(name) for part in dict.fromkeys(questions["part"]) for name in drawn.loc[drawn["part"] == part, "id"]]
