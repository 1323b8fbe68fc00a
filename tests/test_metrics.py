import numpy as np
import pytest
import torch

from interventions.metrics import answer_probability, bootstrap_interval


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
