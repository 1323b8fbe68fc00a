"""Figure 5: which visual tokens contribute to the constraint, and what the answer loses when they are blocked."""

from __future__ import annotations

import pandas as pd

from ..attention_averages import (
    agreement,
    blocked_entirely,
    flow_shares,
    knockout_drops,
    largest_drops,
    right,
    total_shares,
)
from ..attention_study import SUBSETS, AttentionStudy
from ..averages import NEGLIGIBLE
from ..concentration import LAST, TOP, concentration, first_layer, mean_contributions
from ..record import Claim, Number
from .common import SUBSTANTIAL, above, above_zero, fine, number, number_of, p_text

FLOW, DIRECT, INTO_LAST = "visual -> constraint", "visual -> last", "constraint -> last"
LEVEL = 0.05
NONE_RIGHT = "no question was answered right"


def fig5_numbers(study: AttentionStudy) -> dict[str, Number]:
    """Figure 5 in numbers, by part: accuracy, where contributions lie, what blocking each flow costs, and rho.

    What concerns single visual tokens is of the layer with the largest contributions (`peak_layer`).
    """
    numbers = {}
    for part, asked in study.questions.groupby("part", sort=False):
        numbers[f"{part}/accuracy"] = number(asked.loc[asked["answered"], "accuracy"])
        numbers[f"{part}/p_clean"] = number(asked.loc[right(asked), "p_clean"])
    for part, (first, peak) in _peaks(study).items():
        n = int(first["n"])
        numbers[f"{part}/peak_layer"] = Number(int(first["layer"]), n=n)
        numbers[f"{part}/first_layer_minus_others"] = number_of(first, "difference")
        numbers[f"{part}/share_top"] = number_of(peak, "share_top")
        numbers[f"{part}/share_last"] = _last(peak)
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


def fig5_claims(study: AttentionStudy) -> list[Claim]:
    """The findings of Figure 5, by part; single visual tokens are read at the layer with the largest contributions.

    The first layer has the largest contributions, above those of any other. Few tokens carry them: the top 5 % of a
    question more than a quarter. They are the same in every question: their overlap is above that of permuted
    positions. And they are the last ones: the last sixteenth carries more than a quarter, and more than any other.
    """
    claims, peaks = [], _peaks(study)
    for part in dict.fromkeys(study.questions["part"]):
        titles = [f"{part}: {what}" for what in (
            "the first layer contributes most", f"the top {TOP:.0%} of the visual tokens carry it",
            "the same visual tokens in every question", "the last visual tokens carry it",
        )]
        papers = ["first self-attention layer of 32", "a subset of the visual tokens",
                  "the pattern holds across the questions", "the last 36 of 576"]
        if part not in peaks:
            claims += [Claim(*told, NONE_RIGHT, None) for told in zip(titles, papers, strict=True)]
            continue
        first, peak = peaks[part]
        where = f"at layer {int(first['layer'])}"
        lead, top, last = number_of(first, "difference"), number_of(peak, "share_top"), _last(peak)
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


def peak_concentration(study: AttentionStudy) -> pd.DataFrame:
    """The row of `concentration.concentration` of each part's layer with the largest contributions."""
    return concentration(study).merge(first_layer(study)[["part", "layer"]], on=["part", "layer"])


def peak_layer(study: AttentionStudy) -> int:
    """The layer that is drawn over the image: with the largest contributions, the first of parts that differ."""
    return min((int(first["layer"]) for first, _ in _peaks(study).values()), default=0)


def fig5_table(study: AttentionStudy) -> pd.DataFrame:
    """The figure's rows: dataset, quantity, flow, window, layer, index, value, low, high, n.

    quantity: "norm" (mean ||a|| by visual token, index), "share" (of the flow's source), "drop" (of P(answer)).
    """
    norms = mean_contributions(study).rename(columns={"norm": "value"}).assign(quantity="norm", flow=FLOW)
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
        values = _of(drops, part, FLOW)
        title, paper = f"{part}: the answer needs {FLOW}", "not in the paper, which looks at contributions alone"
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
        every, top, rest, by_chance = (_of(drops, part, flow) for flow in (FLOW, *SUBSETS))
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
        claims.append(_cost_claim(f"{part}: blocking {FLOW} costs more than {DIRECT}", ours[0], part))
        claims.append(_same_route_claim(f"{part}: contributions name the same route", *ours, part))
    if twin is None:
        return claims
    theirs = blocked_entirely(twin), total_shares(twin)
    for part in parts:
        claims.append(_cost_claim(f"{part}: in the control model, {DIRECT} costs more", theirs[0], part, sign=-1))
        same = f"{part}: in the control model, contributions name the same route"
        claims.append(_same_route_claim(same, *theirs, part))
        for name, which, first in (("knock-outs", 0, FLOW), ("contributions", 1, INTO_LAST)):
            # Only questions in both have a difference of differences.
            apart = number((_difference(ours[which], part, first) - _difference(theirs[which], part, first)).dropna())
            here = f"({first}) - ({DIRECT}), less that of the control model: {apart} (n = {apart.n})"
            claims.append(Claim(
                f"{part}: {name} tell the two models apart", "not in the paper; it takes another route",
                here if apart.n else "no question is answered right by both", above_zero(apart) if apart.n else None,
            ))
    return claims


def _peaks(study: AttentionStudy) -> dict[str, tuple[pd.Series, pd.Series]]:
    """part -> (its row of `first_layer`, that of `concentration` at the layer of the largest contributions)"""
    cells = concentration(study).set_index(["part", "layer"])
    return {row["part"]: (row, cells.loc[(row["part"], row["layer"])]) for _, row in first_layer(study).iterrows()}


def _last(peak: pd.Series) -> Number:
    return Number(*(float(peak[name]) for name in ("share_last", "last_low", "last_high")), n=int(peak["n"]))


def _of(frame: pd.DataFrame, part: str, flow: str) -> pd.Series:
    """The last column of `blocked_entirely` or `total_shares`; index id."""
    cells = frame[(frame["part"] == part) & (frame["flow"] == flow)]
    return cells.set_index("id").iloc[:, -1].astype(float)


def _difference(frame: pd.DataFrame, part: str, first: str) -> pd.Series:
    """A flow less DIRECT within every question that has both; index id."""
    return (_of(frame, part, first) - _of(frame, part, DIRECT)).dropna()


def _cost_claim(title: str, drops: pd.DataFrame, part: str, sign: int = 1) -> Claim:
    paper = "not in the paper; its route goes through the constraint" if sign > 0 else "not in the paper; another route"
    differences = _difference(drops, part, FLOW)
    if differences.empty:
        return Claim(title, paper, NONE_RIGHT, None)
    first, second = (_of(drops, part, flow).mean() for flow in (FLOW, DIRECT))
    here = f"drops {first:.2f} ({FLOW}) and {second:.2f} ({DIRECT}), difference {number(differences)}"
    return Claim(title, paper, here, above_zero(number(sign * differences)))


def _same_route_claim(title: str, drops: pd.DataFrame, shares: pd.DataFrame, part: str) -> Claim:
    paper = "not in the paper, which looks at contributions alone"
    differences = [_difference(frame, part, INTO_LAST) for frame in (shares, drops)]
    if any(values.empty for values in differences):
        return Claim(title, paper, NONE_RIGHT, None)
    share, drop = map(number, differences)
    here = f"({INTO_LAST}) - ({DIRECT}): share {share}, drop {drop}"
    holds = any(all(above_zero(number(sign * values)) for values in differences) for sign in (1, -1))
    return Claim(title, paper, here, holds)
