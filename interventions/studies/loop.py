"""The loop of every experiment: ask the questions of a test bed, one stored table a question.

A question that cannot be used is left out with its reason, and so is one that fails by itself: an error of the kinds
QUESTION_ERRORS costs its own question, not the others. Everything else ends the run at once, and what is finished by
then is kept. A fault of the machine (storage, memory, a broken installation) or of the server would hit the next
question too, and is told in one sentence. An error of any other kind is a mistake in this package: counted among the
failed questions it would be overlooked, so it is raised as it is, with the question's id.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import closing
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
    TraceError,
    Unusable,
)
from ..models.model import VisionLanguageModel
from ..notebook import must_take_files
from ..progress import Progress
from ..remote.turns import in_order
from ..testbed import Item, TestBedError
from ..text import first_line, list_reasons
from .parameters import shard_of
from .results import TABLES, ResultStore

ITEM_COLUMNS = ["id", "part", "constraints", "question", "entity", "relation", "split", "style"]
QUESTION_ERRORS = (TraceError, AttentionError, EditError, PromptError, TestBedError, JobFailed)
MACHINE_FAULTS = (OSError, MemoryError, torch.OutOfMemoryError, ImportError, SafetensorError)


@dataclass(frozen=True)
class Asked:
    """A question, its stored table (None: there is none) and why it is not used ("": it is).

    error: the error of a question that failed.
    """

    item: Item
    table: pd.DataFrame | None
    reason: str
    error: Exception | None = None

    def row(self, columns: Iterable[str]) -> dict:
        """What a table of questions says of it: ITEM_COLUMNS, used, reason, and columns of the stored table's first
        row (where there is none: missing)."""
        row = {name: getattr(self.item, name) for name in ITEM_COLUMNS}
        if self.table is not None:
            row |= self.table.loc[0, list(columns)].to_dict()
        return row | {"used": self.reason == "", "reason": self.reason}


def ask(
    model: VisionLanguageModel, testbed: Iterable[Item], compute: Callable[[Item], pd.DataFrame], *, key: dict,
    purpose: tuple[str, str], results_dir: str | Path = "results", shard: str = "", required: bool = False,
    label: str = "", own_key: Callable[[Item], dict] | None = None,
    enough: Callable[[Asked], bool] | None = None, optional: bool = False,
) -> list[Asked]:
    """`compute(item)` of every item, or what is stored of it; its table must have a column "reason".

    `model.concurrency` items wait for a server at a time.

    Args:
        model: the model that is asked.
        testbed: the items.
        compute: makes the table of one item; it may raise `conditions.Unusable`.
        key: all that determines a table besides model and item, see `results.ResultStore`.
        purpose: the verb of error messages, and its past ("trace", "traced").
        results_dir, shard, required, label: as for `study.trace_study`.
        own_key: what determines an item's table and differs between items, besides the item itself.
        enough: called with each question in turn; where it says True, the rest is not asked.
        optional: whether a run in which no question is used is no error.

    Returns:
        The items that were asked, in their order.

    Raises:
        ParameterError: results_dir takes no file, a required item is not used, or no item is. If a question failed
            then, its error.
        RunStopped: a fault of the machine (MACHINE_FAULTS).
        NDIFError: the server does not answer any more, or takes no more requests.
    """
    must_take_files("results_dir", Path(results_dir).expanduser() / TABLES)
    (verb, past), store = purpose, ResultStore(results_dir, device_of(model))
    items = in_shard(list(testbed), shard)
    asked, failure, n_used, progress = [], None, 0, Progress(len(items), label)

    def one(item: Item) -> tuple[Asked, bool]:
        return ask_one(model, item, compute, key | (own_key(item) if own_key else {}), store)

    with closing(in_order(one, items, model.concurrency)) as found:
        for item in items:
            try:
                entry, stored = next(found)
            except Exception as error:
                stop_run(error, item, f"{len(asked)} of {len(items)} questions are done and kept")
            failure = failure or entry.error
            if required and entry.reason:
                raise ParameterError(
                    f"Parameter 'items': question {item.id!r} cannot be {past}, {entry.reason.rstrip('.')}: "
                    "name another one, or leave items empty to sample."
                ) from entry.error
            asked.append(entry)
            n_used += not entry.reason
            progress.step(f"{n_used} used", stored=stored)
            if enough and enough(entry):
                break
    if not n_used and not optional:
        if failure is not None:
            raise failure
        raise ParameterError(
            f"Parameter 'model': {model.name!r} gives nothing to {verb} on {len(items)} questions "
            f"({list_reasons(entry.reason for entry in asked)}): choose another model or test bed, or a larger limit."
        )
    progress.close(f"{n_used} used")
    return asked


def ask_one(
    model: VisionLanguageModel, item: Item, compute: Callable[[Item], pd.DataFrame], key: dict, store: ResultStore
) -> tuple[Asked, bool]:
    """One question of `ask`, and whether its table was stored already; key: as there, with what is the item's own.

    Raises what ends a run, see `stop_run`.
    """
    computed = []

    def compute_now() -> pd.DataFrame:
        computed.append(item)
        return compute(item)

    try:
        table = store.get_or_compute(key | model.key() | {"item": item.content()}, compute_now)
        return Asked(item, table, table.loc[0, "reason"]), not computed
    except Unusable as error:
        return Asked(item, None, str(error)), False
    except QUESTION_ERRORS as error:
        release_frames(error)
        return Asked(item, None, f"failed: {error!r}", error), False


def stop_run(error: Exception, item: Item, kept: str) -> NoReturn:
    """Raise what tells the user of an error of `ask_one`, which ends the run; kept: what is not lost, as a clause."""
    if isinstance(error, NDIFError):
        raise type(error)(f"{error} {kept}: start again to go on.") from error
    release_frames(error)
    if isinstance(error, MACHINE_FAULTS) or "can't allocate memory" in str(error):  # as torch says it on a CPU
        raise RunStopped(
            f"The machine failed at question {item.id!r} ({type(error).__name__}: {first_line(error)}): {kept}; fix "
            "this and run again to continue."
        ) from error
    error.add_note(f"This happened at question {item.id!r}. {kept}.")
    raise error


def release_frames(error: BaseException) -> None:
    """The traceback of an error, and of those that led to it, as the text of a note.

    A traceback holds the tensors of a whole trace, and so does nnsight's second one, whose frames have them among their
    globals: after an error, other questions, and whoever starts again in the same kernel, would find that memory taken.
    """
    errors = [error]
    for one in errors:
        one.add_note("".join(traceback.format_tb(one.__traceback__)))
        one.__traceback__ = one.__intervention_tb__ = None
        errors += [cause for cause in (one.__cause__, one.__context__) if cause is not None and cause not in errors]


def in_shard(items: list, shard: str) -> list:
    """Every n-th item from the k-th on, for a shard "k/n" (1 <= k <= n); all for an empty one.

    Raises ParameterError for anything else, and for a shard that holds none of the items.
    """
    if not shard:
        return items
    k, n = shard_of(shard)
    if k > len(items):
        raise ParameterError(
            f"Parameter 'shard': {shard!r} holds none of the {len(items)} questions: use at most {len(items)} parts."
        )
    return items[k - 1 :: n]
