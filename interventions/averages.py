"""Averages over questions, with statistics that can be trusted: the unit is always the question.

Intervals are bootstraps over questions. Tests flip the sign of a whole question's effects, so that its layers, which a
window makes much alike, stay together: no layer counts as an independent observation. Where the best of many layers
is looked at, p and interval are corrected for their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from .metrics import bootstrap_interval
from .study import ROLES, TraceStudy

# "Early" is the first quarter of the layers but at least four: 0-7 of 32 (the paper finds 1-4 and edits 0-5),
# 0-3 of 8.
EARLY_SHARE, EARLY_LEAST = 4, 4
FLIPS = 10_000


def early_layers(n_layers: int) -> range:
    """The layers that count as early."""
    return range(min(n_layers, max(EARLY_LEAST, n_layers // EARLY_SHARE)))


def by_role_layer(sites: pd.DataFrame, quantity: str = "effect") -> pd.DataFrame:
    """Mean effect (or p_restored) by part, kind, role and layer, with bootstrap intervals over questions.

    `sites` is that of a `TraceStudy`. Returns part, kind, role, layer, <quantity>, low, high, n (questions
    that have the role), sorted so. Tokens of one role are averaged within their question; the row to read,
    `constraint_last`, is a single token.
    """
    columns = ["part", "kind", "role", "layer", quantity, "low", "high", "n"]
    found = sites.dropna(subset=[quantity])
    keys = ["part", "role", "id", "kind", "layer"]
    means = found.groupby(keys, observed=True, sort=False)[quantity].mean().unstack(["kind", "layer"])
    frames = []
    for (part, role), table in means.groupby(["part", "role"], observed=True, sort=False):
        value, low, high = bootstrap_interval(table.to_numpy())  # each [kinds x layers]
        cells = table.columns.to_frame(index=False)
        frames.append(
            cells.assign(part=part, role=role, **{quantity: value, "low": low, "high": high, "n": len(table)})
        )
    result = pd.concat(frames, ignore_index=True)[columns].astype({"kind": object})
    order = {name: list(dict.fromkeys(sites[name])) for name in ("part", "kind")} | {"role": ROLES}

    def rank(column: pd.Series) -> pd.Series:
        return column.map(order[column.name].index) if column.name in order else column

    return result.sort_values(columns[:4], key=rank, ignore_index=True)


def effects_at(sites: pd.DataFrame, role: str, part: str, kind: str) -> pd.DataFrame:
    """Effects [questions, layers] at the tokens of one role, averaged within a question; index id, columns layer."""
    chosen = sites[(sites["role"] == role) & (sites["part"] == part) & (sites["kind"] == kind)]
    means = chosen.groupby(["id", "layer"], observed=True, sort=False)["effect"].mean().unstack("layer")
    return means.dropna().sort_index(axis=1)


def layer_tests(study: TraceStudy, role: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Is the effect above 0, layer by layer? Columns part, kind, layer, effect, low, high, p, p_corrected, n.

    p: one-sided sign-flip test of the mean over questions. p_corrected: the same against the largest of all layers
    (single-step max-t over the layers of this part and kind), so it may be read at the best layer.
    """
    frames = []
    for part, kind, effects in _groups(study, role):
        values = effects.to_numpy(float)
        mean, low, high = bootstrap_interval(values)
        flipped = sign_flips(values, seed)  # [1 + FLIPS, layers], the first as observed
        p = (flipped >= flipped[0] - 1e-12).mean(0)
        spread = np.sqrt(np.maximum((values**2).sum(0) - len(values) * flipped**2, 0)) + 1e-12
        t = np.where(np.abs(flipped) < 1e-12, 0, flipped / spread)  # the same at every flip up to a common factor
        p_corrected = (t.max(1)[:, None] >= t[0] - 1e-12).mean(0)
        frames.append(pd.DataFrame({
            "part": part, "kind": kind, "layer": effects.columns, "effect": mean, "low": low, "high": high, "p": p,
            "p_corrected": p_corrected, "n": len(values),
        }))
    return pd.concat(frames, ignore_index=True)


def early_tests(study: TraceStudy, role: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Are effects larger in early layers? Columns part, kind, early, others (means), difference, low, high, p, n.

    The difference is taken within each question; p is the one-sided sign-flip test of its mean.
    """
    early, rows = early_layers(study.n_layers), []
    for part, kind, effects in _groups(study, role):
        is_early = effects.columns.isin(list(early))
        means = effects.loc[:, is_early].mean(axis=1), effects.loc[:, ~is_early].mean(axis=1)
        differences = (means[0] - means[1]).to_numpy()
        value, low, high = bootstrap_interval(differences)
        flipped = sign_flips(differences[:, None], seed)[:, 0]
        rows.append({
            "part": part, "kind": kind, "early": means[0].mean(), "others": means[1].mean(), "difference": value,
            "low": low, "high": high, "p": (flipped >= flipped[0] - 1e-12).mean(), "n": len(differences),
        })
    return pd.DataFrame(rows)


def peak_layers(study: TraceStudy, role: str | None = None) -> pd.DataFrame:
    """The layer with the largest effect, question by question. Columns id, part, kind, layer, effect."""
    frames = []
    for part, kind, effects in _groups(study, role):
        frames.append(pd.DataFrame({
            "id": effects.index.astype(str), "part": part, "kind": kind, "layer": effects.idxmax(axis=1).to_numpy(int),
            "effect": effects.max(axis=1).to_numpy(float),
        }))
    return pd.concat(frames, ignore_index=True)


def window_effects(studies: Mapping[int, TraceStudy], role: str | None = None, level: float = 0.95) -> pd.DataFrame:
    """The best layer at every window. Columns window, part, kind, layer, effect, low, high, n.

    The interval's level is raised for the number of layers that "best" was chosen from (Bonferroni).
    """
    rows = []
    for window, study in studies.items():
        for part, kind, effects in _groups(study, role):
            corrected = 1 - (1 - level) / effects.shape[1]
            mean, low, high = bootstrap_interval(effects.to_numpy(float), n=10_000, level=corrected)
            best = int(np.argmax(mean))
            rows.append({
                "window": window, "part": part, "kind": kind, "layer": int(effects.columns[best]), "effect": mean[best],
                "low": low[best], "high": high[best], "n": len(effects),
            })
    return pd.DataFrame(rows)


def smallest_window(frame: pd.DataFrame, at_least: float = 0.0) -> pd.DataFrame:
    """The smallest window whose interval lies above `at_least`. Columns part, kind, window (NaN: none).

    `frame` is that of `window_effects`.
    """
    rows = []
    for (part, kind), cells in frame.groupby(["part", "kind"], sort=False):
        above = cells.loc[cells["low"] > at_least, "window"]
        rows.append({"part": part, "kind": kind, "window": float(above.min()) if len(above) else np.nan})
    return pd.DataFrame(rows)


def on_common_questions(*studies: TraceStudy) -> tuple[TraceStudy, ...]:
    """The studies, each restricted to the questions that all of them used."""
    common = set.intersection(*(set(study.questions.loc[study.questions["used"], "id"]) for study in studies))
    return tuple(study.only(common) for study in studies)


def sign_flips(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means [1 + FLIPS, ...] of values [questions, ...] with whole questions' signs flipped; the first is unflipped."""
    signs = np.random.default_rng(seed).integers(2, size=(FLIPS, len(values))) * 2.0 - 1
    return np.concatenate([np.ones((1, len(values))), signs]) @ values / len(values)


def _groups(study: TraceStudy, role: str | None) -> Iterable[tuple[str, str, pd.DataFrame]]:
    for part in dict.fromkeys(study.sites["part"]):
        for kind in dict.fromkeys(study.sites["kind"]):
            effects = effects_at(study.sites, role or study.role, part, kind)
            if len(effects):
                yield part, kind, effects
