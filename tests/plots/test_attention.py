"""Figures of contributions, knock-outs and failure prediction: the numbers given, legible at both models' sizes."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from contributions import contributions_study, late_visual
from figures import text_problems
from matplotlib.colors import to_rgba
from PIL import Image

from interventions.attention.averages import flow_shares, knockout_drops, outcome_examples, patch_examples
from interventions.attention.visual_tokens import mean_contributions
from interventions.plots.attention import flows_by_layer, question_contributions
from interventions.plots.failure import contributions_by_outcome, roc_curves
from interventions.plots.patches import patch_maps, patches_over_images, visual_token_maps

PARTS = ("known", "okvqa", "movies")
FLOWS = ("visual -> constraint", "visual -> last", "constraint -> last")
SIZES = {"mini": (8, 64), "llava": (32, 576)}


def study_of(parts=PARTS, size="mini", n=6, wrong=2, n_constraint=2):
    n_layers, n_visual = SIZES[size]
    generator, norms, drops = np.random.default_rng(0), {}, {}
    for number, part in enumerate(parts):
        norms[part, FLOWS[0]] = late_visual(n + number, n_layers, n_visual, number)
        norms[part, FLOWS[1]] = generator.gamma(2, 0.05, norms[part, FLOWS[0]].shape)
        norms[part, FLOWS[2]] = generator.gamma(2, 0.4, (n + number, n_layers, n_constraint))
        drops |= {(part, flow): 0.6 * generator.random((n + number, n_layers + 1)) for flow in FLOWS}
    right = {part: np.arange(n + number) >= wrong for number, part in enumerate(parts)}
    return contributions_study(norms, drops=drops, right=right)


def pictures(frame, size=(96, 96)) -> dict:
    return {name: Image.new("RGB", size, (200, 30, 30)) for name in frame["id"].unique()}


def test_maps_draw_the_means_on_one_scale():
    frame = mean_contributions(study_of()).sample(frac=1, random_state=0).sort_values("part", kind="stable")
    figure = visual_token_maps(frame, 64)
    *axes, bar = figure.axes
    for axis, part in zip(axes, frame["part"].unique(), strict=True):
        cells = frame[frame["part"] == part].sort_values(["layer", "index"])
        [image] = axis.images
        drawn = np.asarray(image.get_array())
        cell = drawn.reshape(8, drawn.shape[0] // 8, 64, drawn.shape[1] // 64)
        np.testing.assert_allclose(cell[:, 0, :, 0], cells["norm"].to_numpy().reshape(8, 64))
        assert (cell == cell[:, :1, :, :1]).all()
        assert image.get_clim() == (0, frame["norm"].max())
        assert image.get_extent() == [-0.5, 63.5, -0.5, 7.5] and image.origin == "lower"  # layer 0 below
        [line] = axis.lines
        assert set(line.get_xdata()) == {59.5}
        assert f"(n = {cells['n'].iloc[0]})" in axis.get_title()
    assert bar.get_ylabel() == "contribution ||a||"
    assert "the last 4 of 64" in figure.get_supxlabel()


def test_patches_are_laid_out_row_by_row():
    frame = mean_contributions(study_of()).sample(frac=1, random_state=0).sort_values("part", kind="stable")
    *axes, _ = patch_maps(frame, 0).axes
    cells = frame[frame["layer"] == 0]
    for axis, part in zip(axes, frame["part"].unique(), strict=True):
        grid = np.asarray(axis.images[0].get_array())
        here = cells[cells["part"] == part].set_index("index")["norm"]
        assert grid.shape == (8, 8)
        assert (grid[0, 7], grid[1, 0], grid[7, 7]) == (here[7], here[8], here[63])
        assert axis.images[0].get_clim() == (0, cells["norm"].max())
        assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row on top
    [axis] = patch_maps(frame[frame["index"] < 60], 0).axes  # tiles
    assert "no square grid" in axis.figure.texts[0].get_text()


def overlays(figure) -> list:
    """The panels that have a map over the image."""
    return [axis for axis in figure.axes if len(axis.images) == 2]


@pytest.mark.parametrize(
    ("view", "extent", "limits"),
    [
        ("cropped", [29.5, 129.5, 99.5, -0.5], ((-0.5, 159.5), (99.5, -0.5))),
        ("squeezed", [-0.5, 159.5, 99.5, -0.5], ((-0.5, 159.5), (99.5, -0.5))),
        ("padded", [-0.5, 159.5, 129.5, -30.5], ((-0.5, 159.5), (129.5, -30.5))),
    ],
)
def test_patches_lie_over_what_the_model_sees(view, extent, limits):
    examples = patch_examples(study_of(), 0)
    figure = patches_over_images(examples, pictures(examples, (160, 100)), view=view)
    assert len(overlays(figure)) == 3
    for axis, (_, cells) in zip(overlays(figure), examples.groupby("id", sort=False), strict=True):
        image, patches = axis.images
        assert patches.get_extent() == extent
        assert image.get_array().shape[:2] == (100, 160)
        assert (axis.get_xlim(), axis.get_ylim()) == limits
        np.testing.assert_allclose(patches.get_array().ravel(), cells["norm"], rtol=1e-6)
        assert patches.get_clim() == (0, cells["norm"].max())
        below = np.asarray(image.get_array(), float)
        assert (below == below[..., :1]).all()  # gray: what is red is a contribution
        assert [patches.to_rgba(value)[3] for value in (0.0, cells["norm"].max())] == pytest.approx([0, 0.9], abs=0.02)
        assert any(f"{cells['norm'].max():.3g}" in text.get_text() for text in axis.texts)
    plain = [axis for axis in figure.axes if len(axis.images) == 1]
    assert (np.asarray(plain[0].images[0].get_array())[0, 0] == (200, 30, 30)).all()
    assert text_problems(figure) == []


def test_examples_are_told_with_their_constraint_in_bold():
    examples = patch_examples(study_of(parts=("known",)), 0)
    texts = patches_over_images(examples, pictures(examples)).findobj(plt.Text)
    bold = [text.get_text() for text in texts if text.get_weight() == "bold"]
    assert bold == ["this country"]
    assert {"Known", "Lima"} <= {text.get_text() for text in texts}
    odd = examples.assign(constraint="", question="How much is $5 in $ and %?" * 4)  # no constraint, no formula
    figure = patches_over_images(odd, pictures(odd))
    assert not [text for text in figure.findobj(plt.Text) if text.get_weight() == "bold"]
    assert text_problems(figure) == []


def lines_of(axis) -> list[plt.Line2D]:
    return [line for line in axis.lines if len(line.get_xdata()) == 8]


def test_flows_draw_shares_above_drops():
    study = study_of()
    shares, drops = flow_shares(study), knockout_drops(study)
    figure = flows_by_layer(shares, drops, "mini")
    axes = np.array(figure.axes).reshape(2, 3)
    for (row, frame, quantity), (column, part) in itertools.product(
        ((0, shares, "share"), (1, drops[drops["window"] == 3], "drop")), enumerate(PARTS)
    ):
        axis = axes[row, column]
        for flow, line, band in zip(FLOWS, lines_of(axis), axis.collections, strict=False):
            cells = frame[(frame["part"] == part) & (frame["flow"] == flow)]
            np.testing.assert_allclose(line.get_ydata(), cells[quantity])
            np.testing.assert_allclose(line.get_xdata(), cells["layer"])
            if row == 0:
                box = band.get_datalim(axis.transData)
                assert (box.y0, box.y1) == pytest.approx((cells["low"].min(), cells["high"].max()))
    # All layers blocked at once: a marker a flow, in the flow's color, behind the last layer.
    whole = drops[(drops["window"] == 8) & (drops["part"] == "known")].set_index("flow")
    points = [line for line in axes[1, 0].lines if len(line.get_xdata()) == 1]
    for flow, point, line in zip(FLOWS, points, lines_of(axes[1, 0]), strict=True):
        assert point.get_ydata()[0] == pytest.approx(whole.loc[flow, "drop"])
        assert 7 < point.get_xdata()[0] < axes[1, 0].get_xlim()[1]
        assert (point.get_color(), point.get_marker()) == (line.get_color(), line.get_marker())
    assert not [line for line in axes[0, 0].lines if len(line.get_xdata()) == 1]
    assert axes[1, 0].get_xticklabels()[-1].get_text() == "all"
    assert "window of 3 layers" in figure.get_supxlabel()
    [legend] = figure.legends
    assert legend.get_title().get_text() == "mini"
    assert [text.get_text() for text in legend.get_texts()] == [flow.replace("->", "→") for flow in FLOWS]
    for look in ("get_color", "get_marker", "get_linestyle"):  # color never stands alone
        drawn = [getattr(line, look)() for line in lines_of(axes[0, 0])]
        assert len(set(drawn)) == 3
        assert drawn == [getattr(line, look)() for line in legend.get_lines()]


def test_a_flow_keeps_its_look_without_the_others():
    study = study_of(parts=("known",))
    shares, drops = flow_shares(study), knockout_drops(study)
    whole = lines_of(flows_by_layer(shares, drops).axes[0])[2].get_color()
    [alone] = lines_of(flows_by_layer(shares[shares["flow"] == FLOWS[2]], drops.head(0)).axes[0])
    assert alone.get_color() == whole


def test_parts_of_a_flow_that_are_blocked_alone_change_no_picture():
    study = study_of()
    shares, drops = flow_shares(study), knockout_drops(study)
    more = drops[drops["flow"] == FLOWS[0]].astype({"flow": str}).assign(flow="top visual -> constraint", n=99)
    more[["drop", "high"]] += 5
    figures = [flows_by_layer(shares, given) for given in (drops, pd.concat([drops, more]))]
    for axis, same in zip(*[figure.axes for figure in figures], strict=True):
        assert axis.get_ylim() == same.get_ylim()
        assert axis.get_title() == same.get_title()
        assert len(axis.lines) == len(same.lines)


def test_flows_without_knockouts_are_one_row():
    figure = flows_by_layer(flow_shares(study_of()), pd.DataFrame(columns=knockout_drops(study_of()).columns))
    assert len(figure.axes) == 3
    assert figure.get_supxlabel() == "layer"


def test_another_number_of_questions_below_is_named():
    study = study_of()
    drops = knockout_drops(study).assign(n=3)
    titles = [axis.get_title() for axis in flows_by_layer(flow_shares(study), drops).axes]
    assert titles == ["Known  (n = 4)", "OK-VQA  (n = 5)", "Movies  (n = 6)", "n = 3", "n = 3", "n = 3"]
    same = [axis.get_title() for axis in flows_by_layer(flow_shares(study), knockout_drops(study)).axes]
    assert same[3:] == [""] * 3


def test_right_answers_stand_above_wrong_ones():
    study = study_of(parts=("known",), wrong=2)
    shown = outcome_examples(study)
    figure = question_contributions(study.contributions, shown)
    *axes, bar = figure.axes
    assert len(axes) == 5  # three right and two wrong; no empty panel
    cells = study.contributions[study.contributions["flow"] == FLOWS[2]]
    for axis, question in zip(axes, shown.itertuples(), strict=True):
        here = cells[cells["id"] == question.id].sort_values(["layer", "position"])
        np.testing.assert_allclose(axis.collections[0].get_array().ravel(), here["norm"], rtol=1e-6)
        highest = cells.loc[cells["id"].isin(shown["id"]), "norm"].max()
        assert axis.collections[0].get_clim() == (0, pytest.approx(highest))
        assert [label.get_text() for label in axis.get_xticklabels()] == ["this", "country"]
        told = " ".join(axis.get_title("left").split())
        outcome = "Lima (right)" if question.correct else "Rome (wrong) right: Lima"
        assert told == f"What is the capital of this country? {outcome}"
    upper, lower = axes[0].get_position().y0, axes[3].get_position().y0
    assert upper > lower
    assert bar.get_ylabel() == "contribution ||a||"


def test_a_long_right_answer_is_cut_short():
    study = study_of(parts=("known",), wrong=3, n_constraint=4)
    told = {"question": "Who directed the movie that is shown in this image, and $in$ which year?" * 2,
            "answer": "The Lord of the Rings and the Fellowship of it",
            "expected": "Peter Robert Jackson and $others$ " * 3}
    shown = outcome_examples(study).assign(**told)
    figure = question_contributions(study.contributions, shown)
    last = [axis.get_title("left").splitlines()[-1] for axis in figure.axes[:-1]]
    assert [line.endswith("(right)") for line in last] == [True] * 3 + [False] * 3
    assert all(line.startswith("right: Peter") and line.endswith("\u2026") and len(line) <= 28 for line in last[3:])
    assert text_problems(figure) == []


def test_answers_of_one_outcome_are_one_row():
    for wrong, n in ((0, 3), (6, 3)):
        study = study_of(parts=("known",), wrong=wrong)
        *axes, _ = question_contributions(study.contributions, outcome_examples(study)).axes
        assert len(axes) == n


def outcomes(parts=PARTS, n_layers=8, outcome=("right", "wrong")) -> pd.DataFrame:
    rows = [
        (part, layer, name, value, value - 0.1, value + 0.1, 30 + number if name == "right" else 9)
        for number, part in enumerate(parts) for layer in range(n_layers) for name in outcome
        for value in [(1.0 if name == "right" else 0.6) / (1 + abs(layer - n_layers // 2) + number)]
    ]
    return pd.DataFrame(rows, columns=["part", "layer", "outcome", "norm", "low", "high", "n"])


def corrected(frame: pd.DataFrame, sure: tuple) -> pd.DataFrame:
    cells = frame[frame["outcome"] == "right"]
    return cells.assign(p_corrected=np.where(cells["layer"].isin(sure), 0.01, 0.5))[["part", "layer", "p_corrected"]]


def test_outcomes_draw_both_lines_and_the_tests():
    frame = outcomes()
    figure = contributions_by_outcome(frame, corrected(frame, (3, 4)))
    for axis, part in zip(figure.axes, PARTS, strict=True):
        for name, line in zip(("right", "wrong"), lines_of(axis), strict=True):
            cells = frame[(frame["part"] == part) & (frame["outcome"] == name)]
            np.testing.assert_allclose(line.get_ydata(), cells["norm"])
        stars = [line for line in axis.lines if line.get_marker() == "*"]
        assert list(stars[0].get_xdata()) == [3, 4]
        assert stars[0].get_ydata()[0] > frame["high"].max()
    assert figure.axes[0].get_title() == "Known\n(n = 30 right, 9 wrong)"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["right answers", "wrong answers", "right > wrong, corrected p < 0.05"]
    bare = contributions_by_outcome(frame)
    assert len(bare.legends[0].get_texts()) == 2
    assert not [line for line in bare.axes[0].lines if line.get_marker() == "*"]


def test_a_part_without_a_wrong_answer():
    figure = contributions_by_outcome(outcomes(outcome=("right",)), corrected(outcomes(), ()).head(0))
    assert figure.axes[0].get_title() == "Known\n(n = 30 right, 0 wrong)"
    assert text_problems(figure) == []


AREAS = {"contribution": 0.63, "confidence": 0.76, "linear": 0.7, "kind": 0.58}


def curves(parts=PARTS) -> tuple[pd.DataFrame, pd.DataFrame]:
    rates = np.linspace(0, 1, 9)
    points = [
        pd.DataFrame({"part": part, "predictor": name, "false_positive_rate": rates,
                      "true_positive_rate": rates ** (1 / area - 1)})
        for part in parts for name, area in AREAS.items()
    ]
    table = pd.DataFrame(
        [(part, name, area, area - 0.1, area + 0.1, 40, 11) for part in parts for name, area in AREAS.items()],
        columns=["part", "predictor", "auroc", "low", "high", "n", "wrong"],
    )
    return pd.concat(points), table


def test_curves_name_their_area_and_stand_in_a_square():
    points, table = curves()
    figure = roc_curves(points, table)
    for axis, part in zip(figure.axes, PARTS, strict=True):
        diagonal, *lines = axis.lines
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
        for line, name in zip(lines, AREAS, strict=True):
            cells = points[(points["part"] == part) & (points["predictor"] == name)]
            np.testing.assert_allclose(line.get_xdata(), cells["false_positive_rate"])
            np.testing.assert_allclose(line.get_ydata(), cells["true_positive_rate"])
        keys = axis.get_legend()
        assert [text.get_text().splitlines() for text in keys.get_texts()] == [
            ["contribution", "AUROC 0.63 [0.53, 0.73]"], ["confidence", "AUROC 0.76 [0.66, 0.86]"],
            ["linear, all layers", "AUROC 0.70 [0.60, 0.80]"], ["kind of question alone", "AUROC 0.58 [0.48, 0.68]"],
        ]
        assert [key.get_color() for key in keys.get_lines()] == [line.get_color() for line in lines]
        assert len({line.get_linestyle() for line in lines}) == len({to_rgba(line.get_color()) for line in lines}) == 4
        assert axis.get_title().endswith("(n = 40, 11 wrong)")
        axis.apply_aspect()
        box = axis.get_window_extent()
        assert box.width == pytest.approx(box.height, rel=0.02)


def test_an_area_of_few_answers_has_no_interval():
    points, table = curves(("known",))
    figure = roc_curves(points, table.assign(low=np.nan, high=np.nan, wrong=1))
    keys = [text.get_text().splitlines()[1] for text in figure.axes[0].get_legend().get_texts()]
    assert keys == ["AUROC 0.63", "AUROC 0.76", "AUROC 0.70", "AUROC 0.58"]


def test_an_unknown_area_is_said_to_be_so():
    points, table = curves(("known",))
    table = table.assign(auroc=np.nan, low=np.nan, high=np.nan, wrong=0)
    figure = roc_curves(points.head(0), table)
    assert "unknown" in figure.axes[0].get_legend().get_texts()[0].get_text()
    assert text_problems(figure) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", [("known",), PARTS])
def test_nothing_overlaps(parts, size):
    study = study_of(parts, size, n_constraint=4)
    contributions, n_layers = mean_contributions(study), study.n_layers
    examples, frame = patch_examples(study, 0), outcomes(parts, n_layers)
    for figure in (
        visual_token_maps(contributions, study.n_visual), patch_maps(contributions, 0),
        patches_over_images(examples, pictures(examples)),
        flows_by_layer(flow_shares(study), knockout_drops(study), "A heading"),
        question_contributions(study.contributions, outcome_examples(study)),
        contributions_by_outcome(frame, corrected(frame, (n_layers // 2,))),
        roc_curves(*curves(parts)),
    ):
        assert text_problems(figure) == []


def test_nothing_to_draw_is_said():
    study = study_of(wrong=100)  # no right answer
    shares, drops, maps = flow_shares(study), knockout_drops(study), mean_contributions(study)
    points, table = curves()
    for figure in (
        visual_token_maps(maps, 64), patch_maps(maps, 0), flows_by_layer(shares, drops),
        patches_over_images(patch_examples(study, 0), {}), contributions_by_outcome(outcomes().head(0)),
        question_contributions(study.contributions, study.questions.head(0)), roc_curves(points.head(0), table.head(0)),
    ):
        assert [text.get_text()[:15] for text in figure.texts] == ["nothing to show"]
        assert text_problems(figure) == []


def test_one_question_and_one_part_fewer():
    study = study_of(("known", "movies"), n=2, wrong=1)
    shares, drops = flow_shares(study), knockout_drops(study)
    figure = flows_by_layer(shares[shares["part"] == "known"], drops)  # a part that only has knock-outs
    assert [axis.get_title() for axis in figure.axes[:2]] == ["Known  (n = 1)", "Movies  (n = 0)"]
    assert len(visual_token_maps(mean_contributions(study), 64).axes) == 3
