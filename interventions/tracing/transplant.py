"""Transplants: does what a trace restores carry the answer, or does it only take the replacement away?

A trace restores the output that was recorded on the question's own image. If the answer comes back, there are two
possible reasons. The output may hold the answer (the *fact*). Or it may only hold that the constraint is not the
replacement (the *word*), and the model finds the answer in the image again. The effect is the same in both cases.

A transplant tells them apart. The corrupted run still sees its own image, but the restored output comes from a run of
the same words about *another* image. If the output holds the fact, the answer about the other image appears. If it only
holds the word, the own answer comes back as well as with the own output.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from ..engine.runs import Answer
from ..engine.windows import Execution
from ..models.model import VisionLanguageModel
from ..statistics import joined
from ..studies.conditions import Conditions, clean_prompt, corrupted_prompt
from ..studies.loop import DEFAULT_RUN, RunOptions, question_loop
from ..studies.transplant import answered_others
from ..testbed import Item
from .causal_trace import Scoring, trace
from .study import TraceStudy, read_position

COLUMNS = [
    "id", "other", "part", "kind", "layer", "p_own", "p_other", "p_corrupted_own", "p_corrupted_other", "p_restored",
    "p_clean", "p_donor",
]


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
    others = answered_others(
        model, [by_id[name] for name in own], by_id.values(), lambda item: own[item.id],
        protocol=study.conditions.protocol, limit=limit, seed=seed, run=run,
    )

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
