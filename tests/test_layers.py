"""Shares of a model's depth in layers."""

from fractions import Fraction

import pytest

from interventions.layers import in_layers, layer_range, spanned


@pytest.mark.parametrize(
    ("share", "n_layers", "layers"),
    [("10/32", 32, 10), ("10/32", 8, 3), ("6/32", 8, 2), ("1/32", 8, 1), ("18/32", 8, 5), ("1/2", 5, 3), ("1/1", 7, 7)],
)
def test_a_share_is_rounded_to_whole_layers_and_is_one_at_least(share, n_layers, layers):
    assert in_layers(Fraction(share), n_layers) == layers


def test_how_layers_are_named():
    assert [layer_range(layers) for layers in (range(2), range(3, 4), range(2, 2))] == ["0-1", "3", "none"]


def test_a_radius_spans_layers_on_both_sides():
    assert [spanned(3), spanned(3, "radius"), spanned(1, "radius")] == [3, 7, 1]
