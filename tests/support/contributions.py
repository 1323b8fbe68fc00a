"""Attention studies made by hand, for tests of their averages, figures and claims."""

import numpy as np
import pandas as pd

from interventions.attention.contributions import FLOWS
from interventions.attention.study import AttentionStudy

WORDS = ["this", " country"]
FIRST = 5  # position of the first visual token


def contributions_study(
    norms: dict, *, drops: dict | None = None, right: dict | None = None, shares: dict | None = None, window: int = 3,
    entities: dict | None = None, relations: dict | None = None, n_visual: int = 0, rest: float = 1.0,
) -> AttentionStudy:
    """norms: (part, flow) -> [questions, layers, source tokens]; drops: (part, flow) -> [questions, layers + 1], the
    last with all layers blocked; right: part -> [questions] bool. Shares are norms over their sum plus `rest`, if not
    given. entities, relations: part -> a name a question.
    """
    frames, n_layers, sizes = [], next(iter(norms.values())).shape[1], {}
    for (part, flow), values in norms.items():
        values = np.asarray(values, np.float32)
        q, layer, token = (index.ravel() for index in np.indices(values.shape))
        sizes[part] = len(values)
        visual = FLOWS[flow][0] == "visual"
        n_visual = values.shape[-1] if visual else n_visual
        n = values.shape[-1]
        given = (shares or {}).get((part, flow), values / (values.sum(-1, keepdims=True) + rest))
        words = np.array(["<image>"] * n if visual else [*WORDS, *WORDS][-n:], dtype=object)
        roles = np.array(["visual"] * n if visual else ["constraint"] * (n - 1) + ["constraint_last"], dtype=object)
        frames.append(pd.DataFrame({
            "id": np.array([f"{part}-{n}" for n in range(len(values))], dtype=object)[q], "part": part, "flow": flow,
            "layer": layer, "position": token + (FIRST if visual else 1000), "token": words[token],
            "role": roles[token], "norm": values.ravel(), "share": np.asarray(given, np.float32).ravel(),
        }))
    contributions = pd.concat(frames).sample(frac=1, random_state=0).reset_index(drop=True)
    names = ["id", "part", "flow", "token", "role"]
    asked = [
        {"id": f"{part}-{q}", "part": part, "constraints": "single", "question": "What is the capital of this country?",
         "entity": (entities or {}).get(part, [f"{part} {n}" for n in range(size)])[q],
         "relation": (relations or {}).get(part, ["capital"] * size)[q],
         "split": "trained", "style": "flag", "answer": "Lima" if is_right else "Rome",
         "expected": "Lima", "accuracy": float(is_right),
         "correct": is_right, "confidence": 0.9, "answered": True, "reason": "", "p_clean": 0.9 if is_right else np.nan}
        for part, size in sizes.items() for q in range(size)
        for is_right in [bool((right or {}).get(part, np.ones(size, bool))[q])]
    ]
    blocked = [
        (f"{part}-{q}", part, flow, *((window, layer) if layer < n_layers else (n_layers, n_layers // 2)), 0.9 - drop,
         drop)
        for (part, flow), values in (drops or {}).items() for q, row in enumerate(np.asarray(values, np.float32))
        for layer, drop in enumerate(row)
    ]
    columns = ["id", "part", "flow", "window", "layer", "p_blocked", "drop"]
    # A window of all layers has the same centre, and is there once.
    blocked = pd.DataFrame(blocked, columns=columns).drop_duplicates(["id", "flow", "window", "layer"])
    knockouts = blocked.astype(dict.fromkeys(columns[:3], "category"))
    return AttentionStudy(
        contributions.astype(dict.fromkeys(names, "category")), knockouts, pd.DataFrame(asked), n_layers, n_visual,
        window,
    )


def late_visual(n: int, n_layers: int, n_visual: int, seed: int = 0, late: float = 8.0) -> np.ndarray:
    """Norms [questions, layers, tokens] as the paper finds them: large in layer 0, at the last sixteenth of tokens."""
    generator = np.random.default_rng(seed)
    values = generator.gamma(2, 0.05, (n, n_layers, n_visual))
    values[:, 0] *= 2
    values[:, 0, -(n_visual // 16):] += late * generator.uniform(0.5, 1, (n, n_visual // 16))
    return values


def held(claims) -> list[bool | None]:
    """Return what claims decide; no text of theirs may use the old name of a control model."""
    assert all(claim.holds is None or isinstance(claim.holds, bool) for claim in claims)
    assert not any("twin" in text for claim in claims for text in (claim.claim, claim.paper, claim.here))
    return [claim.holds for claim in claims]
