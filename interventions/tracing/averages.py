"""Averages of effects over questions, with intervals and tests; the unit is always the question.

Intervals are bootstraps over questions. Tests flip the sign of all effects of a question together, because its layers
are not independent observations. At the best of many layers, p and interval are corrected for their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ..layers import early_layers
from ..statistics import _resolved, best_layer, bootstrap_interval, joined, means_by_layer, sign_flips
from .study import SITE_ROLES, TraceStudy


def by_role_layer(sites: pd.DataFrame, quantity: str = "effect") -> pd.DataFrame:
    """Return mean effects by part, kind, role and layer. Columns part, kind, role, layer, <quantity>, low, high, n.

    sites: those of a `TraceStudy`. quantity: "effect" or "p_restored". Tokens of one role are averaged within their
    question; n counts the questions that have the role.
    """
    columns = ["part", "kind", "role", "layer", quantity, "low", "high", "n"]
    found = _without_other_constraints(sites).dropna(subset=[quantity])
    if found.empty:
        return pd.DataFrame(columns=columns)
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
    order = {name: list(dict.fromkeys(sites[name])) for name in ("part", "kind")} | {"role": SITE_ROLES}

    def rank(column: pd.Series) -> pd.Series:
        return column.map(order[column.name].index) if column.name in order else column

    return result.sort_values(columns[:4], key=rank, ignore_index=True)


def _without_other_constraints(sites: pd.DataFrame) -> pd.DataFrame:
    """Where questions differ in the corrupted constraint, drop the rows of a question's other one.

    Before the first corrupted token its effects are 0 by construction.
    """
    corrupted = sites[sites["read"]].drop_duplicates("id").astype({"id": str, "role": str})
    corrupted = corrupted.set_index("id")["role"].str.removesuffix("_last")
    if corrupted.nunique() < 2:
        return sites
    role = sites["role"].astype(str).str.removesuffix("_last")
    own = sites["id"].astype(str).map(corrupted)
    return sites[~role.isin(("constraint", "text_constraint")) | (role == own)]


def effects_at(sites: pd.DataFrame, part: str, kind: str, quantity: str = "effect") -> pd.DataFrame:
    """Return effects (or p_restored) [questions, layers] at the token that is read; index id, columns layer."""
    chosen = sites[sites["read"] & (sites["part"] == part) & (sites["kind"] == kind)].astype({"id": str})
    return chosen.pivot(index="id", columns="layer", values=quantity).dropna().sort_index(axis=1)


def by_part_and_kind(study: TraceStudy, quantity: str = "effect") -> Iterable[tuple[str, str, pd.DataFrame]]:
    """Yield (part, kind, `effects_at`) of every part and kind with a used question."""
    for part in dict.fromkeys(study.sites["part"]):
        for kind in dict.fromkeys(study.sites["kind"]):
            effects = effects_at(study.sites, part, kind, quantity)
            if len(effects):
                yield part, kind, effects


def by_layer(study: TraceStudy, quantity: str = "effect") -> pd.DataFrame:
    """Return mean effects (or p_restored) by layer at the token that is read.

    Columns part, kind, layer, <quantity>, low, high, n.
    """
    frames = [means_by_layer(values, quantity).assign(part=part, kind=kind)
              for part, kind, values in by_part_and_kind(study, quantity)]
    return joined(frames, ["part", "kind", "layer", quantity, "low", "high", "n"])


def layer_tests(study: TraceStudy) -> pd.DataFrame:
    """Test whether the effect of each layer is above 0.

    Columns part, kind, layer, effect, low, high, p, p_corrected, n. p: one-sided sign-flip test of the mean over
    questions. p_corrected: the same against the largest of all layers (single-step max-t over the layers of this part
    and kind), valid at the best layer.
    """
    frames = []
    for part, kind, effects in by_part_and_kind(study):
        values = effects.to_numpy(float)
        mean, low, high = bootstrap_interval(values)
        flipped = sign_flips(values)  # [1 + FLIPS, layers], the first as observed
        p = (flipped >= flipped[0] - 1e-12).mean(0)
        # In units of the layer's root mean square, which no flip changes: ranks as t does, and is safe where t is not.
        scaled = flipped / (np.sqrt((_resolved(values) ** 2).mean(0)) + 1e-12)
        p_corrected = (scaled.max(1)[:, None] >= scaled[0] - 1e-9).mean(0)
        frames.append(pd.DataFrame({
            "part": part, "kind": kind, "layer": effects.columns, "effect": mean, "low": low, "high": high, "p": p,
            "p_corrected": p_corrected, "n": len(values),
        }))
    return joined(frames, ["part", "kind", "layer", "effect", "low", "high", "p", "p_corrected", "n"])


def early_tests(study: TraceStudy) -> pd.DataFrame:
    """Test whether effects are larger in early layers.

    Columns part, kind, early, others (means), difference, low, high, p, n. The difference is taken within each
    question; p is the one-sided sign-flip test of its mean. A model that has only early layers has no rows.
    """
    early, rows = early_layers(study.n_layers), []
    for part, kind, effects in by_part_and_kind(study):
        is_early = effects.columns.isin(list(early))
        means = effects.loc[:, is_early].mean(axis=1), effects.loc[:, ~is_early].mean(axis=1)
        differences = (means[0] - means[1]).to_numpy()
        if is_early.all():
            continue
        value, low, high = bootstrap_interval(differences)
        flipped = sign_flips(differences[:, None])[:, 0]
        rows.append({
            "part": part, "kind": kind, "early": means[0].mean(), "others": means[1].mean(), "difference": value,
            "low": low, "high": high, "p": (flipped >= flipped[0] - 1e-12).mean(), "n": len(differences),
        })
    return pd.DataFrame(rows, columns=["part", "kind", "early", "others", "difference", "low", "high", "p", "n"])


def peak_layers(study: TraceStudy) -> pd.DataFrame:
    """Return the layer with the largest effect of each question. Columns id, part, kind, layer, effect."""
    frames = []
    for part, kind, effects in by_part_and_kind(study):
        frames.append(pd.DataFrame({
            "id": effects.index.astype(str), "part": part, "kind": kind, "layer": effects.idxmax(axis=1).to_numpy(int),
            "effect": effects.max(axis=1).to_numpy(float),
        }))
    return joined(frames, ["id", "part", "kind", "layer", "effect"])


def window_effects(studies: Mapping[int, TraceStudy]) -> pd.DataFrame:
    """Return the best layer at every window. Columns window, part, kind, layer, effect, low, high, n.

    The interval is `simultaneous_interval`, valid at the best layer.
    """
    rows = [
        {"window": window, "part": part, "kind": kind} | best_layer(effects, "effect")
        for window, study in studies.items() for part, kind, effects in by_part_and_kind(study)
    ]
    return pd.DataFrame(rows, columns=["window", "part", "kind", "layer", "effect", "low", "high", "n"])


def smallest_window(frame: pd.DataFrame, at_least: float = 0.0) -> pd.DataFrame:
    """Return the smallest window whose interval lies above `at_least`. Columns part, kind, window (NaN: none).

    frame: from `window_effects`.
    """
    rows = []
    for (part, kind), cells in frame.groupby(["part", "kind"], sort=False):
        above = cells.loc[cells["low"] > at_least, "window"]
        rows.append({"part": part, "kind": kind, "window": float(above.min()) if len(above) else np.nan})
    return pd.DataFrame(rows, columns=["part", "kind", "window"])


def on_common_questions(*studies: TraceStudy) -> tuple[TraceStudy, ...]:
    """Return the studies, each restricted to the questions that all of them used."""
    common = set.intersection(*(set(study.questions.loc[study.questions["used"], "id"]) for study in studies))
    return tuple(study.only(common) for study in studies)
