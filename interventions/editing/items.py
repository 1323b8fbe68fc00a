"""The items that editing studies use: wrong answers to correct, new facts to insert, and unrelated questions.

The paper (section 5) has two tasks. *Correct* wrong answers to questions that the model should know (in the embedded
test bed: facts that it was trained on). *Insert* facts that it never met (there: the split "never"; in that of the
pretrained models: "unknown"; elsewhere a test bed of long-tailed facts). Unrelated questions show what an edit leaves
unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from ..draws import seeded_hash
from ..errors import EditError
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
NEVER_MET = ("never", "unknown")  # splits of facts that an embedded and a pretrained model never met
WrongItems = dict[str, list[tuple[Item, str]]]  # task -> (item, the model's wrong answer)
N_REFERENCES = 200  # unrelated questions that the sample of every edit is drawn from


def wrong_items(
    model: VisionLanguageModel, testbed: Iterable[Item], task: str, limit: int, *, results_dir: str | Path = "results",
    protocol: str = "paper",
) -> list[tuple[Item, str]]:
    """Find the first items of a task that the model answers wrongly.

    Args:
        model: the unedited model.
        testbed: the items, asked in this order until enough are found. Items that fail are left out.
        task: "correct" for facts that the model was trained on or may have been; "insert" for facts it never met.
        limit: how many items to find (0: all).
        results_dir, protocol: as in `studies.answers.item_answer`.

    Returns:
        (item, the model's answer) pairs.

    Raises:
        EditError: there is no such item. If a request failed then, its error.
    """
    wrong = []
    fitting = [item for item in testbed if (item.split in NEVER_MET) == (task == "insert")]
    if not fitting:
        of = f"of the splits {' and '.join(map(repr, NEVER_MET))}"
        other, kind = ("correct", of) if task == "insert" else ("insert", f"except {of}")
        raise EditError(
            f"task {task!r} has no questions: the test bed has none {kind}; use task {other!r}, or choose another test "
            "bed or other parts."
        )

    def enough(result: QuestionResult) -> bool:
        if not result.reason and not is_right(answer := result.table.loc[0, "answer"], result.item):
            wrong.append((result.item, answer))
        return bool(limit) and len(wrong) == limit

    given = (protocol, MAX_ANSWER_TOKENS, None)
    results = question_loop(
        model, fitting, partial(answer_table, model, *given), key=answers_key(model, *given), purpose=("ask", "asked"),
        run=RunOptions(results_dir, label=f"looking for errors ({task})"), stop_when=enough, allow_none=True,
    )
    left_out = [result.reason for result in results if result.reason]
    print(f"{len(wrong)} answered wrongly" + (f", left out: {list_reasons(left_out)}" if left_out else ""), flush=True)
    if wrong:
        return wrong
    if len(left_out) < len(fitting):
        raise EditError(
            f"task {task!r} has nothing to {task}: {model.name!r} answers none of {len(fitting) - len(left_out)} "
            "questions wrongly; choose another test bed or other parts."
        )
    for result in results:
        if result.error is not None:
            raise result.error
    raise EditError(
        f"task {task!r} has nothing to {task}: {model.name!r} can be asked none of {len(fitting)} questions "
        f"({list_reasons(left_out)}); choose another test bed or other parts."
    )


def references(
    model: VisionLanguageModel, testbed: Iterable[Item], seed: int = 0, protocol: str = "paper", *,
    results_dir: str | Path = "results",
) -> list[Reference]:
    """Ask the unedited model at most N_REFERENCES unrelated questions, sampled by a hash of seed and id.

    Questions that fail are left out. The other arguments are those of `wrong_items`.
    """
    shuffled, used = sorted(testbed, key=lambda item: seeded_hash("unrelated", seed, item.id)), []

    def enough(result: QuestionResult) -> bool:
        if not result.reason:
            row, prompt = result.table.loc[0], clean_prompt(model, result.item, Conditions(protocol))
            ids = tuple(map(int, row["answer_ids"]))
            used.append(Reference(result.item, prompt, ids, float(row["accuracy"]), torch.tensor(row["log_p"])))
        return len(used) == N_REFERENCES

    def compute(item: Item) -> pd.DataFrame:
        answer = reference(model, item, protocol)
        row = {"answer_ids": list(answer.answer_ids), "accuracy": answer.accuracy, "log_p": answer.log_p.numpy()}
        return pd.DataFrame([row | {"reason": ""}])

    question_loop(
        model, shuffled, compute, key={"table": "references", "version": 2, "protocol": protocol},
        purpose=("ask", "asked"), run=RunOptions(results_dir, label="unrelated questions"), stop_when=enough,
        allow_none=True,
    )
    return used
