"""Transplants: does what a trace restores carry the answer, or does it only take the replacement away?

A trace restores the output that was recorded on the question's own image. If the answer comes back, there are two
possible reasons. The output may hold the answer (the *fact*). Or it may only hold that the constraint is not the
replacement (the *word*), and the model finds the answer in the image again. The effect is the same in both cases.

A transplant tells them apart. The corrupted run still sees its own image, but the restored output comes from a run of
the same words about *another* image. If the output holds the fact, the answer about the other image appears. If it only
holds the word, the own answer comes back as well as with the own output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from ..draws import seeded_hash
from ..engine.runs import Answer, scored_part
from ..engine.windows import Execution
from ..errors import Unusable
from ..models.model import VisionLanguageModel
from ..statistics import NEGLIGIBLE, bootstrap_interval, joined
from ..studies.answers import item_answer
from ..studies.conditions import Conditions, clean_prompt, corrupted_prompt
from ..studies.loop import DEFAULT_RUN, QUESTION_ERRORS, RunOptions, question_loop
from ..testbed import Item, same_entity
from ..testbed.answers import is_right
from .causal_trace import Scoring, trace
from .study import TraceStudy, read_position

COLUMNS = [
    "id", "other", "part", "kind", "layer", "p_own", "p_other", "p_corrupted_own", "p_corrupted_other", "p_restored",
    "p_clean", "p_donor",
]
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


def transplant_study(
    model: VisionLanguageModel, testbed: Iterable[Item], study: TraceStudy, *, limit: int = 0, seed: int = 0,
    method: str | None = None, run: RunOptions = DEFAULT_RUN,
) -> pd.DataFrame:
    """Trace the questions of a study again with outputs from another image, at the token that is read.

    A question needs another item: the same words about another image and another entity, with no answer in common. The
    model must answer the other item right, and the token that is scored must be another one. Of several fitting items,
    a hash chooses one.

    Args:
        model: the model of the study.
        testbed: the items that others are drawn from, with the study's own.
        study: the study, whose settings are used.
        limit: questions of each part, the first ones of the study that have another item; 0: all.
        seed: of the choice of other items.
        method: see `Execution`.
        run: where tables are stored and whether the model runs remotely; its shard and label are not used.

    Returns:
        One row per question, kind and layer. Columns id, other (the other item's id), part, kind, layer; P(own answer)
        and P(other answer) with the other image's output (p_own, p_other) and in the corrupted run (p_corrupted_own,
        p_corrupted_other); p_restored, P(own answer) with the own output, from the study; p_clean, P(own answer) of the
        clean run; p_donor, P(other answer) of the other image's own run.
    """
    by_id, used = {item.id: item for item in testbed}, study.questions[study.questions["used"]]
    own = {row.id: Answer(tuple(map(int, row.answer_ids)), row.answer, row.p_clean) for row in used.itertuples()}
    kinds = list(dict.fromkeys(study.sites["kind"]))
    settings = {"window": study.window, "kinds": kinds, "method": method, "remote": model.runs_on(run.remote)}
    others = _others(model, by_id, own, study.conditions.protocol, limit, seed, settings["remote"], run)

    def item_key(item: Item) -> dict:
        other, answer = others[item.id]
        return {"answer_ids": list(own[item.id].ids), "other": other.content(), "other_answer_ids": list(answer.ids)}

    results = question_loop(
        model, [by_id[name] for name in others],
        partial(_trace_item, model, study.conditions, settings, own, others),
        key=settings | study.conditions.key() | {"table": "transplant", "version": 1}, item_key=item_key,
        purpose=("transplant", "transplanted"), run=RunOptions(run.results_dir, label="transplant"), allow_none=True,
    )
    for result in results:
        if result.error is not None:
            print(f"{result.item.id}: no transplant. {result.error}", flush=True)
    frames = [result.table.assign(id=result.item.id, part=result.item.part, p_clean=own[result.item.id].p)
              for result in results if not result.reason]
    read = study.sites[study.sites["read"]]
    restored = read[["id", "kind", "layer", "p_restored"]].astype({"id": str, "kind": str})
    found = joined(frames, [name for name in COLUMNS if name != "p_restored"])
    return found.merge(restored, how="left", on=["id", "kind", "layer"])[COLUMNS]


def transplant_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of a trace's effect that carry the fact and that only need the word, by part, kind and layer.

    `effect` is the mean of P(own | own output) - P(own | corrupted). `fact` is the mean of P(other | other output) -
    P(other | corrupted), divided by the effect. `word` is the mean of P(own | other output) - P(own | corrupted),
    divided by the effect. Where the effect's interval does not lie above NEGLIGIBLE, there is nothing to divide, and
    the shares are NaN.

    Args:
        frame: from `transplant_study`.

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


def _others(
    model: VisionLanguageModel, by_id: dict[str, Item], own: dict[str, Answer], protocol: str, limit: int, seed: int,
    remote: bool | str, run: RunOptions,
) -> dict[str, tuple[Item, Answer]]:
    """Return, by a question's id, another item and the model's answer to it; at most `limit` questions of each part.

    own: the model's answer to each question, by its id, in order.
    """
    pool, found, counts = {}, {}, Counter()
    for item in by_id.values():
        pool.setdefault(_words(item), []).append(item)
    for name, answer in own.items():
        item, token = by_id[name], _scored(model, answer)
        if limit and counts[item.part] == limit:
            continue
        for other in other_items(item, pool[_words(item)], seed)[:ASK_AT_MOST]:
            try:
                theirs = item_answer(model, other, protocol=protocol, results_dir=run.results_dir, remote=remote)
            except (Unusable, *QUESTION_ERRORS):
                continue
            if is_right(theirs.text, other) and _scored(model, theirs) != token:
                found[name] = other, theirs
                counts[item.part] += 1
                break
    return found


def _scored(model: VisionLanguageModel, answer: Answer) -> list[int]:
    return scored_part(answer.ids, model.blank_ids, sequence=False)[1]


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


def _words(item: Item) -> tuple:
    return item.question, item.visual_constraint, item.text_constraint


def _trace_item(
    model: VisionLanguageModel, conditions: Conditions, settings: dict, own: dict[str, Answer],
    others: dict[str, tuple[Item, Answer]], item: Item,
) -> pd.DataFrame:
    """Return the table stored for one question: probabilities by kind and layer."""
    other, answer = others[item.id]
    prompt = clean_prompt(model, item, conditions)
    result = trace(
        model, prompt, corrupted_prompt(model, item, prompt, conditions), window=settings["window"],
        window_rule=conditions.window_rule, kinds=settings["kinds"],
        positions=(read_position(prompt, item, conditions),), donor=clean_prompt(model, other, conditions),
        answers=[own[item.id].ids, answer.ids], scoring=Scoring(require_top=False),
        execution=Execution(settings["method"], remote=settings["remote"]),
    )
    [of_other] = result.other_answers
    kind, _, layer = np.indices(result.restored.shape).reshape(3, -1)
    return pd.DataFrame({
        "other": other.id, "kind": np.asarray(result.kinds)[kind], "layer": layer, "p_own": result.restored.ravel(),
        "p_other": of_other.restored.ravel(), "p_corrupted_own": result.p_corrupted,
        "p_corrupted_other": of_other.p_corrupted, "p_donor": of_other.p_donor, "reason": "",
    })


def _shares(gains: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the shares [fact, word] of gains [questions, (effect, fact, word)]."""
    means = gains.mean(axis)
    return means[1:] / means[0]


def _is_present(low: float, high: float) -> bool | None:
    """Return whether a share is present, by its interval; None if that is undecided."""
    return True if low > PRESENT else False if high < PRESENT else None
