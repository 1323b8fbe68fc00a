"""Figures 1, 4 and 7 run through papermill, on a tiny saved model, a text-only one and a test bed."""

import papermill
import pytest
from notebook_runs import check, execute, outputs, parameters, shown

from interventions.errors import ParameterError
from interventions.reports.record import read_record
from interventions.tracing.parameters import Fig3Parameters


def windows_and_series(record: dict) -> set[tuple]:
    assert max(abs(row["effect"]) for row in record["table"]) > 0.05
    return {(row["series"], row["window"]) for row in record["table"]}


def test_fig1_compares_two_models_on_the_same_questions(saved_models, tmp_path):
    given = parameters(saved_models, tmp_path / "results", text_model=str(saved_models / "text"), windows="1,2,4",
                       shown="1,4", noise_samples=2, min_p_clean=0.0, limit=0)
    path = execute("fig1_windows", tmp_path, given)
    record = check(path, tmp_path / "results", "fig1", {"layers", "peaks", "windows", "transplant"}, tables=4)
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
        "transplant: MLP, multimodal",
        "transplant: MLP, text only",
    ]
    assert "(window 4 of 5" in record["claims"][2]["here"]
    assert record["parameters"]["windows_layers"] == [1, 2, 4]
    assert "wide for the depth: it restores 4 of 5 layers" in shown(path, "text/markdown")[-1]
    assert record["parameters"]["text_model_revision"] != record["environment"]["revision"]
    probabilities = [record["numbers"][f"known/{name}/p_corrupted"]["value"] for name in series]
    assert len(set(probabilities)) == 3  # three corrupted runs, not one three times


def test_fig4_traces_at_both_constraints(saved_models, tmp_path):
    given = parameters(saved_models, tmp_path / "results", window=3, windows="1", min_p_clean=0.0)
    path = execute("fig4_constraints", tmp_path, given)
    record = check(path, tmp_path / "results", "fig4", {"layers", "windows", "transplant"}, tables=3)
    assert windows_and_series(record) == {
        (f"{name} constraint", window) for name in ("text", "visual") for window in (1, 3)
    }
    effects = {
        name: [row["effect"] for row in record["table"] if row["series"] == f"{name} constraint"]
        for name in ("text", "visual")
    }
    assert effects["text"] != effects["visual"]
    assert len(record["claims"]) == 3 * 4
    told, transplant, closing = shown(path, "text/markdown")
    assert told == "Window: 3 of 5 layers. Windows: 1 of 5 layers."
    assert transplant == "These questions give no row for this table."  # all have an answer in common
    assert "wide for the depth: it restores 3 of 5 layers" in closing


def test_fig7_compares_standard_tracing_with_figure_3(saved_models, tmp_path):
    results = tmp_path / "results"
    path = execute("fig7_standard", tmp_path, parameters(saved_models, results, noise_samples=2, parts="known"))
    record = check(path, tmp_path / "results", "fig7", {"layers", "roles"}, tables=2)
    assert windows_and_series(record) == {("standard tracing", 2), ("as in Figure 3", 3)}
    assert record["parameters"]["window"] == "10/32"  # two of five layers, and no more
    assert [record["parameters"][f"{name}_layers"] for name in ("window", "compared_window")] == [2, 3]
    assert "10/32 of the depth, 2 of 5 layers" in shown(path, "text/markdown")[0]
    assert all("at the visual constraint" in claim["claim"] for claim in record["claims"][::2])
    assert len(record["claims"]) == 4
    assert record["numbers"]["known/mlp/difference"]["low"] is not None
    # The cells compared are Figure 3's own.
    given = parameters(saved_models, results, parts="known", controls=0, transplant=0)
    fig3 = read_record(execute("fig3_trace", tmp_path, given))
    assert len(fig3["claims"]) == 2  # no controls and no transplant, no claims about them
    cells = [{(row["kind"], row["layer"]): row["effect"] for row in rows} for rows in (
        [row for row in record["table"] if row["series"] == "as in Figure 3"],
        [row for row in fig3["table"] if row["role"] == "constraint_last"],
    )]
    assert cells[0] == pytest.approx(cells[1], abs=1e-6)


def test_a_multimodal_text_model_is_one_sentence(saved_models, tmp_path):
    also = {"text_model": str(saved_models / "model"), "windows": "1", "shown": "1"}
    given = parameters(saved_models, tmp_path / "results", **also)
    with pytest.raises(papermill.PapermillExecutionError):
        execute("fig1_windows", tmp_path, given)
    [error] = [output for output in outputs(tmp_path / "fig1_windows.ipynb") if output.output_type == "error"]
    [sentence] = error.traceback
    assert sentence.startswith("Parameter 'text_model': ") and "sees images" in sentence


def test_a_window_that_the_control_model_is_too_small_for(saved_models):
    with pytest.raises(ParameterError, match="'window' is 6"):
        Fig3Parameters(control_model=str(saved_models / "text"), window=6).load_control_model()
