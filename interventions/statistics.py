"""The numbers that figures report: answers' probabilities and accuracy, AUROC, and intervals over questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .testbed.schema import N_ANNOTATORS

if TYPE_CHECKING:
    from torch import Tensor

RIGHT = 0.5  # `answer_accuracy` from which an answer counts as right: two of ten annotators


def answer_probability(logits: Tensor, answer_ids: Tensor | Iterable[int]) -> Tensor:
    """P(answer): the product of the probabilities of its tokens.

    `logits` [..., A, V] are those at the A positions that predict the answer's tokens, `answer_ids` [A] the
    tokens; returns [...] in float32. The paper's probability is the case A = 1: the first token decides.
    """
    import torch  # heavy, and nothing else here needs it

    answer_ids = torch.as_tensor(answer_ids, dtype=torch.long, device=logits.device)
    if answer_ids.ndim != 1 or logits.shape[-2] != answer_ids.shape[0]:
        raise ValueError(
            f"answer_ids must be one token for each of the {logits.shape[-2]} rows of logits, "
            f"not of shape {tuple(answer_ids.shape)}."
        )
    log_p = logits.float().log_softmax(-1)  # [..., A, V]
    index = answer_ids[:, None].expand(*log_p.shape[:-1], 1)
    return log_p.gather(-1, index).sum((-1, -2)).exp()  # [..., A, 1] -> [...]


def answer_accuracy(prediction: str, accepted: Iterable[str], annotations: Sequence[str] = ()) -> float:
    """Is the answer right, 0 to 1? VQA accuracy where there are ten annotations, else 1 if it is an accepted answer.

    Accepted answers are compared as VQA accuracy compares them, but one that is nothing but an article or punctuation
    ("A", "the") by its own lower-case letters. An empty answer is never right.
    """
    if not normalize_vqa_answer(prediction) and not any(map(str.isalnum, prediction)) and annotations:
        return 0.0  # nothing was said, which the official rule takes for the answer of annotators who said "a"
    if len(annotations) == N_ANNOTATORS:
        return vqa_accuracy(prediction, annotations)
    said = _comparable(prediction)
    return float(said != "" and said in set(map(_comparable, accepted)))


def _comparable(text: str) -> str:
    return normalize_vqa_answer(text) or text.strip().lower()


# VQA accuracy. The rules are odd; they are those of the official evaluation, on which every published number rests.

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # no more are deleted
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS["none"] = "0"
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# A word that lacks one of its apostrophes gets it ("dont", "couldn'tve"), but for one that loses it.
_APOSTROPHES = {
    word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTIONS.split() for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official VQA accuracy of a predicted answer, given the annotators' answers, usually ten; from 0 to 1.

    For each annotator: a third for every *other* annotator who gave the predicted answer, at most 1; then their mean.
    (So a list of one answer always gives 0.) Texts are normalised unless all annotators say the same: then only that
    very text is right.
    """
    if not answers:
        raise ValueError("answers must not be empty: VQA accuracy needs the answers of the annotators.")
    prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalize_vqa_answer(prediction), [normalize_vqa_answer(answer) for answer in answers]
    agree = np.array([answer == prediction for answer in answers], dtype=int)
    return float(np.minimum(3, agree.sum() - agree).mean() / 3)


def normalize_vqa_answer(text: str) -> str:
    """An answer as VQA accuracy compares it: lower-case, number words as digits, no article and little punctuation."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(_one_line(text)).lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark that touches a space somewhere is deleted, all are if a number has a comma; others become a space."""
    number, cleaned = _COMMA_IN_NUMBER.search(text), text
    for mark in _PUNCTUATION:
        cleaned = cleaned.replace(mark, "" if number or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", cleaned, count=_MOST_PERIODS)


# Intervals


def bootstrap_counts(q: int, n: int = 2000, seed: int | Sequence[int] = 0) -> np.ndarray:
    """How often each of q questions is drawn in each of n resamples [n, q]."""
    samples = np.random.default_rng(seed).integers(q, size=(n, q))
    return np.bincount((samples + q * np.arange(n)[:, None]).ravel(), minlength=n * q).reshape(n, q)


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


def auroc(scores: Iterable, labels: Iterable, n: int = 2000, seed: int = 0, level: float = 0.95) -> tuple:
    """(value, low, high): the area under the ROC curve, and its percentile bootstrap interval over questions.

    scores, labels [questions]: the higher the score, the more a label of 1 (True) is expected. The area is the
    probability that a question of label 1 has the higher score, ties counting half. Resamples without one of the labels
    are dropped; all three are NaN where the questions themselves have only one. If the scores separate the labels
    perfectly, so do all resamples, and the interval is a point: with few questions, mind their number.
    """
    labels = _checked_labels(labels)
    return _with_interval(_aurocs(_checked_scores("scores", scores, labels), labels, n, seed), level)


def paired_auroc_difference(
    scores_a: Iterable, scores_b: Iterable, labels: Iterable, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple:
    """(value, low, high): AUROC of scores_a less that of scores_b, both on the same resamples; see `auroc`."""
    labels = _checked_labels(labels)
    a, b = (
        _aurocs(_checked_scores(name, scores, labels), labels, n, seed)
        for name, scores in (("scores_a", scores_a), ("scores_b", scores_b))
    )
    return _with_interval(a - b, level)


def _aurocs(scores: np.ndarray, labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """[1 + n]: the area on the questions as they are, then on n resamples; NaN where there is only one label."""
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
    """(value, low, high) of [1 + n] values, of which resamples that are NaN are dropped."""
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
