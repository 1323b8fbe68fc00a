"""Figures 5 and 15 to 17 run through papermill, on tiny saved models and a test bed."""

import shutil
from dataclasses import replace

import papermill
import pytest
import tiny
from notebook_runs import check, execute, outputs, parameters, shown

from interventions.attention.parameters import Fig5Parameters, Fig15Parameters, Fig17Parameters
from interventions.attention.study import SUBSETS, attention_study
from interventions.errors import AttentionError, ParameterError
from interventions.models.loading import load_model
from interventions.reports.record import read_record
from interventions.testbed import load_testbed, save_testbed


@pytest.fixture(scope="module")
def saved(saved_models, tmp_path_factory):
    """The models, `other` (the same as `model`), and a test bed in which `known` has right and wrong answers."""
    root = shutil.copytree(saved_models, tmp_path_factory.mktemp("saved"), dirs_exist_ok=True)
    shutil.copytree(root / "model", root / "other")
    items = list(load_testbed(root / "bed"))
    known = [item for item in items if item.part == "known" and item.constraints == "single"]
    more = [replace(item, id=f"{item.id}/{n}", answers=("Zanzibar",) if n % 2 else item.answers)
            for item in known for n in range(6)]
    save_testbed([*items, *more], root / "bed")
    return root


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Shared, as by `make reports`: Figures 16 and 17 find what Figure 15 has stored."""
    return tmp_path_factory.mktemp("results")


def test_fig5_shows_tokens_patches_flows_and_the_control_model(saved, results, tmp_path):
    given = parameters(saved, results, control_model=str(saved / "other"), window=2)
    path = execute("fig5_attention", tmp_path, given)
    record = check(path, results, "fig5", {"tokens", "patches", "images", "flows", "control_flows"}, tables=4)
    rows = record["table"]
    assert {row["quantity"] for row in rows} == {"norm", "share", "drop"}
    norms = [row for row in rows if row["quantity"] == "norm" and row["dataset"] == "known"]
    assert {(row["layer"], row["index"]) for row in norms} == {(layer, i) for layer in range(5) for i in range(9)}
    assert max(row["value"] for row in norms) > 0.1
    drops = [row for row in rows if row["quantity"] == "drop"]
    assert {row["window"] for row in drops} == {2, 5}
    assert max(abs(row["value"]) for row in drops) > 0.02
    assert {row["flow"] for row in drops} == {"visual -> constraint", "visual -> last", "constraint -> last", *SUBSETS}
    for name in ("accuracy", "overlap", "visual -> last/share", "constraint -> last/drop_all_layers"):
        assert record["numbers"][f"okvqa/{name}"]["n"] >= 1
    titles = [claim["claim"] for claim in record["claims"]]
    assert {"transplant: visual -> last", "transplant: constraint -> last"} <= {*titles}
    assert record["numbers"]["known/constraint -> last/transplant/drop"]["n"] >= 1
    assert sum("the control model" in title or "two models" in title for title in titles) >= 6
    assert not any("twin" in title for title in titles)
    assert sum("blocking the top 5% of the visual tokens alone" in title for title in titles) == 3
    assert "further checks, which the paper does not make" in "".join(shown(path, "text/markdown"))
    apart = [claim for claim in record["claims"] if "tell the two models apart" in claim["claim"]]
    assert apart and not any(claim["holds"] for claim in apart)  # the control model is the model itself


def test_fig15_shows_right_and_wrong_answers(saved, results, tmp_path):
    path = execute("fig15_examples", tmp_path, parameters(saved, results, limit=0, examples=2))
    record = check(path, results, "fig15", {"questions"}, tables=3, says="These questions cannot decide")
    assert [claim["holds"] for claim in record["claims"]] == [None]
    assert "cannot say" in shown(path, "text/html")[-1]
    assert {row["correct"] for row in record["table"]} == {True, False}
    assert len({row["id"] for row in record["table"]}) == 4
    assert {row["layer"] for row in record["table"]} == set(range(5))


def test_fig16_compares_right_with_wrong_answers(saved, results, tmp_path):
    path = execute("fig16_contributions", tmp_path, parameters(saved, results, limit=0))
    record = check(path, results, "fig16", {"outcomes"}, tables=3)
    assert {row["outcome"] for row in record["table"]} == {"right", "wrong"}
    assert {row["dataset"] for row in record["table"]} == {"known"}
    for name in ("p_corrected", "p_within"):
        assert 0 < record["numbers"][f"known/difference_{name}"]["value"] <= 1
    assert "p_within" in "".join(shown(path, "text/html"))


def test_fig17_has_intervals_counts_and_a_measured_lead(saved, results, tmp_path):
    path = execute("fig17_failure", tmp_path, parameters(saved, results, limit=0, timed=2, layers="1,2"))
    record = check(path, results, "fig17", {"roc"}, tables=4)
    assert {row["predictor"] for row in record["table"]} == {"contribution", "confidence", "linear", "kind"}
    for row in record["table"]:
        assert row["low"] <= row["auroc"] <= row["high"]
        assert row["n"] > row["wrong"] > 0
    numbers = record["numbers"]
    assert (numbers["layers_needed"]["value"], numbers["n_layers"]["value"], numbers["time_ratio"]["n"]) == (3, 5, 2)
    assert 0 < numbers["time_ratio"]["value"] < 2


def test_fig17_without_a_wrong_answer_says_so(saved, tmp_path):
    right = [item.id for item in load_testbed(saved / "bed") if "Zanzibar" not in item.answers][:3]
    path = execute("fig17_failure", tmp_path, parameters(saved, tmp_path / "results", items=",".join(right), timed=1))
    record = read_record(path)
    assert {row["auroc"] for row in record["table"]} == {None}
    assert [claim["holds"] for claim in record["claims"]] == [None, None]
    assert record["numbers"]["time_ratio"]["n"] == 0
    assert "No layers could be chosen" in "".join(shown(path, "text/markdown"))


def test_fig5_needs_an_image(saved, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError):
        execute("fig5_attention", tmp_path, parameters(saved, tmp_path / "results", model=str(saved / "text")))
    [error] = [output for output in outputs(tmp_path / "fig5_attention.ipynb") if output.output_type == "error"]
    [sentence] = error.traceback
    assert sentence.startswith("Parameter 'model': ") and "sees no image" in sentence


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        (Fig5Parameters, {"window": 0}, "'window' must be at least 1"),
        (Fig5Parameters, {"examples": 0}, "'examples' must be at least 1"),
        (Fig15Parameters, {"examples": 0}, "'examples' must be at least 1"),
        (Fig17Parameters, {"timed": 0}, "'timed' must be at least 1"),
        (Fig17Parameters, {"layers": "16"}, "'layers' must be the first and the last layer, not '16'"),
        (Fig17Parameters, {"layers": "a,b"}, "'layers' must be the first and the last layer"),
        (Fig17Parameters, {"shard": "3/2"}, "'shard' must be like '2/8'"),
    ],
)
def test_wrong_parameters_are_one_sentence(kind, given, sentence):
    with pytest.raises(ParameterError, match=sentence):
        kind.from_notebook(given)


def test_what_a_model_is_too_small_for_is_refused(saved):
    model = load_model(str(saved / "model"))
    with pytest.raises(ParameterError, match=r"'window' is 6, but the model has 5 layers: choose 1 to 5"):
        Fig5Parameters(window=6).check_model(model)
    with pytest.raises(ParameterError, match=r"'layers' is '4,5', .* layers: choose a first and a last .* 0 to 4"):
        Fig17Parameters(layers="4,5").check_model(model)
    for layers in ("3,2", "9,8"):
        with pytest.raises(ParameterError, match=f"^Parameter 'layers' is '{layers}': write the first layer first.$"):
            Fig17Parameters(layers=layers).check_model(model)
    assert Fig17Parameters(layers="3, 4").layers_for(model) == (3, 4)
    assert Fig17Parameters().layers_for(model) is None


def test_the_paper_names_layers_of_its_model_alone():
    class Llava:
        class family:
            name = "llava-llama"

        n_layers, hidden_size = 32, 4096

    assert Fig17Parameters().layers_for(Llava) == (16, 17)
    Llava.hidden_size = 5120
    assert Fig17Parameters().layers_for(Llava) is None


def test_only_mini_has_a_twin_by_default(saved):
    assert Fig5Parameters(model=str(saved / "model")).load_control_model() is None
    assert Fig5Parameters().load_control_model().name == "mini-free"


def test_a_control_model_that_cannot_be_one_is_named_so(saved):
    with pytest.raises(ParameterError, match=r"^Parameter 'control_model': .*text' sees no image"):
        Fig5Parameters(control_model=str(saved / "text")).load_control_model()
    with pytest.raises(ParameterError, match=r"^Parameter 'control_model'"):
        Fig5Parameters(control_model=str(saved / "nothing")).load_control_model()
    assert Fig5Parameters().control_studies(None, []) == []
    same = Fig5Parameters(model=str(saved / "model"), control_model=str(saved / "other"), window=2)
    [study] = same.control_studies(same.load_control_model(), list(load_testbed(saved / "bed"))[:1])
    assert study.model == str(saved / "other") and study.window == 2 and len(study.knockouts)


def test_models_whose_contributions_cannot_be_read_are_refused_before_the_first_question():
    tiled, quantized = tiny.build("llama", "tiles"), load_model("mini", dtype="nf4")
    with pytest.raises(ParameterError, match=r"Parameter 'model': .*as many visual tokens of an image as it is large"):
        Fig5Parameters().check_model(tiled)
    with pytest.raises(AttentionError, match="give image_side, such as 448"):
        attention_study(tiled, [])
    for kind in (Fig5Parameters, Fig15Parameters, Fig17Parameters):
        with pytest.raises(ParameterError, match=r"Parameter 'model': .* has nf4 weights"):
            kind().check_model(quantized)
    with pytest.raises(AttentionError, match="has nf4 weights"):
        attention_study(quantized, [])
