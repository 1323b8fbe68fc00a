"""What studies of transplants share: other items to take outputs from, the shares of an effect, and what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from ..draws import seeded_hash
from ..engine.runs import Answer, scored_part
from ..errors import Unusable
from ..models.model import VisionLanguageModel
from ..statistics import NEGLIGIBLE, bootstrap_interval
from ..testbed import Item, same_entity
from ..testbed.answers import is_right
from .answers import item_answer
from .loop import QUESTION_ERRORS, RunOptions

CARRIES = "what is restored carries the answer"
TAKES_AWAY = "what is restored only takes the replacement away"
BOTH = "both"
CANNOT_SAY = "cannot say"
# A share is present if its whole interval lies above PRESENT, and absent if it lies below. A quarter is what the claims
# of other figures call substantial. The two shares of one effect add up to about 1, so they are far from it on either
# side, unless both are there.
PRESENT = 0.25
LEAST_QUESTIONS = 10  # a bootstrap over fewer questions is too narrow
ASK_AT_MOST = 20  # other items that the model is asked for one question


def answered_others(
    model: VisionLanguageModel, items: Iterable[Item], pool: Iterable[Item], own: Callable[[Item], Answer], *,
    protocol: str, limit: int, seed: int, run: RunOptions,
) -> dict[str, tuple[Item, Answer]]:
    """Return, by an item's id, another item (see `other_items`) and the model's answer to it, which is right.

    The token that is scored differs from that of the own answer.

    Args:
        model: the model that is asked.
        items: the questions.
        pool: the items that others are drawn from.
        own: gives the model's answer to one of `items`.
        protocol: of the prompts.
        limit: questions of each part, the first ones that have another item; 0: all.
        seed: of the choice.
        run: where answers are stored and whether the model runs remotely.
    """
    by_words, found, counts = {}, {}, Counter()
    for item in pool:
        by_words.setdefault(_words(item), []).append(item)
    for item in items:
        if limit and counts[item.part] == limit:
            continue
        others = other_items(item, by_words.get(_words(item), ()), seed)[:ASK_AT_MOST]
        token = _scored(model, own(item)) if others else []
        for other in others:
            try:
                theirs = item_answer(model, other, protocol=protocol, results_dir=run.results_dir, remote=run.remote)
            except (Unusable, *QUESTION_ERRORS):
                continue
            if is_right(theirs.text, other) and _scored(model, theirs) != token:
                found[item.id] = other, theirs
                counts[item.part] += 1
                break
    return found


def other_items(item: Item, pool: Iterable[Item], seed: int = 0) -> list[Item]:
    """Return the items that ask the same words about another image and entity, with no answer in common.

    Their order is that of a hash, so it does not depend on the order of the pool.
    """
    fitting = [
        other for other in pool
        if _words(other) == _words(item) and other.image not in (None, item.image)
        and not same_entity(item, other) and not set(other.answers) & set(item.answers)
    ]
    return sorted(fitting, key=lambda other: seeded_hash(seed, item.id, other.id))


def transplant_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of a trace's effect that carry the fact and that only need the word, by part, kind and layer.

    `effect` is the mean of P(own | own output) - P(own | corrupted). `fact` is the mean of P(other | other output) -
    P(other | corrupted), divided by the effect. `word` is the mean of P(own | other output) - P(own | corrupted),
    divided by the effect. Where the effect's interval does not lie above NEGLIGIBLE, there is nothing to divide, and
    the shares are NaN.

    Args:
        frame: from `tracing.transplant.transplant_study`.

    Returns:
        Columns part, kind, layer, effect, low, high, fact, fact_low, fact_high, word, word_low, word_high, n. Intervals
        are bootstraps over questions, for shares of the ratio of means.
    """
    rows = []
    for (part, kind, layer), cells in frame.dropna().groupby(["part", "kind", "layer"], sort=False):
        own, other = cells["p_corrupted_own"], cells["p_corrupted_other"]
        gains = np.stack([cells["p_restored"] - own, cells["p_other"] - other, cells["p_own"] - own], axis=1)
        effect = bootstrap_interval(gains[:, 0])
        shares = np.full((3, 2), np.nan)  # value, low, high of fact and word
        if effect[1] > NEGLIGIBLE:
            shares = np.stack(bootstrap_interval(gains, _shares))
        rows.append({"part": part, "kind": kind, "layer": int(layer), "n": len(cells)}
                    | dict(zip(("effect", "low", "high"), effect, strict=True))
                    | dict(zip(("fact", "fact_low", "fact_high"), shares[:, 0], strict=True))
                    | dict(zip(("word", "word_low", "word_high"), shares[:, 1], strict=True)))
    columns = ["part", "kind", "layer", "effect", "low", "high", "fact", "fact_low", "fact_high", "word", "word_low",
               "word_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def strongest(shares: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the largest effect of each part and kind, with a column verdict."""
    best = shares.loc[shares.groupby(["part", "kind"], sort=False)["effect"].idxmax()]
    return best.assign(verdict=[verdict(row) for _, row in best.iterrows()])


def verdict(row: pd.Series) -> str:
    """Return what a row of `transplant_shares` says: CARRIES, TAKES_AWAY, BOTH or CANNOT_SAY."""
    if row["n"] < LEAST_QUESTIONS or not row["low"] > NEGLIGIBLE:
        return CANNOT_SAY
    match _is_present(row["fact_low"], row["fact_high"]), _is_present(row["word_low"], row["word_high"]):
        case True, False:
            return CARRIES
        case False, True:
            return TAKES_AWAY
        case True, True:
            return BOTH
    return CANNOT_SAY


def _scored(model: VisionLanguageModel, answer: Answer) -> list[int]:
    return scored_part(answer.ids, model.blank_ids, sequence=False)[1]


def _words(item: Item) -> tuple:
    return item.question, item.visual_constraint, item.text_constraint


def _shares(gains: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the shares [fact, word] of gains [questions, (effect, fact, word)]."""
    means = gains.mean(axis)
    return means[1:] / means[0]


def _is_present(low: float, high: float) -> bool | None:
    """Return whether a share is present, by its interval; None if that is undecided."""
    return True if low > PRESENT else False if high < PRESENT else None
