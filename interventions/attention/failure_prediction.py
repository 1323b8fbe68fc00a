"""Predictors of a right answer (paper, section 4.4, Figure 17).

  contribution   mean contribution of the constraint's last token to the last token, over two adjacent middle layers
                 (16 and 17 in LLaVA-7B); known before the answer is;
  confidence     the probability of the answer's first token;
  linear         a logistic regression on the contributions of all layers (Yuksekgonul et al., 2023);
  kind           accuracy of the same relation in the other half, a baseline that does not look into the model.

Layers are chosen on one half of a part's questions and scored on the other, both ways: on the same questions, the best
of many layers looks good by chance. The linear model is scored out of fold. Right and wrong are whole answers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..draws import seeded_hash
from ..errors import FailureError
from ..extras import extra
from ..statistics import auroc, joined, paired_auroc_difference
from .contributions import CONSTRAINT_TO_LAST
from .study import AttentionStudy

with extra("notebooks"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score, roc_curve
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

PREDICTORS = ("contribution", "confidence", "linear", "kind")
ROLE = "constraint_last"
HALVES = ("first", "second")
FOLDS = 5
FEW = 5  # right or wrong answers, below which an interval says nothing


def halves(questions: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Return the half of each question, "first" or "second", with the index of `questions` (id, part, correct).

    Right and wrong questions of a part are halved apart (an odd one is in "second"), in an order by seed and id.
    """
    digests = [seeded_hash(seed, name).hex() for name in questions["id"]]
    order = pd.Series(digests, index=questions.index).rank()
    groups = order.groupby([questions["part"], questions["correct"]], observed=True)
    chosen = groups.rank() <= groups.transform("size") // 2
    return chosen.map(dict(zip((True, False), HALVES, strict=True)))


def constraint_contributions(study: AttentionStudy) -> pd.DataFrame:
    """Return ||a_ij|| from the constraint's last token to the last one, [questions answered, layers]; index id.

    Raises FailureError if the study lacks this flow.
    """
    found = study.contributions
    if len(found) and CONSTRAINT_TO_LAST not in set(found["flow"]):
        raise FailureError(f"study lacks the flow {CONSTRAINT_TO_LAST!r}: name it in `flows` of attention_study.")
    found = found[(found["flow"] == CONSTRAINT_TO_LAST) & (found["role"] == ROLE)]
    table = pd.DataFrame({"id": found["id"].astype(str), "layer": found["layer"].astype(int),
                          "norm": found["norm"].astype(float)}).pivot(index="id", columns="layer", values="norm")
    answered = study.questions.loc[study.questions["answered"].astype(bool), "id"].astype(str)
    return table.reindex(answered).dropna()


def answered_by_part(study: AttentionStudy) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield (questions answered, their contributions [questions, layers]) of each part, in the order of the study."""
    table = constraint_contributions(study)
    questions = study.questions[study.questions["id"].astype(str).isin(table.index)]
    questions = questions.astype({"id": str, "part": str, "relation": str, "correct": bool, "confidence": float})
    for part in dict.fromkeys(questions["part"]):
        chosen = questions[questions["part"] == part].reset_index(drop=True)
        yield chosen, table.loc[chosen["id"]]


def choose_layers(contributions: pd.DataFrame, correct: np.ndarray) -> tuple[int, int]:
    """Return the two neighboring layers whose mean contribution has the highest AUROC, the first if tied.

    contributions [questions, layers]; correct [questions]. Raises FailureError if there are no two layers or outcomes.
    """
    correct = np.asarray(correct, bool)
    if contributions.shape[1] < 2:
        raise FailureError("contributions must have two layers at least: there are no neighbors to choose.")
    if correct.all() or not correct.any():
        raise FailureError("correct must hold right and wrong answers: give `layers`, or ask more questions.")
    contributions = contributions.sort_index(axis=1)
    values = contributions.to_numpy(float)
    areas = [roc_auc_score(correct, pair) for pair in ((values[:, :-1] + values[:, 1:]) / 2).T]
    best = int(np.argmax(areas))
    return int(contributions.columns[best]), int(contributions.columns[best + 1])


def failure_scores(study: AttentionStudy, layers: tuple[int, int] | None = None, seed: int = 0) -> pd.DataFrame:
    """Return the predictors of every question answered; a higher value expects a right answer.

    Args:
        layers: (first, last) of the contribution, (16, 17) in the paper; None chooses them for each half on the other.

    Returns:
        Columns id, part, correct, half ("first" | "second"), contribution, confidence, linear, kind, first_layer,
        last_layer.
            contribution: mean norm over the layers. If they are chosen, its rank within the half (0 to 1), because
                halves may differ in layers; missing if the other half is all right or all wrong;
            linear: out-of-fold probability of a right answer; missing for fewer than two right or wrong answers. Pooled
                over folds, its AUROC is a little low where nothing can be predicted (.48 on average, 60 questions).

    Raises:
        FailureError: layers are not layers of the model, or the study lacks the flow.
    """
    columns = ["id", "part", "correct", "half", *PREDICTORS, "first_layer", "last_layer"]
    if layers is not None and not (len(layers) == 2 and 0 <= layers[0] <= layers[1] < study.n_layers):
        raise FailureError(f"layers must be (first, last) among the model's 0 to {study.n_layers - 1}, not {layers}.")
    frames = []
    for questions, table in answered_by_part(study):
        half = halves(questions, seed)
        frame = questions[["id", "part", "correct", "confidence"]].assign(
            half=half, linear=_out_of_fold(table, questions["correct"], seed), kind=_accuracy_of_kind(questions, half),
        )
        if layers:
            first, last = layers
            scored = {"contribution": table.loc[:, first:last].mean(axis=1).to_numpy(), "first_layer": first,
                      "last_layer": last}
        else:
            scored = _cross_fitted(table, questions["correct"].to_numpy(), half)
        frames.append(frame.assign(**scored))
    return joined(frames, columns).astype(dict.fromkeys(("first_layer", "last_layer"), "Int64"))


def chosen_layers(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the layers of each half in `failure_scores`. Columns part, half, first_layer, last_layer."""
    found = scores.drop_duplicates(["part", "half"]).set_index(["part", "half"])[["first_layer", "last_layer"]]
    places = [(part, half) for part in dict.fromkeys(scores["part"]) for half in HALVES]
    return found.loc[[place for place in places if place in found.index]].reset_index()


def layers_used(scores: pd.DataFrame) -> tuple[int, int] | None:
    """Return (first, last) of the layers of the contribution, the latest ones; None if there are none."""
    known = scores.dropna(subset=["last_layer"])
    if known.empty:
        return None
    latest = known.loc[known["last_layer"].idxmax()]
    return int(latest["first_layer"]), int(latest["last_layer"])


def _cross_fitted(table: pd.DataFrame, correct: np.ndarray, half: pd.Series) -> dict[str, np.ndarray]:
    """Return contribution, first_layer and last_layer, the layers chosen on the other half."""
    found = {name: np.full(len(table), np.nan) for name in ("contribution", "first_layer", "last_layer")}
    for name in HALVES:
        here = (half == name).to_numpy()
        if len(set(correct[~here])) == 2:
            first, last = choose_layers(table[~here], correct[~here])
            found["contribution"][here] = table.loc[here, first:last].mean(axis=1).rank(pct=True)
            found["first_layer"][here], found["last_layer"][here] = first, last
    return found


def _accuracy_of_kind(questions: pd.DataFrame, half: pd.Series) -> pd.Series:
    """Return the accuracy of the same relation in the other half (of the whole other half, if it has none)."""
    found = pd.Series(np.nan, index=questions.index)
    for name in HALVES:
        others = questions[half != name]
        means = others.groupby("relation", observed=True)["correct"].mean()
        found[half == name] = questions.loc[half == name, "relation"].map(means).fillna(others["correct"].mean())
    return found


def _out_of_fold(table: pd.DataFrame, correct: pd.Series, seed: int) -> np.ndarray:
    """Return P(right) by a model fitted to the other folds; NaN if a fit is impossible."""
    smallest = int(min(correct.sum(), (~correct).sum()))
    if smallest < 2:
        return np.full(len(table), np.nan)
    order = np.argsort(table.index)  # folds must not depend on the order of the questions
    folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    p = np.empty(len(table))
    p[order] = cross_val_predict(
        model, table.to_numpy()[order], correct.to_numpy()[order], cv=folds, method="predict_proba"
    )[:, 1]
    return p


def failure_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of each predictor in `failure_scores`. Columns part, predictor, auroc, low, high, n, wrong.

    Fewer than FEW right or wrong answers have no interval. Intervals are over questions, for the layers as chosen.
    Those of contribution and kind are somewhat narrow, because each half serves the other: without a signal they lay
    above .5 in 8 % of 150 simulated studies.
    """
    rows = []
    for part, predictor, cells in _scored(scores):
        area = _if_enough(cells, auroc(cells[predictor], cells["correct"]))
        rows.append((part, predictor, *area, len(cells), int((~cells["correct"]).sum())))
    return pd.DataFrame(rows, columns=["part", "predictor", "auroc", "low", "high", "n", "wrong"])


def confidence_minus(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of confidence minus that of each other predictor, on the same resamples of questions.

    Columns part, predictor, difference, low, high, n; intervals as in `failure_table`.
    """
    rows = []
    for part, predictor, cells in _scored(scores):
        if predictor != "confidence":
            difference = paired_auroc_difference(cells["confidence"], cells[predictor], cells["correct"])
            rows.append((part, predictor, *_if_enough(cells, difference), len(cells)))
    return pd.DataFrame(rows, columns=["part", "predictor", "difference", "low", "high", "n"])


def _if_enough(cells: pd.DataFrame, found: tuple) -> tuple:
    """Return (value, low, high), without the interval of few answers: [1, 1] is easily had from one wrong answer."""
    enough = min(cells["correct"].sum(), (~cells["correct"]).sum()) >= FEW
    return found if enough else (found[0], np.nan, np.nan)


def roc_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of Figure 17. Columns part, predictor, false_positive_rate, true_positive_rate (of right).

    A part whose scored questions are all right or all wrong has none.
    """
    columns = ["part", "predictor", "false_positive_rate", "true_positive_rate"]
    frames = []
    for part, predictor, cells in _scored(scores):
        if cells["correct"].nunique() == 2:
            false, true, _ = roc_curve(cells["correct"], cells[predictor])
            frames.append(pd.DataFrame(dict(zip(columns, (part, predictor, false, true), strict=True))))
    return joined(frames, columns)


def _scored(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (part, predictor, its questions that have the predictor)."""
    for part in dict.fromkeys(scores["part"]):
        scored = scores[scores["part"] == part].astype({"correct": bool})
        for predictor in PREDICTORS:
            yield part, predictor, scored.dropna(subset=[predictor])
