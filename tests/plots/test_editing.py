"""Figures of editing: the numbers given, legible for both tasks, many layers and few items."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from edits import COLUMNS, edit_results, edits_by_layer, kept_edits
from figures import text_problems
from matplotlib.colors import to_hex, to_rgba
from PIL import Image

from interventions.editing.averages import PAPER, edit_examples, layer_means, method_means
from interventions.editing.study import EDIT_METHODS
from interventions.plots.editing import efficacy_by_layer, further_metrics, methods_by_metric, sequential
from interventions.plots.examples import edited_examples

MAIN, FURTHER = ("efficacy", "exact", "generalisation", "specificity"), ("pictures", "following", "kl")
EARLY = {"correct": [0.8, 0.9, 0.93, 0.8, 0.4, 0.3, 0.2, 0.15], "insert": [0.7, 0.95, 0.9, 0.8, 0.5, 0.3, 0.2, 0.15]}
KEPT = {"correct": ([0.95, 0.8, 0.3], [0.8, 0.7, 0.25], [0.7, 0.68, 0.4]),
        "insert": ([0.9, 0.85, 0.6], [0.85, 0.8, 0.6], [0.7, 0.69, 0.66])}


def means_of(n=20, tasks=("correct", "insert"), **columns) -> pd.DataFrame:
    return method_means(edit_results(n, tasks=tasks).assign(**columns))


def dots(axis) -> list:
    """The methods' values, without the axis at 0 and the paper's ticks."""
    return [line for line in axis.lines if line.get_marker() not in ("|", "None")]


@pytest.mark.parametrize(("function", "metrics"), [(methods_by_metric, MAIN), (further_metrics, FURTHER)])
def test_methods_draw_the_means_and_intervals(function, metrics):
    means = means_of().sample(frac=1, random_state=0)
    figure = function(means)
    axes = np.array(figure.axes).reshape(2, len(metrics))
    for row, task in enumerate(("correct", "insert")):
        for axis, metric in zip(axes[row], metrics, strict=True):
            cells = means[(means["task"] == task) & (means["metric"] == metric)].set_index("method")
            cells = cells.loc[list(EDIT_METHODS)]
            assert [line.get_xdata()[0] for line in dots(axis)] == pytest.approx(list(cells["value"]))
            assert [line.get_ydata()[0] for line in dots(axis)] == list(range(5))
            bars = [collection.get_segments()[0] for collection in axis.collections]
            np.testing.assert_allclose([bar[:, 0] for bar in bars], cells[["low", "high"]])
            np.testing.assert_allclose([bar[0, 1] for bar in bars], range(5))
            low, high = axis.get_xlim()
            assert low < cells["low"].min() and cells["high"].max() < high
            assert axis.get_title().endswith("(n = 20)")
    assert [text.get_text() for text in axes[1, 0].get_yticklabels()] == list(EDIT_METHODS)
    assert axes[0, 0].get_ylim()[0] > axes[0, 0].get_ylim()[1]  # no edit on top
    looks = [(to_hex(line.get_color()), line.get_marker()) for line in dots(axes[0, 0])]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 5
    assert [(to_hex(line.get_color()), line.get_marker()) for line in dots(axes[1, 2])] == looks
    assert text_problems(figure) == []


def test_titles_values_and_axes_say_what_is_drawn():
    figure = methods_by_metric(means_of())
    assert [axis.get_title() for axis in figure.axes[:4]] == [
        f"errors corrected\n{metric} (n = 20)"
        for metric in ("efficacy", "whole answers", "generalization", "specificity")]
    assert figure.axes[4].get_title() == "new facts inserted\nefficacy (n = 20)"
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.06", "0.90", "0.40", "0.60", "0.50"]
    assert [text.get_text() for text in figure.axes[3].texts] == ["0.0", "−1.0", "−1.5", "−9.0", "−4.0"]
    assert "accuracy" in figure.axes[7].get_xlabel() and "points" in figure.axes[7].get_xlabel()
    assert not figure.axes[3].get_xlabel()
    kl = further_metrics(means_of()).axes[2]
    assert kl.get_xscale() == "symlog"
    assert [text.get_text() for text in kl.texts] == ["0", "0.01", "0.02", "0.6", "0.2"]
    rounding = further_metrics(means_of(kl=-1e-8)).axes[2]
    assert {text.get_text() for text in rounding.texts} == {"0"}


def test_the_papers_values_stand_where_it_gives_them():
    drawn = set()
    figure = methods_by_metric(means_of())
    for axis in figure.axes:
        task = "correct" if axis.get_title().startswith("errors") else "insert"
        metric = axis.get_title().splitlines()[1].partition(" ")[0].replace("generalization", "generalisation")
        for line in axis.lines:
            if line.get_marker() == "|":
                drawn.add(((task, EDIT_METHODS[line.get_ydata()[0]], metric), line.get_xdata()[0]))
    assert drawn == set(PAPER.items())
    # What the paper says of LLaVA in section 5.3.
    assert {key[::2]: value for key, value in PAPER.items() if key[1] == "MultEdit"} == {
        ("correct", "efficacy"): 0.82, ("correct", "generalisation"): 0.76, ("correct", "specificity"): -1.5,
        ("insert", "efficacy"): 0.83, ("insert", "generalisation"): 0.79, ("insert", "specificity"): -1.4,
    }
    assert PAPER["correct", "no edit", "efficacy"] == 0.07
    [legend] = figure.legends
    assert "the paper's value" in legend.get_texts()[0].get_text()
    assert not further_metrics(means_of()).legends


def test_a_large_loss_stays_in_the_panel_and_a_small_one_does_not_fill_it():
    large = means_of(accuracy_after=0.1)
    assert methods_by_metric(large).axes[3].get_xlim()[0] < -60
    small = means_of(accuracy_after=0.7)
    low, high = methods_by_metric(small).axes[3].get_xlim()
    assert low < -2 and high > 0


def test_another_number_of_items_is_named():
    results = edit_results(20)
    some = (results["method"] == "fine-tuning") & (results["task"] == "insert")
    results.loc[results[some].index[:6], "p_paraphrase"] = np.nan
    figure = methods_by_metric(method_means(results))
    assert [text.get_text() for text in figure.axes[6].texts] == ["0.05", "0.80", "0.30", "0.52\n(n = 14)", "0.40"]
    assert figure.axes[6].get_title().endswith("(n = 20)")
    assert not any("n =" in text.get_text() for text in figure.axes[4].texts)
    assert text_problems(figure) == []


def test_a_method_keeps_its_look_without_the_others():
    means = means_of()
    look = [(line.get_color(), line.get_marker()) for line in dots(methods_by_metric(means).axes[0])]
    few = methods_by_metric(means[means["method"].isin(["fine-tuning", "no edit"])])
    assert [(line.get_color(), line.get_marker()) for line in dots(few.axes[0])] == [look[0], look[3]]
    assert [label.get_text() for label in few.axes[0].get_yticklabels()] == ["no edit", "fine-tuning"]
    assert {line.get_ydata()[0] for axis in few.axes for line in axis.lines if line.get_marker() == "|"} == {0}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("tasks", [("correct",), ("insert",), ("correct", "insert")])
def test_few_items_and_one_task(n, tasks):
    means = means_of(n, tasks)
    for function, metrics in ((methods_by_metric, MAIN), (further_metrics, FURTHER)):
        figure = function(means)
        assert len(figure.axes) == len(tasks) * len(metrics)
        assert all(len(dots(axis)) == 5 for axis in figure.axes)
        assert text_problems(figure) == []


def test_a_metric_that_no_item_has_is_said_to_be_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as the mean of an empty slice
        figure = methods_by_metric(means_of(p_paraphrase=np.nan))
    assert [text.get_text() for text in figure.axes[2].texts] == ["not measured"]
    assert figure.axes[2].get_title().endswith("(n = 0)") and not dots(figure.axes[2])
    assert len(dots(figure.axes[0])) == 5
    assert text_problems(figure) == []
    for column in ("accuracy_after", "kl", "p_target"):
        assert text_problems(methods_by_metric(means_of(**{column: np.nan}))) == []
        assert text_problems(further_metrics(means_of(**{column: np.nan}))) == []


def band(axis, number: int) -> np.ndarray:
    return axis.collections[number].get_paths()[0].vertices


def test_layers_draw_both_metrics_the_start_and_the_layer():
    means = layer_means(edits_by_layer(EARLY)).sample(frac=1, random_state=0)
    figure = efficacy_by_layer(means, 8, 2)
    for axis, (task, efficacy) in zip(figure.axes, EARLY.items(), strict=True):
        lines = [line for line in axis.lines if len(line.get_xdata()) == 8]
        np.testing.assert_allclose(lines[0].get_ydata(), efficacy)
        np.testing.assert_allclose(lines[1].get_ydata(), np.subtract(efficacy, 0.1))
        assert lines[0].get_color() != lines[1].get_color() and lines[0].get_marker() != lines[1].get_marker()
        cells = means[(means["task"] == task) & (means["metric"] == "efficacy")]
        heights = band(axis, 0)[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((cells["low"].min(), cells["high"].max()))
        [_] = axis.collections  # two bands over each other would be brown
        [shade] = axis.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (-0.5, 1.5)
        straight = [line for line in axis.lines if len(line.get_xdata()) == 2]
        assert [list(line.get_xdata()) for line in straight if line.get_ydata()[0] == 0] == [[2, 2]]
        assert [line.get_ydata()[0] for line in straight if line.get_ydata()[0] != 0] == [pytest.approx(0.06)]
    assert figure.axes[0].get_title() == "errors corrected  (n = 20)"
    [legend] = figure.legends
    assert {"MultEdit's layer, 2", "early layers, 0-1"} <= {text.get_text() for text in legend.get_texts()}
    assert "MultEdit's layer, 2" not in [text.get_text() for text in efficacy_by_layer(means, 8).findobj(plt.Text)]
    assert text_problems(figure) == []


@pytest.mark.parametrize("n_layers", [8, 32])
@pytest.mark.parametrize("tasks", [("correct",), ("correct", "insert")])
def test_layers_of_small_and_large_models(n_layers, tasks):
    for n, columns in ((1, {}), (5, {}), (5, {"p_paraphrase": np.nan}), (5, {"p_target": np.nan})):
        by_layer = edits_by_layer({task: np.linspace(0.9, 0.2, n_layers) for task in tasks}, n).assign(**columns)
        figure = efficacy_by_layer(layer_means(by_layer), n_layers, 2)
        assert len(figure.axes) == len(tasks)
        assert figure.axes[0].get_xlim() == (-0.5, n_layers - 0.5)
        assert text_problems(figure) == []


def test_kept_edits_by_their_number():
    frame = kept_edits(KEPT).assign(accuracy_before=[0.7] * 3 + [0.8] * 3)
    figure = sequential(frame.sample(frac=1, random_state=0))
    for number, axis in enumerate(figure.axes):
        assert axis.get_xscale() == "log"
        means = [line for line in axis.lines if list(line.get_xdata()) == [10, 50]]
        single = [line for line in axis.lines if list(line.get_xdata()) == [1]]
        for task, line, point in zip(("correct", "insert"), means, single, strict=True):
            np.testing.assert_allclose([*point.get_ydata(), *line.get_ydata()], KEPT[task][number])
            assert point.get_markerfacecolor() == "white" != line.get_markerfacecolor()
            assert (point.get_color(), point.get_marker()) == (line.get_color(), line.get_marker())
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "10", "50"]
        assert len(axis.collections) == (2 if number == 0 else 0)
    heights = band(figure.axes[0], 0)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.26, 0.84))
    before = [line for line in figure.axes[2].lines if list(line.get_xdata()) == [0, 1]]
    assert {line.get_color(): line.get_ydata()[0] for line in before} == {means[0].get_color(): 0.7,
                                                                          means[1].get_color(): 0.8}
    assert "open: a single fact" in figure.get_supxlabel()
    assert [axis.get_title().splitlines()[0] for axis in figure.axes] == ["efficacy", "generalization", "specificity"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["errors corrected", "new facts inserted", "accuracy before any edit, in the color of its task"]
    assert text_problems(figure) == []


def test_kept_edits_of_few_items():
    frame = kept_edits(KEPT)
    for some in (frame.head(1), frame.tail(3), frame.assign(p_paraphrase=np.nan, accuracy_before=np.nan),
                 frame.assign(low=np.nan, high=np.nan)):
        assert text_problems(sequential(some)) == []
    insert = sequential(frame.tail(3)).axes[0].lines[0]
    np.testing.assert_allclose(insert.get_ydata(), KEPT["insert"][0][1:])
    assert "open" not in sequential(frame[frame["edits"] > 1]).get_supxlabel()


def shown(task="insert") -> pd.DataFrame:
    examples = edit_examples(edit_results(6), task=task).astype({"exact": object, "after": object})
    pieces = [("What is the capital of ", ""), ("this country", "constraint"), ("?", "")]
    examples = examples.assign(pieces=pd.Series([pieces] * len(examples)))
    examples.loc[1, ["exact", "after"]] = [False, "Rome"]
    return examples


def pictures(examples: pd.DataFrame) -> dict:
    return {name: Image.new("RGB", (96, 64), (200, 30, number)) for number, name in enumerate(examples["id"])}


def words(figure) -> list:
    texts = [text for text in figure.findobj(plt.Text) if text.get_text().strip()]
    return [(text.get_text(), to_rgba(text.get_color()), text.get_weight()) for text in texts]


def test_examples_tell_what_the_edit_did():
    examples = shown()
    figure = edited_examples(examples, pictures(examples))
    images = [axis.images[0].get_array()[0, 0, 2] for axis in figure.axes if axis.images]
    assert images == [0, 1, 2, 3]  # one a row, in order
    told = words(figure)
    assert [text for text, _, _ in told].count("this country") == 4
    assert {weight for text, _, weight in told if text == "this country"} == {"bold"}
    assert {weight for text, _, weight in told if text.startswith("What is")} == {"normal"}
    colors = {text: color for text, color, _ in told}
    red, green, _, _ = colors["not inserted"]
    assert red > green and colors["Rome"] == colors["not inserted"]
    red, green, _, _ = colors["inserted"]
    assert green > red
    assert [text for text, _, _ in told].count("inserted") == 3
    first = examples.iloc[0]
    texts = [text for text, _, _ in told]
    assert texts.count(first["target"]) == 2 and first["before"] in texts  # as target, and said after the edit
    assert f"P(target) {first['p_target']:.2f}" in texts and "P(target) 0.06" in texts
    assert {"corrected", "not corrected"} <= {text for text, _, _ in words(edited_examples(shown("correct"), {}))}
    assert text_problems(figure) == []


def test_examples_with_long_words_and_without_answers():
    examples = shown()
    long = "the Democratic Republic of the Congo and all of its many neighbours in the middle of the continent"
    examples.loc[0, ["target", "before", "after"]] = [long] * 3
    examples.at[0, "pieces"] = [(f"Which of all the languages that are spoken by the people of {long} in ", ""),
                                ("this picture of a country", "constraint"), (" costs $5 or $6?", "")]
    examples.loc[2, ["before", "after", "exact", "p_target"]] = [None, None, None, np.nan]
    figure = edited_examples(examples, {})
    texts = [text for text, _, _ in words(figure)]
    assert texts.count("—") == 2 and texts.count("not inserted") == 2
    assert text_problems(figure) == []
    assert text_problems(edited_examples(examples.head(1), pictures(examples))) == []


def test_nothing_to_draw_is_said():
    nothing = pd.DataFrame(columns=COLUMNS)
    means = method_means(nothing)
    for figure in (
        methods_by_metric(means), further_metrics(means), efficacy_by_layer(layer_means(nothing), 8, 2),
        sequential(kept_edits({})), edited_examples(edit_examples(nothing), {}),
    ):
        assert [text.get_text()[:15] for text in figure.texts] == ["nothing to show"]
        assert text_problems(figure) == []
