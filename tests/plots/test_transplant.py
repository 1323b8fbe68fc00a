"""The picture of a transplant."""

import numpy as np
import pandas as pd
from figures import text_problems

from interventions.plots.transplant import LINES, shares_by_layer
from interventions.studies.transplant import transplant_shares
from interventions.tracing.transplant import COLUMNS


def shares(parts=("known", "movies"), kinds=("mlp", "attention")) -> pd.DataFrame:
    """Shares of an effect that falls to 0 in the last layers, where there is nothing to share."""
    rows = [
        {"part": part, "kind": kind, "layer": layer, "effect": effect, "low": effect - 0.05, "high": effect + 0.05,
         "fact": fact, "fact_low": fact - 0.1, "fact_high": fact + 0.2, "word": 0.1, "word_low": 0.05,
         "word_high": 0.15, "n": 30}
        for part in parts for kind in kinds
        for layer, (effect, fact) in enumerate([(0.8, 0.9), (0.7, 0.8), (0.4, 0.5), (0.0, np.nan)])
    ]
    frame = pd.DataFrame(rows)
    frame.loc[frame["fact"].isna(), ["word", "word_low", "word_high"]] = np.nan
    return frame


def test_effects_beside_their_shares():
    figure = shares_by_layer({"visual constraint": shares()}, window=3)
    axes = np.array(figure.axes).reshape(2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["Known  (n = 30)", "Movies  (n = 30)"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["MLP\nvisual constraint", "Attention\nvisual constraint"]
    lines = [line for line in axes[1, 1].lines if line.get_marker() != "None"]
    assert [line.get_ydata().tolist() for line in lines] == [[0.8, 0.7, 0.4, 0], [0.9, 0.8, 0.5], [0.1] * 3]
    _, fact, _ = axes[1, 1].collections
    np.testing.assert_allclose([fact.get_paths()[0].vertices[:, 1].min(), fact.get_paths()[0].vertices[:, 1].max()],
                               [0.4, 1.1])
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [label for label, _ in LINES.values()]
    assert "center of window of 3 layers" in figure.get_supxlabel()
    assert text_problems(figure) == []


def test_a_negative_share_is_in_view():
    frame = shares().assign(fact=-0.46)
    assert shares_by_layer({"visual constraint": frame}, window=3).axes[0].get_ylim()[0] < -0.46
    assert shares_by_layer({"visual constraint": frame.assign(fact=np.nan)}, window=3).axes[0].get_ylim()[0] == -0.25


def test_series_are_rows():
    both = {"multimodal": shares(("known",), ("mlp",)), "text only": shares(("known",), ("mlp",)).iloc[:2]}
    figure = shares_by_layer(both, window=1)
    assert [axis.get_ylabel() for axis in figure.axes] == ["MLP\nmultimodal", "MLP\ntext only"]
    assert text_problems(figure) == []


def test_without_a_transplant_it_says_so():
    figure = shares_by_layer({"visual constraint": transplant_shares(pd.DataFrame(columns=COLUMNS))}, window=3)
    assert "nothing to show" in figure.texts[0].get_text()
