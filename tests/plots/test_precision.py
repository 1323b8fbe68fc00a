"""The figure of half precision draws the shares of sites given."""

import numpy as np
import pandas as pd
import pytest
from figures import text_problems

from interventions.plots.precision import precision_differences


def sites(dtypes=("bfloat16", "float16"), exact: float = 0.0, n: int = 40) -> pd.DataFrame:
    """Site k differs from float32 by 1e-6 to 1e-2; the fast mode by a tenth of that more."""
    steps = np.logspace(-6, -2, n)
    frames = []
    for number, dtype in enumerate(dtypes):
        rounding = steps / (1 + number)
        for method, added in (("plain", 0 * steps), ("rows", exact * steps), ("packed", 0.1 * steps)):
            frames.append(pd.DataFrame({
                "id": [f"q{k % 5}" for k in range(n)], "dtype": dtype, "method": method,
                "effect": 0.5 + rounding + added, "separate": 0.5 + rounding, "float32": 0.5,
            }))
    return pd.concat(frames, ignore_index=True)


def curves(axis) -> list:
    return [line for line in axis.lines if len(line.get_xdata()) > 2]


def test_curves_tell_the_share_of_sites_beyond_a_difference():
    figure = precision_differences(sites())
    assert [axis.get_title() for axis in figure.axes] == ["bfloat16  (n = 5)", "float16  (n = 5)"]
    [exact, fast, own] = curves(figure.axes[0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "exact mode − float32", "fast mode − float32", "fast mode − separate runs"
    ]
    for line, largest in ((exact, 1e-2), (fast, 1.1e-2), (own, 1e-3)):
        x, share = line.get_data()
        assert x[-1] == pytest.approx(largest) and share[-1] == 0
        assert share[0] == (1.0 if largest > 5e-3 else share[0])
        assert share[np.searchsorted(x, largest / 100) - 1] == pytest.approx(0.5, abs=0.03)
    assert curves(figure.axes[1])[0].get_xdata()[-1] == pytest.approx(5e-3)
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert len({getattr(handle, look)() for handle in figure.legends[0].get_lines()}) == 3


def test_equal_effects_are_told_in_words_and_others_drawn():
    equal = precision_differences(sites())
    assert [text.get_text() for text in equal.axes[1].texts] == ["exact mode − separate runs\nis 0 at all 40 sites"]
    differing = precision_differences(sites(exact=0.01))
    assert not differing.axes[0].texts
    assert curves(differing.axes[0])[-1].get_xdata()[-1] == pytest.approx(1e-4)


def test_a_line_of_few_sites_is_not_on_the_axis():
    axis = precision_differences(sites(exact=0.01)).axes[0]
    low, high = axis.get_ylim()
    assert low < -0.02 and high > 1.02


@pytest.mark.parametrize("dtypes", [("bfloat16",), ("bfloat16", "float16")])
@pytest.mark.parametrize("exact", [0.0, 0.01])
def test_nothing_overlaps(dtypes, exact):
    assert text_problems(precision_differences(sites(dtypes, exact))) == []
