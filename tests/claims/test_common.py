"""Closing sentences and caveats."""

import pytest

from interventions.claims.common import caveat, checks_sentence, closing_sentence, window_caveat
from interventions.reports.record import Claim


def claims_that(*holds) -> list[Claim]:
    return [Claim(f"claim {n}", "paper", "here", value) for n, value in enumerate(holds)]


@pytest.mark.parametrize(
    ("holds", "sentence"),
    [
        ((True,), "The paper's finding holds here in the one case of the table."),
        ((False,), "The paper's finding holds here in no case of the table."),
        ((True, True), "The paper's finding holds here in all 2 cases of the table."),
        ((False, False), "The paper's finding holds here in none of the 2 cases of the table."),
        ((True, False, True), "The paper's finding holds here in 2 of the 3 cases of the table, but not for claim 1."),
        ((False, True, False),
         "The paper's finding holds here in 1 of the 3 cases of the table, but not for claim 0; claim 2."),
        ((True, None),
         "The paper's finding holds here in the one case of the table. These questions cannot decide 1 more."),
        ((None, False, None),
         "The paper's finding holds here in no case of the table. These questions cannot decide 2 more."),
        ((True, None, False),
         "The paper's finding holds here in 1 of the 2 cases of the table, but not for claim 2. These questions cannot "
         "decide 1 more."),
        ((None, None), "These questions cannot decide whether the paper's finding holds here."),
    ],
)
def test_what_cannot_be_said_is_left_out_of_the_count(holds, sentence):
    assert closing_sentence(claims_that(*holds)) == sentence


@pytest.mark.parametrize(
    ("holds", "sentence"),
    [
        ((), ""),
        ((None, None), ""),
        ((True, True, None), "Of 2 further checks, which the paper does not make, 2 pass."),
        ((False, True, None, False),
         "Of 3 further checks, which the paper does not make, 1 pass. Failed: claim 0; claim 3."),
    ],
)
def test_further_checks_have_a_sentence_of_their_own(holds, sentence):
    assert checks_sentence(claims_that(*holds)) == sentence


def test_only_the_small_models_carry_a_caveat():
    assert "no evidence for" in " ".join(caveat("mini").split())
    assert "negative control" in caveat("mini-free")
    assert "nobody taught it a route" in caveat("smol")
    assert caveat("llava-hf/llava-1.5-7b-hf") == ""


def test_a_wide_window_carries_a_caveat():
    assert "3 of 8 layers" in window_caveat(3, 8)
    assert "10 of 32 layers" in window_caveat(10, 32)
    assert [window_caveat(*window) for window in ((2, 8), (8, 32), (1, 3), (3, 32, "radius"))] == [""] * 4
    assert "11 of 32 layers" in window_caveat(5, 32, "radius")
