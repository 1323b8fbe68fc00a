"""Figure 5: claims about which visual tokens contribute to the constraint, and what blocking them costs the answer."""

from __future__ import annotations

import pandas as pd

from ..attention import averages
from ..attention.averages import blocked_entirely, total_shares
from ..attention.contributions import CONSTRAINT_TO_LAST, VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST
from ..attention.study import SUBSETS, TOP, AttentionStudy
from ..attention.visual_tokens import LAST, mean_contributions
from ..reports.record import Claim
from ..statistics import LEVEL, NEGLIGIBLE, Number, rows_where
from .common import SUBSTANTIAL, above, number, number_of, p_text, three_digits

NONE_RIGHT = "no question was answered right"
ONLY_CONTRIBUTIONS = "not in the paper, which looks at contributions alone"


def fig5_numbers(study: AttentionStudy, first: pd.DataFrame, peaks: pd.DataFrame) -> dict[str, Number]:
    """Return Figure 5 in numbers, by part: accuracy, where contributions lie, what blocking each flow costs, and rho.

    The frames are those of `first_layer` and `peak_concentration` (single visual tokens, at the layer with the largest
    contributions).
    """
    numbers = {}
    for part, rows in study.questions.groupby("part", sort=False):
        numbers[f"{part}/accuracy"] = number(rows.loc[rows["answered"], "accuracy"])
        numbers[f"{part}/p_clean"] = number(rows.loc[averages.right(rows), "p_clean"])
    for part, (layers, peak) in _by_part(first, peaks).items():
        numbers[f"{part}/peak_layer"] = Number(int(layers["layer"]), n=int(layers["n"]))
        numbers[f"{part}/first_layer_minus_others"] = number_of(layers, "difference")
        numbers[f"{part}/share_top"] = number_of(peak, "share_top")
        numbers[f"{part}/share_last"] = number_of(peak, "share_last", "last_low", "last_high")
        for name, column in (("overlap", "overlap"), ("overlap_null", "overlap_null"), ("overlap_p", "p")):
            numbers[f"{part}/{name}"] = Number(float(peak[column]), n=int(peak["entities"]))
    for frame, column, name in (
        (total_shares(study), "share", "share"), (blocked_entirely(study), "drop", "drop_all_layers")
    ):
        for (part, flow), cells in frame.groupby(["part", "flow"], sort=False):
            numbers[f"{part}/{flow}/{name}"] = number(cells[column])
    for _, best in averages.largest_drops(study).iterrows():
        name = f"{best['part']}/{best['flow']}/drop_peak"
        numbers[name] = number_of(best, "drop")
        numbers[f"{name}_layer"] = Number(int(best["layer"]), n=int(best["n"]))
    for _, row in averages.agreement(study).iterrows():
        numbers[f"{row['part']}/{row['flow']}/rho"] = number_of(row, "rho")
    return numbers


def fig5_claims(study: AttentionStudy, first: pd.DataFrame, peaks: pd.DataFrame) -> list[Claim]:
    """Return the findings of Figure 5 by part. The arguments are those of `fig5_numbers`.

    The contributions of the first layer are larger than those of any other. Few tokens carry them: the top 5 % of each
    question more than a quarter. They are the same tokens in every question: they overlap more than permuted positions
    do. And they are the last tokens: the last sixteenth carries more than a quarter, and more than any other sixteenth.
    """
    claims, by_part = [], _by_part(first, peaks)
    for part in dict.fromkeys(study.questions["part"]):
        titles = (
            (f"{part}: the first layer contributes most", "first self-attention layer of 32"),
            (f"{part}: the top {TOP:.0%} of the visual tokens carry it", "a subset of the visual tokens"),
            (f"{part}: the same visual tokens in every question", "the pattern holds across the questions"),
            (f"{part}: the last visual tokens carry it", "the last 36 of 576"),
        )
        if part not in by_part:
            claims += [Claim(*title, NONE_RIGHT, None) for title in titles]
            continue
        layers, peak = by_part[part]
        where = f"at layer {int(layers['layer'])}"
        lead, top = number_of(layers, "difference"), number_of(peak, "share_top")
        last, size = number_of(peak, "share_last", "last_low", "last_high"), max(1, study.n_visual // LAST)
        results = (
            (f"largest {where}; the first layer minus the largest other layer: {three_digits(lead)}", above(lead)),
            (f"{top} of the summed contributions {where}", above(top, SUBSTANTIAL)),
            (f"overlap {peak['overlap']:.2f} {where}, {peak['overlap_null']:.2f} if positions are permuted, "
             f"p {p_text(peak['p'])}", None if pd.isna(peak["p"]) else bool(peak["p"] < LEVEL)),
            (f"the last {size} of {study.n_visual} carry {last} {where}, an even share is {size / study.n_visual:.2f}, "
             f"any other {size} carry at most {peak['share_other']:.2f}; a quarter is required",
             above(last, SUBSTANTIAL) and bool(last.value > peak["share_other"])),
        )
        claims += [Claim(*title, *result) for title, result in zip(titles, results, strict=True)]
    return claims


def fig5_table(study: AttentionStudy) -> pd.DataFrame:
    """Return the rows of the figure: dataset, quantity, flow, window, layer, index, value, low, high, n.

    `quantity` is "norm" (mean ||a|| by visual token `index`), "share" (of the flow's source) or "drop" (of P(answer)).
    """
    norms = mean_contributions(study).rename(columns={"norm": "value"})
    norms = norms.assign(quantity="norm", flow=VISUAL_TO_CONSTRAINT)
    shares = averages.flow_shares(study).rename(columns={"share": "value"}).assign(quantity="share")
    drops = averages.knockout_drops(study).rename(columns={"drop": "value"}).assign(quantity="drop")
    columns = ["part", "quantity", "flow", "window", "layer", "index", "value", "low", "high", "n"]
    table = pd.concat([frame.astype(object) for frame in (norms, shares, drops)], ignore_index=True)
    return table.reindex(columns=columns).rename(columns={"part": "dataset"})


def knockout_claims(study: AttentionStudy) -> list[Claim]:
    """Return a causal check of Figure 5 by part, which is not in the paper: the answer needs visual -> constraint.

    It holds if blocking this flow in all layers takes more than a quarter of P(answer), by the whole interval. A study
    without knock-outs gives no claim.
    """
    claims, drops = [], blocked_entirely(study)
    for part in _parts_with_knockouts(study):
        values = _values(drops, part, VISUAL_TO_CONSTRAINT)
        title = f"{part}: the answer needs {VISUAL_TO_CONSTRAINT}"
        if values.empty:
            claims.append(Claim(title, ONLY_CONTRIBUTIONS, NONE_RIGHT, None))
            continue
        drop, p_clean = number(values), study.questions.set_index("id").loc[values.index, "p_clean"].mean()
        here = f"blocked in all layers, P(answer) falls by {drop} of {p_clean:.2f}"
        claims.append(Claim(title, ONLY_CONTRIBUTIONS, here, above(drop, SUBSTANTIAL * p_clean)))
    return claims


def subset_claims(study: AttentionStudy) -> list[Claim]:
    """Return by part whether the tokens with the largest contributions carry the flow; this is not in the paper.

    They do if blocking them alone costs half as much as blocking all visual tokens, or more.
    """
    claims, drops = [], blocked_entirely(study)
    for part in dict.fromkeys(drops["part"]):
        every, top, rest, by_chance = (_values(drops, part, flow) for flow in (VISUAL_TO_CONSTRAINT, *SUBSETS))
        if top.empty:
            continue
        title = f"{part}: blocking the top {TOP:.0%} of the visual tokens alone costs P(answer)"
        here = (
            f"drops {number(top)} (top tokens), {number(by_chance)} (as many random others), {number(rest)} (all but "
            f"the top), {number(every)} (all)"
        )
        holds = above(number(top - every / 2)) if every.mean() >= NEGLIGIBLE else None
        claims.append(Claim(title, ONLY_CONTRIBUTIONS, here, holds))
    return claims


def route_claims(study: AttentionStudy, control: AttentionStudy | None = None) -> list[Claim]:
    """Return by part whether knock-outs and contributions agree on a model's route, and distinguish the control model.

    All claims are about differences within questions. Blocking visual -> constraint costs more than visual -> last in
    the study, and less in the control model. In each model, contributions name the same route: of constraint -> last
    and visual -> last, the flow with the larger share (mean over layers) also costs more. Both differences are larger
    in the study than in the control model, over the questions that both answer right.
    """
    ours, claims = (blocked_entirely(study), total_shares(study)), []
    for part in _parts_with_knockouts(study):
        title = f"{part}: blocking {VISUAL_TO_CONSTRAINT} costs more than {VISUAL_TO_LAST}"
        claims.append(_cost_claim(title, "its route goes through the constraint", ours[0], part))
        claims.append(_same_route_claim(f"{part}: contributions name the same route", *ours, part))
    if control is None:
        return claims
    theirs = blocked_entirely(control), total_shares(control)
    for part in _parts_with_knockouts(study):
        title = f"{part}: in the control model, {VISUAL_TO_LAST} costs more"
        claims.append(_cost_claim(title, "another route", theirs[0], part, sign=-1))
        title = f"{part}: in the control model, contributions name the same route"
        claims.append(_same_route_claim(title, *theirs, part))
        for name, our, their, flow in (
            ("knock-outs", ours[0], theirs[0], VISUAL_TO_CONSTRAINT),
            ("contributions", ours[1], theirs[1], CONSTRAINT_TO_LAST),
        ):
            # Only questions in both have a difference of differences.
            apart = number((_difference(our, part, flow) - _difference(their, part, flow)).dropna())
            here = f"({flow}) - ({VISUAL_TO_LAST}), minus that of the control model: {apart} (n = {apart.n})"
            claims.append(Claim(
                f"{part}: {name} tell the two models apart", "not in the paper; the control model takes another route",
                here if apart.n else "no question is answered right by both", above(apart) if apart.n else None,
            ))
    return claims


def _by_part(first: pd.DataFrame, peaks: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """part -> its rows of both frames"""
    peaks = peaks.set_index("part")
    return {row["part"]: (row, peaks.loc[row["part"]]) for _, row in first.iterrows()}


def _parts_with_knockouts(study: AttentionStudy) -> list[str]:
    return list(dict.fromkeys(study.questions["part"])) if len(study.knockouts) else []


def _values(frame: pd.DataFrame, part: str, flow: str) -> pd.Series:
    """The last column of `blocked_entirely` or `total_shares`; index id."""
    return rows_where(frame, part=part, flow=flow).set_index("id").iloc[:, -1].astype(float)


def _difference(frame: pd.DataFrame, part: str, flow: str) -> pd.Series:
    """A flow minus visual -> last within every question that has both; index id."""
    return (_values(frame, part, flow) - _values(frame, part, VISUAL_TO_LAST)).dropna()


def _cost_claim(title: str, route: str, drops: pd.DataFrame, part: str, sign: int = 1) -> Claim:
    differences = _difference(drops, part, VISUAL_TO_CONSTRAINT)
    if differences.empty:
        return Claim(title, f"not in the paper; {route}", NONE_RIGHT, None)
    means = (f"{_values(drops, part, flow).mean():.2f} ({flow})" for flow in (VISUAL_TO_CONSTRAINT, VISUAL_TO_LAST))
    here = f"drops {' and '.join(means)}, difference {number(differences)}"
    return Claim(title, f"not in the paper; {route}", here, above(number(sign * differences)))


def _same_route_claim(title: str, drops: pd.DataFrame, shares: pd.DataFrame, part: str) -> Claim:
    differences = [_difference(frame, part, CONSTRAINT_TO_LAST) for frame in (shares, drops)]
    if any(values.empty for values in differences):
        return Claim(title, ONLY_CONTRIBUTIONS, NONE_RIGHT, None)
    share, drop = map(number, differences)
    here = f"({CONSTRAINT_TO_LAST}) - ({VISUAL_TO_LAST}): share {share}, drop {drop}"
    holds = any(all(above(number(sign * values)) for values in differences) for sign in (1, -1))
    return Claim(title, ONLY_CONTRIBUTIONS, here, holds)
