"""Figures 6, 14 and 18 run through papermill, on tiny saved models and a test bed."""

import shutil
from dataclasses import replace

import papermill
import pytest
from notebook_runs import check, execute, parameters, shown

from interventions.editing.fine_tuning import FineTuning
from interventions.editing.parameters import Fig6Parameters, Fig14Parameters, Fig18Parameters
from interventions.editing.study import EDIT_METHODS, KNOWN_ANSWER, EditSettings
from interventions.errors import ParameterError
from interventions.models.loading import load_model
from interventions.testbed import load_testbed, save_testbed

LAYERS = range(5)


@pytest.fixture(scope="module")
def saved(saved_models, tmp_path_factory):
    """The models, and a test bed with two questions of each task that are answered wrongly."""
    root = shutil.copytree(saved_models, tmp_path_factory.mktemp("saved"), dirs_exist_ok=True)
    items = list(load_testbed(root / "bed"))
    single = [n for n, item in enumerate(items) if item.constraints == "single"]
    tasks = dict(zip(single, ("trained", "never") * 2, strict=False))
    save_testbed([
        replace(item, entity=f"e{n}", split=tasks.get(n, "trained"),
                answers=items[(n + 4) % len(items)].answers[:1] if n in tasks else item.answers)
        for n, item in enumerate(items)
    ], root / "bed")
    return root


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Shared, as by `make reports`: Figures 14 and 18 find what Figure 6 has stored."""
    return tmp_path_factory.mktemp("results")


def test_fig6_edits_by_every_method_and_keeps_edits(saved, results, tmp_path):
    path = execute("fig6_editing", tmp_path, parameters(saved, results, limit=2, unrelated=3, kept="1,2"))
    record = check(path, results, "fig6", {"methods", "further", "kept"}, tables=3)
    rows = record["table"]
    assert {row["task"] for row in rows} == {"correct", "insert", KNOWN_ANSWER}
    assert {row["method"] for row in rows} == set(EDIT_METHODS)
    efficacy = {(row["task"], row["method"]): row["value"] for row in rows if row["metric"] == "efficacy"}
    for task in ("correct", "insert"):
        assert efficacy[task, "MultEdit"] > efficacy[task, "no edit"] + 0.1
    assert record["numbers"]["correct/MultEdit/efficacy"]["n"] == 2
    assert len(record["claims"]) > 10
    summary, kept, _ = shown(path, "text/html")
    assert "random layer" in summary and "none" in summary
    assert "accuracy_before" in kept


def test_fig14_edits_every_layer(saved, results, tmp_path):
    path = execute("fig14_layers", tmp_path, parameters(saved, results, limit=2, unrelated=3))
    record = check(path, results, "fig14", {"layers"}, tables=2)
    early = [claim for claim in record["claims"] if "the best layer to edit is an early one" in claim["claim"]]
    assert [claim["paper"] for claim in early] == ["early is best, here 0 of 5"] * 2
    gains = {(row["task"], row["layer"]): row["value"] for row in record["table"] if row["metric"] == "gain"}
    assert set(gains) == {(task, layer) for task in ("correct", "insert") for layer in LAYERS}
    assert all(abs(gains[task, 4]) < 1e-6 for task in ("correct", "insert"))  # nothing reads the last layer's output
    assert max(gains.values()) > 0.1
    assert record["numbers"]["insert/best_layer/efficacy"]["value"] in LAYERS


@pytest.mark.parametrize("task", ["insert", "correct"])
def test_fig18_shows_facts_before_and_after(saved, results, tmp_path, task):
    path = execute("fig18_inserted", tmp_path, parameters(saved, results, limit=0, unrelated=3, tasks=task))
    record = check(path, results, "fig18", {"examples"}, tables=1, says="further checks, which the paper does not make")
    assert len(record["table"]) == 2
    for row in record["table"]:
        assert row["task"] == task and row["before"] != row["target"]
        assert row["exact"] == (row["after"] == row["target"])


@pytest.mark.parametrize(("given", "words"), [
    ({"tasks": "forget"}, "'tasks'"),
    ({"layer": -1}, "'layer'"),
    ({"lam": 0}, "'lam' must be above 0"),
    ({"unrelated": 0}, "'unrelated'"),
    ({"learning_rate": 0.0}, "'learning_rate' must be above 0"),
    ({"epsilon": -1.0}, "'epsilon' must be above 0"),
    ({"kept": "1,ten"}, "'kept' must be numbers of edits"),
])
def test_wrong_parameters_are_one_sentence(given, words):
    with pytest.raises(ParameterError, match=words):
        Fig6Parameters.from_notebook(given)


def test_the_settings_of_fine_tuning_are_parameters():
    settings = Fig6Parameters(learning_rate=1e-5, epsilon=1e-3).settings
    assert settings.fine_tuning == FineTuning(1e-5) and settings.constrained == FineTuning(1e-5, epsilon=1e-3)
    assert Fig6Parameters().settings == EditSettings()
    with pytest.raises(ParameterError, match="'tasks' must be one of correct, insert here"):
        Fig18Parameters.from_notebook({"tasks": "correct,insert"})


def test_a_layer_that_the_model_lacks_ends_the_notebook(saved, tmp_path):
    with pytest.raises(ParameterError, match=r"'layer' is 4, but model .* has 5 layers, .*: choose 0 to 3"):
        Fig14Parameters(layer=4).check_model(load_model(str(saved / "model")))
    with pytest.raises(papermill.PapermillExecutionError, match="'layer' is 9"):
        execute("fig14_layers", tmp_path, parameters(saved, tmp_path / "results", layer=9))


def test_edited_questions_are_mixed_over_parts_and_do_not_depend_on_the_limit(saved):
    def order(**given) -> list:
        bed = load_testbed(saved / "bed")
        return [item.id for item in Fig6Parameters(parts="", **given).select(bed)]

    assert order(limit=1) == order(limit=0) != order(seed=1)
    assert sorted(order(seed=0)) == sorted(order(seed=1))
    parts = [name.split("-")[0] for name in order()]
    assert parts != sorted(parts, key=parts.index)
