"""Claims about right and wrong answers hold where they were planted, and nowhere else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from contributions import contributions_study, held

from interventions.attention.failure_prediction import confidence_minus, failure_scores, failure_table
from interventions.attention.right_and_wrong import outcome_by_layer, outcome_tests
from interventions.claims.fig15_fig16_fig17_failure import (
    fig15_claims,
    fig15_numbers,
    fig15_table,
    fig16_claims,
    fig16_numbers,
    fig17_claims,
    fig17_numbers,
)
from interventions.statistics import Number

FLOW, DIRECT, ON = "visual -> constraint", "visual -> last", "constraint -> last"
N, N_LAYERS, N_VISUAL = 12, 8, 64


def outcome_study(gain=1.0, at=(4,), n=60, wrong=20, base_layer=None, relations=None):
    """Contributions to the last token; right answers have `gain` more in layers `at`; confidence tells them apart."""
    generator = np.random.default_rng(0)
    values = 1 + 0.2 * generator.random((n, N_LAYERS, 2))
    right = np.arange(n) >= wrong
    for layer in at:
        values[right, layer, 1] += gain
    if base_layer is not None:
        values[:, base_layer, 1] += 5
    study = contributions_study({("known", ON): values}, right={"known": right}, n_visual=16,
                                relations=relations and {"known": relations})
    confidence = 0.4 + 0.3 * right + 0.3 * generator.random(n)
    return replace(study, questions=study.questions.assign(confidence=confidence))


def shown(study, n=3):
    found = study.questions
    return pd.concat([found[found["correct"]].head(n), found[~found["correct"]].head(n)])


def test_figure_15_tells_the_questions_shown_side_by_side_and_decides_nothing():
    for gain, layers in ((1.0, (4,)), (-0.5, range(N_LAYERS))):
        study = outcome_study(gain=gain, at=layers)
        [claim] = fig15_claims(study.contributions, shown(study))
        assert claim.holds is None
        assert claim.here.count("(n = 3)") == 2 and "Figure 16" in claim.here
        numbers = fig15_numbers(study.contributions, shown(study))
        for outcome in ("right", "wrong"):
            assert f"{outcome}: {numbers[f'{outcome}/largest'].value:.3g}, " in claim.here
    study = outcome_study()
    numbers = fig15_numbers(study.contributions, shown(study))
    assert numbers["right/largest"].value > 2 > numbers["wrong/largest"].value
    assert numbers["right/largest"].n == 3
    table = fig15_table(study.contributions, shown(study))
    assert len(table) == 6 * N_LAYERS * 2
    assert table.loc[table["correct"], "norm"].max() > 2 > 1.3 > table.loc[~table["correct"], "norm"].max()
    all_right = outcome_study(wrong=0)
    [claim] = fig15_claims(all_right.contributions, shown(all_right))
    assert claim.holds is None and "all answers are right" in claim.here


def fig16(study):
    return fig16_claims(outcome_by_layer(study), outcome_tests(study))


def test_figure_16_holds_where_right_answers_are_stronger_in_middle_layers():
    claims = fig16(outcome_study())
    assert held(claims) == [True] * 3
    assert "at layer 4" in claims[0].here and "p < 0.001" in claims[0].here
    assert "n = 40 right, 20 wrong" in claims[0].here
    assert "2-4 of 8" in claims[1].paper
    numbers = fig16_numbers(outcome_by_layer(outcome_study()), outcome_tests(outcome_study()))
    assert numbers["known/difference"].value == pytest.approx(1, abs=0.1)
    assert numbers["known/difference_layer"].value == numbers["known/right/peak_layer"].value == 4
    assert numbers["known/difference_p_corrected"].value < 0.001
    assert numbers["known/difference_p_within"].value < 0.001
    assert numbers["known/right/peak_contribution"].n == 40
    assert numbers["known/wrong/peak_contribution"].n == 20


def test_each_claim_of_figure_16_fails_alone():
    assert held(fig16(outcome_study(base_layer=1))) == [True, False, True]  # an early layer is the most active
    assert held(fig16(outcome_study(at=(7,), base_layer=4))) == [True, True, False]  # the difference is late
    no_difference = fig16(outcome_study(gain=0, base_layer=4))
    assert held(no_difference) == [False, True, False]
    assert held(fig16(outcome_study(gain=-0.5, base_layer=4))) == [False, True, False]
    small = fig16(outcome_study(gain=0.04, at=(5,)))
    assert small[2].here == "at layer 5, but not above chance"
    assert held(small)[0] is held(small)[2] is False


def test_figure_16_without_wrong_answers():
    study = outcome_study(wrong=0)
    claims = fig16(study)
    assert held(claims) == [None, True, None]
    assert "all answers are right" in claims[0].here
    assert not any("difference" in name for name in fig16_numbers(outcome_by_layer(study), outcome_tests(study)))
    claims = fig16(outcome_study(wrong=60))
    assert held(claims) == [None] * 3
    nothing = outcome_by_layer(study).head(0), outcome_tests(study).head(0)
    assert fig16_claims(*nothing) == []
    assert fig16_numbers(*nothing) == {}


@pytest.mark.parametrize(("wrong", "enough"), [(1, False), (4, False), (5, True), (55, True), (56, False)])
def test_figure_16_needs_some_answers_of_either_kind(wrong, enough):
    claims = fig16(outcome_study(wrong=wrong))
    assert held(claims) == ([True] * 3 if enough else [None, True, None])
    assert ("too few to decide" in claims[0].here) is not enough


def test_figure_16_tells_whether_kinds_of_question_explain_the_difference():
    """A part's wrong answers are all of one relation, or of all alike."""
    kinds = ["capital"] * 20 + ["currency"] * 40
    p = [fig16(outcome_study(relations=names))[0] for names in (kinds, (["capital", "currency", "language"] * 20))]
    assert [claim.holds for claim in p] == [True, True]
    assert "p < 0.001, corrected, 1.000 within kinds of question" in p[0].here
    assert "p < 0.001, corrected, < 0.001 within kinds of question" in p[1].here


def areas(contribution: Number, difference: Number) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of `failure_table` and `confidence_minus`."""
    def row(name, number):
        return {"part": "known", name: number.value, "low": number.low, "high": number.high, "n": 40}

    table = [row("auroc", contribution) | {"predictor": "contribution", "wrong": 11},
             row("auroc", Number(0.8, 0.7, 0.9)) | {"predictor": "confidence", "wrong": 11}]
    return pd.DataFrame(table), pd.DataFrame([row("difference", difference) | {"predictor": "contribution"}])


@pytest.mark.parametrize(
    ("contribution", "difference", "expected"),
    [
        (Number(0.63, 0.55, 0.7), Number(0.17, 0.05, 0.3), [True, True]),
        (Number(0.63, 0.45, 0.8), Number(0.17, 0.05, 0.3), [False, True]),
        (Number(0.63, 0.55, 0.7), Number(0.17, -0.05, 0.4), [True, False]),
        (Number(0.9, 0.8, 1.0), Number(-0.1, -0.2, -0.01), [True, False]),
        (Number(np.nan, np.nan, np.nan), Number(np.nan, np.nan, np.nan), [None, None]),
    ],
)
def test_figure_17_reads_the_intervals(contribution, difference, expected):
    claims = fig17_claims(*areas(contribution, difference))
    assert held(claims) == expected
    if np.isnan(contribution.value):
        assert "all answers are right" in claims[0].here
    else:
        assert f"AUROC {contribution} (n = 40, 11 wrong)" == claims[0].here
        assert f"AUROC 0.80 instead of {contribution.value:.2f}, difference {difference}" == claims[1].here


@pytest.mark.parametrize(("wrong", "enough"), [(4, False), (5, True), (35, True), (36, False)])
def test_figure_17_needs_some_answers_of_either_kind(wrong, enough):
    table, differences = areas(Number(0.9, 0.8, 1.0), Number(0.1, 0.05, 0.2))
    claims = fig17_claims(table.assign(wrong=wrong), differences)
    assert held(claims) == [True if enough else None] * 2
    assert [("too few" in claim.here) is not enough for claim in claims] == [True] * 2


def test_figure_17_from_a_study():
    scores = failure_scores(outcome_study(gain=0.1))
    table = failure_table(scores)
    assert held(fig17_claims(table, confidence_minus(scores)))[1]
    lead = {"layers_needed": 6, "n_layers": 8, "time_ratio": Number(0.8, 0.7, 0.9, n=10)}
    numbers = fig17_numbers(table, lead)
    assert numbers["known/confidence/auroc"].value == 1
    assert {"known/contribution/auroc", "known/linear/auroc", "known/kind/auroc"} <= set(numbers)
    assert (numbers["layers_needed"].value, numbers["n_layers"].value) == (6, 8)
    assert numbers["time_ratio"] == lead["time_ratio"]
    assert numbers["known/wrong"].value == 20  # both halves are scored
    assert "time_ratio" not in fig17_numbers(table)


def test_figure_17_without_wrong_answers():
    scores = failure_scores(outcome_study(wrong=0))
    table = failure_table(scores)
    assert held(fig17_claims(table, confidence_minus(scores))) == [None, None]
    assert np.isnan(fig17_numbers(table)["known/contribution/auroc"].value)
