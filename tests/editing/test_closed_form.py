"""The closed form equals the inverse and the least squares that it avoids."""

import pytest
import torch
from sizes import LargestTensor

from interventions.editing.closed_form import LAMBDA, closed_form_update
from interventions.errors import EditError


def problem(n, collinear, d=7, m=24):
    """weight [d, m], keys [n, m], values [n, d], float64."""
    generator = torch.Generator().manual_seed(n)
    weight, keys, values = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((d, m), (n, m), (n, d))
    )
    if collinear:
        keys = keys[:1] + 1e-4 * keys
    return weight, keys, values


@pytest.mark.parametrize("lam", [1e-3, LAMBDA, 1.0, 100.0])
@pytest.mark.parametrize(("n", "collinear"), [(1, False), (5, False), (5, True), (30, False)])
def test_closed_form_equals_the_explicit_inverse_and_least_squares(n, collinear, lam):
    weight, keys, values = problem(n, collinear)
    a, b = closed_form_update(weight, keys, values, lam)
    assert a.shape == (7, min(n, 24)) and b.shape == (min(n, 24), 24) and a.dtype == torch.float64
    found = weight + a @ b
    inverse = torch.linalg.inv(lam * torch.eye(24, dtype=torch.float64) + keys.T @ keys)
    torch.testing.assert_close(found, (lam * weight + values.T @ keys) @ inverse, rtol=0, atol=1e-8)
    # The same minimum as one least-squares problem: the facts, and below them the old weights.
    rows = torch.cat([keys, lam**0.5 * torch.eye(24, dtype=torch.float64)])
    goals = torch.cat([values, lam**0.5 * weight.T])
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, goals).solution.T, rtol=0, atol=1e-8)
    assert (found - weight).abs().max() > 1e-3


def test_lambda_weighs_the_old_weights_against_the_new_values():
    weight, keys, values = problem(3, collinear=False)
    missing, changes = [], []
    for lam in (1e-6, LAMBDA, 1.0, 100.0):
        a, b = closed_form_update(weight, keys, values, lam)
        missing.append((keys @ (weight + a @ b).T - values).norm().item())
        changes.append((a @ b).norm().item())
    assert missing == sorted(missing) and changes == sorted(changes, reverse=True)
    assert missing[0] < 1e-5 and missing[-1] > 1 and changes[-1] < changes[0] / 2


def test_single_precision_factors_lose_nothing_to_similar_keys():
    """With the keys themselves as a factor, the other one has large terms that cancel: an error of 5e-4."""
    weight, keys, values = problem(5, collinear=True)
    weight = weight.float().double()
    exact = torch.matmul(*closed_form_update(weight, keys, values, 1e-3))
    a, b = closed_form_update(weight.float(), keys, values, 1e-3)
    assert a.dtype == b.dtype == torch.float32
    torch.testing.assert_close((a @ b).double(), exact, rtol=0, atol=1e-6 * exact.abs().max().item())


@pytest.mark.parametrize(
    ("shapes", "lam", "message"),
    [
        (((7, 24), (0, 24), (0, 7)), 0.01, "must be as many, at least one each"),
        (((7, 24), (2, 24), (3, 7)), 0.01, "must be as many, at least one each"),
        (((7, 24), (24,), (7,)), 0.01, "must be as many, at least one each"),
        (((24, 7), (2, 24), (2, 7)), 0.01, r"weight must be \[7, 24\] for these values and keys, not \(24, 7\)"),
        (((7, 24), (2, 24), (2, 7)), 0.0, "lam must be above 0, not 0.0"),
        (((7, 24), (2, 24), (2, 7)), float("nan"), "lam must be above 0, not nan"),
    ],
)
def test_what_has_no_closed_form_is_said_in_a_sentence(shapes, lam, message):
    with pytest.raises(EditError, match=message):
        closed_form_update(*(torch.ones(shape) for shape in shapes), lam)


def test_the_module_asks_for_no_inverse():
    """The released scripts' 11008 x 11008 inverse must not come back by another name: nothing is m x m."""
    with LargestTensor() as seen:
        closed_form_update(torch.randn(4, 3000), torch.randn(2, 3000), torch.randn(2, 4))
    assert 0 < seen.numel <= 4 * 3000
