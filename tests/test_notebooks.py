"""The notebooks run through papermill as a user runs them, on a tiny saved model and test bed."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill
import pytest
import tiny
import yaml
from answering import questions, speaking

from interventions.figure_parameters import Fig3Parameters
from interventions.record import read_record
from interventions.testbed import load_testbed, save_testbed

ROOT = Path(__file__).parent.parent
FIG3 = ROOT / "notebooks" / "fig3_trace.ipynb"


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Kernels find the package, and the kernel of this interpreter, wherever the tests are started."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    patch.delenv("MPLBACKEND", raising=False)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    model = speaking(tiny.build())
    model.module.save_pretrained(root / "model")
    model.processor.save_pretrained(root / "model")
    items = questions(model, root / "bed", n=9, parts=("known", "okvqa", "movies"))
    save_testbed(items, root / "bed")
    return root


def parameters(saved, out: Path, **changes) -> dict:
    paths = {"model": str(saved / "model"), "testbed": str(saved / "bed"), "results_dir": str(out)}
    return paths | {"limit": 3} | changes


def outputs(path: Path) -> list:
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def test_source_notebook_is_a_clean_report():
    notebook = nbformat.read(FIG3, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# Figure 3")
    assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == [code[0]]
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 19
        assert not any(line.startswith(("def ", "for ", "if ")) for line in cell.source.splitlines())


def test_parameters_cell_agrees_with_the_dataclass(caplog):
    found = papermill.inspect_notebook(str(FIG3))  # what --help-notebook shows
    assert "Unable to parse" not in caplog.text  # papermill's parser stumbles over an "=" in a comment
    types = {field.name: field.type for field in fields(Fig3Parameters)}
    assert {name: entry["inferred_type_name"] for name, entry in found.items()} == types
    assert all(entry["help"] for entry in found.values())
    defaults = {name: ast.literal_eval(entry["default"]) for name, entry in found.items()}
    assert Fig3Parameters(**defaults) == Fig3Parameters()


@pytest.mark.parametrize("path", sorted((ROOT / "params").rglob("*.yaml")), ids=lambda path: path.name)
def test_parameter_files_hold_parameters(path):
    Fig3Parameters.from_notebook(yaml.safe_load(path.read_text()))


@pytest.fixture(scope="module")
def executed(saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    given = parameters(saved, out / "results")
    papermill.execute_notebook(FIG3, out / "out.ipynb", given, progress_bar=False)
    return out


def test_fig3_records_what_it_shows(executed):
    record = read_record(executed / "out.ipynb")
    assert record == json.loads(next((executed / "results").rglob("fig3_trace.record.json")).read_text())
    assert record["figure"] == "fig3"
    assert record["parameters"]["window"] == 3
    assert record["environment"]["dtype"] == "float32"
    assert len(record["environment"]["revision"]) == 64
    assert {row["dataset"] for row in record["table"]} == {"known", "okvqa", "movies"}
    assert set(record["table"][0]) == {"dataset", "kind", "role", "layer", "effect", "low", "high", "n"}
    assert len(record["claims"]) == 6
    assert record["numbers"]["movies/accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert max(abs(row["effect"]) for row in record["table"]) > 0.05


def test_fig3_shows_pictures_tables_and_a_sentence_and_no_noise(executed):
    found = outputs(executed / "out.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == 3
    text = "".join(output.get("data", {}).get("text/markdown", "") for output in found)
    assert "The paper's finding shows here in" in text
    assert sum("text/html" in output.get("data", {}) for output in found) == 2
    assert [output.text for output in found if output.get("name") == "stderr"] == []
    pictures = {path.name for path in (executed / "results").rglob("fig3_trace_*")}
    assert pictures == {f"fig3_trace_{name}.{end}" for name in ("effects", "roles", "probabilities")
                        for end in ("png", "pdf")}


def test_a_mistyped_parameter_is_one_sentence_on_the_terminal(tmp_path):
    command = [sys.executable, "-m", "papermill", FIG3, tmp_path / "out.ipynb", "-p", "wndow", "3"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    sentence = "Unknown parameter 'wndow': did you mean 'window'?"
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1] == sentence
    errors = [output for output in outputs(tmp_path / "out.ipynb") if output.output_type == "error"]
    assert [error.traceback for error in errors] == [[sentence]]


def test_an_unreadable_image_is_one_sentence(saved, tmp_path):
    shutil.copytree(saved / "bed", tmp_path / "bed")
    item = load_testbed(tmp_path / "bed").items[0]
    item.image.write_bytes(b"no picture")
    given = parameters(saved, tmp_path / "results", testbed=str(tmp_path / "bed"), items=item.id)
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(FIG3, tmp_path / "out.ipynb", given, progress_bar=False)
    errors = [output for output in outputs(tmp_path / "out.ipynb") if output.output_type == "error"]
    [[sentence]] = [error.traceback for error in errors]
    assert sentence.startswith(f"Parameter 'items': question {item.id!r} cannot be traced, image unreadable")
    assert str(error.value).strip().splitlines()[-1] == sentence
