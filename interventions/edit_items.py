"""What the editing experiments edit, and what they ask besides.

Two tasks, as in the paper's section 5: *correct* questions that the model answers wrongly although it should know (of
the embedded test bed: facts it was trained on), and *insert* facts that it never met (its split "never"; elsewhere a
test bed of long-tailed facts). Unrelated questions show what an edit leaves as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd

from .asking import reasons
from .conditions import Unusable
from .edit_evaluation import Reference, reference
from .lots import lot
from .metrics import RIGHT, answer_accuracy
from .model import VisionLanguageModel
from .ndif import JobFailed
from .parameters import ParameterError
from .progress import Progress
from .results import ResultStore
from .testbed import Item
from .turns import in_order

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
    fails, is left out. Raises ParameterError if there are none, and `ndif.JobFailed` if that is why.
    """
    store, found, left_out, failure = ResultStore(results_dir), [], [], None
    fitting = [item for item in testbed if (item.split == "never") == (task == "insert")]
    if not fitting:
        other, what = ("correct", "of the split 'never'") if task == "insert" else ("insert", "but those never met")
        raise ParameterError(
            f"Parameter 'tasks': the test bed has no questions {what}, so there is nothing to {task}: write -p tasks "
            f"{other}, or choose another test bed or other parts."
        )
    progress, model_key = Progress(len(fitting), f"looking for errors ({task})"), model.key()

    def said_to(item: Item) -> tuple[str, str]:
        """(what the model says, why it could not be asked)"""
        nonlocal failure
        key = model_key | {"table": "answers", "item": item.content(), "protocol": protocol}
        try:
            return store.get_or_compute(key, partial(_answer, model, item, protocol)).loc[0, "answer"], ""
        except Unusable as error:
            return "", str(error)
        except JobFailed as error:  # one question's fault must not cost the others
            failure = failure or error
            return "", f"failed: {error!r}"

    for item, (said, reason) in zip(fitting, in_order(said_to, fitting, model.concurrency), strict=False):
        if reason:
            left_out.append(reason)
        elif answer_accuracy(said, item.answers, item.annotations) < RIGHT:
            found.append((item, said))
        progress.step(f"{len(found)} answered wrongly")
        if limit and len(found) == limit:
            break
    progress.close(f"{len(found)} answered wrongly" + (f", left out: {reasons(left_out)}" if left_out else ""))
    if found:
        return found
    if len(left_out) < len(fitting):
        raise ParameterError(
            f"Parameter 'testbed': {model.name!r} answers none of {len(fitting) - len(left_out)} questions wrongly, so "
            f"there is nothing to {task}: choose another test bed or other parts."
        )
    if failure is not None:
        raise failure
    raise ParameterError(
        f"Parameter 'testbed': {model.name!r} can be asked none of {len(fitting)} questions ({reasons(left_out)}): "
        "choose another test bed or other parts."
    )


def references(
    model: VisionLanguageModel, testbed: Iterable[Item], seed: int = 0, protocol: str = "paper"
) -> list[Reference]:
    """At most POOL unrelated questions with the unedited model's answers, drawn by a hash of seed and id.

    Those that cannot be asked, or whose request fails, are left out.
    """
    drawn = sorted(testbed, key=lambda item: lot("unrelated", seed, item.id))

    def referred(item: Item) -> Reference | None:
        try:
            return reference(model, item, protocol)
        except (Unusable, JobFailed):
            return None

    return list(islice(filter(None, in_order(referred, drawn, model.concurrency)), POOL))


def _answer(model: VisionLanguageModel, item: Item, protocol: str) -> pd.DataFrame:
    found = reference(model, item, protocol)
    return pd.DataFrame([{"answer": model.decode(found.answer_ids)}])
