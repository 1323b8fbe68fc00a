"""Contributions of right and of wrong answers, on studies in which it is known whether they differ."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import N_LAYERS, kinds_of, noise, study_of

from interventions.attention import right_and_wrong as outcomes
from interventions.attention.right_and_wrong import outcome_by_layer, outcome_tests


def test_means_of_right_and_wrong_answers():
    values = np.zeros((1, 6, N_LAYERS))
    values[0, :, 3] = [1, 2, 3, 4, 5, 9]
    frame = outcome_by_layer(study_of(values, [[1, 1, 0, 0, 1, 1]])).set_index(["outcome", "layer"])
    right, wrong = frame.loc[("right", 3)], frame.loc[("wrong", 3)]
    assert (right["norm"], right["n"], wrong["norm"], wrong["n"]) == (4.25, 4, 3.5, 2)
    assert 1 <= right["low"] < 4.25 < right["high"] <= 9
    assert (wrong["low"], wrong["high"]) == (3, 4)
    assert (frame["norm"].drop([("right", 3), ("wrong", 3)]) == 0).all()


def no_difference(shape: str, parts: int = 300, questions: int = 24) -> np.ndarray:
    generator = np.random.default_rng(5)
    values = generator.normal(size=(parts, questions, N_LAYERS))
    if shape == "layers alike":  # as residual streams make them, and a size of each question's own
        values = (values + np.roll(values, 1, -1)) * generator.exponential(size=(parts, questions, 1))
    if shape == "few large norms":
        values = generator.lognormal(size=values.shape)
    return values


@pytest.mark.parametrize("shape", ["layers apart", "layers alike", "few large norms"])
def test_without_a_difference_one_study_in_twenty_has_a_layer_below_five_percent(shape, monkeypatch):
    monkeypatch.setattr(outcomes, "PERMUTATIONS", 1000)
    values = no_difference(shape)
    tests = outcome_tests(study_of(values, np.random.default_rng(6).random(values.shape[:2]) < 0.7))
    assert len(tests) == values[:, 0].size
    best = tests.groupby("part")["p_corrected"].min()
    assert 0.02 < (best <= 0.05).mean() <= 0.08
    assert best.mean() == pytest.approx(0.5, abs=0.05)
    assert (tests["p_corrected"] >= tests["p"]).all()
    assert 0.03 < (tests["p"] <= 0.05).mean() < 0.07  # uncorrected, a layer named in advance is honest
    assert (tests.groupby("part")["p"].min() <= 0.05).mean() > 0.15  # and the best of eight is not


def test_a_difference_is_found_at_its_layer_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(outcomes, "PERMUTATIONS", 1000)
    values, correct = noise(40, 100)
    values[..., 5] += 1.0 * correct
    values[..., 2] -= 1.0 * correct
    values[..., 1] *= 1000  # a layer of large norms must not drown the others
    values[..., 6] = 7 + 5e-7 * correct  # in float32 no more than the last bit
    tests = outcome_tests(study_of(values, correct))
    found = (tests["p_corrected"] <= 0.05).groupby(tests["layer"]).mean()
    assert found[5] > 0.9
    assert found.drop(5).max() < 0.1
    at = tests.groupby("layer")
    assert at["difference"].mean()[5] == pytest.approx(1, abs=0.1)
    assert at["p"].min()[2] > 0.5  # one-sided: lower when right is no finding
    assert (tests.loc[tests["layer"] == 6, ["p", "p_corrected"]] == 1).all(axis=None)
    truth = tests["layer"].map({5: 1, 2: -1}).fillna(0)
    covered = ((tests["low"] <= truth) & (truth <= tests["high"]))[tests["layer"] != 6]
    assert 0.88 < covered.mean() < 0.99
    assert (tests["n_right"] == np.repeat(correct.sum(1), N_LAYERS)).all()
    assert (tests["n_wrong"] == np.repeat((~correct).sum(1), N_LAYERS)).all()


def test_right_and_wrong_answers_are_resampled_apart():
    values, _ = noise(1, 50)
    values = np.concatenate([values, values], axis=1)  # the same numbers, but they are no pairs
    tests = outcome_tests(study_of(values, [[1] * 50 + [0] * 50]))
    assert tests["difference"].to_numpy() == pytest.approx(0)
    width = 2 * 1.96 * values.std(axis=1)[0] * np.sqrt(2 / 50)
    np.testing.assert_allclose(tests["high"] - tests["low"], width, rtol=0.1)


def test_the_permutations_are_those_of_the_labels():
    """Of 20 ways to choose 3 of 6, one only is as extreme as the observed."""
    values = np.zeros((1, 6, N_LAYERS))
    values[0, :, 1] = [3, 4, 5, 0, 1, 2]
    tests = outcome_tests(study_of(values, [[1, 1, 1, 0, 0, 0]])).set_index("layer")
    assert tests.loc[1, "p"] == pytest.approx(1 / 20, abs=0.01)
    assert tests.loc[1, "p_corrected"] == tests.loc[1, "p"]
    assert (tests["p"].drop(1) == 1).all()
    assert tests.loc[1, ["difference"]].item() == 3


def only_between(parts: int, questions: int) -> tuple:
    """Contributions and accuracy both differ by relation; within one they have nothing to do with each other."""
    relation, correct = kinds_of(parts, questions, accuracy=(0.3, 0.9))
    values, _ = noise(parts, questions, seed=2)
    return values, correct, relation


def test_a_difference_between_kinds_of_question_is_none_within_them(monkeypatch):
    monkeypatch.setattr(outcomes, "PERMUTATIONS", 1000)
    values, correct, relation = only_between(40, 100)
    values[..., 5] += 3 * relation
    between = outcome_tests(study_of(values, correct, relation=relation)).query("layer == 5")
    assert (between["p_corrected"] <= 0.05).mean() > 0.95
    assert (between["p_within"] <= 0.05).mean() <= 0.15
    assert between["p_within"].mean() > 0.3
    assert (between["difference"] > 0.8).all()


def test_a_difference_within_kinds_is_found_though_they_differ_the_other_way(monkeypatch):
    monkeypatch.setattr(outcomes, "PERMUTATIONS", 1000)
    values, correct, relation = only_between(40, 100)
    values[..., 5] += 1.2 * correct - 4 * relation
    values[..., 6] = 7 + 5e-7 * correct  # in float32 no more than the last bit
    tests = outcome_tests(study_of(values, correct, relation=relation))
    within = tests.query("layer == 5")
    assert (within["p_corrected"] > 0.5).all()
    assert (within["p_within"] <= 0.05).mean() > 0.9
    assert (tests.query("layer == 6")["p_within"] == 1).all()


@pytest.mark.parametrize("accuracy", [(0.7, 0.7, 0.7), (0.9, 0.5, 0.3)])
@pytest.mark.parametrize("apart", [0, 3])
def test_one_study_in_twenty_has_a_layer_below_five_percent_within_kinds(accuracy, apart, monkeypatch):
    """400 small studies without a difference within relations, whatever is between them."""
    monkeypatch.setattr(outcomes, "PERMUTATIONS", 400)
    relation, correct = kinds_of(400, 14, accuracy=accuracy, seed=3)
    values = no_difference("layers alike", 400, 14) - apart * relation[..., None]
    tests = outcome_tests(study_of(values, correct, relation=relation))
    best = tests.groupby("part")["p_within"].min()
    assert len(best) > 350
    assert 0.01 < (best <= 0.05).mean() <= 0.08


def test_labels_are_permuted_within_kinds_alone():
    """Two kinds, one right of three in each: of 9 ways one only is as extreme as the observed."""
    values = np.zeros((1, 6, N_LAYERS))
    values[0, :, 1] = [3, 1, 2, 103, 101, 102]
    study = study_of(values, [[1, 0, 0, 1, 0, 0]], relation=[[0, 0, 0, 1, 1, 1]])
    tests = outcome_tests(study).set_index("layer")
    assert tests.loc[1, "p_within"] == pytest.approx(1 / 9, abs=0.015)
    assert tests.loc[1, "p_corrected"] == pytest.approx(4 / 15, abs=0.02)  # 1 and 103 or more, of 15 pairs
    assert (tests["p_within"].drop(1) == 1).all()
    apart = outcome_tests(replace(study, questions=study.questions.assign(relation=[0, 1, 1, 0, 1, 1])))
    assert (apart["p_within"] == 1).all()  # within a kind all are right, or all wrong: nothing to compare
    alike = outcome_tests(replace(study, questions=study.questions.assign(relation="capital")))
    pd.testing.assert_series_equal(alike["p_within"], alike["p_corrected"], check_names=False)
