"""Claims and numbers of Figure 7 follow sites made by hand: each must fail where its finding is not there."""

import pytest
from sites import bump, study_at

from interventions.claims.fig7_standard import fig7_claims, fig7_numbers


def fig7(size: float, p_corrupted: float = 0.02, spread: float = 0.02):
    return study_at(bump(size, 4, spread=spread), 8, p_corrupted), study_at(bump(0.8, 1), 3)


def test_fig7_claims_hold_where_noise_leaves_nothing_to_restore():
    claims = fig7_claims(*fig7(0.001, spread=0.0001))
    assert [claim.holds for claim in claims] == [True] * 4
    assert "of 0.93 lost, at layer 4, window 8 of 8" in claims[0].here
    assert "0.86 instead of 0.00" in claims[1].here and "effects 0.80 instead of 0.00" in claims[1].here


@pytest.mark.parametrize(
    ("standard", "broken"),
    [
        (fig7(0.6), {0, 2}),  # standard tracing recovers much, but less
        (fig7(0.9), {0, 1, 2, 3}),
        (fig7(0.3, p_corrupted=0.65), {0, 1, 2, 3}),  # a third of the effect, but all of what is lost
        (fig7(0.001, p_corrupted=0.9, spread=0.0001), {0, 2}),  # noise that costs nothing shows nothing
        (fig7(0.1, spread=0.1), {0, 2}),  # the mean is small, its interval is not
    ],
    ids=["less", "as-much", "same-share", "no-loss", "uncertain"],
)
def test_each_fig7_claim_fails_alone(standard, broken):
    claims = fig7_claims(*standard)
    assert {place for place, claim in enumerate(claims) if not claim.holds} == broken


def test_one_question_cannot_show_that_nothing_is_recovered():
    standard, replacement = fig7(0.001)
    assert not fig7_claims(standard.only(["known-0"]), replacement)[0].holds


def test_fig7_numbers_are_of_common_questions_and_signed():
    standard, replacement = fig7(0.3)
    numbers = fig7_numbers(standard.only(["known-1", "known-2", "known-3", "known-4"]), replacement)
    assert numbers["known/standard/p_corrupted"].n == numbers["known/replacement/p_clean"].n == 4
    assert numbers["known/mlp/standard/peak_layer"].value == 4
    assert numbers["known/mlp/replacement/peak_layer"].value == 1
    assert numbers["known/mlp/difference"].value == pytest.approx(0.5, abs=1e-5)
    assert numbers["known/mlp/standard/recovered"].value == pytest.approx(0.28 / 0.93, abs=0.02)
    assert numbers["known/mlp/recovered_difference"].low > 0
