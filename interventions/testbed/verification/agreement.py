"""How far people agree on the items of a test bed that more than one of them decided on.

Only decisions count that were made blind, without a look at what others decided: whoever settles a dispute knows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...statistics import bootstrap_counts, bootstrap_interval
from ...text import constraint_spans, normalize, overlap
from ..schema import Item, TestBed
from .decisions import Decision, DecisionLog
from .outcomes import disagree

Pair = tuple[Item, Decision, Decision]


def progress(testbed: TestBed, log: DecisionLog) -> pd.DataFrame:
    """One row a person: annotator, decided, of (the items), accepted, corrected, rejected, stale."""
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
    """Every two people with an item in common, measure by measure: a, b, measure, value, low, high, n.

    The verdict is whether an item is good (accepted or corrected) or rejected; Cohen's kappa is NaN where only one
    verdict was ever given. Constraints are compared on the n items that both found good: whether the spans are the
    same, and the F1 of the words in them. That of text constraints is over items where at least one person marked one
    (0 if only one did). low, high: 95 % bootstrap intervals over items.
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
    """The decisions that stand on items about which people disagree now, one a row, item by item.

    Columns: id, question, annotator, action, visual_constraint, text_constraint, visual_replacement,
    text_replacement, comment; replacements only where they were written.
    """
    standing, rows = log.standing(), []
    shown = ["action", "visual_constraint", "text_constraint", "visual_replacement", "text_replacement", "comment"]
    for item in testbed:
        valid = [decision for decision in standing.get(item.id, {}).values() if decision.is_on(item)]
        if valid and disagree(valid):
            rows += [(item.id, item.question, d.annotator, *(getattr(d, name) or "" for name in shown)) for d in valid]
    return pd.DataFrame(rows, columns=["id", "question", "annotator", *shown])


def _pairs(testbed: TestBed, log: DecisionLog) -> Iterator[tuple[str, str, list[Pair]]]:
    """Two people, and what both decided blind, on the question as it is now."""
    standing = log.standing(blind=True)
    for a, b in itertools.combinations(log.annotators, 2):
        pairs = [(item, people[a], people[b]) for item in testbed
                 if {a, b} <= (people := standing.get(item.id, {})).keys()
                 and people[a].is_on(item) and people[b].is_on(item)]
        if pairs:
            yield a, b, pairs


def _words(item: Item, decision: Decision, role: str) -> frozenset[int]:
    """The words of the question, by number, that a person's constraint overlaps."""
    spans = constraint_spans(item.question, decision.visual_constraint, decision.text_constraint)
    if role not in spans:
        return frozenset()
    words = [word.span() for word in re.finditer(r"\S+", normalize(item.question))]
    return frozenset(i for i, word in enumerate(words) if overlap(word, spans[role]))


def _f1(one: frozenset, two: frozenset) -> float:
    return 2 * len(one & two) / (len(one) + len(two))


def _kappa(verdicts: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Cohen's kappa of two people's verdicts [items, 2] and its interval, without resamples that have one verdict."""
    cells, n = np.eye(4)[verdicts @ (2, 1)], len(verdicts)  # [items, 4]: neither, the second, the first, both: good
    counts = np.vstack([cells.sum(0), bootstrap_counts(n, seed=seed) @ cells])
    agreed = (counts[:, 0] + counts[:, 3]) / n
    first, second = (counts[:, 2] + counts[:, 3]) / n, (counts[:, 1] + counts[:, 3]) / n
    by_chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore"):
        kappas = (agreed - by_chance) / (1 - by_chance)
    found = kappas[1:][~np.isnan(kappas[1:])]
    if np.isnan(kappas[0]) or n == 1:
        return float(kappas[0]), np.nan, np.nan
    return float(kappas[0]), *map(float, np.quantile(found, (0.025, 0.975)))
