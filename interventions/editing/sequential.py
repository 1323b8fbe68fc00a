"""Edits that are kept, one after the other: what breaks first? (Beyond the paper; a panel of Figure 6.)

Each edit is stored, and so is what the model does after some number of them: a run that is killed goes on from there.
Both depend on all edits before, which are in the model's key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..environment import device_of
from ..models.model import VisionLanguageModel
from ..statistics import bootstrap_interval
from ..studies.conditions import Unusable
from ..studies.loop import QUESTION_ERRORS, Asked, ask_one, stop_run
from ..studies.results import ResultStore, content_digest
from ..testbed import Item
from .edit import Edit, apply_edits, load_edit
from .evaluation import Reference, evaluate, questions_about, unrelated
from .items import Chosen
from .multedit import edit_facts
from .study import NO_EDIT, Editing, pool_digest

SAMPLE = 3  # times n_unrelated: unrelated questions are asked once a count here, not once an edit
_COLUMNS = ["edits", "p_target", "low", "high", "p_paraphrase", "accuracy_before", "accuracy_after", "kl",
            "n_unrelated", "skipped"]


def sequential_edits(
    model: VisionLanguageModel, chosen: Chosen, testbed: Iterable[Item],
    pool: list[Reference], settings: Editing | None = None, counts: Iterable[int] = (1, 10, 50), *,
    results_dir: str | Path = "results",
) -> pd.DataFrame:
    """Edits that are kept, each made on the model as edited so far, evaluated after `counts` of them, by task.

    Columns task, edits, p_target, low, high (mean over all facts kept so far, with its interval), p_paraphrase,
    accuracy_before, accuracy_after, kl (of one sample of questions that have nothing to do with any fact kept),
    n_unrelated (its size: SAMPLE times that of the settings, or as many as there are), skipped (items that could not be
    edited, so far). Counts above the number of a task's items are left out, and those at which a request failed.
    results_dir: one stored table an edit and count; a run that was killed goes on from there. No shards: an edit needs
    those before it. Raises what `asking.ask` does, and the error of a task that gives no row.
    """
    settings, testbed, counts = settings or Editing(), list(testbed), sorted(set(counts))
    store = ResultStore(results_dir, device_of(model))
    frames = [
        _kept_edits(model, [item for item, _ in items], testbed, pool, settings, counts, store).assign(task=task)
        for task, items in chosen.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _kept_edits(
    model: VisionLanguageModel, items: list[Item], testbed: list[Item], pool: list[Reference], settings: Editing,
    counts: list[int], store: ResultStore,
) -> pd.DataFrame:
    edited, kept, rows, skipped, failure = model, [], [], 0, None
    most = max((count for count in counts if count <= len(items)), default=0)
    sample = pool
    for item in items[:most]:
        sample = unrelated(item, sample, len(sample), settings.seed)
    sample = sample[: settings.n_unrelated * SAMPLE]
    made_with = {name: asdict(settings)[name] for name in ("layers", "lam", "optimizer", "protocol")}
    for item in items:
        if len(kept) == most:
            break
        # One that takes the place of a skipped one may be what the sample asks about.
        if len(unrelated(item, sample, len(sample), settings.seed)) < len(sample):
            continue
        try:
            questions = questions_about(model, item, testbed, settings.protocol)
        except (Unusable, *QUESTION_ERRORS):
            skipped += 1
            continue
        entry = _asked(
            edited, item, partial(_edit, edited, questions, settings), {"table": "kept_edit"} | made_with, store,
            len(kept),
        )
        if entry.reason:
            skipped, failure = skipped + 1, failure or entry.error
            continue
        edited = apply_edits(edited, [_from_bytes(entry.table.loc[0, "edit"], model)])
        kept.append((item, {name: questions[name] for name in ("target", "paraphrase")}))
        if len(kept) in counts:
            key = {
                "table": "kept_edits", "kept": content_digest([one.content() for one, _ in kept]),
                "sample": pool_digest(sample), "protocol": settings.protocol,
            }
            entry = _asked(edited, item, partial(_evaluated, edited, kept, sample), key, store, len(kept))
            failure = failure or entry.error
            if entry.reason:
                print(f"After {len(kept)} kept edits: {entry.reason}", flush=True)
            else:
                rows.append(entry.table.assign(edits=len(kept), skipped=skipped, n_unrelated=len(sample))[_COLUMNS])
    if failure is not None and not rows:
        raise failure
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=_COLUMNS)


def _asked(model: VisionLanguageModel, item: Item, compute, key: dict, store: ResultStore, n_kept: int) -> Asked:
    try:
        return ask_one(model, item, compute, key, store)[0]
    except Exception as error:
        stop_run(error, item, f"{n_kept} edits are done and kept")


def _edit(model: VisionLanguageModel, questions: dict, settings: Editing, item: Item) -> pd.DataFrame:
    """The table stored for one edit: its file, or why there is none."""
    fact = questions["target"][0], item.answers[0]
    try:
        edit = edit_facts(
            model, [fact], layers=settings.layers, lam=settings.lam, optimizer=settings.optimizer, items=[item.id]
        )
    except tuple(NO_EDIT) as error:
        return pd.DataFrame([{"edit": None, "reason": NO_EDIT[type(error)]}])
    return pd.DataFrame([{"edit": _to_bytes(edit), "reason": ""}])


def _evaluated(model: VisionLanguageModel, kept: list[tuple], sample: list[Reference], item: Item) -> pd.DataFrame:
    """The table stored for one number of edits: one row."""
    found = [evaluate(model, one.answers[0], prompts, []) for one, prompts in kept]
    others = evaluate(model, item.answers[0], kept[-1][1], sample)
    value, low, high = bootstrap_interval([one["p_target"] for one in found])
    return pd.DataFrame([{
        "p_target": value, "low": low, "high": high, "reason": "",
        "p_paraphrase": np.nanmean([one["p_paraphrase"] for one in found]),
        **{name: others[name] for name in ("accuracy_before", "accuracy_after", "kl")},
    }])


def _to_bytes(edit: Edit) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return edit.save(Path(folder) / "edit.safetensors").read_bytes()


def _from_bytes(content: bytes, model: VisionLanguageModel) -> Edit:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        path.write_bytes(content)
        return load_edit(path, model)
