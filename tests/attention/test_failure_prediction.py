"""Prediction of right answers, on studies in which it is known which layers tell, if any does."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from studies import N_LAYERS, kinds_of, noise, planted, shuffled, study_of

from interventions.attention.failure_prediction import (
    FEW,
    HALVES,
    choose_layers,
    chosen_layers,
    confidence_minus,
    constraint_contributions,
    failure_scores,
    failure_table,
    halves,
    layers_used,
    roc_points,
)
from interventions.attention.right_and_wrong import outcome_by_layer, outcome_tests
from interventions.attention.study import AttentionStudy
from interventions.errors import FailureError
from interventions.statistics import auroc


def test_halves_are_stratified_and_know_no_order():
    _, correct = noise(2, 41)
    questions = study_of(np.zeros((2, 41, N_LAYERS)), correct).questions
    half = halves(questions)
    counts = questions.assign(half=half).groupby(["part", "correct"])["half"].value_counts().unstack()
    assert (counts["second"] - counts["first"]).isin([0, 1]).all()
    assert counts.min(axis=None) >= 4
    mixed = questions.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(halves(mixed).sort_index(), half)
    assert 0.3 < (halves(questions, seed=1) == half).mean() < 0.7
    assert halves(questions.iloc[:0]).empty


def test_only_the_last_constraint_token_and_the_last_token_count():
    study = planted(1, 6)
    expected = study.contributions["norm"].to_numpy().reshape(6, N_LAYERS)
    others = [study.contributions.assign(norm=np.float32(99), position=2, **changes)
              for changes in ({"role": "constraint"}, {"flow": "visual -> last"})]
    others = replace(study, contributions=pd.concat([*others, study.contributions]))
    table = constraint_contributions(others)
    np.testing.assert_array_equal(table, expected)
    assert list(table.index) == [f"0-{q}" for q in range(6)]
    others.questions.loc[2, "answered"] = False
    assert "0-2" not in constraint_contributions(others).index
    assert "0-2" not in set(failure_scores(others)["id"])
    assert len(failure_scores(others)) == 5
    with pytest.raises(FailureError, match="flows"):
        failure_scores(replace(study, contributions=others.contributions.query("flow == 'visual -> last'")))


def test_the_neighbors_that_tell_most_are_chosen():
    right = np.array([True, True, True, False, False])
    table = pd.DataFrame(np.zeros((5, 6)), columns=range(6))
    table[2] = [5, 1, 5, 1, 2]  # with its neighbor perfect, alone not
    table[3] = [1, 5, 1, 1, 2]
    assert choose_layers(table, right) == (2, 3)
    assert choose_layers(table[[5, 3, 1, 0, 2, 4]], right) == (2, 3)
    assert choose_layers(-table, right) == (0, 1)  # lower when right is no sign of it; others tie at .5
    with pytest.raises(FailureError, match="right and wrong"):
        choose_layers(table, np.ones(5))
    with pytest.raises(FailureError, match="two layers"):
        choose_layers(table[[2]], right)


def test_planted_layers_are_found_and_score_as_they_must():
    study = planted(12, 400)
    scores = failure_scores(study)
    assert set(scores["first_layer"]) == {4}
    assert set(scores["last_layer"]) == {5}
    table = failure_table(scores).set_index("predictor")
    # The mean of two layers has a standard deviation of 1 / sqrt 2; so has the best linear combination.
    assert table.loc["contribution", "auroc"].mean() == pytest.approx(norm.cdf(0.8), abs=0.03)
    assert table.loc["linear", "auroc"].mean() == pytest.approx(norm.cdf(0.8), abs=0.04)
    assert (table.loc["contribution", "low"] > 0.55).all()
    assert (table.loc["confidence", "auroc"] == 0.5).all()
    assert (table["n"] == 400).all()  # each half is scored with the layers of the other
    correct = scores.groupby("part", sort=False)["correct"]
    np.testing.assert_array_equal(table.loc["linear", "n"], correct.size())
    np.testing.assert_array_equal(table.loc["linear", "wrong"], correct.size() - correct.sum())
    one = scores[scores["part"] == "0"]
    assert table.loc["contribution", "auroc"].iloc[0] == pytest.approx(
        roc_auc_score(one["correct"], one["contribution"])
    )


def test_each_half_is_scored_with_the_layers_of_the_other():
    """In one half layers 1 and 2 tell right from wrong, in the other 5 and 6: on itself, each would do well."""
    values, correct = noise(1, 80)
    study = study_of(values, correct)
    half = halves(study.questions).to_numpy()
    for name, layers in (("first", [1, 2]), ("second", [5, 6])):
        values[0][np.ix_(half == name, layers)] += 2 * correct[0, half == name, None]
    study = study_of(values, correct)
    scores, table = failure_scores(study), constraint_contributions(study)
    for name, (first, last) in (("first", (5, 6)), ("second", (1, 2))):
        own = scores[scores["half"] == name]
        assert set(zip(own["first_layer"], own["last_layer"], strict=True)) == {(first, last)}
        expected = table.loc[own["id"], [first, last]].mean(axis=1)
        assert expected.rank(pct=True).tolist() == pytest.approx(own["contribution"].tolist())
    assert failure_table(scores)["auroc"][0] < 0.7
    shown = chosen_layers(scores).to_numpy().tolist()  # of both halves, whichever question comes first
    assert shown == [["0", "first", 5, 6], ["0", "second", 1, 2]]
    assert chosen_layers(scores[::-1]).to_numpy().tolist() == shown
    assert layers_used(scores) == (5, 6)  # those that are known last
    assert layers_used(scores[scores["half"] == "second"]) == (1, 2)
    assert layers_used(scores.head(0)) is None and chosen_layers(scores.head(0)).empty
    assert layers_used(failure_scores(study_of(values, np.ones_like(correct)))) is None


def test_halves_whose_layers_differ_in_size_are_pooled_by_rank():
    """One half is scored with a layer of norms a thousand times larger; right and wrong are told apart all the same."""
    values, correct = noise(1, 400)
    half = halves(study_of(values, correct).questions).to_numpy()
    values[0, :, [1, 2, 5, 6]] += 2 * correct[0]
    values[..., [1, 2]] *= 1000
    values[0][np.ix_(half == "first", [1, 2])] += 1e3 * correct[0, half == "first", None]
    values[0][np.ix_(half == "second", [5, 6])] += 1 * correct[0, half == "second", None]
    scores = failure_scores(study_of(values, correct))
    assert scores.groupby("half")["first_layer"].unique().map(list).to_dict() == {"first": [5], "second": [1]}
    assert failure_table(scores).set_index("predictor").loc["contribution", "auroc"] > 0.9


def test_no_number_depends_on_the_order_of_the_rows():
    study = planted(2, 60)
    scores, again = (failure_scores(made).sort_values("id", ignore_index=True) for made in (study, shuffled(study)))
    pd.testing.assert_frame_equal(again, scores)
    for function in (outcome_by_layer, outcome_tests):
        first, second = (function(made).sort_values(["part", "layer"]) for made in (study, shuffled(study)))
        at_random = ("low", "high", "p", "p_corrected", "p_within")
        kept = [name for name in first if name not in at_random]
        pd.testing.assert_frame_equal(second[kept].reset_index(drop=True), first[kept].reset_index(drop=True))


def test_without_a_signal_the_other_half_is_honest_and_the_half_that_chose_is_not():
    relation, _ = kinds_of(150, 60, accuracy=(0.7,) * 8)
    study = study_of(*noise(150, 60), relation=relation)
    scores = failure_scores(study)
    table = failure_table(scores)
    # The accuracy of a small relation, were it of the same half, would hold the answer itself.
    kind = table[table["predictor"] == "kind"]
    assert 0.4 < kind["auroc"].mean() < 0.51
    assert (kind["low"] > 0.5).mean() <= 0.12  # more than .025: each half is predicted from the other, and predicts it
    table = table[table["predictor"] == "contribution"]
    assert table["auroc"].mean() == pytest.approx(0.5, abs=0.025)
    assert ((table["low"] <= 0.5) & (table["high"] >= 0.5)).mean() > 0.9
    assert (table["low"] > 0.5).mean() <= 0.12  # for the same reason; .08 here
    # On the questions on which the layers were chosen, the same score looks as if it predicted.
    contributions = constraint_contributions(study)
    biased = []
    for _, cells in scores[scores["half"] == "first"].groupby("part"):
        own = contributions.loc[cells["id"]]
        first, last = choose_layers(own, cells["correct"])
        biased.append(auroc(own.loc[:, first:last].mean(axis=1), cells["correct"], n=400))
    assert np.mean([value for value, _, _ in biased]) > 0.6
    assert np.mean([low > 0.5 for _, low, _ in biased]) > 0.12


def test_the_linear_model_is_scored_on_questions_it_has_not_seen():
    scores = failure_scores(study_of(*noise(60, 40)))
    areas = [roc_auc_score(cells["correct"], cells["linear"]) for _, cells in scores.groupby("part")]
    assert 0.42 < np.mean(areas) < 0.52  # fitted and scored on the same 40 questions it would be above .7


def test_the_linear_model_reads_every_layer_whatever_its_scale():
    values, correct = noise(1, 300)
    values[..., 1] -= 2 * correct  # lower when right, and far from the chosen layers
    values[..., 1] *= 1e-3
    table = failure_table(failure_scores(study_of(values, correct), layers=(4, 5))).set_index("predictor")
    assert table.loc["linear", "auroc"] == pytest.approx(norm.cdf(np.sqrt(2)), abs=0.04)
    assert table.loc["contribution", "auroc"] < 0.6


@pytest.mark.parametrize("layers", [None, (4, 5)])
def test_the_kind_of_question_predicts_where_relations_differ_and_contributions_do_not(layers):
    relation, correct = kinds_of(12, 400)
    values, _ = noise(12, 400)
    table = failure_table(failure_scores(study_of(values, correct, relation=relation), layers)).set_index("predictor")
    assert table.loc["contribution", "auroc"].mean() == pytest.approx(0.5, abs=0.04)
    # Four accuracies, equally frequent: what the true ones would reach.
    true = np.array([0.95, 0.8, 0.4, 0.2])
    above = np.sum(true[:, None] * (1 - true) * (np.sign(true[:, None] - true) + 1) / 2)
    assert table.loc["kind", "auroc"].mean() == pytest.approx(above / (true.sum() * (1 - true).sum()), abs=0.03)
    assert (table.loc["kind", "low"] > 0.7).all()
    assert (table.loc["contribution", "high"] < 0.7).all()


def test_kind_is_the_accuracy_of_the_relation_in_the_other_half():
    relation, correct = kinds_of(1, 40)
    relation[0, 0] = 9  # the only one of its kind
    study = study_of(noise(1, 40)[0], correct, relation=relation)
    questions = study.questions.assign(half=halves(study.questions))
    for layers in (None, (4, 5)):
        scores = failure_scores(study, layers).set_index("id")
        for row in questions.itertuples():
            other = questions[questions["half"] != row.half]
            same = other[other["relation"] == row.relation]
            assert scores.loc[row.id, "kind"] == (other if row.id == "0-0" else same)["correct"].mean()
    assert scores["kind"].nunique() > 5


def test_named_layers_are_used_on_all_questions():
    study = planted(2, 60, layers=(2, 3))
    scores = failure_scores(study, layers=(4, 6))
    table = constraint_contributions(study)
    np.testing.assert_allclose(scores["contribution"], table[[4, 5, 6]].mean(axis=1))
    assert layers_used(scores) == (4, 6)
    assert set(zip(scores["first_layer"], scores["last_layer"], strict=True)) == {(4, 6)}
    assert (failure_table(scores)["n"] == 60).all()
    np.testing.assert_allclose(failure_scores(study, layers=[2, 2])["contribution"], table[2])
    for layers in ((5, 4), (7, 8), (-1, 0), (3,), ()):
        with pytest.raises(FailureError, match="layers must be"):
            failure_scores(study, layers=layers)


def test_confidence_against_the_others_on_the_same_questions():
    values, correct = noise(1, 200)
    values[..., 4:6] += 0.8 * correct[..., None]
    sure = values[..., 4:6].sum(-1) + 3 * correct  # knows what the contribution knows, and more
    scores = failure_scores(study_of(values, correct, sure), layers=(4, 5))
    difference = confidence_minus(scores).set_index("predictor")
    table = failure_table(scores).set_index("predictor")
    assert list(difference.index) == ["contribution", "linear", "kind"]
    for predictor, row in difference.iterrows():
        assert row["difference"] == pytest.approx(table["auroc"]["confidence"] - table["auroc"][predictor])
        assert 0 < row["low"] < row["difference"] < row["high"]
    # Paired: what both share drops out, so it is surer than two separate intervals.
    apart = np.hypot(*(table.loc[name, "high"] - table.loc[name, "low"] for name in ("confidence", "contribution")))
    assert difference.loc["contribution", "high"] - difference.loc["contribution", "low"] < 0.9 * apart


def test_curves_have_the_area_of_the_table():
    scores = failure_scores(planted(2, 80))
    table, points = failure_table(scores), roc_points(scores)
    assert set(points["part"]) == {"0", "1"}
    for row in table.itertuples():
        curve = points[(points["part"] == row.part) & (points["predictor"] == row.predictor)]
        false, true = curve["false_positive_rate"].to_numpy(), curve["true_positive_rate"].to_numpy()
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
        assert np.trapezoid(true, false) == pytest.approx(row.auroc)


@pytest.mark.parametrize("right", [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1], [0],
                                   [1] * 9 + [0] * 4, [1] * 5 + [0] * 5, [1] * 10 + [0] * 10])
def test_few_questions(right):
    """What cannot be known is missing, nothing fails, and the tables keep their columns."""
    values, _ = noise(1, len(right))
    study, whole = study_of(values, [right]), planted(1, 40)
    scores = failure_scores(study)
    assert len(scores) == len(right)
    for half, other in (HALVES, HALVES[::-1]):
        own = scores[scores["half"] == half]
        unknown = scores.loc[scores["half"] == other, "correct"].nunique() < 2
        assert (own[["contribution", "first_layer", "last_layer"]].isna() == unknown).all(axis=None)
    assert scores["linear"].isna().all() == (min(sum(right), len(right) - sum(right)) < 2)
    table = failure_table(scores).set_index("predictor")
    assert table.loc["confidence", "n"] == len(right)
    some = min(sum(right), len(right) - sum(right)) >= FEW
    for frame in (table, confidence_minus(scores).set_index("predictor")):
        assert (frame[["low", "high"]].notna() == some).all(axis=None)
    assert np.isnan(table.loc["confidence", "auroc"]) == (len(set(right)) < 2)
    assert set(roc_points(scores)["predictor"]) == set(table.index[table["auroc"].notna()])
    both = 0 < sum(right) < len(right)
    tests = outcome_tests(study)
    assert len(tests) == (N_LAYERS if both else 0)
    if both:
        assert (tests[["low", "high"]].isna() == (min(sum(right), len(right) - sum(right)) < FEW)).all(axis=None)
    assert set(outcome_by_layer(study)["outcome"]) == {"right" if label else "wrong" for label in right}
    for function, made in ((failure_table, scores), (confidence_minus, scores), (roc_points, scores),
                           (outcome_by_layer, study), (outcome_tests, study)):
        assert list(function(made).columns) == list(function(_same_kind(made, whole)).columns)


def _same_kind(made, whole: AttentionStudy):
    return failure_scores(whole) if isinstance(made, pd.DataFrame) else whole


def test_no_answer_at_all():
    study = planted(1, 4)
    study.questions["answered"] = False
    for none in (study, replace(study, contributions=study.contributions.iloc[:0].astype(object))):
        scores = failure_scores(none)
        for frame in (scores, failure_table(scores), confidence_minus(scores), roc_points(scores),
                      outcome_by_layer(none), outcome_tests(none)):
            assert frame.empty
            assert "part" in frame


def test_parts_keep_to_themselves():
    """A part without a wrong answer takes nothing from its neighbor, and the neighbor loses nothing."""
    values, correct = noise(2, 50)
    values[..., 4:6] += 3 * correct[..., None]
    alone = failure_table(failure_scores(study_of(values, correct)))
    correct[1] = True
    scores = failure_scores(study_of(values, correct))
    assert scores.loc[scores["part"] == "1", "contribution"].isna().all()
    table = failure_table(scores)
    pd.testing.assert_frame_equal(table[table["part"] == "0"], alone[alone["part"] == "0"])
    assert table.loc[table["part"] == "1", "auroc"].isna().all()
