"""Figure 5: which visual tokens contribute to the constraint, and what the answer loses when they are blocked."""

from __future__ import annotations

import pandas as pd

from ..attention.averages import (
    agreement,
    blocked_entirely,
    flow_shares,
    knockout_drops,
    largest_drops,
    right,
    total_shares,
)
from ..attention.contributions import CONSTRAINT_TO_LAST, VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST
from ..attention.study import SUBSETS, TOP, AttentionStudy
from ..attention.visual_tokens import LAST, mean_contributions
from ..reports.record import Claim
from ..statistics import LEVEL, NEGLIGIBLE, Number
from .common import SUBSTANTIAL, above, above_zero, fine, number, number_of, p_text

NONE_RIGHT = "no question was answered right"


def fig5_numbers(study: AttentionStudy, first: pd.DataFrame, peaks: pd.DataFrame) -> dict[str, Number]:
    """Figure 5 in numbers, by part: accuracy, where contributions lie, what blocking each flow costs, and rho.

    first, peaks: those of `concentration.first_layer` and `concentration.peak_concentration`: what concerns single
    visual tokens is of the layer with the largest contributions.
    """
    numbers = {}
    for part, asked in study.questions.groupby("part", sort=False):
        numbers[f"{part}/accuracy"] = number(asked.loc[asked["answered"], "accuracy"])
        numbers[f"{part}/p_clean"] = number(asked.loc[right(asked), "p_clean"])
    for part, (layers, peak) in _by_part(first, peaks).items():
        numbers[f"{part}/peak_layer"] = Number(int(layers["layer"]), n=int(layers["n"]))
        numbers[f"{part}/first_layer_minus_others"] = number_of(layers, "difference")
        numbers[f"{part}/share_top"] = number_of(peak, "share_top")
        numbers[f"{part}/share_last"] = number_of(peak, "share_last", "last_low", "last_high")
        for name in ("overlap", "overlap_null"):
            numbers[f"{part}/{name}"] = Number(float(peak[name]), n=int(peak["entities"]))
        numbers[f"{part}/overlap_p"] = Number(float(peak["p"]), n=int(peak["entities"]))
    for (part, flow), cells in total_shares(study).groupby(["part", "flow"], sort=False):
        numbers[f"{part}/{flow}/share"] = number(cells["share"])
    for (part, flow), cells in blocked_entirely(study).groupby(["part", "flow"], sort=False):
        numbers[f"{part}/{flow}/drop_all_layers"] = number(cells["drop"])
    for _, best in largest_drops(study).iterrows():
        name = f"{best['part']}/{best['flow']}/drop_peak"
        numbers[name] = number_of(best, "drop")
        numbers[f"{name}_layer"] = Number(int(best["layer"]), n=int(best["n"]))
    for _, row in agreement(study).iterrows():
        numbers[f"{row['part']}/{row['flow']}/rho"] = number_of(row, "rho")
    return numbers


def fig5_claims(study: AttentionStudy, first: pd.DataFrame, peaks: pd.DataFrame) -> list[Claim]:
    """The findings of Figure 5, by part; single visual tokens are read at the layer with the largest contributions.

    first, peaks: as for `fig5_numbers`.
    The first layer has the largest contributions, above those of any other. Few tokens carry them: the top 5 % of a
    question more than a quarter. They are the same in every question: their overlap is above that of permuted
    positions. And they are the last ones: the last sixteenth carries more than a quarter, and more than any other.
    """
    claims, by_part = [], _by_part(first, peaks)
    for part in dict.fromkeys(study.questions["part"]):
        titles = [f"{part}: {what}" for what in (
            "the first layer contributes most", f"the top {TOP:.0%} of the visual tokens carry it",
            "the same visual tokens in every question", "the last visual tokens carry it",
        )]
        papers = ["first self-attention layer of 32", "a subset of the visual tokens",
                  "the pattern holds across the questions", "the last 36 of 576"]
        if part not in by_part:
            claims += [Claim(*told, NONE_RIGHT, None) for told in zip(titles, papers, strict=True)]
            continue
        layers, peak = by_part[part]
        where = f"at layer {int(layers['layer'])}"
        lead, top = number_of(layers, "difference"), number_of(peak, "share_top")
        last = number_of(peak, "share_last", "last_low", "last_high")
        size = max(1, study.n_visual // LAST)
        heres = [
            f"largest {where}; the first layer less the largest other: {fine(lead)}",
            f"{top} of the summed contributions {where}",
            f"overlap {peak['overlap']:.2f} {where}, {peak['overlap_null']:.2f} if positions are permuted, "
            f"p {p_text(peak['p'])}",
            f"the last {size} of {study.n_visual} carry {last} {where}, an even share is {size / study.n_visual:.2f}, "
            f"another {size} carry at most {peak['share_other']:.2f}; to carry it is a quarter or more",
        ]
        holds = [
            above_zero(lead), above(top, SUBSTANTIAL), None if pd.isna(peak["p"]) else bool(peak["p"] < LEVEL),
            above(last, SUBSTANTIAL) and bool(last.value > peak["share_other"]),
        ]
        claims += [Claim(*told, held) for *told, held in zip(titles, papers, heres, holds, strict=True)]
    return claims


def fig5_table(study: AttentionStudy) -> pd.DataFrame:
    """The figure's rows: dataset, quantity, flow, window, layer, index, value, low, high, n.

    quantity: "norm" (mean ||a|| by visual token, index), "share" (of the flow's source), "drop" (of P(answer)).
    """
    norms = mean_contributions(study).rename(columns={"norm": "value"})
    norms = norms.assign(quantity="norm", flow=VISUAL_TO_CONSTRAINT)
    shares = flow_shares(study).rename(columns={"share": "value"}).assign(quantity="share")
    drops = knockout_drops(study).rename(columns={"drop": "value"}).assign(quantity="drop")
    columns = ["part", "quantity", "flow", "window", "layer", "index", "value", "low", "high", "n"]
    found = pd.concat([frame.astype(object) for frame in (norms, shares, drops)], ignore_index=True)
    return found.reindex(columns=columns).rename(columns={"part": "dataset"})


def knockout_claims(study: AttentionStudy) -> list[Claim]:
    """The causal check of Figure 5, which the paper does not make: is visual -> constraint needed for the answer?

    It is where blocking it in all layers surely takes more than a quarter of P(answer). No claim without knock-outs.
    """
    claims, drops = [], blocked_entirely(study)
    for part in dict.fromkeys(study.questions["part"] if len(study.knockouts) else ()):
        values = _of(drops, part, VISUAL_TO_CONSTRAINT)
        title = f"{part}: the answer needs {VISUAL_TO_CONSTRAINT}"
        paper = "not in the paper, which looks at contributions alone"
        if values.empty:
            claims.append(Claim(title, paper, NONE_RIGHT, None))
            continue
        drop, of = number(values), study.questions.set_index("id").loc[values.index, "p_clean"].mean()
        here = f"blocked in all layers, P(answer) falls by {drop} of {of:.2f}"
        claims.append(Claim(title, paper, here, above(drop, SUBSTANTIAL * of)))
    return claims


def subset_claims(study: AttentionStudy) -> list[Claim]:
    """Do the tokens with the largest contributions carry the flow, or only have the largest norms? Not in the paper.

    They carry it where blocking them alone takes half of what blocking all visual tokens takes, or more.
    """
    claims, drops = [], blocked_entirely(study)
    for part in dict.fromkeys(drops["part"]):
        every, top, rest, by_chance = (_of(drops, part, flow) for flow in (VISUAL_TO_CONSTRAINT, *SUBSETS))
        if top.empty:
            continue
        title = f"{part}: blocking the top {TOP:.0%} of the visual tokens alone costs P(answer)"
        here = (
            f"drops {number(top)} (them), {number(by_chance)} (as many others, drawn), {number(rest)} (all but them), "
            f"{number(every)} (all)"
        )
        holds = above_zero(number(top - every / 2)) if every.mean() >= NEGLIGIBLE else None
        claims.append(Claim(title, "not in the paper, which looks at contributions alone", here, holds))
    return claims


def route_claims(study: AttentionStudy, twin: AttentionStudy | None = None) -> list[Claim]:
    """Do knock-outs and contributions name a model's route, and tell it from that of a control model?

    By part, of differences within questions. In the study, blocking visual -> constraint costs more than visual ->
    last, in the control model less. In either, contributions name the same route: of the flows into the last token,
    constraint -> last and visual -> last, the one with the larger share (mean over layers) costs more. And both
    differences are larger in the study than in the control model, on the questions that both answer right.
    No claim of studies without knock-outs, about the control model only if there is one.
    """
    parts = list(dict.fromkeys(study.questions["part"] if len(study.knockouts) else ()))
    ours, claims = (blocked_entirely(study), total_shares(study)), []
    for part in parts:
        costs_more = f"{part}: blocking {VISUAL_TO_CONSTRAINT} costs more than {VISUAL_TO_LAST}"
        claims.append(_cost_claim(costs_more, ours[0], part))
        claims.append(_same_route_claim(f"{part}: contributions name the same route", *ours, part))
    if twin is None:
        return claims
    theirs = blocked_entirely(twin), total_shares(twin)
    for part in parts:
        costs_more = f"{part}: in the control model, {VISUAL_TO_LAST} costs more"
        claims.append(_cost_claim(costs_more, theirs[0], part, sign=-1))
        same = f"{part}: in the control model, contributions name the same route"
        claims.append(_same_route_claim(same, *theirs, part))
        routes = ("knock-outs", 0, VISUAL_TO_CONSTRAINT), ("contributions", 1, CONSTRAINT_TO_LAST)
        for name, which, first in routes:
            # Only questions in both have a difference of differences.
            apart = number((_difference(ours[which], part, first) - _difference(theirs[which], part, first)).dropna())
            here = f"({first}) - ({VISUAL_TO_LAST}), less that of the control model: {apart} (n = {apart.n})"
            claims.append(Claim(
                f"{part}: {name} tell the two models apart", "not in the paper; the control model takes another route",
                here if apart.n else "no question is answered right by both", above_zero(apart) if apart.n else None,
            ))
    return claims


def _by_part(first: pd.DataFrame, peaks: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """part -> its rows of both"""
    peaks = peaks.set_index("part")
    return {row["part"]: (row, peaks.loc[row["part"]]) for _, row in first.iterrows()}


def _of(frame: pd.DataFrame, part: str, flow: str) -> pd.Series:
    """The last column of `blocked_entirely` or `total_shares`; index id."""
    cells = frame[(frame["part"] == part) & (frame["flow"] == flow)]
    return cells.set_index("id").iloc[:, -1].astype(float)


def _difference(frame: pd.DataFrame, part: str, first: str) -> pd.Series:
    """A flow less visual -> last within every question that has both; index id."""
    return (_of(frame, part, first) - _of(frame, part, VISUAL_TO_LAST)).dropna()


def _cost_claim(title: str, drops: pd.DataFrame, part: str, sign: int = 1) -> Claim:
    paper = "not in the paper; its route goes through the constraint" if sign > 0 else "not in the paper; another route"
    differences = _difference(drops, part, VISUAL_TO_CONSTRAINT)
    if differences.empty:
        return Claim(title, paper, NONE_RIGHT, None)
    told = (f"{_of(drops, part, flow).mean():.2f} ({flow})" for flow in (VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST))
    here = f"drops {' and '.join(told)}, difference {number(differences)}"
    return Claim(title, paper, here, above_zero(number(sign * differences)))


def _same_route_claim(title: str, drops: pd.DataFrame, shares: pd.DataFrame, part: str) -> Claim:
    paper = "not in the paper, which looks at contributions alone"
    differences = [_difference(frame, part, CONSTRAINT_TO_LAST) for frame in (shares, drops)]
    if any(values.empty for values in differences):
        return Claim(title, paper, NONE_RIGHT, None)
    share, drop = map(number, differences)
    here = f"({CONSTRAINT_TO_LAST}) - ({VISUAL_TO_LAST}): share {share}, drop {drop}"
    holds = any(all(above_zero(number(sign * values)) for values in differences) for sign in (1, -1))
    return Claim(title, paper, here, holds)
