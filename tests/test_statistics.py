"""Answers, probabilities, bootstrap intervals and AUROC, against values computed otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from interventions.engine.runs import answer_probability
from interventions.statistics import auroc, bootstrap_counts, bootstrap_interval, paired_auroc_difference
from interventions.testbed.answers import _without_punctuation, answer_accuracy, normalize_vqa_answer, vqa_accuracy

# Inputs and outputs of the official evaluation code.
VECTORS = json.loads((Path(__file__).parent / "data" / "vqa_accuracy_vectors.json").read_text(encoding="utf-8"))


def test_first_token_is_the_softmax():
    logits = torch.tensor([[[0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]]])  # [2, A=1, V=3]
    expected = torch.softmax(logits[:, 0], -1)[:, 2]
    torch.testing.assert_close(answer_probability(logits, [2]), expected)


def test_a_sequence_is_the_product_of_its_tokens():
    logits = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits, -1)
    expected = p[:, 0, 6] * p[:, 1, 0] * p[:, 2, 6]
    torch.testing.assert_close(answer_probability(logits, torch.tensor([6, 0, 6])), expected)


def test_half_precision_is_scored_in_float32():
    logits = torch.tensor([[0.0, 12.0]], dtype=torch.bfloat16)
    assert answer_probability(logits, [0]).dtype == torch.float32
    assert float(answer_probability(logits, [0])) == pytest.approx(np.exp(-12), rel=1e-3)


def test_the_number_of_answer_tokens_must_agree():
    with pytest.raises(ValueError, match="answer_ids"):
        answer_probability(torch.zeros(2, 5), [1])


def test_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        value, low, high = bootstrap_interval(generator.normal(2.0, 1.0, 60), n=400, seed=trial)
        assert low < value < high
        hits += low <= 2.0 <= high
    assert 180 <= hits <= 199  # 95 %, give or take three standard errors and the bootstrap's known optimism


def test_interval_is_deterministic_and_depends_on_the_seed():
    values = np.linspace(0, 1, 17)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_level_and_statistic():
    values = [0.0, 0.0, 0.0, 1.0, 9.0]
    assert bootstrap_interval(values, np.median)[0] == 0.0
    assert bootstrap_interval(values, np.mean)[0] == 2.0
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide[2] - wide[1] > narrow[2] - narrow[1]


def test_few_questions():
    assert np.isnan(bootstrap_interval([])).all()
    value, low, high = bootstrap_interval([0.5])
    assert value == 0.5
    assert np.isnan([low, high]).all()
    assert bootstrap_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_a_statistic_of_a_whole_row_has_an_interval_of_its_own_shape():
    """Which it makes one number of: so there is one that is missing, too."""
    def largest(values, axis):
        return values.mean(axis).max()

    for values in ([[1.0, 3.0, 2.0]], [[1.0, 3.0, 2.0]] * 2):
        assert [np.shape(found) for found in bootstrap_interval(np.array(values), largest)] == [()] * 3
    value, low, high = bootstrap_interval(np.array([[1.0, 3.0, 2.0]]), largest)
    assert value == 3 and np.isnan(low) and np.isnan(high)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_interval([0.1, float("nan")])


def test_tables_resample_whole_questions():
    values = np.random.default_rng(0).random((30, 2, 5))
    value, low, high = bootstrap_interval(values)
    assert value.shape == low.shape == high.shape == (2, 5)
    np.testing.assert_allclose(value, values.mean(0))
    alone = bootstrap_interval(values[:, 1, 3])
    np.testing.assert_allclose((value[1, 3], low[1, 3], high[1, 3]), alone)
    # The quick way for means against the plain one.
    plain = bootstrap_interval(values, lambda v, axis: v.mean(axis))
    np.testing.assert_allclose((value, low, high), plain)
    assert np.isnan(bootstrap_interval(values[:1])[1]).all()


def test_counts_are_those_of_the_resamples():
    values = np.random.default_rng(0).random(7)
    counts = bootstrap_counts(7, n=50, seed=3)
    samples = np.random.default_rng(3).integers(7, size=(50, 7))
    np.testing.assert_allclose(counts @ values, values[samples].sum(1))
    assert (bootstrap_counts(7, n=50, seed=(3, 1)) != counts).any()


@pytest.mark.parametrize("entry", VECTORS["normalisation"], ids=lambda entry: repr(entry["input"])[:40])
def test_answers_are_normalised_as_the_official_evaluation_does(entry):
    assert _without_punctuation(entry["input"]) == entry["after_punctuation"]
    assert normalize_vqa_answer(entry["input"]) == entry["normalised"]


@pytest.mark.parametrize("entry", VECTORS["accuracy"], ids=lambda entry: entry["name"])
def test_vqa_accuracy_is_the_official_one(entry):
    accuracy = vqa_accuracy(entry["prediction"], entry["answers"])
    assert 0 <= accuracy <= 1
    assert round(100 * accuracy, 2) == entry["accuracy_percent"]


def test_vqa_accuracy_knows_no_order_and_counts_only_the_others():
    answers = ["dog"] * 3 + ["cat"] * 7
    assert vqa_accuracy("dog", answers) == vqa_accuracy("dog", answers[::-1]) == pytest.approx(0.9)
    assert vqa_accuracy("Cat.", tuple(answers)) == 1
    assert vqa_accuracy("dog", ["dog"]) == 0
    assert vqa_accuracy("dog", ["dog"] * 2) == pytest.approx(1 / 3)
    assert vqa_accuracy(" dog\n", ["dog"] * 4) == 1  # white space around is none of the text
    with pytest.raises(ValueError, match="answers"):
        vqa_accuracy("dog", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hadnt've", "hadn't've"), ("yall'd've", "y'all'd've"), ("y'all'dve", "y'all'd've"), ("'ows'at", "'ow's'at"),
        ("theyve", "they've"), ("Oclock", "o'clock"), ("youd've", "you'd've"), ("somebodys", "somebody's"),
        ("hadntve", "hadntve"), ("youdve", "youdve"), ("its", "its"), ("mcdonalds", "mcdonalds"),  # not in its table
        ("a\n-b c-d", "b cd"), (" -a b-c", "b c"),  # spaces around do not count, line breaks within do
    ],
)
def test_contractions_and_spaces(text, expected):
    assert normalize_vqa_answer(text) == expected


def test_accuracy_by_annotators_or_by_accepted_answers():
    accepted, ten = ("Lima", "Lima city"), ["Lima"] * 2 + ["Cusco"] * 8
    assert answer_accuracy("lima.", accepted) == 1
    assert answer_accuracy("the Lima", accepted) == 1
    assert answer_accuracy("Lima city", accepted) == 1
    assert answer_accuracy("Lim", accepted) == 0
    assert answer_accuracy("", accepted) == 0
    assert answer_accuracy("Lima is it", accepted) == 0
    assert answer_accuracy("Lima", accepted, ten) == pytest.approx(0.6)  # annotators alone decide then
    assert answer_accuracy("Lima city", accepted, ten) == 0
    assert answer_accuracy("Lima", accepted, ["Cusco"] * 3) == 1  # fewer than ten are no annotations


@pytest.mark.parametrize("said", ["", " ", "\n", ".", "?!", " . "])
def test_who_says_nothing_is_not_right(said):
    """The official rule takes articles and punctuation away, and five annotators who said "a" would have said that."""
    ten = ("a",) * 5 + ("the letter a",) * 5
    assert answer_accuracy(said, ("a",), ten) == 0 and answer_accuracy(said, ("a", "b")) == 0
    assert answer_accuracy("a", ("a",), ten) == answer_accuracy("The", ("a",), ten) == vqa_accuracy("a", ten) == 1
    assert vqa_accuracy("", ten) == 1  # which stays the official one
    assert answer_accuracy("", ("", "b")) == 0


def test_accepted_answers_of_which_nothing_is_left():
    """Letters of the alphabet are answers: "A" is no article then, and not the same as "the" or "..."."""
    assert answer_accuracy("a", ("A",)) == 1
    assert answer_accuracy("the", ("A",)) == 0
    assert answer_accuracy("...", ("A",)) == 0
    assert answer_accuracy("", ("A", "...")) == 0
    assert answer_accuracy("An", ("an ",)) == 1


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_auroc_is_that_of_scikit_learn_with_ties(levels):
    generator = np.random.default_rng(levels)
    labels = generator.random(80) < 0.6
    scores = np.round(levels * (generator.random(80) + 0.3 * labels)) / levels
    value, low, high = auroc(scores, labels, n=300)
    assert value == pytest.approx(roc_auc_score(labels, scores))
    assert (len(set(scores)) < 10) == (levels < 10)  # ties, but for the last
    # Each resample, too, against the plain way.
    samples = np.random.default_rng(0).integers(80, size=(300, 80))
    areas = [roc_auc_score(labels[sample], scores[sample]) for sample in samples]
    assert (low, high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))


def test_auroc_does_not_depend_on_scale_or_type():
    scores, labels = [0.1, 0.4, 0.35, 0.8, 0.8] * 4, [0, 0, 1, 1, 0, 1, 0, 1, 1, 0] * 2
    expected = auroc(scores, labels)
    assert auroc(np.float32(scores) * 7 - 3, np.array(labels, bool)) == expected
    assert auroc(scores, labels, seed=1) != expected
    assert auroc(scores, labels, level=0.5)[1] > expected[1]


def binormal(generator: np.random.Generator, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose AUROC is norm.cdf(1) and the labels, about two thirds of them 1."""
    labels = generator.random(q) < 2 / 3
    return generator.normal(size=q) + np.sqrt(2) * labels, labels


def test_the_interval_of_auroc_covers_it_as_often_as_it_says():
    generator, truth = np.random.default_rng(2), norm.cdf(1)
    found = np.array([auroc(*binormal(generator, 80), n=300, seed=trial) for trial in range(300)])
    assert found[:, 0].mean() == pytest.approx(truth, abs=0.01)
    assert 0.90 <= ((found[:, 1] <= truth) & (truth <= found[:, 2])).mean() <= 0.98
    # Halving the level must show: an interval that is always wide covers, too.
    half = np.array([auroc(*binormal(generator, 80), n=300, level=0.5) for trial in range(300)])
    assert 0.4 <= ((half[:, 1] <= truth) & (truth <= half[:, 2])).mean() <= 0.6


def test_resamples_with_one_label_are_dropped():
    scores, labels = [1.0, 2.0, 3.0, 0.0], [1, 1, 1, 0]  # a third of the resamples lack the one 0
    assert auroc(scores, labels) == (1, 1, 1)
    value, low, high = auroc([1.0, 2.0, 3.0, 2.5], labels)
    assert value == pytest.approx(1 / 3)
    assert (low, high) == (0, 1)


@pytest.mark.parametrize("labels", [[], [1], [1, 1, 1], [0, 0]])
def test_one_label_has_no_auroc(labels):
    scores = np.arange(len(labels))
    assert np.isnan(auroc(scores, labels)).all()
    assert np.isnan(paired_auroc_difference(scores, scores, labels)).all()


def test_differences_of_auroc_are_paired():
    generator = np.random.default_rng(3)
    labels = generator.random(60) < 0.5
    common = generator.normal(size=60) + labels
    a, b = common + 0.3 * generator.normal(size=60) + 0.5 * labels, common
    value, low, high = paired_auroc_difference(a, b, labels, n=400)
    assert value == pytest.approx(auroc(a, labels)[0] - auroc(b, labels)[0])
    assert paired_auroc_difference(b, a, labels, n=400) == pytest.approx((-value, -high, -low))
    samples = np.random.default_rng(0).integers(60, size=(400, 60))
    areas = [roc_auc_score(labels[s], a[s]) - roc_auc_score(labels[s], b[s]) for s in samples]
    assert (low, high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))
    width = auroc(a, labels)[2] - auroc(a, labels)[1]
    assert high - low < 0.7 * width  # what both have in common drops out
    assert paired_auroc_difference(a, 2 * a, labels) == (0, 0, 0)


@pytest.mark.parametrize(
    ("scores", "labels", "problem"),
    [([1, 2], [0, 1, 1], "scores must be one number"), ([1, np.nan], [0, 1], "scores must not contain NaN"),
     ([1, 2], [0, 2], "labels must be"), ([1, 2], [0.0, np.nan], "labels must be")],
)
def test_what_auroc_refuses(scores, labels, problem):
    with pytest.raises(ValueError, match=problem):
        auroc(scores, labels)
    with pytest.raises(ValueError, match=problem.replace("scores", "scores_b")):
        paired_auroc_difference(np.arange(len(labels)), scores, labels)
