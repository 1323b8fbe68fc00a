"""Figures of single questions draw the numbers they are given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tiny
from figures import text_problems
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from interventions.plots.examples import example_questions
from interventions.plots.question import question_colors, question_maps, worked_example
from interventions.plots.words import token_label

TOKENS = [("<image>", "visual"), ("\n", "before"), (" The", "before"), (" this", "constraint"),
          (" country", "constraint_last"), (" is", "between"), (" ASSISTANT", "between"), (":", "last")]
LONG = "In which year did the architect of this country, who was born in a small town, win the prize of his country?"


def sites(name: str, n_layers: int = 8, scale: float = 0.8, part: str = "known") -> pd.DataFrame:
    rows = [
        (name, part, kind, 60 + place, token, role, layer, value + 0.1, value)
        for kind, sign in (("mlp", 1), ("attention", -0.5))
        for place, (token, role) in enumerate(TOKENS)
        for layer in range(n_layers)
        for value in [sign * scale / (1 + layer) if role == "constraint_last" else 0.001 * place * layer]
    ]
    columns = ["id", "part", "kind", "position", "token", "role", "layer", "p_restored", "effect"]
    return pd.DataFrame(rows, columns=columns)


def questions(*names: str, question: str = "The capital of this country is") -> pd.DataFrame:
    return pd.DataFrame([(name, "known", question, f"answer {name}", 0.91, 0.02) for name in names],
                        columns=["id", "part", "question", "answer", "p_clean", "p_corrupted"])


def meshes(figure) -> list[tuple[plt.Axes, QuadMesh]]:
    """The maps, without the color bars."""
    axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    return [(axis, mesh) for axis in axes for mesh in axis.collections if isinstance(mesh, QuadMesh)]


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_maps_draw_the_numbers_of_their_question_and_kind():
    data = pd.concat([sites("a"), sites("b", scale=0.3)]).sample(frac=1, random_state=0)  # the order must not matter
    figure = question_maps(data, questions("a", "b"), {"a": tiny.picture(1)}, window=3)
    found = meshes(figure)
    assert len(found) == 4
    for (axis, mesh), (name, kind) in zip(
        found, [(n, k) for n in "ab" for k in ("mlp", "attention")], strict=True
    ):
        cells = data[(data["id"] == name) & (data["kind"] == kind)].sort_values(["position", "layer"])
        np.testing.assert_allclose(mesh.get_array().reshape(8, 8), cells["effect"].to_numpy().reshape(8, 8))
        assert axis.get_ylim()[0] > axis.get_ylim()[1]  # read from top to bottom
    assert {mesh.get_clim() for _, mesh in found} == {(data["effect"].min(), data["effect"].max())}
    labels = [label.get_text() for label in found[0][0].get_yticklabels()]
    assert labels == ["last visual token", "↵", "The", "this*", "country*", "is", "ASSISTANT", ":"]
    assert [axis.get_xlabel() for axis, _ in found[2:]] == ["center of window of 3 layers"] * 2
    shown = texts(figure)
    assert "MLP effect\n(0.00 to 0.80)" in shown
    assert "Attention effect\n(−0.40 to 0.05)" in shown
    assert "Known: The capital of this country is\nanswer: answer a    P(clean) 0.91, P(corrupted) 0.02" in shown
    [image] = figure.findobj(AxesImage)
    np.testing.assert_array_equal(image.get_array(), np.asarray(tiny.picture(1)))
    assert text_problems(figure) == []


def test_values_below_zero_have_another_color_and_a_missing_counterpart_is_gray():
    data = sites("a")
    data.loc[data["role"] == "constraint", ["effect", "p_restored"]] = np.nan
    [(_, mlp), (_, attention)] = meshes(question_maps(data, questions("a"), {}, window=1))
    for mesh, above, below in ((mlp, 0.8, -0.4), (attention, 0.8, -0.4)):
        strong, weak, zero = (np.array(mesh.cmap(mesh.norm(value))[:3]) for value in (above, below, 0))
        assert zero.min() > 0.93
        assert weak.argmax() == 2  # purple or blue
        assert strong.argmax() < 2  # green or red
    row = mlp.to_rgba(mlp.get_array().reshape(8, 8))[3]
    assert np.ptp(row[:, :3], axis=1).max() < 0.01
    assert row[0, 0] < 0.9


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_colors_grow_darker_away_from_zero_and_equally_on_both_sides(kind):
    colors = question_colors(kind, -0.5, 0.5)(np.linspace(0, 1, 101))[:, :3]
    lightness = colors @ [0.3, 0.59, 0.11]
    assert (np.diff(lightness[50:]) < 0.01).all()
    assert (np.diff(lightness[:50]) > -0.01).all()
    assert abs(lightness[0] - lightness[-1]) < 0.15
    assert abs(colors[49] - colors[51]).max() < 0.05  # no step at 0
    assert len(question_colors(kind, 0, 0.5).colors) == 512


def test_kinds_quantity_and_rule_can_be_chosen():
    data = sites("a")
    figure = question_maps(data, questions("a"), {}, window=2, window_rule="radius", kinds=["attention"],
                           quantity="p_restored")
    [(axis, mesh)] = meshes(figure)
    expected = data[data["kind"] == "attention"]["p_restored"].to_numpy()
    np.testing.assert_allclose(mesh.get_array().ravel(), expected)
    assert axis.get_xlabel() == "center of window of 5 layers"
    assert "Attention P(restored)" in texts(figure)


def test_a_question_without_sites_has_no_row():
    found = meshes(question_maps(sites("a"), questions("wrong", "a"), {}, window=1))
    assert len(found) == 2


@pytest.mark.parametrize("n_layers", [5, 8, 32])
@pytest.mark.parametrize("kinds", [["mlp"], ["mlp", "attention"]])
def test_nothing_overlaps(n_layers, kinds):
    data = pd.concat([sites("a", n_layers), sites("b", n_layers)])
    asked = pd.concat([questions("a", question=LONG), questions("b", question="Name a $ and a $ of this country")])
    figure = question_maps(data, asked, {"a": tiny.picture(1)}, window=3, kinds=kinds)
    assert text_problems(figure) == []


@pytest.mark.parametrize(
    ("token", "role", "label"),
    [(" country", "constraint_last", "country*"), ("\n", "before", "↵"), (" ", "between", "␣"),
     ("<s>", "before", "<s>"), ("<image>", "visual", "last visual token"),
     (" pneumonoultramicroscopic", "", "pneumonoultrami…"), (" B", "text_constraint", "B*")],
)
def test_token_labels_are_readable(token, role, label):
    assert token_label(token, role) == label


def example(n_answers: int = 5, question=(("The capital of ", ""), ("this country", "constraint"), (" is", ""))):
    answers = [(run, rank + 1, 10 + rank, f" {run[:2]}{rank}", p, is_answer)
               for run, best in (("clean", 0.9), ("corrupted", 0.6), ("restored", 0.8))
               for rank, p in enumerate(best / 2**np.arange(n_answers))
               for is_answer in [run != "corrupted" and rank == 0]]
    answers.append(("corrupted", 17, 99, " Lima", 0.001, True))
    frame = pd.DataFrame(answers, columns=["run", "rank", "token_id", "token", "p", "is_answer"])
    texts = [("clean", *piece) for piece in question] + [("corrupted", "Peru", "constraint"), ("corrupted", " is", "")]
    return SimpleNamespace(
        answer="Lima", corruption="replacement", texts=pd.DataFrame(texts, columns=["run", "text", "role"]),
        answers=frame, sites=sites("a"),
        site={"kind": "mlp", "position": 64, "token": " country", "layer": 1, "layers": (0, 2)},
    )


def test_worked_example_draws_the_runs():
    shown = example()
    figure = worked_example(shown, tiny.picture(1), window=3)
    bars = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    for run in ("clean", "corrupted", "restored"):
        rows = shown.answers[shown.answers["run"] == run]
        axis = bars[f"{run} run"]
        np.testing.assert_allclose([bar.get_width() for bar in axis.patches], rows["p"])
        dark = [sum(to_rgb(bar.get_facecolor()[:3])) < 1 for bar in axis.patches]
        assert dark == list(rows["is_answer"])
        labels = axis.get_yticklabels()
        assert [label.get_text() for label in labels] == [token.strip() for token in rows["token"]]
        assert [label.get_weight() == "bold" for label in labels] == list(rows["is_answer"])
    values = [text.get_text() for text in bars["corrupted run"].texts]
    assert values[0] == "0.60"
    assert values[-1] == "< 0.01  (rank 17)"
    assert text_problems(figure) == []


def test_worked_example_marks_constraints_and_the_restored_site():
    figure = worked_example(example(), tiny.picture(1), window=3)
    bold = {text.get_text() for text in figure.findobj(plt.Text) if text.get_weight() == "bold"}
    assert {"this country", "Peru", "country", "Lima"} <= bold
    assert "with the clean MLP output of layers 0 to 2" in texts(figure)
    (mlp, values), (attention, _) = meshes(figure)
    [outline] = [patch for patch in mlp.patches if isinstance(patch, Rectangle)]
    assert not attention.patches
    assert outline.get_xy() == (1, 4)  # layer 1, the fifth token
    assert (outline.get_width(), outline.get_height()) == (1, 1)
    assert values.get_array().reshape(8, 8)[4, 1] == pytest.approx(0.4)
    assert mlp.get_xlabel() == "center of window of 3 layers"
    assert len(figure.findobj(AxesImage)) == 1


def test_worked_example_names_noise_and_wraps_a_long_question():
    shown = example(question=((LONG[:38], ""), ("this country", "constraint"), (LONG[50:], "")))
    shown.corruption = "standard"
    figure = worked_example(shown, None, window=1)
    assert "noise on the image" in texts(figure)
    assert text_problems(figure) == []


def test_examples_show_images_and_mark_both_constraints():
    rows = [
        (f"{part}-{n}", part, constraints, "answer that is a little longer" if n else "Lima", "E", pieces)
        for part in ("known", "movies")
        for constraints, pieces in (
            ("single", [("The capital of ", ""), ("this country", "constraint"), (" is", "")]),
            ("multi", [("What is ", ""), ("this country", "constraint"), (" called in ", ""),
                       ("French", "text_constraint"), ("?", "")]))
        for n in range(3 if constraints == "single" else 2)
    ]
    columns = ["id", "part", "constraints", "answer", "entity", "pieces"]
    frame = pd.DataFrame(rows, columns=columns)
    images = {name: tiny.picture(n) for n, name in enumerate(frame["id"])}
    sizes = {("known", "single"): 1352, ("known", "multi"): 9, ("movies", "single"): 7, ("movies", "multi"): 1}
    figure = example_questions(frame, images, pd.Series(sizes))
    found = figure.findobj(plt.Text)
    words = [text.get_text() for text in found]
    assert "Known, one constraint  (n = 1,352)" in words
    assert "Movies, two constraints  (n = 1)" in words
    italic = {text.get_text() for text in found if text.get_weight() == "bold" and text.get_style() == "italic"}
    assert italic == {"French"}
    bold = [text.get_text() for text in found if text.get_weight() == "bold" and text.get_style() == "normal"]
    assert "".join(bold).replace(" ", "") == "thiscountry" * 10
    assert len(figure.findobj(AxesImage)) == 10
    assert text_problems(figure) == []
