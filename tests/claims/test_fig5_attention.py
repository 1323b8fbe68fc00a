"""Claims about contributions and knock-outs hold where they were planted, and nowhere else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from contributions import contributions_study, held, late_visual

from interventions.attention.study import SUBSETS
from interventions.attention.visual_tokens import first_layer, peak_concentration, peak_layer
from interventions.claims.fig5_attention import (
    fig5_claims,
    fig5_numbers,
    fig5_table,
    knockout_claims,
    route_claims,
    subset_claims,
)
from interventions.statistics import Number

FLOW, DIRECT, ON = "visual -> constraint", "visual -> last", "constraint -> last"
N, N_LAYERS, N_VISUAL = 12, 8, 64


def peaks_of(study) -> tuple[pd.DataFrame, pd.DataFrame]:
    first = first_layer(study)
    return first, peak_concentration(study, first)


def claims_of(study):
    return fig5_claims(study, *peaks_of(study))


def numbers_of(study):
    return fig5_numbers(study, *peaks_of(study))


def visual_study(values, parts=("known",), **options):
    return contributions_study({(part, FLOW): values for part in parts}, **options)


def test_figure_5_holds_for_late_tokens_in_the_first_layer():
    study = visual_study(late_visual(N, N_LAYERS, N_VISUAL), parts=("known", "movies"))
    claims = claims_of(study)
    assert held(claims) == [True] * 8
    assert [claim.claim.split(":")[0] for claim in claims] == ["known"] * 4 + ["movies"] * 4
    assert all("layer 0" in claim.here for claim in claims)
    assert "0.05 if positions are permuted, p < 0.001" in claims[2].here
    assert "the last 4 of 64" in claims[3].here and "an even share is 0.06" in claims[3].here


def test_each_claim_of_figure_5_fails_alone():
    late = late_visual(N, N_LAYERS, N_VISUAL)
    other_layer = late[:, [3, 1, 2, 0, *range(4, N_LAYERS)]]
    assert held(claims_of(visual_study(other_layer))) == [False, True, True, True]
    assert "layer 3" in claims_of(visual_study(other_layer))[0].here
    assert held(claims_of(visual_study(np.roll(late, 20, axis=-1)))) == [True, True, True, False]
    own = late.copy()  # other tokens in every question: few, but not the same
    for q in range(N):
        own[q, 0] = np.roll(late[q, 0], 4 * q)
    assert held(claims_of(visual_study(own)))[:3] == [True, True, False]
    broad = late_visual(N, N_LAYERS, N_VISUAL, late=0.0)
    broad[:, 0] += 3 + 0.2 * np.arange(N_VISUAL) / N_VISUAL  # the same tokens lead, but hardly
    assert held(claims_of(visual_study(broad)))[:3] == [True, False, True]


def test_more_than_an_even_share_is_not_enough_if_others_carry_more():
    values = np.ones((N, N_LAYERS, N_VISUAL))
    values[:, 0] = 2
    values[:, 0, 60:] = 20
    assert claims_of(visual_study(values))[3].holds
    values[:, 0, 60:] = 7  # 0.19, three times an even share
    assert not claims_of(visual_study(values))[3].holds
    values[:, 0, 60:] = 20
    values[:, 0, 8:12] = 30
    assert not claims_of(visual_study(values))[3].holds


def test_nothing_is_claimed_of_equal_contributions():
    values = np.random.default_rng(0).gamma(50, 0.02, (N, N_LAYERS, N_VISUAL))
    assert held(claims_of(visual_study(values))) == [False] * 4


@pytest.mark.parametrize("seed", [2, 3, 8, 13])
def test_more_overlap_than_expected_may_be_chance(seed):
    values = np.random.default_rng(seed).gamma(2, 0.5, (N, N_LAYERS, N_VISUAL))
    values[:, 1:] /= 2
    study = visual_study(values)
    numbers = numbers_of(study)
    assert numbers["known/overlap"].value > numbers["known/overlap_null"].value
    assert not claims_of(study)[2].holds


def test_numbers_of_figure_5():
    late = late_visual(N, N_LAYERS, N_VISUAL)
    drops = np.full((N, N_LAYERS + 1), 0.1)
    drops[:, 2], drops[:, -1] = 0.4, 0.7
    right = np.arange(N) > 2
    numbers = numbers_of(visual_study(late, drops={("known", FLOW): drops}, right={"known": right}))
    assert (numbers["known/accuracy"].value, numbers["known/accuracy"].n) == (0.75, 12)
    assert (numbers["known/p_clean"].value, numbers["known/p_clean"].n) == (pytest.approx(0.9), 9)
    assert (numbers["known/peak_layer"].value, numbers["known/peak_layer"].n) == (0, 9)
    chosen = late[right, 0]
    share = (np.sort(chosen)[:, -3:].sum(-1) / chosen.sum(-1)).mean()
    assert numbers["known/share_top"].value == pytest.approx(share, rel=1e-4)
    assert numbers["known/share_top"].low < share < numbers["known/share_top"].high
    late_share = (chosen[:, 60:].sum(-1) / chosen.sum(-1)).mean()
    assert numbers["known/share_last"].value == pytest.approx(late_share, rel=1e-4)
    assert numbers["known/overlap"].value > 0.5 > numbers["known/overlap_null"].value == pytest.approx(3 / 64)
    assert numbers["known/overlap_p"].value < 0.002
    means = late[right].mean((0, 2))
    assert numbers["known/first_layer_minus_others"].value == pytest.approx(means[0] - means[1:].max(), rel=1e-4)
    assert numbers[f"known/{FLOW}/drop_all_layers"].value == pytest.approx(0.7)
    assert numbers[f"known/{FLOW}/drop_peak"].value == pytest.approx(0.4)
    assert numbers[f"known/{FLOW}/drop_peak_layer"].value == 2
    assert {f"known/{FLOW}/rho", f"known/{FLOW}/share"} <= set(numbers)
    assert all(isinstance(number, Number) for number in numbers.values())


def test_tables_of_figure_5():
    late = late_visual(N, N_LAYERS, N_VISUAL)
    moved = late[:, [3, 1, 2, 0, *range(4, N_LAYERS)]]
    drops = {("known", FLOW): np.tile(np.arange(N_LAYERS + 1) / 10, (N, 1))}
    study = contributions_study({("known", FLOW): late, ("movies", FLOW): moved}, drops=drops)
    first, peaks = peaks_of(study)
    assert list(zip(peaks["part"], peaks["layer"], strict=True)) == [("known", 0), ("movies", 3)]
    assert (peaks["share_last"] > 0.5).all()
    assert peak_layer(first) == peak_layer(first[::-1]) == 0  # the lowest
    assert peak_layer(first[first["part"] == "movies"]) == 3
    table = fig5_table(study)
    norm = table[(table["dataset"] == "known") & (table["quantity"] == "norm")].set_index(["layer", "index"])["value"]
    assert norm[0, 63] == pytest.approx(late[:, 0, 63].mean(), rel=1e-5)
    drop = table[table["quantity"] == "drop"].set_index(["flow", "window", "layer"])["value"]
    assert (drop[FLOW, 3, 2], drop[FLOW, 8, 4]) == (pytest.approx(0.2), pytest.approx(0.8))
    share = table[(table["quantity"] == "share") & (table["flow"] == FLOW)]
    assert len(share) == 2 * N_LAYERS and share["low"].notna().all()
    nothing = contributions_study({("known", FLOW): late}, right={"known": np.zeros(N, bool)})
    first, peaks = peaks_of(nothing)
    assert first.empty and peaks.empty and fig5_table(nothing).empty
    assert peak_layer(first) == 0


def blocked(n=N, **whole) -> dict:
    """Drops by flow with so much lost when all layers are blocked, give or take 0.02 by question."""
    flows = {"constraint": FLOW, "direct": DIRECT, "into_last": ON}
    return {("known", flows[name]): np.tile(value + 0.02 * (-1.0) ** np.arange(n)[:, None], N_LAYERS + 1)
            for name, value in whole.items()}


def route_study(drops: dict, into_last=0.5, direct=0.2, n=N):
    """into_last, direct: shares of the two flows into the last token, the same in every layer."""
    sizes = {("known", FLOW): (16, 0.4), ("known", DIRECT): (16, direct), ("known", ON): (2, into_last)}
    swing = 1 + 0.05 * (-1.0) ** np.arange(n)[:, None, None]
    norms = {key: np.ones((n, N_LAYERS, tokens)) for key, (tokens, _) in sizes.items()}
    return contributions_study(norms, drops=drops, shares={
        key: norms[key] * share / tokens * swing for key, (tokens, share) in sizes.items()
    })


@pytest.mark.parametrize(("drop", "holds"), [(0.6, True), (0.1, False), (0.0, False), (-0.3, False)])
def test_the_answer_needs_a_flow_if_blocking_it_costs_a_quarter(drop, holds):
    [claim] = knockout_claims(route_study(blocked(constraint=drop)))
    assert claim.holds is holds
    assert f"{drop:.2f} [" in claim.here and "of 0.90" in claim.here


def test_a_knockout_that_costs_few_questions_everything_is_not_sure():
    drops = np.tile(np.array([[0.9], [0.9], [-0.3], [-0.3]]), N_LAYERS + 1)
    [claim] = knockout_claims(route_study({("known", FLOW): drops}, n=4))
    assert "0.30 [-0.3" in claim.here and "of 0.90" in claim.here  # more than a quarter, but by chance
    assert not claim.holds


def subset_study(every, top, rest, drawn, parts=("known",)):
    """Drops with all layers blocked, give or take 0.02 by question; those of single layers are of no interest."""
    swing = 0.02 * (-1.0) ** np.arange(N)[:, None] * np.ones(N_LAYERS + 1)
    drops = {(part, flow): value + swing for part in parts
             for flow, value in zip((FLOW, *SUBSETS), (every, top, rest, drawn), strict=True)}
    for values in drops.values():
        values[:, :-1] = 0.3
    return visual_study(np.ones((N, N_LAYERS, 16)), parts, drops=drops)


@pytest.mark.parametrize(
    ("every", "top", "rest", "drawn", "holds"),
    [
        (0.7, 0.6, 0.1, 0.02, True),
        (0.7, 0.05, 0.6, 0.04, False),  # large norms, and of no use
        (0.7, 0.4, 0.0, 0.0, True),  # half of all is the bound
        (0.7, 0.3, 0.0, 0.0, False),
        (0.7, -0.4, 0.0, 0.0, False),
        (0.0, 0.0, 0.0, 0.0, None),  # what the flow does not carry, no part of it can
        (-0.4, 0.4, 0.0, 0.0, None),
    ],
)
def test_the_tokens_with_the_largest_contributions_carry_the_flow_or_only_have_norms(every, top, rest, drawn, holds):
    [claim] = subset_claims(subset_study(every, top, rest, drawn))
    assert claim.holds is holds
    assert "top 5% of the visual tokens alone" in claim.claim
    numbers = [told.split(" [")[0].removeprefix("drops ") for told in claim.here.split("), ")]
    assert numbers == [f"{value:.2f}" for value in (top, drawn, rest, every)]
    assert all(name in claim.here for name in ("(top tokens)", "random others)", "(all but the top)", "(all)"))


def test_subsets_are_judged_part_by_part_and_have_numbers():
    study = subset_study(0.7, 0.6, 0.1, 0.02, parts=("known", "movies"))
    other = study.questions["part"].eq("movies")
    few = replace(study, questions=study.questions.assign(correct=study.questions["correct"] & ~other))
    assert [claim.claim.split(":")[0] for claim in subset_claims(study)] == ["known", "movies"]
    assert [claim.claim.split(":")[0] for claim in subset_claims(few)] == ["known"]
    numbers = numbers_of(study)
    for name, value in zip(SUBSETS, (0.6, 0.1, 0.02), strict=True):
        assert numbers[f"known/{name}/drop_all_layers"].value == pytest.approx(value, abs=1e-5)
    kept = study.knockouts[study.knockouts["flow"] == FLOW]
    assert subset_claims(replace(study, knockouts=kept)) == []  # stored without them


def two_models(**of_twin):
    ours = route_study(blocked(constraint=0.7, direct=0.1, into_last=0.8))
    shares = {"into_last": 0.1, "direct": 0.4} | of_twin
    twin = route_study(blocked(constraint=0.1, direct=0.6, into_last=0.05), **shares)
    return ours, twin


def test_two_routes_are_told_apart():
    ours, twin = two_models()
    claims = route_claims(ours, twin)
    assert held(claims) == [True] * 6
    cost, same, twin_cost, twin_same, knockouts, contributions = [claim.here for claim in claims]
    assert "0.70" in cost and "0.10" in cost and "difference 0.60" in cost
    assert "share 0.30 [" in same and "drop 0.70" in same
    assert "difference -0.50" in twin_cost
    assert "share -0.30 [" in twin_same and "drop -0.55" in twin_same
    assert "1.10 [" in knockouts and f"n = {N}" in knockouts
    assert "0.60 [" in contributions
    assert held(route_claims(twin, ours)) == [False, True, False, True, False, False]
    assert held(route_claims(ours, ours)) == [True, True, False, True, False, False]
    assert route_claims(ours) == claims[:2]


def test_contributions_may_name_another_route_than_knockouts():
    ours, twin = two_models(into_last=0.5, direct=0.2)  # contributes as in the other model
    assert held(route_claims(ours, twin)) == [True, True, True, False, True, False]
    assert held(route_claims(*two_models(into_last=0.3, direct=0.3)))[3] is False  # names none


def test_routes_are_compared_on_questions_that_both_answer_right():
    ours, twin = two_models()
    found = twin.questions.copy()
    found.loc[4:, "correct"] = False
    claims = route_claims(ours, replace(twin, questions=found))
    assert "n = 4" in claims[4].here and "n = 4" in claims[5].here
    found["correct"] = False
    claims = route_claims(ours, replace(twin, questions=found))
    assert held(claims) == [True, True] + [None] * 4
    assert "by both" in claims[4].here


def test_without_knockouts_nothing_is_said_about_routes():
    study = route_study({})
    assert knockout_claims(study) == route_claims(study) == route_claims(study, study) == subset_claims(study) == []
    assert not any("drop" in name for name in numbers_of(study))


def test_of_a_part_without_right_answers_nothing_can_be_said():
    late = late_visual(N, N_LAYERS, N_VISUAL)
    drops = {(part, FLOW): np.full((N, N_LAYERS + 1), 0.8) for part in ("known", "movies")}
    study = visual_study(late, ("known", "movies"), drops=drops, right={"movies": np.zeros(N, bool)})
    assert held(claims_of(study)) == [True] * 4 + [None] * 4
    assert held(knockout_claims(study)) == [True, None]
    assert held(route_claims(route_study({("known", FLOW): drops["known", FLOW]}))) == [None] * 2  # no other flow
    assert {claim.here for claim in claims_of(study)[4:]} == {"no question was answered right"}
    numbers = numbers_of(study)
    assert numbers["movies/accuracy"].value == 0
    assert "movies/peak_layer" not in numbers


def test_one_question_makes_no_claim_of_agreement():
    study = visual_study(late_visual(1, N_LAYERS, N_VISUAL), drops={("known", FLOW): np.full((1, N_LAYERS + 1), 0.8)})
    first, top, same, last = claims_of(study)
    assert first.holds and top.holds and last.holds
    assert same.holds is None and "unknown" in same.here
    assert numbers_of(study)["known/overlap"].n == 1
