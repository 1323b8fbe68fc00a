"""Comparisons of traces in float32 with traces in lower precision, by every method.

*Separate runs* ("plain", one forward pass per site) are the reference within a precision. The *exact mode* ("rows", the
default in half precision) should equal them. The *fast mode* ("packed") adds in another order, which half precision
shows. The comparison with float32 shows how large rounding errors are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from ..models.model import VisionLanguageModel
from ..studies.loop import DEFAULT_RUN, RunOptions
from ..testbed import Item
from .study import TraceStudy, trace_study
from .sweeps import on_common, summaries

REFERENCE = "float32"
DTYPES = ("bfloat16", "float16", "nf4", "int8")  # the last two hold weights in 4 and 8 bits, and compute in 16
METHOD_NAMES = {"plain": "separate runs", "rows": "exact mode", "packed": "fast mode"}
_SITE, _RUN = ["id", "part", "kind", "role", "read", "position", "layer"], ["dtype", "method"]


@dataclass(frozen=True)
class PrecisionStudy:
    """The float32 study and, by (dtype, method), the studies in lower precision."""

    reference: TraceStudy
    runs: dict[tuple[str, str], TraceStudy]

    def summary(self) -> pd.DataFrame:
        """Return `sweeps.summaries` by precision: questions asked, used and compared."""
        asked = {dtype: study for (dtype, _), study in self.runs.items()}  # the same with every method
        return summaries({name: {self.reference.window: study} for name, study in self._named(asked).items()})

    def sites(self) -> pd.DataFrame:
        """Return effects of the questions that every run used, one row per site, dtype and method.

        Columns id, part, kind, role, read, position, layer, dtype, method, effect, separate (the effect by separate
        runs of the same dtype), float32. Sites that are never run are left out: those without a corrupted counterpart
        and those before the first corrupted token.
        """
        common = on_common({name: {0: study} for name, study in self._named(self.runs).items()})
        effects = pd.concat({name: _effects(study[0]) for name, study in common.items()}, axis=1).dropna()
        effects = effects[(effects != 0).any(axis=1)]
        frames = [
            effects[run].rename("effect").reset_index().assign(
                dtype=run[0], method=run[1], separate=effects[run[0], "plain"].to_numpy(),
                float32=effects[REFERENCE].to_numpy(),
            )
            for run in self.runs
        ]
        return pd.concat(frames, ignore_index=True)[[*_SITE, *_RUN, "effect", "separate", "float32"]]

    def by_question(self) -> pd.DataFrame:
        """Return how far effects are from separate runs and from float32, one row per question, dtype and method.

        Columns id, part, dtype, method, sites (their number); to_separate, mean_to_separate, to_float32,
        mean_to_float32 (largest and mean absolute difference); p_clean_change; peak_kind, peak_layer (largest effect at
        the token that is read); same_peak (as in float32); peak_loss (float32's largest effect minus float32's
        effect at this peak).
        """
        rows = []
        clean = {name: study.questions.set_index("id")["p_clean"] for name, study in self._named(self.runs).items()}
        for (name, part, *run), cells in self.sites().groupby(["id", "part", *_RUN], sort=False):
            row = {"id": name, "part": part, "dtype": run[0], "method": run[1], "sites": len(cells)}
            for other in ("separate", "float32"):
                difference = (cells["effect"] - cells[other]).abs()
                row |= {f"to_{other}": difference.max(), f"mean_to_{other}": difference.mean()}
            read = cells[cells["read"]]
            own, best = (read.loc[read[column].idxmax()] for column in ("effect", "float32"))
            rows.append(row | {
                "p_clean_change": clean[tuple(run)][name] - clean[REFERENCE][name], "peak_kind": own["kind"],
                "peak_layer": int(own["layer"]), "same_peak": own.name == best.name,
                "peak_loss": best["float32"] - own["float32"],
            })
        return pd.DataFrame(rows)

    def means(self) -> pd.DataFrame:
        """Return mean effects at the token that is read.

        Columns dtype, method, part, kind, layer, effect, separate, float32, n.
        """
        sites = self.sites()
        groups = sites[sites["read"]].groupby([*_RUN, "part", "kind", "layer"], sort=False)
        return groups[["effect", "separate", "float32"]].mean().assign(n=groups["id"].nunique()).reset_index()

    def _named(self, studies: dict) -> dict:
        return {REFERENCE: self.reference} | studies


def precision_study(
    reference: VisionLanguageModel, halves: Iterable[VisionLanguageModel], testbed: Iterable[Item], *,
    run: RunOptions = DEFAULT_RUN, **options
) -> PrecisionStudy:
    """Trace every item in float32, and with each model of lower precision by every method.

    options are those of `trace_study`. Questions that a lower precision answers differently are not compared.
    """
    items = list(testbed)
    first = trace_study(reference, items, run=replace(run, label=REFERENCE), **options)
    runs = {}
    for model in halves:
        dtype = model.quantization or str(model.dtype).removeprefix("torch.")
        for method, name in METHOD_NAMES.items():
            study = trace_study(model, items, method=method, run=replace(run, label=f"{dtype}, {name}"), **options)
            runs[dtype, method] = _same_answers(study, first)
    return PrecisionStudy(first, runs)


def _same_answers(study: TraceStudy, reference: TraceStudy) -> TraceStudy:
    """Return the study with questions unused whose answer differs from that of the reference."""
    questions, expected = study.questions.copy(), reference.questions
    other = questions["used"] & expected["used"] & (questions["answer"] != expected["answer"])
    questions.loc[other, "reason"] = "another answer than in float32: " + questions.loc[other, "answer"]
    return replace(study, questions=questions.assign(used=questions["used"] & ~other))


def _effects(study: TraceStudy) -> pd.Series:
    """Return effects, indexed by site."""
    return study.sites.astype(dict.fromkeys(["id", "part", "kind", "role"], str)).set_index(_SITE)["effect"]
