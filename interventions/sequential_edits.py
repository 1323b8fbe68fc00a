"""Edits that are kept, one after the other: what breaks first? (Beyond the paper; a panel of Figure 6.)"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .edit import apply_edits
from .edit_evaluation import Reference, evaluate, questions_about, unrelated
from .edit_items import Chosen
from .edit_study import NO_EDIT, Editing
from .metrics import bootstrap_interval
from .model import VisionLanguageModel
from .multedit import edit_facts
from .ndif import JobFailed
from .testbed import Item

SAMPLE = 3  # times n_unrelated: unrelated questions are asked once a count here, not once an edit


def sequential_edits(
    model: VisionLanguageModel, chosen: Chosen, testbed: Iterable[Item],
    pool: list[Reference], settings: Editing | None = None, counts: Iterable[int] = (1, 10, 50),
) -> pd.DataFrame:
    """Edits that are kept, each made on the model as edited so far, evaluated after `counts` of them, by task.

    Columns task, edits, p_target, low, high (mean over all facts kept so far, with its interval), p_paraphrase,
    accuracy_before, accuracy_after, kl (of one sample of questions that have nothing to do with any fact kept),
    n_unrelated (its size: SAMPLE times that of the settings, or as many as there are), skipped (items that could not be
    edited, so far). Counts above the number of a task's items are left out, and those at which a request failed.
    Nothing is stored.
    """
    settings, testbed, counts = settings or Editing(), list(testbed), sorted(set(counts))
    frames = [
        _kept_edits(model, [item for item, _ in items], testbed, pool, settings, counts).assign(task=task)
        for task, items in chosen.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _kept_edits(
    model: VisionLanguageModel, items: list[Item], testbed: list[Item], pool: list[Reference], settings: Editing,
    counts: list[int],
) -> pd.DataFrame:
    edited, asked, rows, skipped = model, [], [], 0
    most = max((count for count in counts if count <= len(items)), default=0)
    sample = pool
    for item in items[:most]:
        sample = unrelated(item, sample, len(sample), settings.seed)
    sample = sample[: settings.n_unrelated * SAMPLE]
    for item in items:
        if len(asked) == most:
            break
        # One that takes the place of a skipped one may be what the sample asks about.
        if len(unrelated(item, sample, len(sample), settings.seed)) < len(sample):
            continue
        questions = questions_about(model, item, testbed, settings.protocol)
        fact = questions["target"][0], item.answers[0]
        try:
            edit = edit_facts(
                edited, [fact], layers=settings.layers, lam=settings.lam, optimizer=settings.optimizer, items=[item.id]
            )
        except (*NO_EDIT, JobFailed):
            skipped += 1
            continue
        edited = apply_edits(edited, [edit])
        asked.append((item, {name: questions[name] for name in ("target", "paraphrase")}))
        if len(asked) in counts:
            try:
                kept = [evaluate(edited, one.answers[0], prompts, []) for one, prompts in asked]
                others = evaluate(edited, item.answers[0], asked[-1][1], sample)
            except JobFailed:
                continue
            value, low, high = bootstrap_interval([found["p_target"] for found in kept])
            rows.append({
                "edits": len(asked), "p_target": value, "low": low, "high": high,
                "p_paraphrase": np.nanmean([found["p_paraphrase"] for found in kept]), "skipped": skipped,
                "n_unrelated": len(sample),
                **{name: others[name] for name in ("accuracy_before", "accuracy_after", "kl")},
            })
    columns = ["edits", "p_target", "low", "high", "p_paraphrase", "accuracy_before", "accuracy_after", "kl",
               "n_unrelated", "skipped"]
    return pd.DataFrame(rows, columns=columns)
