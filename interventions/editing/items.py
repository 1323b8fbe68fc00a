"""What the editing experiments edit, and what they ask besides.

Two tasks, as in the paper's section 5: *correct* questions that the model answers wrongly although it should know (of
the embedded test bed: facts it was trained on), and *insert* facts that it never met (its split "never"; elsewhere a
test bed of long-tailed facts). Unrelated questions show what an edit leaves as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from ..draws import seeded_hash
from ..errors import ParameterError
from ..models.model import VisionLanguageModel
from ..prompts.tokens import MAX_ANSWER_TOKENS
from ..studies.answers import answer_table, answers_key
from ..studies.conditions import Conditions, clean_prompt
from ..studies.loop import QuestionResult, RunOptions, question_loop
from ..testbed import Item
from ..testbed.answers import is_right
from ..text import list_reasons
from .evaluation import Reference, reference

TASKS = ("correct", "insert")
Chosen = dict[str, list[tuple[Item, str]]]  # task -> what `wrong_items` found
POOL = 200  # unrelated questions that every edit's sample is drawn from


def wrong_items(
    model: VisionLanguageModel, testbed: Iterable[Item], task: str, limit: int, *, results_dir: str | Path = "results",
    protocol: str = "paper",
) -> list[tuple[Item, str]]:
    """The first `limit` items (0: all) of a task that the model answers wrongly, each with what it says.

    task: "correct" = facts that it was trained on, or that no one knows it was not; "insert" = those it never met.
    Asked in the order of the test bed, until there are enough; a question that cannot be asked, or whose request
    fails, is left out. Raises ParameterError if there are none, and the first request's error if that is why.
    """
    found = []
    fitting = [item for item in testbed if (item.split == "never") == (task == "insert")]
    if not fitting:
        other, what = ("correct", "of the split 'never'") if task == "insert" else ("insert", "but those never met")
        raise ParameterError(
            f"Parameter 'tasks': the test bed has no questions {what}, so there is nothing to {task}: write -p tasks "
            f"{other}, or choose another test bed or other parts."
        )

    def enough(entry: QuestionResult) -> bool:
        if not entry.reason and not is_right(said := entry.table.loc[0, "answer"], entry.item):
            found.append((entry.item, said))
        return bool(limit) and len(found) == limit

    given = (protocol, MAX_ANSWER_TOKENS, None)
    asked = question_loop(
        model, fitting, partial(answer_table, model, *given), key=answers_key(model, *given), purpose=("ask", "asked"),
        run=RunOptions(results_dir, label=f"looking for errors ({task})"), stop_when=enough, allow_none=True,
    )
    left_out = [entry.reason for entry in asked if entry.reason]
    print(f"{len(found)} answered wrongly" + (f", left out: {list_reasons(left_out)}" if left_out else ""), flush=True)
    if found:
        return found
    if len(left_out) < len(fitting):
        raise ParameterError(
            f"Parameter 'testbed': {model.name!r} answers none of {len(fitting) - len(left_out)} questions wrongly, so "
            f"there is nothing to {task}: choose another test bed or other parts."
        )
    for entry in asked:
        if entry.error is not None:
            raise entry.error
    raise ParameterError(
        f"Parameter 'testbed': {model.name!r} can be asked none of {len(fitting)} questions "
        f"({list_reasons(left_out)}): choose another test bed or other parts."
    )


def references(
    model: VisionLanguageModel, testbed: Iterable[Item], seed: int = 0, protocol: str = "paper", *,
    results_dir: str | Path = "results",
) -> list[Reference]:
    """At most POOL unrelated questions with the unedited model's answers, drawn by a hash of seed and id.

    Those that cannot be asked, or whose request fails, are left out. One stored table a question.
    """
    drawn, used = sorted(testbed, key=lambda item: seeded_hash("unrelated", seed, item.id)), []

    def enough(entry: QuestionResult) -> bool:
        if not entry.reason:
            used.append(_stored_reference(model, protocol, entry))
        return len(used) == POOL

    question_loop(
        model, drawn, partial(_reference_table, model, protocol),
        key={"table": "references", "version": 2, "protocol": protocol},
        purpose=("ask", "asked"), run=RunOptions(results_dir, label="unrelated questions"), stop_when=enough,
        allow_none=True,
    )
    return used


def _reference_table(model: VisionLanguageModel, protocol: str, item: Item) -> pd.DataFrame:
    """The table stored for one question: one row."""
    found = reference(model, item, protocol)
    return pd.DataFrame([{
        "answer_ids": list(found.answer_ids), "accuracy": found.accuracy, "log_p": found.log_p.numpy(), "reason": "",
    }])


def _stored_reference(model: VisionLanguageModel, protocol: str, entry: QuestionResult) -> Reference:
    row, prompt = entry.table.loc[0], clean_prompt(model, entry.item, Conditions(protocol))
    ids = tuple(map(int, row["answer_ids"]))
    return Reference(entry.item, prompt, ids, float(row["accuracy"]), torch.tensor(row["log_p"]))
