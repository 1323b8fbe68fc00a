"""Claims and numbers of Figures 1 and 4 follow sites made by hand: each must fail where its finding is not there."""

from dataclasses import replace

import numpy as np
import pytest
from sites import bump, sites, study_at, study_of

from interventions.claims.fig1_fig4_windows import fig1_claims, fig4_claims, sweep_numbers


def held(claims) -> dict[str, bool]:
    return {claim.claim: claim.holds for claim in claims}


def fig1(text_windows: dict[int, float], text_peak: int = 4, image_one: float = 0.6, image_peak: int = 1) -> dict:
    """Figure 1's series: the text model's effect by window, and where it peaks."""
    image = {1: image_one, 2: 0.7, 5: 0.8}
    return {
        "multimodal": {w: study_at(bump(size, image_peak), w, kinds=("mlp",)) for w, size in image.items()},
        "text only": {
            w: study_at(bump(size, text_peak, spread=size / 40), w, kinds=("mlp",)) for w, size in text_windows.items()
        },
    }


PAPER = {1: 0.0005, 2: 0.0005, 5: 0.6}


def test_fig1_claims_hold_where_the_paper_is_right():
    claims = fig1_claims(fig1(PAPER), at=1, compared=5)
    assert held(claims) == {
        "known: multimodal, MLP effects peak in early layers": True,
        "known: multimodal, one layer is enough": True,
        "known: text only, MLP effects peak later": True,
        "known: text only, a larger window is needed": True,
    }
    assert "mean peak layer 4.0 instead of 1.0, difference 3.00 [3.00, 3.00]" in claims[2].here
    assert claims[3].here == "above 0.01 first at window 5, above a quarter of the lost probability first at window 5"


@pytest.mark.parametrize(
    ("sweeps", "broken"),
    [
        (fig1(PAPER, image_peak=6), {0, 2}),  # the multimodal model peaks late, and so later than the other
        (fig1(PAPER, image_one=0.1), {0}),  # a tenth is no substantial effect, but one layer shows it
        (fig1(PAPER | {1: 0.6}), {3}),  # one layer is enough for the text model too
        (fig1(PAPER, text_peak=1), {2}),
        (fig1({1: 0.0005, 2: 0.0005, 5: 0.0005}), {2, 3}),  # no window shows anything of the text model
        (fig1(PAPER, image_one=0.001), {0, 1}),
    ],
    ids=["late", "weak", "one-is-enough", "same-layer", "nothing", "needs-two"],
)
def test_each_fig1_claim_fails_alone(sweeps, broken):
    claims = fig1_claims(sweeps, at=1, compared=5)
    assert {place for place, claim in enumerate(claims) if not claim.holds} == broken


def test_fig1_cannot_say_who_peaks_later_where_no_question_has_an_effect_in_both():
    claim = fig1_claims(fig1({1: 0.0005, 2: 0.0005, 5: 0.0005}), at=1, compared=5)[2]
    assert claim.holds is None and claim.here == "no question has an effect in both (window 5 of 8)"


def test_fig1_compares_only_questions_that_have_an_effect_in_both():
    effect = bump(0.6, 4)
    sweeps = fig1(PAPER)
    lame = sites(lambda *at: effect(*at) if at[-1] < 3 else bump(0.001, 0, spread=0)(*at), kinds=("mlp",))
    sweeps["text only"][5] = replace(study_of(lame), window=5)
    claim = fig1_claims(sweeps, at=1, compared=5)[2]
    assert "difference 3.00" in claim.here and "n = 3" in claim.here  # the others would pull the mean to layer 0


def test_sweep_numbers_name_windows_and_peaks():
    sweeps = fig1(PAPER)
    questions = sweeps["text only"][1].questions.copy()
    questions.iloc[0, questions.columns.get_indexer(["used", "correct"])] = False
    sweeps["text only"][1] = replace(sweeps["text only"][1], questions=questions)
    numbers = sweep_numbers(sweeps)
    assert numbers["known/text only/accuracy"].value == 7 / 8
    assert numbers["known/multimodal/accuracy"].value == 1
    assert numbers["known/multimodal/p_corrupted"].n == 7  # of the questions that both used
    key = "known/text only/mlp"
    windows = [numbers[f"{key}/smallest_window{above}"].value for above in ("", "_not_negligible", "_substantial")]
    assert windows == [1, 5, 5]
    assert numbers[f"{key}/window 5/peak_layer"].value == 4
    assert numbers[f"{key}/window 5/peak_effect"].value == pytest.approx(0.6, abs=0.01)
    assert numbers[f"{key}/window 5/peak_effect"].low > 0.5
    assert numbers["known/multimodal/mlp/window 1/mean_peak_layer"].value == 1
    nothing = sweep_numbers(fig1({1: 0.0005, 2: 0.0005, 5: 0.0005}))
    assert np.isnan(nothing[f"{key}/smallest_window_not_negligible"].value)


def fig4(text: dict[int, float], peak: int = 3, width: float = 3.0, visual_width: float = 1.0) -> dict:
    """Figure 4's series; the text constraint's effect by window."""
    return {
        "text constraint": {w: study_at(bump(size, peak, width, spread=size / 40), w) for w, size in text.items()},
        "visual constraint": {w: study_at(bump(0.8, 1, visual_width), w) for w in text},
    }


NEEDS_SIX = {1: 0.001, 3: 0.001, 6: 0.6}


@pytest.mark.parametrize(
    ("sweeps", "broken"),
    [
        (fig4(NEEDS_SIX), set()),
        (fig4(NEEDS_SIX, peak=6), {0, 1}),  # in the last third
        (fig4(NEEDS_SIX, width=0.5), {2}),  # as narrow as at the visual constraint
        (fig4({1: 0.6, 3: 0.6, 6: 0.6}), {3}),  # 6/32 of eight layers is two
        (fig4({1: 0.001, 3: 0.001, 6: 0.1}), {0, 1}),  # there, but little of what is lost
        (fig4({1: 0.001, 3: 0.001, 6: 0.001}), {0, 1, 3}),
    ],
    ids=["paper", "late", "narrow", "one-is-enough", "weak", "nothing"],
)
def test_each_fig4_claim_fails_alone(sweeps, broken):
    claims = fig4_claims(sweeps, window=6)
    assert len(claims) == 4
    assert {place for place, claim in enumerate(claims) if not claim.holds} == broken


def test_fig4_says_how_much_broader():
    claim = fig4_claims(fig4(NEEDS_SIX), window=6)[2]
    # Layers 1-5 reach half of the peak at 3 with width 3, layers 1 alone with width 1.
    assert "MLP: difference 4.00 [4.00, 4.00] layers; self-attention: difference 4.00" in claim.here
