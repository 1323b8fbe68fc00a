"""Editing studies made by hand, for tests of their averages, figures and claims; and whether weights are the same."""

import hashlib

import numpy as np
import pandas as pd

from interventions.editing.edit import digest
from interventions.models.model import VisionLanguageModel

TASKS = ("correct", "insert")
COLUMNS = [
    "id", "task", "part", "relation", "question", "target", "before", "method", "layer", "after", "p_before",
    "p_target", "exact", "p_paraphrase", "n_paraphrase", "p_pictures", "n_pictures", "p_following", "n_following",
    "accuracy_before", "accuracy_after", "n_unrelated", "kl", "seconds", "steps",
]
# As the paper finds them: p_target, p_paraphrase, points of accuracy lost, kl.
PLANTED = {
    "no edit": (0.06, 0.05, 0, 0), "MultEdit": (0.9, 0.8, 1, 0.01), "random layer": (0.4, 0.3, 1.5, 0.02),
    "fine-tuning": (0.6, 0.5, 9, 0.6), "constrained fine-tuning": (0.5, 0.4, 4, 0.2),
}
SPREAD = 0.05


def row(task: str, number: int, method: str, p: float, paraphrase: float, lost: float, kl: float, layer=-1) -> dict:
    """One item and method; what is not given follows from these."""
    target, before = f"target {number}", f"wrong {number}"
    exact = bool(p > 0.5)
    return {
        "id": f"{task}-{number}", "task": task, "part": "known", "relation": "capital",
        "question": "What is the capital of this country?", "target": target, "before": before, "method": method,
        "layer": layer, "after": target if exact else before, "p_before": 0.06, "p_target": p, "exact": exact,
        "p_paraphrase": paraphrase, "n_paraphrase": 3, "p_pictures": 0.9 * p, "n_pictures": 2, "p_following": 0.3 * p,
        "n_following": 2, "accuracy_before": 0.7, "accuracy_after": 0.7 - lost / 100, "n_unrelated": 20, "kl": kl,
        "seconds": 0.5, "steps": 12,
    }


def edit_results(n: int = 20, planted: dict | None = None, tasks=TASKS, spread: float = SPREAD) -> pd.DataFrame:
    """planted: method -> its p_target, p_paraphrase, points lost and kl, instead of PLANTED's.

    Items differ: probabilities by up to +-spread, the same for all methods, so that paired differences are exact.
    """
    offsets = np.linspace(-spread, spread, n) if n > 1 else np.zeros(1)
    return pd.DataFrame([
        row(task, number, method, p + offset if p + spread <= 1 else p, paraphrase + offset, lost, kl,
            {"MultEdit": 2, "random layer": number % 8}.get(method, -1))
        for task in tasks for method, (p, paraphrase, lost, kl) in (PLANTED | (planted or {})).items()
        for number, offset in enumerate(offsets)
    ], columns=COLUMNS)


def edits_by_layer(efficacy: dict, n: int = 20, spread: float = SPREAD) -> pd.DataFrame:
    """efficacy: task -> P(O*) by layer; paraphrases have 0.1 less."""
    offsets = np.linspace(-spread, spread, n) if n > 1 else np.zeros(1)
    return pd.DataFrame([
        row(task, number, "MultEdit", p + offset, p + offset - 0.1, 1, 0.01, layer)
        for task, values in efficacy.items() for layer, p in enumerate(values) for number, offset in enumerate(offsets)
    ], columns=COLUMNS)


def kept_edits(values: dict, edits=(1, 10, 50)) -> pd.DataFrame:
    """values: task -> (efficacy, generalisation, accuracy on unrelated items), each by number of edits."""
    return pd.DataFrame([
        {"task": task, "edits": kept, "p_target": p, "low": p - 0.04, "high": p + 0.04, "p_paraphrase": paraphrase,
         "accuracy_before": 0.7, "accuracy_after": accuracy, "kl": 0.01 * kept, "n": kept}
        for task, columns in values.items() for kept, p, paraphrase, accuracy in zip(edits, *columns, strict=True)
    ], columns=["task", "edits", "p_target", "low", "high", "p_paraphrase", "accuracy_before", "accuracy_after", "kl",
                "n"])


def weights_digest(model: VisionLanguageModel) -> str:
    """A sha256 over all parameters and buffers by name, type and bytes: equal before and after, nothing has changed."""
    everything = hashlib.sha256()
    for tensors in (model.module.named_parameters(), model.module.named_buffers()):
        for name, tensor in tensors:
            everything.update(f"{name} {tuple(tensor.shape)} {digest(tensor)}\n".encode())
    return everything.hexdigest()
