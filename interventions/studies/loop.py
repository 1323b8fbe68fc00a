"""The loop of every experiment: run the questions of a test bed, with one stored table per question.

An item that cannot be used is left out, with its reason. A question that fails by itself (QUESTION_ERRORS) costs that
question only. Every other error ends the run, and finished questions are kept: a fault of the machine or of the server
would hit the next question too, and any other error is a mistake in this package, which a count of failed questions
would hide.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pandas as pd
import torch
from safetensors import SafetensorError

from ..environment import device_of
from ..errors import (
    AttentionError,
    EditError,
    JobFailed,
    NDIFError,
    ParameterError,
    PromptError,
    RunStopped,
    TestBedError,
    TraceError,
    Unusable,
)
from ..models.model import VisionLanguageModel
from ..notebook import must_take_files
from ..progress import Progress
from ..testbed import Item
from ..text import first_line, list_reasons
from .results import TABLES, ResultStore

ITEM_COLUMNS = ["id", "part", "constraints", "question", "entity", "relation", "split", "style"]
QUESTION_ERRORS = (TraceError, AttentionError, EditError, PromptError, TestBedError, JobFailed)
MACHINE_FAULTS = (OSError, MemoryError, torch.OutOfMemoryError, ImportError, SafetensorError)


@dataclass(frozen=True)
class RunOptions:
    """How a study runs, apart from what it computes.

    Attributes:
        results_dir: the folder of stored tables.
        shard: "2/8" runs the second eighth of the items only. The tables of all shards are those of the whole run.
        required: an item that cannot be used raises ParameterError instead of being left out.
        remote: whether the model runs on an NDIF server (True), here (False), or as it was loaded (None).
        label: what each progress line begins with.
    """

    results_dir: str | Path = "results"
    shard: str = ""
    required: bool = False
    remote: bool | str | None = None
    label: str = ""


DEFAULT_RUN = RunOptions()


@dataclass(frozen=True)
class QuestionResult:
    """What a run made of one question.

    Attributes:
        item: the question.
        table: its stored table; None if there is none.
        reason: why the question is not used; "" if it is.
        error: the error of a question that failed.
    """

    item: Item
    table: pd.DataFrame | None
    reason: str
    error: Exception | None = None

    def row(self, columns: Iterable[str]) -> dict:
        """Return ITEM_COLUMNS, `columns` of the table's first row, "used" and "reason"."""
        row = {name: getattr(self.item, name) for name in ITEM_COLUMNS}
        if self.table is not None:
            row |= self.table.loc[0, list(columns)].to_dict()
        return row | {"used": self.reason == "", "reason": self.reason}


def question_loop(
    model: VisionLanguageModel, testbed: Iterable[Item], compute: Callable[[Item], pd.DataFrame], *, key: dict,
    purpose: tuple[str, str], run: RunOptions = DEFAULT_RUN, item_key: Callable[[Item], dict] | None = None,
    stop_when: Callable[[QuestionResult], bool] | None = None, allow_none: bool = False,
) -> list[QuestionResult]:
    """Compute the table of every item, or read the one that is stored.

    Args:
        model: the model that is asked.
        testbed: the items.
        compute: makes the table of one item, with a column "reason". It may raise `Unusable`.
        key: everything that determines a table besides the model and the item, see `results.ResultStore`.
        purpose: the verb for error messages and its past participle, such as ("trace", "traced").
        run: how the study runs; its `remote` is the caller's business.
        item_key: what else determines the table of one item. It overrides the model's key.
        stop_when: called with each result; the loop ends where it returns True.
        allow_none: whether a run may use no question at all.

    Returns:
        One result per item that was run, in order.

    Raises:
        ParameterError: results_dir takes no file, a required item cannot be used, or no item can. If a question failed
            in that last case, its error is raised instead.
        RunStopped: a fault of the machine (MACHINE_FAULTS).
        NDIFError: the server does not answer any more, or takes no more requests.
    """
    must_take_files("results_dir", Path(run.results_dir).expanduser() / TABLES)
    (verb, past), store = purpose, ResultStore(run.results_dir, device_of(model))
    items = in_shard(list(testbed), run.shard)
    results, n_used, progress = [], 0, Progress(len(items), run.label)
    for item in items:
        try:
            own = item_key(item) if item_key else {}
            result, stored = run_question(item, compute, key | model.key() | own, store)
        except Exception as error:
            stop_run(error, item, f"{len(results)} of {len(items)} questions are done and kept")
        if run.required and result.reason:
            raise ParameterError(
                f"Parameter 'items': question {item.id!r} cannot be {past}, {result.reason.rstrip('.')}: "
                "name another one, or leave items empty to sample."
            ) from result.error
        results.append(result)
        n_used += not result.reason
        progress.step(f"{n_used} used", stored=stored)
        if stop_when and stop_when(result):
            break
    if not n_used and not allow_none:
        for result in results:
            if result.error:
                raise result.error
        raise ParameterError(
            f"Parameter 'model': {model.name!r} gives nothing to {verb} on {len(items)} questions "
            f"({list_reasons(one.reason for one in results)}): choose another model or test bed, or a larger limit."
        )
    progress.close(f"{n_used} used")
    return results


def run_question(
    item: Item, compute: Callable[[Item], pd.DataFrame], key: dict, store: ResultStore
) -> tuple[QuestionResult, bool]:
    """Run one question of `question_loop`.

    Returns:
        The result, and whether its table was stored already.
    """
    computed = []

    def compute_now() -> pd.DataFrame:
        computed.append(item)
        return compute(item)

    try:
        table = store.get_or_compute(key | {"item": item.content()}, compute_now)
        return QuestionResult(item, table, table.loc[0, "reason"]), not computed
    except Unusable as error:
        return QuestionResult(item, None, str(error)), False
    except QUESTION_ERRORS as error:
        release_frames(error)
        return QuestionResult(item, None, f"failed: {error!r}", error), False


def stop_run(error: Exception, item: Item, kept: str) -> NoReturn:
    """Raise an error that ends the run. `kept` is a clause that says what is not lost."""
    if isinstance(error, NDIFError):
        raise type(error)(f"{error} {kept}: start again to go on.") from error
    release_frames(error)
    if isinstance(error, MACHINE_FAULTS) or "can't allocate memory" in str(error):  # torch's sentence on a CPU
        raise RunStopped(
            f"The machine failed at question {item.id!r} ({type(error).__name__}: {first_line(error)}): {kept}; fix "
            "this and run again to continue."
        ) from error
    error.add_note(f"This happened at question {item.id!r}. {kept}.")
    raise error


def release_frames(error: BaseException) -> None:
    """Replace the tracebacks of an error and of its causes by notes.

    A traceback holds the tensors of a whole trace, and nnsight's own one holds them among the globals of its frames.
    """
    errors = [error]
    for one in errors:
        one.add_note("".join(traceback.format_tb(one.__traceback__)))
        one.__traceback__ = one.__intervention_tb__ = None  # pyright: ignore[reportAttributeAccessIssue]
        errors += [cause for cause in (one.__cause__, one.__context__) if cause is not None and cause not in errors]


def in_shard(items: list, shard: str) -> list:
    """Return every n-th item from the k-th on, for a shard "k/n"; all items for an empty one."""
    if not shard:
        return items
    k, n = shard_of(shard)
    if k > len(items):
        raise ParameterError(
            f"Parameter 'shard': {shard!r} holds none of the {len(items)} questions: use at most {len(items)} parts."
        )
    return items[k - 1 :: n]


def shard_of(text: str) -> tuple[int, int]:
    """Return (k, n) of a shard "k/n", 1 <= k <= n."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not (found and 1 <= int(found[1]) <= int(found[2])):
        raise ParameterError(f"Parameter 'shard' must be like '2/8' (the second of eight parts), not {text!r}.")
    return int(found[1]), int(found[2])
