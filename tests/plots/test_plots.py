"""Figures of averages draw the numbers given, and are legible."""

import io
import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import text_problems
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from interventions.plots import style
from interventions.plots.averages import effects_and_controls, effects_by_layer, probabilities, role_layer_maps
from interventions.plots.style import save_figure, window_label
from interventions.statistics import bootstrap_interval

ROLES = ["visual", "before", "constraint", "constraint_last", "between", "last"]


def frame(parts=("known", "okvqa", "movies"), n_layers=8, quantity="effect", roles=ROLES) -> pd.DataFrame:
    rows = [
        (part, kind, role, layer, value, value - 0.05, value + 0.05, 30 + number)
        for number, part in enumerate(parts)
        for kind in ("mlp", "attention")
        for role in roles
        for layer in range(n_layers)
        for value in [0.8 / (layer + 1 + number) if role == "constraint_last" else 0.01 * layer]
    ]
    return pd.DataFrame(rows, columns=["part", "kind", "role", "layer", quantity, "low", "high", "n"])


def at_read(data: pd.DataFrame) -> pd.DataFrame:
    """What `averages.by_layer` gives: the rows of the token that is read."""
    return data[data["role"] == "constraint_last"].drop(columns="role")


def panels(figure, n_parts: int, n_kinds: int = 2) -> np.ndarray:
    return np.array(figure.axes[: n_parts * n_kinds]).reshape(n_kinds, n_parts)


def line_of(axis) -> plt.Line2D:
    """The line by layer, told from the axis line at 0."""
    return max(axis.lines, key=lambda line: len(line.get_xdata()))


def test_effects_draw_the_numbers_given():
    data = frame()
    figure = effects_by_layer(at_read(data), window=3, read_at="text constraint")
    axes = panels(figure, 3)
    for (kind, part), axis in zip(
        itertools.product(("mlp", "attention"), ("known", "okvqa", "movies")), axes.ravel(), strict=True
    ):
        cells = data[(data["part"] == part) & (data["kind"] == kind) & (data["role"] == "constraint_last")]
        np.testing.assert_allclose(line_of(axis).get_xdata(), cells["layer"])
        np.testing.assert_allclose(line_of(axis).get_ydata(), cells["effect"])
        [band] = [found.get_datalim(axis.transData) for found in axis.collections]
        assert (band.y0, band.y1) == pytest.approx((cells["low"].min(), cells["high"].max()))
    titles = [axis.get_title() for axis in axes[0]]
    assert titles == ["Known  (n = 30)", "OK-VQA  (n = 31)", "Movies  (n = 32)"]
    [shade] = axes[0, 0].patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (-0.5, 1.5)
    told = figure.get_supxlabel().splitlines()
    assert told == ["center of window of 3 layers", "restored at the last token of the text constraint",
                    "shaded: early layers, 0-1 of 8"]


def test_kinds_keep_their_colors():
    axes = panels(effects_by_layer(at_read(frame()), window=1), 3)
    mlp, attention = map(line_of, axes[:, 0])
    red, green, _ = to_rgb(mlp.get_color())
    assert green > red
    red, green, _ = to_rgb(attention.get_color())
    assert red > green
    assert mlp.get_linestyle() != attention.get_linestyle()
    assert mlp.get_marker() != attention.get_marker()


def test_maps_show_roles_in_order_and_star_the_constraint():
    data = frame().sample(frac=1, random_state=0).sort_values("part", kind="stable")
    axes = panels(role_layer_maps(data, window=3), 3)
    labels = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert labels == [
        "last visual token", "question, before", "visual constraint, other*", "visual constraint, last*",
        "question, after", "last token",
    ]
    values = axes[1, 0].collections[0].get_array().reshape(6, 8)
    expected = data.query("part == 'known' and kind == 'attention' and role == 'constraint_last'")
    np.testing.assert_allclose(values[3], expected.sort_values("layer")["effect"])
    limits = {axis.collections[0].get_clim() for axis in axes.ravel()}
    assert len(limits) == 1  # one scale, or panels could not be compared
    assert axes[0, 0].get_ylim()[0] > axes[0, 0].get_ylim()[1]  # first role on top


def colors_of(axis) -> np.ndarray:
    """Colours [roles, layers, RGBA] as they are drawn."""
    mesh = axis.collections[0]
    mesh.update_scalarmappable()
    return mesh.get_facecolors().reshape(len(ROLES), -1, 4)


def test_negative_effects_are_seen_and_take_nothing_from_positive_ones():
    data = frame()
    last = (data["role"] == "last") & (data["kind"] == "attention")
    data.loc[last, "effect"] = [0.0, -0.01, -0.03, -0.2, -0.4, 0.01, 0.3, 0.8] * 3
    axis = panels(role_layer_maps(data, window=3), 3)[1, 0]
    assert axis.collections[0].get_clim() == (-0.4, 0.8)
    drawn = colors_of(axis)[-1]
    red, green, blue, _ = drawn.T
    np.testing.assert_allclose(drawn[1], drawn[0], atol=0.02)  # as good as nothing
    assert (blue[2:5] > red[2:5] + 0.02).all()  # visible at once, and in another color
    assert (np.diff(red[2:5] + green[2:5]) < -0.1).all()  # darker the lower
    untouched = panels(role_layer_maps(frame(), window=3), 3)[1, 0]
    assert untouched.collections[0].get_clim() == (0, 0.8)
    largest = np.abs(colors_of(untouched)[3, 0] - drawn[7]).max()
    assert largest < 0.02  # 0.8 looks the same with and without values below 0


def test_small_negative_effects_leave_the_scale_alone():
    data = frame()
    data.loc[data["role"] == "last", "effect"] = -0.015
    axis = panels(role_layer_maps(data, window=3), 3)[0, 0]
    assert axis.collections[0].get_clim()[0] == 0


def controls() -> pd.DataFrame:
    """As `controls.control_effects` gives them; the second part has no other model."""
    cells = {"none": (0.8, 40), "other position": (0.3, 9), "other model": (0.05, 6)}
    rows = [
        (part, kind, 1 + number, control, value, value - 0.05, value + 0.07, n)
        for number, part in enumerate(("known", "okvqa", "movies")) for kind in ("mlp", "attention")
        for control, (value, n) in cells.items() if (part, control) != ("okvqa", "other model")
    ]
    return pd.DataFrame(rows, columns=["part", "kind", "layer", "control", "effect", "low", "high", "n"])


def test_controls_stand_beside_the_trace():
    figure = effects_and_controls(controls())
    axes = panels(figure, 3)
    labels = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert labels == ["the trace itself", "another token", "another model"]
    assert axes[0, 0].get_ylim()[0] > axes[0, 0].get_ylim()[1]  # the trace on top
    intervals, dots = axes[1, 2].collections
    np.testing.assert_allclose(dots.get_offsets(), [(0.8, 0), (0.3, 1), (0.05, 2)])
    np.testing.assert_allclose([ends[:, 0] for ends in intervals.get_segments()][1], [0.25, 0.37])
    assert axes[1, 2].get_title() == "Movies, Attention, layer 3"
    assert [list(line.get_xdata()) for line in axes[1, 2].lines if line.get_linestyle() == ":"] == [[0.4, 0.4]]
    assert [text.get_text() for text in axes[0, 1].texts] == ["n = 40", "n = 9", "n = 0"]
    assert text_problems(figure) == []


def test_without_controls_the_trace_stands_alone():
    figure = effects_and_controls(controls().query("control == 'none' and part == 'known'"))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["the trace itself"]
    assert text_problems(figure) == []


def test_probabilities_draw_every_question():
    runs = {"p_clean": 0.9, "p_corrupted": 0.05, "p_restored_mlp": 0.7, "p_restored_attention": 0.6}
    data = pd.DataFrame(
        [(f"{part}-{q}", part, run, p + 0.01 * q) for part in ("known", "okvqa", "movies") for run, p in runs.items()
         for q in range(9)], columns=["id", "part", "run", "p"],
    )
    figure = probabilities(data)
    dots = [line for line in figure.axes[1].lines if line.get_marker() == "."]
    np.testing.assert_allclose(sorted(dots[2].get_ydata()), 0.7 + 0.01 * np.arange(9))
    drawn = [lines.get_segments()[0] for lines in figure.axes[0].collections]  # a run's mean, then its interval
    np.testing.assert_allclose([mean[:, 1] for mean in drawn[::2]], [[p + 0.04] * 2 for p in runs.values()])
    np.testing.assert_allclose(
        [interval[:, 1] for interval in drawn[1::2]],
        [bootstrap_interval(p + 0.01 * np.arange(9))[1:] for p in runs.values()],
    )
    assert text_problems(figure) == []
    for axis in figure.axes:
        boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
        assert all(left.x1 + 6 < right.x0 for left, right in itertools.pairwise(boxes))  # words do not run together


@pytest.mark.parametrize("parts", [("known",), ("known", "okvqa", "movies")])
@pytest.mark.parametrize("n_layers", [5, 8, 32])
def test_nothing_overlaps(parts, n_layers):
    roles = [*ROLES[:-1], "text_constraint", "text_constraint_last", "last"]
    data = frame(parts, n_layers, roles=roles)
    for figure in (effects_by_layer(at_read(data), window=3), role_layer_maps(data, window=3)):
        assert text_problems(figure) == []


def test_restored_probability_is_named_as_such():
    figure = effects_by_layer(at_read(frame(quantity="p_restored")), window=1, window_rule="radius")
    assert figure.axes[0].get_ylabel() == "MLP P(restored)"


def test_one_question_has_no_band_but_a_line():
    data = frame(parts=("known",)).assign(low=np.nan, high=np.nan, n=1)
    figure = effects_by_layer(at_read(data), window=3)
    assert figure.axes[0].get_ylim()[1] > 0.8  # the largest value, although there is no interval above it


def test_a_missing_value_leaves_a_gap_in_line_and_band():
    data = at_read(frame(parts=("known",)))
    data.loc[data["layer"] == 3, ["effect", "low", "high"]] = np.nan
    axis = effects_by_layer(data, window=3).axes[0]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(line_of(axis).get_ydata())), [3])
    assert len(axis.collections[0].get_paths()) == 2


@pytest.mark.parametrize(
    ("window", "rule", "label"),
    [
        (1, "centered", "layer"),
        (3, "centered", "center of window of 3 layers"),
        (1, "radius", "layer"),
        (3, "radius", "center of window of 7 layers"),
    ],
)
def test_the_axis_names_the_window(window, rule, label):
    assert window_label(window, rule) == label


def test_figures_are_saved_twice_and_not_left_open(tmp_path):
    figure = effects_by_layer(at_read(frame()), window=3)
    assert save_figure(figure, tmp_path / "new" / "fig3.trace_effects") is figure
    assert plt.get_fignums() == []
    with Image.open(tmp_path / "new" / "fig3.trace_effects.png") as picture:
        assert picture.width > 1000
    assert (tmp_path / "new" / "fig3.trace_effects.pdf").read_bytes().startswith(b"%PDF")


# Characters


NAME = "\u4e2d\u56fd \u00e9\u1ebf"  # Chinese, and letters that the figures' font has


def named_figure(name):
    @style.styled
    def draw():
        figure, axis = plt.subplots()
        axis.set_title(name)
        axis.plot([0, 1], [0, 1], label=name)
        axis.set_xticks([0, 1], [name, "b"])
        axis.legend()
        figure.supylabel(name)
        return figure

    return draw()


def shown(figure):
    """The texts of a figure once it is drawn, without warnings of missing glyphs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
        figure.savefig(io.BytesIO(), format="pdf")
    return [text for text in figure.findobj(Text) if "\u00e9" in text.get_text()]


@pytest.fixture
def fonts(monkeypatch):
    """Only these fonts are installed: name -> code points beside those of DejaVu Sans, which is always there."""
    def install(**others):
        base, characters = font_manager.findfont("DejaVu Sans"), style._characters.__wrapped__
        entries = [font_manager.FontEntry(fname=base, name="DejaVu Sans")]
        entries += [font_manager.FontEntry(fname=name, name=name) for name in others]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
        monkeypatch.setattr(style, "_characters", lambda path: frozenset(others.get(path) or characters(path)))
        style._fonts_with.cache_clear()

    yield install
    style._fonts_with.cache_clear()


def test_characters_that_no_font_has_are_spelled_out_and_that_is_said(fonts, capsys):
    fonts()
    texts = shown(named_figure(NAME))
    assert len(texts) >= 4 and {text.get_text() for text in texts} == {"\\u4e2d\\u56fd \u00e9\u1ebf"}
    assert capsys.readouterr().out.startswith("No installed font has the characters \u4e2d\u56fd: figures write")
    named_figure(NAME)
    assert capsys.readouterr().out == ""  # once is enough
    assert style._spelled("\uff21\U0001d5d4", frozenset("\uff21\U0001d5d4")) == "AA"  # in another width or weight


def test_characters_are_drawn_with_a_font_that_has_them(fonts, capsys):
    fonts(first={0x4E2D}, none={0x41}, second={0x4E2D, 0x56FD})
    found, left = style._fonts_with(frozenset("\u4e2d\u56fd"))
    assert (found, left) == (("first", "second"), frozenset())
    figure = plt.figure()
    text = figure.text(0, 0, NAME)
    style.show_all_characters(figure)
    assert text.get_text() == NAME and text.get_fontfamily() == ["sans-serif", "first", "second"]
    axis = figure.add_subplot()
    axis.set_xticks([0, 1], [NAME, "b"])
    style.show_all_characters(figure)
    assert axis.get_xticklabels()[0].get_fontfamily() == ["sans-serif", "first", "second"]
    assert capsys.readouterr().out == ""
    plt.close(figure)


def test_usual_characters_cost_nothing(monkeypatch):
    looked_for = lambda characters: pytest.fail("looked for") if characters else ((), characters)  # noqa: E731
    monkeypatch.setattr(style, "_fonts_with", looked_for)
    texts = shown(named_figure("Known caf\u00e9 \u2192 \u2026"))
    assert {tuple(text.get_fontfamily()) for text in texts} == {("sans-serif",)}
