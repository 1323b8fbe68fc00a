"""Figures 1, 4 and 7 run through papermill, on a tiny saved model, a text-only one and a test bed."""

import json
from dataclasses import replace

import papermill
import pytest
from notebook_runs import execute, findable, noise_on_stderr, outputs, parameters, save_models, shown

from interventions.figure_parameters import Fig1Parameters, Fig3Parameters, Fig4Parameters
from interventions.parameters import ParameterError
from interventions.record import read_record
from interventions.testbed import load_testbed

environment = pytest.fixture(scope="module", autouse=True)(findable)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("saved"))


def check(path, figure: str, pictures: set[str], tables: int) -> dict:
    """What every figure's notebook must do; returns its record."""
    record, folder = read_record(path), path.parent
    [written] = folder.rglob(f"{path.stem}.record.json")
    assert record == json.loads(written.read_text())
    assert record["figure"] == figure
    assert max(abs(row["effect"]) for row in record["table"]) > 0.05
    assert {entry.name for entry in written.parent.glob(f"{path.stem}_*")} == {
        f"{path.stem}_{name}.{end}" for name in pictures for end in ("png", "pdf")
    }
    assert len(shown(path, "image/png")) == len(pictures)
    assert len(shown(path, "text/html")) == tables
    assert "The paper's finding shows here in" in "".join(shown(path, "text/markdown"))
    assert noise_on_stderr(path) == []
    return record


def windows_and_series(record: dict) -> set[tuple]:
    return {(row["series"], row["window"]) for row in record["table"]}


def test_fig1_compares_two_models_on_the_same_questions(saved, tmp_path):
    given = parameters(saved, tmp_path / "results", text_model=str(saved / "text"), windows="1,2,4", shown="1,4",
                       noise_samples=2, min_p_clean=0.0, limit=0)
    path = execute("fig1_windows", tmp_path, given)
    record = check(path, "fig1", {"layers", "peaks", "windows"}, tables=3)
    series = ("multimodal", "text only", "text only, noise")
    assert windows_and_series(record) == {(name, window) for name in series for window in (1, 2, 4)}
    assert {row["kind"] for row in record["table"]} == {"mlp"}
    assert len({row["n"] for row in record["table"]}) == 1
    assert [claim["claim"] for claim in record["claims"]] == [
        "known: multimodal, MLP effects peak in early layers",
        "known: multimodal, one layer is enough",
        "known: text only, MLP effects peak later",
        "known: text only, a larger window is needed",
        "known: text only, noise, MLP effects peak later",
        "known: text only, noise, a larger window is needed",
    ]
    assert "(window 4" in record["claims"][2]["here"]
    assert record["parameters"]["text_model_revision"] != record["environment"]["revision"]
    probabilities = [record["numbers"][f"known/{name}/p_corrupted"]["value"] for name in series]
    assert len(set(probabilities)) == 3  # three corrupted runs, not one three times


def test_fig4_traces_at_both_constraints(saved, tmp_path):
    given = parameters(saved, tmp_path / "results", window=3, windows="1", min_p_clean=0.0)
    path = execute("fig4_constraints", tmp_path, given)
    record = check(path, "fig4", {"layers", "windows"}, tables=3)
    assert windows_and_series(record) == {
        (f"{name} constraint", window) for name in ("text", "visual") for window in (1, 3)
    }
    effects = {
        name: [row["effect"] for row in record["table"] if row["series"] == f"{name} constraint"]
        for name in ("text", "visual")
    }
    assert effects["text"] != effects["visual"]
    assert len(record["claims"]) == 3 * 4
    assert "60%" in shown(path, "text/markdown")[0]  # the window covers three of five layers


def test_fig7_compares_standard_tracing_with_figure_3(saved, tmp_path):
    results = tmp_path / "results"
    path = execute("fig7_standard", tmp_path, parameters(saved, results, noise_samples=2, parts="known"))
    record = check(path, "fig7", {"layers", "roles"}, tables=2)
    assert windows_and_series(record) == {("standard tracing", 5), ("as in Figure 3", 3)}
    assert record["parameters"]["window"] == 10 and record["parameters"]["window_used"] == 5
    assert len(record["claims"]) == 4
    assert record["numbers"]["known/mlp/difference"]["low"] is not None
    # The cells compared are Figure 3's own.
    fig3 = read_record(execute("fig3_trace", tmp_path, parameters(saved, results, parts="known", controls=0)))
    assert len(fig3["claims"]) == 2  # no controls, no claims about them
    cells = [{(row["kind"], row["layer"]): row["effect"] for row in rows} for rows in (
        [row for row in record["table"] if row["series"] == "as in Figure 3"],
        [row for row in fig3["table"] if row["role"] == "constraint_last"],
    )]
    assert cells[0] == pytest.approx(cells[1], abs=1e-6)


def test_a_multimodal_text_model_is_one_sentence(saved, tmp_path):
    given = parameters(saved, tmp_path / "results", text_model=str(saved / "model"), windows="1", shown="1")
    with pytest.raises(papermill.PapermillExecutionError):
        execute("fig1_windows", tmp_path, given)
    [error] = [output for output in outputs(tmp_path / "fig1_windows.ipynb") if output.output_type == "error"]
    [sentence] = error.traceback
    assert sentence.startswith("Parameter 'text_model': ") and "sees images" in sentence


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        (Fig1Parameters, {"shown": "1,7"}, "'shown' names window 7"),
        (Fig1Parameters, {"windows": "1,two"}, "'windows' must be whole numbers"),
        (Fig4Parameters, {"constraints": "single"}, "'constraints' must be 'multi'"),
        (Fig4Parameters, {"corrupted": "visual"}, "'corrupted' cannot be 'visual' here"),
        (Fig3Parameters, {"controls": -1}, "'controls' must be at least 0"),
    ],
)
def test_wrong_parameters_are_one_sentence(kind, given, sentence):
    with pytest.raises(ParameterError, match=sentence):
        kind.from_notebook(given)


def test_fig4_refuses_questions_with_one_constraint(saved):
    bed = load_testbed(saved / "bed")
    [single, *_] = [item.id for item in bed if item.constraints == "single"]
    multi = [item.id for item in bed if item.constraints == "multi"]
    assert [item.id for item in Fig4Parameters(items=",".join(multi)).select(bed)] == multi
    with pytest.raises(ParameterError, match=f"'items': question '{single}' has no text constraint"):
        Fig4Parameters(items=f"{multi[0]},{single}").select(bed)


def test_windows_larger_than_a_model_are_refused(saved):
    parameters = Fig1Parameters(text_model=str(saved / "text"), windows="1,6", shown="1")
    with pytest.raises(ParameterError, match=r"'windows' is 6, but .* has 5 layers"):
        parameters.load_text_model()


def test_only_mini_has_a_twin_by_default(saved):
    assert Fig3Parameters(model=str(saved / "model")).load_control_model() is None
    assert Fig3Parameters(controls=0).load_control_model() is None
    assert Fig3Parameters().load_control_model().name == "mini-free"
    named = Fig3Parameters(model=str(saved / "model"), control_model=str(saved / "text"))
    assert not named.load_control_model().is_multimodal
    with pytest.raises(ParameterError, match="'window' is 6"):
        replace(named, window=6).load_control_model()


def test_sweeps_are_in_order_and_hold_the_figures_own_window():
    assert Fig1Parameters(windows="5,1,3", shown="5,1").swept == [1, 3, 5]
    assert Fig1Parameters(windows="5,1,3", shown="5,1").shown_windows == [1, 5]
    assert Fig4Parameters(window=4, windows="6,1").swept == [1, 4, 6]
