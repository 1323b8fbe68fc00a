"""Will the answer be right? Predictors that are known before or with it (paper, section 4.4, Figures 16 and 17).

  contribution   how much the constraint's last token contributes to the last token, averaged over two neighbouring
                 middle layers (16 and 17 in LLaVA-7B): known before the answer is;
  confidence     the probability of the generated answer's first token;
  linear         a logistic regression on the contributions of all layers, as Yuksekgonul et al. (2023) use them.

Which layers are best is chosen on one half of a part's questions and scored on the other: on the questions it was
chosen on, the best of many layers looks good by chance. The linear model, too, is scored on questions that it was not
fitted to. All of it works on the frames of an `AttentionStudy`; right and wrong are whole answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .metrics import auroc, bootstrap_counts, bootstrap_interval, paired_auroc_difference

if TYPE_CHECKING:
    from .attention_study import AttentionStudy

PREDICTORS = ("contribution", "confidence", "linear")
FLOW, ROLE = "constraint -> last", "constraint_last"
FOLDS = 5
PERMUTATIONS = 10_000


class FailureError(ValueError):
    """Contributions or layers that failure prediction cannot use; the message names the parameter and the fix."""


def halves(questions: pd.DataFrame, seed: int = 0) -> pd.Series:
    """The half of each question, "choose" or "score", indexed as `questions` (id, part, correct) is.

    In each part, half of the right and half of the wrong ones, an odd one to "score", in an order that depends on seed
    and id alone.
    """
    digests = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in questions["id"]]
    order = pd.Series(digests, index=questions.index).rank()
    groups = order.groupby([questions["part"], questions["correct"]], observed=True)
    chosen = groups.rank() <= groups.transform("size") // 2
    return chosen.map({True: "choose", False: "score"})


def constraint_contributions(study: AttentionStudy) -> pd.DataFrame:
    """||a_ij|| from the constraint's last token to the last one, [questions answered, layers]; index id, columns layer.

    Raises FailureError where the study did not ask for it.
    """
    found = study.contributions
    if len(found) and FLOW not in set(found["flow"]):
        raise FailureError(f"study lacks the flow {FLOW!r}: name it in `flows` of attention_study.")
    found = found[(found["flow"] == FLOW) & (found["role"] == ROLE)]
    table = pd.DataFrame({"id": found["id"].astype(str), "layer": found["layer"].astype(int),
                          "norm": found["norm"].astype(float)}).pivot(index="id", columns="layer", values="norm")
    answered = study.questions.loc[study.questions["answered"].astype(bool), "id"].astype(str)
    return table.reindex(answered).dropna()


def choose_layers(contributions: pd.DataFrame, correct: np.ndarray) -> tuple[int, int]:
    """The two neighbouring layers whose mean contribution has the highest AUROC for a right answer, the first if tied.

    contributions [questions, layers]; correct [questions]. Raises FailureError where nothing can be told apart.
    """
    correct = np.asarray(correct, bool)
    if contributions.shape[1] < 2:
        raise FailureError("contributions must have two layers at least: there are no neighbours to choose.")
    if correct.all() or not correct.any():
        raise FailureError("correct must hold right and wrong answers: give `layers`, or ask more questions.")
    contributions = contributions.sort_index(axis=1)
    values = contributions.to_numpy(float)
    areas = [roc_auc_score(correct, pair) for pair in ((values[:, :-1] + values[:, 1:]) / 2).T]
    best = int(np.argmax(areas))
    return int(contributions.columns[best]), int(contributions.columns[best + 1])


def failure_scores(study: AttentionStudy, layers: tuple[int, int] | None = None, seed: int = 0) -> pd.DataFrame:
    """The predictors of every question answered: the higher, the more a right answer is expected.

    Columns id, part, correct, half ("choose" | "score"), contribution (mean norm of the layers from first to last),
    confidence, linear (out-of-fold probability of a right answer), first_layer, last_layer.
    layers: (first, last), (16, 17) in the paper; nothing is chosen and all questions have half "score". None: chosen
    part by part on the half "choose"; where that is all right or all wrong, contribution and layers are missing. linear
    is missing where a part has fewer than two right or two wrong answers; pooled over the folds, its AUROC errs low
    where nothing can be predicted (.48 on average with 60 questions).
    """
    columns = ["id", "part", "correct", "half", *PREDICTORS, "first_layer", "last_layer"]
    if layers is not None and not (len(layers) == 2 and 0 <= layers[0] <= layers[1] < study.n_layers):
        raise FailureError(f"layers must be (first, last) among the model's 0 to {study.n_layers - 1}, not {layers}.")
    frames = []
    for questions, table in _by_part(study):
        frame = questions[["id", "part", "correct", "confidence"]].assign(
            half="score" if layers else halves(questions, seed), linear=_out_of_fold(table, questions["correct"], seed)
        )
        first, last = layers or _chosen(table, frame)
        values = table.loc[:, first:last] if first is not None else table.iloc[:, :0]
        frames.append(frame.assign(contribution=values.mean(axis=1).to_numpy(), first_layer=first, last_layer=last))
    found = pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
    return found.astype(dict.fromkeys(("first_layer", "last_layer"), "Int64"))


def _chosen(table: pd.DataFrame, frame: pd.DataFrame) -> tuple[int, int] | tuple[None, None]:
    chooses = (frame["half"] == "choose").to_numpy()
    correct = frame["correct"][chooses]
    return choose_layers(table[chooses], correct) if correct.nunique() == 2 else (None, None)


def _out_of_fold(table: pd.DataFrame, correct: pd.Series, seed: int) -> np.ndarray:
    """P(right) of every question, by a model fitted to the others' folds; NaN where a fit is impossible."""
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
    """How well each predictor tells right from wrong. Columns part, predictor, auroc, low, high, n, wrong.

    scores: of `failure_scores`; its half "score" alone counts, so that all predictors meet the same questions.
    """
    rows = []
    for part, predictor, cells in _scored(scores):
        value, low, high = auroc(cells[predictor], cells["correct"])
        rows.append({
            "part": part, "predictor": predictor, "auroc": value, "low": low, "high": high, "n": len(cells),
            "wrong": int((~cells["correct"]).sum()),
        })
    return pd.DataFrame(rows, columns=["part", "predictor", "auroc", "low", "high", "n", "wrong"])


def confidence_minus(scores: pd.DataFrame) -> pd.DataFrame:
    """AUROC of confidence less that of each other predictor, on the same resamples of the scored questions.

    Columns part, predictor ("contribution" | "linear"), difference, low, high, n.
    """
    rows = []
    for part, predictor, cells in _scored(scores):
        if predictor != "confidence":
            value, low, high = paired_auroc_difference(cells["confidence"], cells[predictor], cells["correct"])
            rows.append({"part": part, "predictor": predictor, "difference": value, "low": low, "high": high,
                         "n": len(cells)})
    return pd.DataFrame(rows, columns=["part", "predictor", "difference", "low", "high", "n"])


def roc_points(scores: pd.DataFrame) -> pd.DataFrame:
    """The curves of Figure 17. Columns part, predictor, false_positive_rate, true_positive_rate ("positive" = right).

    None where the scored questions are all right or all wrong.
    """
    columns = ["part", "predictor", "false_positive_rate", "true_positive_rate"]
    frames = []
    for part, predictor, cells in _scored(scores):
        if cells["correct"].nunique() == 2:
            false, true, _ = roc_curve(cells["correct"], cells[predictor])
            frames.append(pd.DataFrame(dict(zip(columns, (part, predictor, false, true), strict=True))))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _scored(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(part, predictor, its questions of half "score" that have the predictor)."""
    for part in dict.fromkeys(scores["part"]):
        scored = scores[(scores["part"] == part) & (scores["half"] == "score")].astype({"correct": bool})
        for predictor in PREDICTORS:
            yield part, predictor, scored.dropna(subset=[predictor])


def outcome_by_layer(study: AttentionStudy) -> pd.DataFrame:
    """Mean contributions of right and of wrong answers (Figure 16), with bootstrap intervals over questions.

    Columns part, layer, outcome ("right" | "wrong"), norm, low, high (NaN for a single question), n.
    """
    frames = []
    for questions, table in _by_part(study):
        right = questions["correct"].to_numpy()
        for outcome, values in (("right", table[right]), ("wrong", table[~right])):
            if len(values):
                norm, low, high = bootstrap_interval(values.to_numpy())
                frames.append(pd.DataFrame({
                    "part": questions["part"].iloc[0], "layer": table.columns.to_numpy(int), "outcome": outcome,
                    "norm": norm, "low": low, "high": high, "n": len(values),
                }))
    columns = ["part", "layer", "outcome", "norm", "low", "high", "n"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def outcome_tests(study: AttentionStudy, seed: int = 0) -> pd.DataFrame:
    """Is the contribution larger when the answer is right, layer by layer?

    Columns part, layer, difference (of the means, right - wrong), low, high, p, p_corrected, n_right, n_wrong; a part
    whose answers are all right or all wrong has no row. p: one-sided permutation test of the labels. p_corrected: the
    same against the largest of all layers (single-step max-t), so it may be read at the best layer. low, high:
    bootstrap of right and wrong ones apart, NaN where there is only one of either.
    """
    frames = []
    for questions, table in _by_part(study):
        values, right = table.to_numpy(), questions["correct"].to_numpy()
        if right.all() or not right.any():
            continue
        low, high = _interval_of_difference(values[right], values[~right], seed)
        p, p_corrected = _permutation_tests(values, right, seed)
        frames.append(pd.DataFrame({
            "part": questions["part"].iloc[0], "layer": table.columns.to_numpy(int),
            "difference": values[right].mean(0) - values[~right].mean(0), "low": low, "high": high, "p": p,
            "p_corrected": p_corrected, "n_right": right.sum(), "n_wrong": (~right).sum(),
        }))
    columns = ["part", "layer", "difference", "low", "high", "p", "p_corrected", "n_right", "n_wrong"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _interval_of_difference(right: np.ndarray, wrong: np.ndarray, seed: int) -> np.ndarray:
    if min(len(right), len(wrong)) < 2:
        return np.full((2, right.shape[1]), np.nan)
    means = [bootstrap_counts(len(values), seed=(seed, which)) @ values / len(values)  # drawn apart: two seeds
             for which, values in enumerate((right, wrong))]
    return np.quantile(means[0] - means[1], [0.025, 0.975], axis=0)


def _permutation_tests(values: np.ndarray, right: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(p, p_corrected) [layers] of values [questions, layers]."""
    centred = values - values.mean(0)
    spread = centred.std(0)
    # In units of the spread over all questions, which no permutation changes: ranks as t does. A layer in which all
    # questions are alike up to rounding says nothing.
    scaled = np.where(spread > 1e-6 * np.abs(values).max(0), centred, 0) / np.maximum(spread, 1e-300)
    generator, labels = np.random.default_rng(seed), np.tile(right, (PERMUTATIONS // 20, 1))
    # All values of a layer add up to 0: the mean of the right ones ranks permutations as the difference of means does.
    means = np.concatenate([right[None] @ scaled, *(generator.permuted(labels, axis=1) @ scaled for _ in range(20))])
    means /= right.sum()  # [1 + PERMUTATIONS, layers], the first as observed
    p = (means >= means[0] - 1e-9).mean(0)
    return p, (means.max(1)[:, None] >= means[0] - 1e-9).mean(0)


def _by_part(study: AttentionStudy) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """(questions answered, their contributions [questions, layers]) of each part, in the order of the study."""
    table = constraint_contributions(study)
    questions = study.questions[study.questions["id"].astype(str).isin(table.index)]
    questions = questions.astype({"id": str, "part": str, "correct": bool, "confidence": float})
    for part in dict.fromkeys(questions["part"]):
        chosen = questions[questions["part"] == part].reset_index(drop=True)
        yield chosen, table.loc[chosen["id"]]
