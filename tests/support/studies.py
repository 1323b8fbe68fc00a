"""Studies made by hand, in which it is known which layers tell right answers from wrong ones, if any does.

Each part of one is a study of its own: two hundred parts are two hundred repetitions.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from interventions.attention.study import AttentionStudy

N_LAYERS = 8


def study_of(
    values: np.ndarray, correct: np.ndarray, confidence: np.ndarray | None = None, relation: np.ndarray | None = None
) -> AttentionStudy:
    """Of contributions [parts, questions, layers] of the constraint's last token to the last one.

    relation [parts, questions]: the kind of each question; None: all are of one.
    """
    correct = np.asarray(correct, bool)
    part, question, layer = (index.ravel() for index in np.indices(values.shape))
    ids = np.array([[f"{p}-{q}" for q in range(values.shape[1])] for p in range(values.shape[0])])
    contributions = pd.DataFrame({
        "id": ids[part, question], "part": part.astype(str), "flow": "constraint -> last", "layer": layer,
        "position": 3, "token": "country", "role": "constraint_last", "norm": values.ravel().astype(np.float32),
        "share": np.float32(0.1),
    })
    questions = pd.DataFrame({
        "id": ids.ravel(), "part": np.repeat(np.arange(len(values)), values.shape[1]).astype(str),
        "correct": correct.ravel(), "answered": True, "reason": "",
        "relation": "capital" if relation is None else np.ravel(relation).astype(str),
        "confidence": np.full(correct.size, 0.5) if confidence is None else confidence.ravel(),
    })
    contributions = contributions.astype(dict.fromkeys(("id", "part", "flow", "role"), "category"))
    return AttentionStudy(contributions, pd.DataFrame(), questions, values.shape[2], 4, 3)


def noise(parts: int, questions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Contributions that say nothing about the answers, 70 % of which are right."""
    generator = np.random.default_rng(seed)
    return 10 + generator.normal(size=(parts, questions, N_LAYERS)), generator.random((parts, questions)) < 0.7


def kinds_of(parts: int, questions: int, accuracy=(0.95, 0.8, 0.4, 0.2), seed: int = 0) -> tuple:
    """(relation, correct) [parts, questions]: relations drawn, each with its own share of right answers."""
    generator = np.random.default_rng((7, seed))
    relation = generator.integers(len(accuracy), size=(parts, questions))
    return relation, generator.random(relation.shape) < np.asarray(accuracy)[relation]


def planted(parts: int, questions: int, size: float = 0.8, layers=(4, 5), seed: int = 0) -> AttentionStudy:
    """Contributions of two layers are higher by `size` standard deviations when the answer is right."""
    values, correct = noise(parts, questions, seed)
    values[:, :, list(layers)] += size * correct[..., None]
    return study_of(values, correct)


def shuffled(study: AttentionStudy) -> AttentionStudy:
    """The same study, its rows in another order."""
    return replace(study, contributions=study.contributions.sample(frac=1, random_state=3),
                   questions=study.questions.sample(frac=1, random_state=4))
