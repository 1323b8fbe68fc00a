"""The parameters that every notebook has: types, refusals in one sentence, and what only shows after loading."""

import types
from dataclasses import replace

import pytest
import tiny
from answering import questions, speaking

from interventions.figure_parameters import Fig3Parameters
from interventions.parameters import ParameterError
from interventions.testbed import load_testbed, save_testbed


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A tiny model and a test bed of its own, both saved."""
    root = tmp_path_factory.mktemp("saved")
    model = speaking(tiny.build())
    model.module.save_pretrained(root / "model")
    model.processor.save_pretrained(root / "model")
    save_testbed(questions(model, root / "bed", n=4), root / "bed")
    return root


def sentence(namespace: dict) -> str:
    with pytest.raises(ParameterError) as error:
        Fig3Parameters.from_notebook(namespace)
    return _one_sentence(error.value)


def load_sentence(**parameters) -> str:
    with pytest.raises(ParameterError) as error:
        Fig3Parameters.from_notebook(parameters).load()
    return _one_sentence(error.value)


def _one_sentence(error) -> str:
    text = str(error)
    assert error._render_traceback_() == [text]
    assert "\n" not in text
    assert text[-1] in ".?"
    return text


def test_a_notebooks_namespace_holds_other_things_too():
    def function(): ...

    namespace = {
        "window": 1, "In": [""], "Out": {}, "_": 3, "_i1": "x", "__name__": "__main__", "types": types,
        "function": function, "Fig3Parameters": Fig3Parameters, "parts": "known",
    }
    parameters = Fig3Parameters.from_notebook(namespace)
    assert parameters == Fig3Parameters(window=1, parts="known")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("window", "3", "-p window 3"),
        ("window", 3.0, "whole number"),
        ("window", True, "whole number"),
        ("window", None, "whole number"),
        ("limit", "all", "-p limit 40"),
        ("remote", 1, "True or False"),
        ("remote", "yes", "-p remote False"),
        ("items", 12, "-r items 12"),
        ("model", False, "-r model False"),
        ("parts", ["known", "movies"], "text"),
        ("min_p_clean", "low", "number"),
    ],
)
def test_wrong_types(name, value, remedy):
    text = sentence({name: value})
    assert text.startswith(f"Parameter {name!r} must be")
    assert repr(value) in text
    assert remedy in text


def test_whole_numbers_are_numbers():
    assert Fig3Parameters.from_notebook({"min_p_clean": 0}).min_p_clean == 0


def test_what_only_shows_after_loading(directories):
    good = {"model": str(directories / "model"), "testbed": str(directories / "bed"), "parts": "known,okvqa"}
    model, testbed = Fig3Parameters.from_notebook(good).load()
    assert model.n_layers == 5
    assert [item.part for item in testbed] == ["known", "okvqa"]  # the single-constraint ones
    for change, parts in [
        ({"window": 6}, ["Parameter 'window' is 6", "5 layers", "choose 1 to 5"]),
        ({"model": "minni"}, ["Parameter 'model'", "'minni'", "mini"]),
        ({"testbed": "embeded"}, ["Parameter 'testbed'", "'embeded'", "'embedded'"]),
        ({"parts": "known,okvqqa"}, ["Parameter 'parts'", "'okvqqa'", "did you mean 'okvqa'?"]),
        ({"parts": "movies"}, ["Parameter 'parts'", "'movies'"]),
        ({"items": "known-999"}, ["Parameter 'items'", "'known-999'", "did you mean 'known-"]),
    ]:
        text = load_sentence(**good | change)
        for part in parts:
            assert part in text, text


def test_a_part_without_such_questions_is_named(directories):
    bed = load_testbed(directories / "bed")
    some = replace(bed, items=tuple(i for i in bed if i.part == "known" or i.constraints == "multi"))
    with pytest.raises(ParameterError, match=r"'okvqa' of test bed .* has no question with single") as error:
        Fig3Parameters(parts="known,okvqa").select(some)
    assert _one_sentence(error.value)


def test_parts_and_items_are_lists_with_commas(directories):
    bed = load_testbed(directories / "bed")
    ids = [item.id for item in bed]
    assert [i.part for i in Fig3Parameters(parts=" okvqa , known,okvqa").select(bed)] == ["okvqa", "known"]
    assert [i.part for i in Fig3Parameters(parts="").select(bed)] == ["known", "okvqa"]
    assert [i.id for i in Fig3Parameters(items=f"{ids[2]}, {ids[0]}").select(bed)] == [ids[2], ids[0]]
    assert len(Fig3Parameters(parts="known", constraints="multi").select(bed)) == 1


def test_results_go_to_a_documented_place(tmp_path):
    assert str(Fig3Parameters().results) == "results"
    assert Fig3Parameters(results_dir=str(tmp_path)).results == tmp_path
