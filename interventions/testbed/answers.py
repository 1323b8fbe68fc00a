"""Decide whether an answer is right: VQA accuracy, and the comparison of whole decoded answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from .schema import N_ANNOTATORS, Item

RIGHT = 0.5  # `answer_accuracy` from which an answer counts as right: two of ten annotators


def accuracy(answer: str, item: Item) -> float:
    """Return how right an answer to an item is, from 0 to 1: see `answer_accuracy`."""
    return answer_accuracy(answer, item.answers, item.annotations)


def is_right(answer: str, item: Item) -> bool:
    """Return whether an answer to an item counts as right: the same in every figure."""
    return accuracy(answer, item) >= RIGHT


def is_accepted(answer: str, accepted: Iterable[str]) -> bool:
    """Return whether an answer is one of these texts, compared as a whole."""
    return answer_accuracy(answer, accepted) >= RIGHT


def answer_accuracy(prediction: str, accepted: Iterable[str], annotations: Sequence[str] = ()) -> float:
    """Return how right an answer is, from 0 to 1.

    With ten annotations this is VQA accuracy, else 1 for an accepted answer. Accepted answers are compared as in VQA
    accuracy, but an answer that is only an article or punctuation ("A", "the") is compared in lower case. An empty
    answer is never right.
    """
    if not normalize_vqa_answer(prediction) and not any(map(str.isalnum, prediction)) and annotations:
        return 0.0  # the official rule equates an empty answer with "a"
    if len(annotations) == N_ANNOTATORS:
        return vqa_accuracy(prediction, annotations)
    said = _comparable(prediction)
    return float(said != "" and said in set(map(_comparable, accepted)))


def _comparable(text: str) -> str:
    return normalize_vqa_answer(text) or text.strip().lower()


# VQA accuracy, with the odd rules of the official evaluation, which all published numbers use.

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # deleted at most
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
# A word without one of its apostrophes gets it ("dont", "couldn'tve"); one word loses it.
_APOSTROPHES = {
    word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTIONS.split() for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the official VQA accuracy of an answer, from 0 to 1.

    Each annotator counts a third for every *other* annotator who gave the answer, at most 1; the accuracy is the mean.
    So a list of one answer always gives 0. Texts are normalized unless all annotators say the same: then only that
    exact text is right.
    """
    if not answers:
        raise ValueError("answers must not be empty: VQA accuracy needs the answers of the annotators.")
    prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalize_vqa_answer(prediction), [normalize_vqa_answer(answer) for answer in answers]
    agree = np.array([answer == prediction for answer in answers], dtype=int)
    return float(np.minimum(3, agree.sum() - agree).mean() / 3)


def normalize_vqa_answer(text: str) -> str:
    """Return an answer as VQA accuracy compares it: lower case, digits, no article and little punctuation."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(_one_line(text)).lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """Delete a mark that touches a space somewhere, or all marks if a number has a comma; others become a space."""
    number, cleaned = _COMMA_IN_NUMBER.search(text), text
    for mark in _PUNCTUATION:
        cleaned = cleaned.replace(mark, "" if number or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", cleaned, count=_MOST_PERIODS)
