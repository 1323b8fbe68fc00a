"""The notebooks as sources and Figure 3's run through papermill, on a tiny saved model and test bed."""

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import typing

import nbformat
import papermill
import pytest
import yaml
from notebook_runs import (
    BY_HAND,
    NOTEBOOKS,
    ROOT,
    check,
    execute,
    outputs,
    parameters,
    shown,
)

import interventions
from interventions.notebook import NotebookParameters
from interventions.reports.record import read_record
from interventions.testbed import load_testbed

FIG3 = NOTEBOOKS / "fig3_trace.ipynb"
SOURCES = sorted(NOTEBOOKS.glob("*.ipynb"))
NO_FIGURES = {"precision_modes", *BY_HAND}  # notebooks that are no figure of the paper


def parameters_of(notebook: str) -> type[NotebookParameters]:
    """The class of a notebook's parameters: the one whose docstring begins with the notebook's name."""
    names = [module.name for module in pkgutil.walk_packages(interventions.__path__, "interventions.")]
    modules = [importlib.import_module(name) for name in names if name.rpartition(".")[2] == "parameters"]
    entries = {id(entry): entry for module in modules for entry in vars(module).values()}.values()
    [found] = [entry for entry in entries
               if isinstance(entry, type) and (entry.__doc__ or "").startswith(f"notebooks/{notebook}.ipynb")]
    return found


def type_names(field) -> str:
    """A field's type as papermill names it; its parser knows no "|", so a notebook writes "int or str"."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return " or ".join(dict.fromkeys((kind if isinstance(kind, type) else type(kind)).__name__ for kind in kinds))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_source_notebook_is_a_clean_report(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    number = re.match(r"(fig|table)(\d+)_", path.stem)
    title = {"fig": "Figure", "table": "Table"}[number[1]] + f"s? {number[2]}" if number else r"\w+"
    assert re.match(rf"# {title}\b", notebook.cells[0].source)
    assert number or path.stem in NO_FIGURES
    assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == [code[0]]
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 19 or cell is code[0]
        assert not any(line.startswith(("def ", "for ", "if ")) for line in cell.source.splitlines())
        last = ast.parse(cell.source).body[-1]
        if isinstance(last, ast.Expr) and ast.unparse(last).startswith("record("):
            assert cell.source.endswith(";")  # or all of the record would be shown as the cell's value
    for line in code[0].source.splitlines():  # blank, a comment, or one typed assignment
        assert [type(node) for node in ast.parse(line).body] in ([], [ast.AnnAssign])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_parameters_cell_agrees_with_the_dataclass(path, caplog):
    kind = parameters_of(path.stem)
    found = papermill.inspect_notebook(str(path))  # what --help-notebook shows
    assert "Unable to parse" not in caplog.text  # papermill's parser stumbles over an "=" in a comment
    types = {name: type_names(field) for name, field in kind.model_fields.items()}
    assert {name: entry["inferred_type_name"] for name, entry in found.items()} == types
    assert all(entry["help"] for entry in found.values())
    defaults = {name: ast.literal_eval(entry["default"]) for name, entry in found.items()}
    assert kind(**defaults) == kind()


@pytest.mark.parametrize("path", sorted((ROOT / "params" / "figures").glob("*.yaml")), ids=lambda path: path.stem)
def test_figure_files_set_parameters_of_the_notebook_they_name(path):
    text = path.read_text()
    named = set(re.findall(r"notebooks/(\w+)\.ipynb", text))
    assert len(named) == 1
    assert path.name in text.splitlines()[0]
    parameters_of(named.pop()).from_notebook(yaml.safe_load(text))


@pytest.mark.parametrize("path", sorted((ROOT / "params" / "models").glob("*.yaml")), ids=lambda path: path.stem)
def test_model_files_suit_every_notebook(path):
    for source in SOURCES:
        if source.stem in BY_HAND:
            continue
        parameters_of(source.stem).from_notebook(yaml.safe_load(path.read_text()))


@pytest.fixture(scope="module")
def fig3(saved_models, tmp_path_factory):
    """Figure 3 with controls: the executed notebook, and its record."""
    out = tmp_path_factory.mktemp("out")
    given = parameters(saved_models, out / "results", control_model=str(saved_models / "text"), controls=2)
    path = execute("fig3_trace", out, given)
    pictures = {"effects", "roles", "probabilities", "transplant", "controls"}
    return path, check(path, out / "results", "fig3", pictures, tables=4)


def test_fig3_records_what_it_shows(fig3):
    path, record = fig3
    assert (record["parameters"]["window"], record["parameters"]["window_layers"]) == (3, 3)
    assert record["environment"]["dtype"] == "float32"
    assert len(record["environment"]["revision"]) == 64
    assert {row["dataset"] for row in record["table"]} == {"known", "okvqa", "movies"}
    assert set(record["table"][0]) == {"dataset", "kind", "role", "layer", "effect", "low", "high", "n"}
    assert record["numbers"]["movies/accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert max(abs(row["effect"]) for row in record["table"]) > 0.05
    assert 0 < record["numbers"]["movies/mlp/peak_p_corrected"]["value"] <= 1
    assert "corrected for 5 layers" in shown(path, "text/html")[1]


def test_fig3_controls_are_in_the_record_but_not_in_the_papers_count(fig3):
    path, record = fig3
    titles = [claim["claim"] for claim in record["claims"]]
    assert sum("at the visual constraint" in title for title in titles) == 6
    assert sum(title.startswith("control: ") for title in titles) == 2
    assert sum(title.startswith("transplant: ") for title in titles) == 2
    assert record["numbers"]["known/mlp/transplant/visual constraint/effect"]["n"] == 2
    for control in ("other position", "other model"):
        assert record["numbers"][f"known/mlp/control/{control}"]["n"] == 2
    window, closing = shown(path, "text/markdown")
    assert window == "Window: 3 of 5 layers."
    finding, checks, wide = closing.split("\n\n")
    assert "control" not in finding and "9" not in finding
    failed = [claim["claim"] for claim in record["claims"] if claim["claim"].startswith("control") and
              claim["holds"] is False]
    assert ("Failed: " in checks) == bool(failed) and all(title in checks for title in failed)
    assert "3 of 5 layers" in wide


def test_fig3_reads_the_text_constraint_where_it_was_corrupted(saved_models, tmp_path):
    few = {"controls": 0, "transplant": 0}
    given = parameters(saved_models, tmp_path / "results", constraints="multi", window="10/32", **few)
    path = execute("fig3_trace", tmp_path, given)
    record = read_record(path)
    assert all("at the text constraint" in claim["claim"] for claim in record["claims"]) and len(record["claims"]) == 6
    assert record["parameters"]["window"] == "10/32" and record["parameters"]["window_layers"] == 2
    assert shown(path, "text/markdown")[0] == "Window: 10/32 of the depth, 2 of 5 layers."
    cells = {(row["dataset"], row["kind"], row["layer"], row["role"]): row["effect"] for row in record["table"]}
    largest = {}
    for (part, kind, _, role), effect in cells.items():
        if role == "text_constraint_last":
            largest[part, kind] = max(effect, largest.get((part, kind), -1))
        if role == "constraint_last":
            assert effect == 0  # before the first corrupted token
    for (part, kind), effect in largest.items():
        assert record["numbers"][f"{part}/{kind}/peak_effect"]["value"] == pytest.approx(effect, abs=1e-6)
    assert max(largest.values()) > 0.05


def test_a_mistyped_parameter_is_one_sentence_on_the_terminal(tmp_path):
    command = [sys.executable, "-m", "papermill", FIG3, tmp_path / "out.ipynb", "-p", "wndow", "3"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    sentence = "Unknown parameter 'wndow': did you mean 'window'?"
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1] == sentence
    errors = [output for output in outputs(tmp_path / "out.ipynb") if output.output_type == "error"]
    assert [error.traceback for error in errors] == [[sentence]]


def test_an_unreadable_image_is_one_sentence(saved_models, tmp_path):
    shutil.copytree(saved_models / "bed", tmp_path / "bed")
    item = load_testbed(tmp_path / "bed").items[0]
    item.image.write_bytes(b"no picture")
    given = parameters(saved_models, tmp_path / "results", testbed=str(tmp_path / "bed"), items=item.id)
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(FIG3, tmp_path / "out.ipynb", given, progress_bar=False)
    errors = [output for output in outputs(tmp_path / "out.ipynb") if output.output_type == "error"]
    [[sentence]] = [error.traceback for error in errors]
    assert sentence.startswith(f"Parameter 'items': question {item.id!r} cannot be traced, image unreadable")
    assert str(error.value).strip().splitlines()[-1] == sentence
