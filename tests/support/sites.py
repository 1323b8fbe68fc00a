"""Studies made by hand, for tests of averages and claims."""

from dataclasses import replace

import numpy as np
import pandas as pd

from interventions.studies.conditions import Conditions
from interventions.tracing.study import TraceStudy


def sites(effect, ids=range(8), parts=("known",), kinds=("mlp", "attention"), n_layers=8) -> pd.DataFrame:
    """`effect(part, kind, role, layer, question)` at two constraint tokens and the last one."""
    rows = [
        (
            f"{part}-{q}", part, kind, position, "t", role, role == "constraint_last", layer,
            np.float32(value + 0.02), np.float32(value),
        )
        for part in parts
        for q in ids
        for kind in kinds
        for position, role in enumerate(("constraint", "constraint", "constraint_last", "last"))
        for layer in range(n_layers)
        for value in [effect(part, kind, role, layer, q) + (0.2 if position == 0 else 0)]
    ]
    columns = ["id", "part", "kind", "position", "token", "role", "read", "layer", "p_restored", "effect"]
    return pd.DataFrame(rows, columns=columns)


def questions_of(frame: pd.DataFrame) -> pd.DataFrame:
    found = frame.drop_duplicates("id")[["id", "part"]]
    probabilities = {"p_clean": 0.95, "p_corrupted": 0.02, "p_restored_mlp": 0.8}
    return found.assign(constraints="single", used=True, correct=True, reason="", answer="Lima", **probabilities)


def study_of(frame: pd.DataFrame) -> TraceStudy:
    return TraceStudy(frame, questions_of(frame), 8, 3, Conditions())


def early(part, kind, role, layer, q):
    return {0: 0.7, 1: 0.8, 2: 0.6}.get(layer, 0.02) + 0.01 * q if role == "constraint_last" else 0.0


def bump(size: float, peak: int, width: float = 1.0, spread: float = 0.02):
    """Effects around a peak layer at the constraint's last token, a little different for every question."""
    def effect(part, kind, role, layer, q):
        at = role == "constraint_last"
        return at * (size + spread * (q - 3.5)) * float(np.exp(-(((layer - peak) / width) ** 2)))
    return effect


def study_at(effect, window: int, p_corrupted: float = 0.02, **options) -> TraceStudy:
    made = study_of(sites(effect, **options))
    return replace(made, window=window, questions=made.questions.assign(p_corrupted=p_corrupted))
