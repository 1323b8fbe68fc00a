"""The loop of every experiment: ask the questions of a test bed, one stored table a question.

A question that cannot be used is left out with its reason, and a fault costs its own question, not the others; only a
server that does not answer any more, or takes no more requests, ends the run. What is finished by then is kept.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from .conditions import Unusable
from .model import VisionLanguageModel
from .ndif import NDIFError, RequestRefused, ServerUnreachable
from .parameters import ParameterError, shard_of
from .progress import Progress
from .results import ResultStore
from .testbed import Item
from .testbed.errors import reason_kinds
from .turns import in_order

ITEM_COLUMNS = ["id", "part", "constraints", "question", "entity", "relation", "split", "style"]


@dataclass(frozen=True)
class Asked:
    """A question, its stored table (None: there is none) and why it is not used ("": it is)."""

    item: Item
    table: pd.DataFrame | None
    reason: str

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
    label: str = "",
) -> list[Asked]:
    """`compute(item)` of every item, or what is stored of it; its table must have a column "reason".

    key: all that determines a table besides model and item. purpose: the verb of error messages, and its past ("trace",
    "traced").
    shard, required, label: as for `study.trace_study`. `model.concurrency` items wait for a server at a time. Raises
    ParameterError for an item that is required and not used, and if none is used; if a question failed then, its error;
    and `ndif.ServerUnreachable` or `RequestRefused`, with which no other question would fare better.
    """
    (verb, past), key = purpose, key | model.key()
    store, items = ResultStore(results_dir), in_shard(list(testbed), shard)
    asked, failure, n_used, progress = [], None, 0, Progress(len(items), label)
    begun = set()  # ids of what was not read back from an earlier run

    def compute_now(item: Item) -> pd.DataFrame:
        begun.add(item.id)
        return compute(item)

    def one(item: Item) -> tuple[pd.DataFrame | None, str, Exception | None]:
        own = {"item": item.content(), "named": "" if model.is_multimodal else item.entity}
        try:
            table = store.get_or_compute(key | own, partial(compute_now, item))
            return table, table.loc[0, "reason"], None
        except Unusable as error:
            return None, str(error), None
        except (ServerUnreachable, RequestRefused):
            raise
        except Exception as error:  # one question's fault must not cost the others
            release_frames(error)
            return None, f"failed: {error!r}", error

    found = in_order(one, items, model.concurrency)
    for item in items:
        try:
            table, reason, error = next(found)
        except NDIFError as error:
            kept = f"{len(asked)} of {len(items)} questions are done and kept: start again to go on."
            raise type(error)(f"{error} {kept}") from error
        failure = failure or error
        if required and reason:
            raise ParameterError(
                f"Parameter 'items': question {item.id!r} cannot be {past}, {reason.rstrip('.')}: "
                "name another one, or leave items empty to sample."
            ) from error
        asked.append(Asked(item, table, reason))
        n_used += not reason
        progress.step(f"{n_used} used", stored=item.id not in begun)
    if not n_used:
        if failure is not None:
            raise failure
        raise ParameterError(
            f"Parameter 'model': {model.name!r} gives nothing to {verb} on {len(items)} questions "
            f"({reasons(entry.reason for entry in asked)}): choose another model or test bed, or a larger limit."
        )
    progress.close(f"{n_used} used")
    return asked


def reasons(texts: Iterable[str]) -> str:
    """How often questions were left out for each reason, told by its part before the colon; "none" if none was."""
    return ", ".join(f"{count} {kind}" for kind, count in reason_kinds(texts).most_common()) or "none"


def release_frames(error: BaseException) -> None:
    """The traceback of an error, and of those that led to it, as the text of a note.

    A traceback holds the tensors of a whole trace, and so does nnsight's second one, whose frames have them among their
    globals: after an error that was out of a GPU's memory, every other question would find that memory taken.
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
