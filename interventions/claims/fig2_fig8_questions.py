"""Figures 2 and 8 to 13: claims about single questions."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ..reports.record import Claim
from ..statistics import Number
from ..tracing.causal_trace import KIND_NAMES, KINDS
from ..tracing.examples import WorkedExample
from ..tracing.study import TraceStudy
from .common import SUBSTANTIAL, expected_layers

WEAK = 0.1  # the least share of P_clean - P_corrupted that is "weakly causal" (Figure 9)
LEAST_LOST = 0.1  # a corruption that takes less of P(answer) leaves nothing to restore
PAPER = {  # (where effects are read, kind) -> the figures that call the layers there causal
    ("visual constraint", "mlp"): "Figures 8 and 10",
    ("visual constraint", "attention"): "Figures 9 and 11; weakly in LLaVA",
    ("text constraint", "mlp"): "Figure 12",
    ("text constraint", "attention"): "Figure 13; for a majority of the questions",
}


def question_peaks(study: TraceStudy) -> pd.DataFrame:
    """Return the largest effect of each question and kind, anywhere and at the tokens of the corrupted constraint.

    Returns:
        Columns id, part, constraints, kind, where ("anywhere" | "constraint"), layer, position, token, role, effect,
        lost (P_clean - P_corrupted).
    """
    rows = []
    for question in study.questions[study.questions["used"]].itertuples():
        own = study.only([question.id])
        at_constraint = own.sites["role"].isin({own.role, own.role.removesuffix("_last")})
        for kind in dict.fromkeys(own.sites["kind"]):
            of_kind = own.sites["kind"] == kind
            for where, chosen in (("anywhere", of_kind), ("constraint", of_kind & at_constraint)):
                peak = own.sites.loc[own.sites.loc[chosen, "effect"].idxmax()]
                rows.append({
                    "id": question.id, "part": question.part, "constraints": question.constraints, "kind": str(kind),
                    "where": where, "layer": int(peak["layer"]), "position": int(peak["position"]),
                    "token": str(peak["token"]).strip(), "role": str(peak["role"]), "effect": float(peak["effect"]),
                    "lost": question.p_clean - question.p_corrupted,
                })
    return pd.DataFrame(rows)


def question_numbers(study: TraceStudy, kinds: Iterable[str]) -> dict[str, Number]:
    """Return the probabilities and the peaks of each question."""
    numbers = {}
    for question in study.questions[study.questions["used"]].itertuples():
        numbers[f"{question.id}/p_clean"] = Number(question.p_clean)
        numbers[f"{question.id}/p_corrupted"] = Number(question.p_corrupted)
    peaks = question_peaks(study)
    for peak in peaks[peaks["kind"].isin(list(kinds))].itertuples():
        name = f"{peak.id}/{peak.kind}/{'peak' if peak.where == 'anywhere' else 'constraint'}"
        numbers[f"{name}_effect"], numbers[f"{name}_layer"] = Number(peak.effect), Number(peak.layer)
    return numbers


def question_claims(study: TraceStudy, kinds: Iterable[str]) -> list[Claim]:
    """Return a claim per question and kind, and one that compares the kinds.

    A claim holds if the largest effect at the corrupted constraint lies in an early layer (at the text constraint, an
    early or middle one) and is at least SUBSTANTIAL of the lost probability (for attention at the visual
    constraint, WEAK).
    """
    peaks, claims = question_peaks(study), []
    by_place = {name: group.set_index(["id", "kind"]) for name, group in peaks.groupby("where")}
    for (name, kind), peak in by_place["constraint"].iterrows():
        if kind not in kinds:
            continue
        own = study.only([name])
        share = WEAK if (own.read_at, kind) == ("visual constraint", "attention") else SUBSTANTIAL
        enough = peak["lost"] >= LEAST_LOST and peak["effect"] >= share * peak["lost"]
        expected, where = expected_layers(own)
        here = f"largest effect {peak['effect']:.2f} of {peak['lost']:.2f} lost, at layer {peak['layer']}"
        highest = by_place["anywhere"].loc[(name, kind)]
        if highest["position"] != peak["position"] or highest["layer"] != peak["layer"]:
            token = {"visual": "the last visual token", "last": "the last token"}
            token = token.get(highest["role"], repr(highest["token"]))
            here += f"; anywhere {highest['effect']:.2f}, at {token}, layer {highest['layer']}"
        claims.append(Claim(
            f"{name}: {KIND_NAMES[kind]} at the {own.read_at}",
            f"causal: {where} ({PAPER[own.read_at, kind]})", here, bool(peak["layer"] in expected and enough),
        ))
    return claims + _comparison(by_place["constraint"], kinds)


def fig2_numbers(example: WorkedExample) -> dict[str, Number]:
    """Return P(answer) of the three runs, the restored site and the likeliest tokens of each run."""
    numbers = {f"p_{run}": Number(example.p_answer(run)) for run in ("clean", "corrupted", "restored")}
    numbers |= {"restored/layer": Number(example.site["layer"]), "restored/position": Number(example.site["position"])}
    for row in example.answers.itertuples():
        numbers[f"{row.run}/{row.rank}/{row.token.strip() or repr(row.token)}"] = Number(row.p)
    return numbers


def fig2_claims(example: WorkedExample, study: TraceStudy) -> list[Claim]:
    """Return the claims of Figure 2: corruption removes the answer, and restoring a few layers brings it back."""
    clean, corrupted, restored = (example.p_answer(run) for run in ("clean", "corrupted", "restored"))
    top = {run: rows.loc[rows["rank"].idxmin()] for run, rows in example.answers.groupby("run")}
    lost, (expected, where), site = clean - corrupted, expected_layers(study), example.site
    recovered = (restored - corrupted) / lost if lost > 0 else 0.0
    at = f"{KIND_NAMES[site['kind']]}, window around layer {site['layer']}, at {site['token'].strip()!r}"
    return [
        Claim(
            "the corruption removes the answer", "P(answer) is low in the corrupted run",
            f"P {clean:.2f} -> {corrupted:.2f}, the corrupted run says {top['corrupted']['token'].strip()!r}",
            bool(corrupted < clean / 2 and not top["corrupted"]["is_answer"]),
        ),
        Claim(
            "a restored window brings it back", "until the output probability matches the clean model's",
            f"P {restored:.2f}, {recovered:.0%} of the lost probability ({at})",
            bool(recovered >= 0.5 and top["restored"]["is_answer"]),
        ),
        Claim(
            f"the best window at the {study.read_at} is where the paper finds effects",
            f"{where} (Figure {3 if study.role == 'constraint_last' else 4})", f"layer {site['layer']}",
            site["layer"] in expected,
        ),
    ]


def _comparison(peaks: pd.DataFrame, kinds: Iterable[str]) -> list[Claim]:
    single = peaks.loc[peaks["constraints"] == "single", "effect"].unstack("kind")
    if "attention" not in kinds or set(single.columns) != set(KINDS):
        return []
    weaker = int((single["attention"] < single["mlp"]).sum())
    here = f"smaller largest effect in {weaker} of {len(single)} questions"
    title = "self-attention is weaker than MLP at the visual constraint"
    return [Claim(title, "in LLaVA (Figure 9)", here, weaker > len(single) / 2)]
