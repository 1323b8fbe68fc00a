"""The parameters that every notebook has: types, refusals in one sentence, and what only shows after loading."""

import errno
import types
from dataclasses import replace

import pandas as pd
import pytest
import tiny
from answering import questions, speaking

import interventions.files as files
from interventions.attention.parameters import Fig5Parameters
from interventions.errors import ParameterError
from interventions.models.checkpoints import CHECKPOINTS
from interventions.progress import TRAFFIC, Traffic
from interventions.studies.results import ResultStore, computed_by
from interventions.testbed import load_testbed, save_testbed
from interventions.tracing.parameters import Fig3Parameters


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


CELL = 'window: int = 3  # layers\nlimit: int = 40\n'
VALIDATE = "parameters = Fig3Parameters.from_notebook(globals())"


@pytest.mark.parametrize(("cells", "left", "found"), [
    ([CELL, VALIDATE], {"window": 1}, {"window": 1}),
    # Run again from the top, with what the first run left.
    ([CELL, VALIDATE, "layer = 3; options = dict(kinds='mlp')", CELL, VALIDATE],
     {"layer": 3, "options": {"kinds": "mlp"}}, {}),
    # One value changed in a cell of its own, or in papermill's, and only the second cell run again.
    ([CELL, VALIDATE, "layer = peak(first)", "limit = 5", VALIDATE], {"layer": 3, "limit": 5}, {"limit": 5}),
    ([CELL, "# Parameters\nlimit = 5\nmin_p_clean = float('inf')\n", VALIDATE], {"limit": 5}, {"limit": 5}),
    ([CELL, VALIDATE, "%matplotlib inline", VALIDATE], {"layer": 3}, {}),
    ([CELL, VALIDATE, "wndow = 5", "record('fig3')", VALIDATE], {"wndow": 5}, {}),  # not right before
])
def test_what_an_earlier_run_left_in_the_kernel_is_no_parameter(cells, left, found):
    parameters = Fig3Parameters.from_notebook({"In": ["", *cells], "Out": {}, **left})
    assert parameters == Fig3Parameters(**found)


@pytest.mark.parametrize("cells", [
    [CELL, "# Parameters\nwndow = 5\n", VALIDATE],
    [CELL, VALIDATE, "layer = 3; peak()", CELL + "wndow: int = 5", VALIDATE],
    [CELL, "wndow = 5", "'a text'", "", VALIDATE],
])
def test_an_unknown_parameter_is_refused_in_every_run(cells):
    text = sentence({"In": ["", *cells], "window": 3, "layer": 3, "wndow": 5})
    assert text == "Unknown parameter 'wndow': did you mean 'window'?"


def test_a_parameter_that_the_notebook_has_put_something_else_into_is_not_taken_for_its_default():
    text = sentence({"In": ["", VALIDATE], "window": Fig3Parameters()})
    assert text == "Parameter 'window' is no plain value but a Fig3Parameters: run the cell of parameters again."


@pytest.mark.parametrize(("name", "value", "told"), [
    ("results_dir", "{here}/file", "Parameter 'results_dir': '{here}/file' is no folder: name a folder that can be "
     "written."),
    ("results_dir", "{here}/file/deeper", "Parameter 'results_dir': '{here}/file' is no folder: name a folder that can "
     "be written."),
    ("results_dir", "{here}/full", "Parameter 'results_dir': '{here}/full/questions' is no folder: name a folder that "
     "can be written."),
    ("results_dir", "/proc/1/results", "Parameter 'results_dir': '/proc/1/results/questions' cannot be written ("),
    ("record_path", "{here}", "Parameter 'record_path': '{here}' is a folder: name a file, such as "
     "{here}/fig3_trace.record.json."),
    ("record_path", "{here}/file/fig3.json", "Parameter 'record_path': '{here}/file' is no folder: name a folder that "
     "can be written."),
    ("record_path", "/proc/1/fig3.json", "Parameter 'record_path': '/proc/1' cannot be written ("),
])
def test_what_cannot_be_written_is_told_before_anything_is_loaded(tmp_path, name, value, told):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "questions").touch()
    here = {"results_dir": str(tmp_path / "results")} | {name: value.format(here=tmp_path)}
    assert sentence(here).startswith(told.format(here=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]  # nothing was made


@pytest.mark.parametrize("kind", [Fig3Parameters, Fig5Parameters])
@pytest.mark.parametrize(("model", "control_model"), [
    ("mini-free", "mini-free"), ("mini-free", str(CHECKPOINTS / "mini-free")), ("{here}", "{here}/../here/"),
    ("a/b-7b-hf", "a/b-7b-hf"),
])
def test_the_control_model_is_another_one(tmp_path, kind, model, control_model):
    (tmp_path / "here").mkdir()
    model, control_model = (name.format(here=tmp_path / "here") for name in (model, control_model))
    given = {"results_dir": str(tmp_path), "model": model}
    with pytest.raises(ParameterError) as error:
        kind.from_notebook(given | {"control_model": control_model})
    assert str(error.value) == f"Parameter 'control_model' is {control_model!r}, the model itself: name another one."
    assert kind.from_notebook(given | {"control_model": "mini"}).control_model == "mini"
    assert kind.from_notebook(given).control_model == ""


def test_a_disk_that_is_read_only_is_told(tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    assert sentence({"results_dir": str(tmp_path)}).endswith("cannot be written (Read-only file system): name a folder "
                                                             "that can be written.")


def test_a_run_that_begins_counts_anew(tmp_path):
    ResultStore(tmp_path).get_or_compute({"table": "edit", "version": 2}, lambda: pd.DataFrame({"p": [0.5]}))
    TRAFFIC.requests += 3
    assert computed_by()
    Fig3Parameters.from_notebook({})
    assert computed_by() == [] and Traffic() == TRAFFIC


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("limit", "3", "-p limit 40"),
        ("limit", 3.0, "whole number"),
        ("limit", True, "whole number"),
        ("limit", None, "whole number"),
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
