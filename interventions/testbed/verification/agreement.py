"""How far people agree on items that more than one of them decided on.

Only blind decisions count: those made without seeing what others decided.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...extras import extra
from ...statistics import bootstrap_counts, bootstrap_interval
from ...text import constraint_spans, normalize, overlap
from ..schema import Item, TestBed
from .decisions import Decision, DecisionLog
from .outcomes import disagree

Pair = tuple[Item, Decision, Decision]


def progress(testbed: TestBed, log: DecisionLog) -> pd.DataFrame:
    """Return a row for each person: annotator, decided, of (the items), accepted, corrected, rejected, stale."""
    items = {item.id: item for item in testbed}
    own = [decision for name, people in log.standing().items() if name in items for decision in people.values()]
    rows = []
    for annotator in log.annotators:
        mine = [decision for decision in own if decision.annotator == annotator]
        valid = [decision.action for decision in mine if decision.is_on(items[decision.item])]
        counts = [valid.count(action) for action in ("accept", "correct", "reject")]
        rows.append((annotator, len(valid), len(items), *counts, len(mine) - len(valid)))
    columns = ["annotator", "decided", "of", "accepted", "corrected", "rejected", "stale"]
    return pd.DataFrame(rows, columns=columns)


def agreement(testbed: TestBed, log: DecisionLog, seed: int = 0) -> pd.DataFrame:
    """Return how far every two people with an item in common agree, one row a measure.

    The verdict is whether an item is good (accepted or corrected) or rejected. Constraints are compared on the items
    that both found good: whether the spans are the same, and the F1 of their words. For text constraints the F1 is
    over items where at least one person marked one (0 if only one did).

    Args:
        testbed: the items, with those set aside (`outcomes.with_set_aside`).

    Returns:
        Columns a, b, measure, value, low, high (95 % bootstrap interval over items), n (items). Cohen's kappa is NaN
        where only one verdict was ever given.
    """
    rows = []
    for a, b, pairs in _pairs(testbed, log):
        verdicts = np.array([(one.action != "reject", two.action != "reject") for _, one, two in pairs])
        good = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.all()]
        words = {role: [(_words(item, one, role), _words(item, two, role)) for item, one, two in good]
                 for role in ("visual", "text")}
        texts = [(one, two) for one, two in words["text"] if one or two]
        for measure, values in (
            ("verdict", verdicts[:, 0] == verdicts[:, 1]),
            ("visual constraint: same", [one == two for one, two in words["visual"]]),
            ("visual constraint: F1 of words", [_f1(one, two) for one, two in words["visual"]]),
            ("text constraint: both or neither", [bool(one) == bool(two) for one, two in words["text"]]),
            ("text constraint: F1 of words", [_f1(one, two) for one, two in texts]),
        ):
            rows.append((a, b, measure, *bootstrap_interval(values, seed=seed), len(values)))
            if measure == "verdict":
                rows.append((a, b, "verdict: Cohen's kappa", *_kappa(verdicts, seed), len(verdicts)))
    return pd.DataFrame(rows, columns=["a", "b", "measure", "value", "low", "high", "n"])


def disputed(testbed: TestBed, log: DecisionLog) -> pd.DataFrame:
    """Return the valid decisions on items about which people disagree now, one a row.

    Columns: id, question, annotator, action, visual_constraint, text_constraint, visual_replacement,
    text_replacement, comment. Replacements are empty unless the person wrote them.
    """
    standing, rows = log.standing(), []
    shown = ["action", "visual_constraint", "text_constraint", "visual_replacement", "text_replacement", "comment"]
    for item in testbed:
        valid = [decision for decision in standing.get(item.id, {}).values() if decision.is_on(item)]
        if valid and disagree(valid):
            rows += [(item.id, item.question, d.annotator, *(getattr(d, name) or "" for name in shown)) for d in valid]
    return pd.DataFrame(rows, columns=["id", "question", "annotator", *shown])


def _pairs(testbed: TestBed, log: DecisionLog) -> Iterator[tuple[str, str, list[Pair]]]:
    """Yield every two people and their blind decisions on the current wording of the same items."""
    standing = log.standing(blind=True)
    for a, b in itertools.combinations(log.annotators, 2):
        pairs = [(item, people[a], people[b]) for item in testbed
                 if {a, b} <= (people := standing.get(item.id, {})).keys()
                 and people[a].is_on(item) and people[b].is_on(item)]
        if pairs:
            yield a, b, pairs


def _words(item: Item, decision: Decision, role: str) -> frozenset[int]:
    """The indices of the question's words that a person's constraint overlaps."""
    spans = constraint_spans(item.question, decision.visual_constraint, decision.text_constraint)
    if role not in spans:
        return frozenset()
    words = [word.span() for word in re.finditer(r"\S+", normalize(item.question))]
    return frozenset(i for i, word in enumerate(words) if overlap(word, spans[role]))


def _f1(one: frozenset, two: frozenset) -> float:
    return 2 * len(one & two) / (len(one) + len(two))


def _kappa(verdicts: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Cohen's kappa of two people's verdicts [items, 2] and its interval, without resamples that have one verdict."""
    with extra("notebooks"):
        from sklearn.metrics import cohen_kappa_score  # heavy

    n = len(verdicts)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # kappa is NaN where there is one verdict
        warnings.simplefilter("ignore")
        value = float(cohen_kappa_score(*verdicts.T, labels=[False, True]))
        # In resamples the same arithmetic for all at once: scikit-learn takes seconds for 2000 of them.
        differ, first, second = (bootstrap_counts(n, seed=seed) @ np.c_[verdicts[:, 0] != verdicts[:, 1], verdicts]).T
        resamples = 1 - differ / ((n - first) * second / n + first * (n - second) / n)
    if np.isnan(value) or n == 1:
        return value, np.nan, np.nan
    low, high = np.nanquantile(resamples, (0.025, 0.975))
    return value, float(low), float(high)
