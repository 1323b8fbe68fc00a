"""Figures that put runs side by side draw the numbers given, and are legible."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import text_problems
from matplotlib.colors import to_rgba

from interventions.plots.sweeps import compared_by_layer, effects_by_window, peak_histograms

SERIES = ("multimodal", "text only", "text only, noise")
PARTS = ("known", "okvqa", "movies")


def by_layer(series=SERIES, windows=(1, 5), parts=("known",), kinds=("mlp",), n_layers=8) -> pd.DataFrame:
    """Effects that differ from cell to cell; `windows` of every series, or a dictionary series -> window."""
    rows = [
        (name, window, part, kind, layer, value, value - 0.05, value + 0.05, 30 + number)
        for place, name in enumerate(series)
        for window in ([windows[name]] if isinstance(windows, dict) else windows)
        for number, part in enumerate(parts)
        for kind in kinds
        for layer in range(n_layers)
        for value in [0.8 / (1 + abs(layer - place) + 0.1 * window + number + 0.3 * (kind == "attention"))]
    ]
    return pd.DataFrame(rows, columns=["series", "window", "part", "kind", "layer", "effect", "low", "high", "n"])


def best(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.loc[frame.groupby(["series", "window", "part", "kind"], sort=False)["effect"].idxmax()]


def lines_of(axis) -> list[plt.Line2D]:
    return [line for line in axis.lines if line.get_linestyle() != "None" and len(line.get_xdata()) > 2]


def key_of(figure) -> list[str]:
    [legend] = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_layers_draw_every_series_in_the_panel_of_its_window():
    data = by_layer().sample(frac=1, random_state=0).sort_values(["series", "window"], kind="stable")
    figure = compared_by_layer(data, by="window", read_at="constraint")
    told = figure.get_supxlabel().splitlines()
    assert told == ["layer, or center of the window", "restored at the last token of the constraint",
                    "shaded: early layers, 0-1 of 8"]
    for axis, window in zip(figure.axes, (1, 5), strict=True):
        for name, line, band in zip(SERIES, lines_of(axis), axis.collections, strict=True):
            cells = data[(data["series"] == name) & (data["window"] == window)].sort_values("layer")
            np.testing.assert_allclose(line.get_ydata(), cells["effect"])
            box = band.get_datalim(axis.transData)
            assert (box.y0, box.y1) == pytest.approx((cells["low"].min(), cells["high"].max()))
    assert key_of(figure) == list(SERIES)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["Known  (n = 30)\nwindow of 1 layer", "Known  (n = 30)\nwindow of 5 layers"]


def test_series_differ_in_more_than_color_and_the_key_shows_it():
    figure = compared_by_layer(by_layer(), by="window")
    lines = lines_of(figure.axes[1])
    for look in ("get_color", "get_marker", "get_linestyle"):
        drawn = [getattr(line, look)() for line in lines]
        assert len(set(drawn)) == 3
        assert drawn == [getattr(handle, look)() for handle in figure.legends[0].get_lines()]


def test_the_key_names_windows_only_where_they_differ():
    series = ("standard", "replaced")
    differing = compared_by_layer(by_layer(series, {"standard": 8, "replaced": 3}, kinds=("mlp", "attention")))
    assert key_of(differing) == ["standard, window of 8 layers", "replaced, window of 3 layers"]
    assert "window of" not in differing.get_supxlabel()
    alike = compared_by_layer(by_layer(series, [6], kinds=("mlp", "attention")))
    assert key_of(alike) == ["standard", "replaced"]
    assert alike.get_supxlabel().splitlines()[0] == "center of window of 6 layers"
    assert alike.axes[0].get_title() == "Known  (n = 30)"
    assert [axis.get_ylabel() for axis in alike.axes] == ["MLP effect", "Attention effect"]
    radius = compared_by_layer(by_layer(series, [2]), window_rule="radius")
    assert radius.get_supxlabel().splitlines()[0] == "center of window of 5 layers"


def peaks(n_layers=8) -> pd.DataFrame:
    """Ten questions a series: series k peaks at layers k and k + 1; the last has no effect at window 1."""
    rows = [
        (name, window, "known", "mlp", place + q // 5, 0.002 if (place, window) == (2, 1) else 0.5)
        for place, name in enumerate(SERIES) for window in (1, 5) for q in range(10)
    ]
    return pd.DataFrame(rows, columns=["series", "window", "part", "kind", "layer", "effect"])


def test_histograms_count_questions_and_leave_out_those_without_an_effect():
    figure = peak_histograms(peaks(), n_layers=8)
    grid = np.array(figure.axes).reshape(3, 2)
    heights = [bar.get_height() for bar in grid[1, 0].patches]
    np.testing.assert_allclose(heights, [0, 0.5, 0.5, 0, 0, 0, 0, 0])
    [mean] = [line.get_xdata()[0] for line in grid[1, 0].lines]
    assert mean == 1.5
    assert sum(bar.get_height() for bar in grid[2, 0].patches) == 0
    assert [text.get_text() for text in grid[2, 0].texts] == ["no effect: 100%"]
    assert not grid[2, 1].texts and not grid[2, 0].lines
    titles = [axis.get_title() for axis in grid[0]]
    assert titles == ["Known  (n = 10)\nwindow of 1 layer", "Known  (n = 10)\nwindow of 5 layers"]
    assert [axis.get_xlabel() for axis in grid[2]] == ["layer", "center of window of 5 layers"]


def test_windows_are_filled_where_the_interval_is_above_what_is_negligible():
    data = best(by_layer(windows=(1, 2, 3, 8)))
    data.loc[(data["series"] == "text only") & (data["window"] < 3), "low"] = 0.005
    figure = effects_by_window(data)
    [axis] = figure.axes
    assert axis.get_xticks().tolist() == [1, 2, 3, 8]
    line = lines_of(axis)[1]
    cells = data[data["series"] == "text only"].sort_values("window")
    np.testing.assert_allclose(line.get_ydata(), cells["effect"])
    scatter = [c for c in axis.collections if hasattr(c, "get_sizes") and len(c.get_sizes())]
    faces = [[tuple(face) for face in dots.get_facecolors()] for dots in scatter]
    assert faces[1] == [to_rgba("white")] * 2 + [to_rgba(line.get_color())] * 2
    assert to_rgba("white") not in faces[0]
    bars = axis.collections[2].get_segments()  # of the second series: line segments, then dots, series by series
    assert bars[0][:, 1].tolist() == pytest.approx([cells["low"].iloc[0], cells["high"].iloc[0]])


@pytest.mark.parametrize("n_layers", [5, 8, 32])
@pytest.mark.parametrize("parts", [("known",), PARTS])
def test_nothing_overlaps(parts, n_layers):
    both = by_layer(SERIES[:2], [6], parts, ("mlp", "attention"), n_layers)
    swept = best(by_layer(SERIES, (1, 2, 3, 4, 5, 6, 8), parts, ("mlp", "attention"), n_layers))
    uneven = by_layer(("standard tracing", "as in Figure 3"), {"standard tracing": 8, "as in Figure 3": 3}, parts)
    for figure in (
        compared_by_layer(both), compared_by_layer(uneven), effects_by_window(swept),
        compared_by_layer(by_layer(parts=parts, n_layers=n_layers), by="window"),
        peak_histograms(peaks(n_layers), n_layers=n_layers),
    ):
        assert text_problems(figure) == []


def test_a_single_question_has_lines_but_no_bands():
    data = by_layer().assign(low=np.nan, high=np.nan, n=1)
    assert compared_by_layer(data, by="window").axes[0].get_ylim()[1] > data["effect"].max()
    figure = effects_by_window(best(data))
    assert figure.axes[0].get_ylim()[1] > data["effect"].max()
