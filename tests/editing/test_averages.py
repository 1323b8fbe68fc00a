"""Averages of edits, on studies made by hand: the right rows, the right metric, paired where it must be."""

import numpy as np
import pandas as pd
import pytest
from edits import COLUMNS, edit_results, edits_by_layer

from interventions import load_testbed
from interventions.editing.averages import (
    PRODUCT,
    early_advantage,
    edit_examples,
    layer_means,
    method_differences,
    method_means,
)
from interventions.editing.study import EDIT_METHODS
from interventions.statistics import bootstrap_interval

METRICS = ["efficacy", "exact", "generalisation", "pictures", "following", PRODUCT, "specificity", "kl"]


def noisy(n=12, seed=0) -> pd.DataFrame:
    """Every quantity of every row is drawn on its own."""
    generator, results = np.random.default_rng(seed), edit_results(n)
    for column in ("p_target", "p_paraphrase", "p_pictures", "p_following", "accuracy_before", "accuracy_after", "kl"):
        results[column] = generator.random(len(results))
    results["exact"] = generator.random(len(results)) < 0.5
    return results


def cell(frame: pd.DataFrame, **where) -> pd.Series:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    [found] = frame.index
    return frame.loc[found]


def test_means_are_those_of_the_method_and_task():
    results = noisy()
    means = method_means(results.sample(frac=1, random_state=1))
    assert list(means.columns) == ["task", "method", "metric", "value", "low", "high", "n"]
    assert list(dict.fromkeys(zip(means["task"], means["method"], strict=True))) == [
        (task, method) for task in ("correct", "insert") for method in EDIT_METHODS]
    for task, method in (("correct", "MultEdit"), ("insert", "fine-tuning")):
        rows = results[(results["task"] == task) & (results["method"] == method)]
        expected = {
            "efficacy": rows["p_target"], "exact": rows["exact"].astype(float), "generalisation": rows["p_paraphrase"],
            "pictures": rows["p_pictures"], "following": rows["p_following"],
            PRODUCT: rows["p_target"] * rows["p_paraphrase"],
            "specificity": 100 * (rows["accuracy_after"] - rows["accuracy_before"]), "kl": rows["kl"],
        }
        assert list(expected) == METRICS
        for metric, values in expected.items():
            found = cell(means, task=task, method=method, metric=metric)
            assert (found["value"], found["n"]) == (pytest.approx(values.mean()), 12)
            assert found["low"] < found["value"] < found["high"]
            width = 2 * 1.96 * values.std() / 12**0.5
            assert found["high"] - found["low"] == pytest.approx(width, rel=0.2)


def test_a_row_without_the_metric_counts_for_the_others_alone():
    results = noisy()
    mine = (results["task"] == "correct") & (results["method"] == "MultEdit")
    chosen = results[mine].index[:5]
    results.loc[chosen, "p_paraphrase"] = np.nan
    results.loc[mine, "p_pictures"] = np.nan
    results = results.astype({"exact": object})
    results.loc[chosen[:2], "exact"] = None
    means = method_means(results)
    found = cell(means, task="correct", method="MultEdit", metric="generalisation")
    assert (found["value"], found["n"]) == (pytest.approx(results.loc[mine, "p_paraphrase"].dropna().mean()), 7)
    own = means[(means["task"] == "correct") & (means["method"] == "MultEdit")].set_index("metric")
    assert dict(own["n"]) == dict.fromkeys(METRICS, 12) | {"generalisation": 7, PRODUCT: 7, "pictures": 0, "exact": 10}
    assert own.loc["pictures", ["value", "low", "high"]].isna().all()
    assert set(means[means["method"] != "MultEdit"]["n"]) == {12}


def test_differences_are_taken_within_each_item():
    """Items differ by 0.5, methods by 0.1 with less than that as noise: only pairing can tell them apart."""
    results = edit_results(40, {"MultEdit": (0.5, 0.6, 1, 0.01), "fine-tuning": (0.4, 0.6, 3, 0.6)}, spread=0.25)
    generator = np.random.default_rng(0)
    results["p_target"] += generator.uniform(-0.05, 0.05, len(results))
    results = results.sample(frac=1, random_state=2)  # rows of a pair do not stand beside each other
    differences = method_differences(results)
    assert list(differences.columns) == ["task", "method", "metric", "difference", "low", "high", "n"]
    assert list(dict.fromkeys(differences["method"])) == [method for method in EDIT_METHODS if method != "MultEdit"]
    found = cell(differences, task="correct", method="fine-tuning", metric="efficacy")
    tables = [results[(results["task"] == "correct") & (results["method"] == method)].set_index("id")["p_target"]
              for method in ("fine-tuning", "MultEdit")]
    paired = (tables[0] - tables[1]).to_numpy()
    assert found["difference"] == pytest.approx(paired.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * paired.std() / 40**0.5, rel=0.2)
    assert -0.13 < found["low"] < found["high"] < -0.07
    means = method_means(results)
    whole = [cell(means, task="correct", method=method, metric="efficacy") for method in ("fine-tuning", "MultEdit")]
    assert whole[0]["high"] > whole[1]["low"] - 0.02  # unpaired, they could not be told apart
    specificity = cell(differences, task="correct", method="fine-tuning", metric="specificity")
    assert (specificity["difference"], specificity["n"]) == (pytest.approx(-2), 40)


def test_only_items_that_both_methods_have_are_compared():
    results = noisy()
    mine = (results["task"] == "insert") & (results["method"] == "MultEdit")
    results.loc[results[mine].index[:3], "p_paraphrase"] = np.nan
    others = (results["task"] == "insert") & (results["method"] == "fine-tuning")
    results = results.drop(results[others].index[-4:])
    differences = method_differences(results)
    of_insert = differences[(differences["task"] == "insert") & (differences["method"] == "fine-tuning")]
    assert dict(of_insert.set_index("metric")["n"]) == dict.fromkeys(METRICS, 8) | {"generalisation": 5, PRODUCT: 5}


def test_another_method_to_compare_with():
    results = edit_results(5)
    against = cell(method_differences(results, "fine-tuning"), task="correct", method="MultEdit", metric="efficacy")
    assert against["difference"] == pytest.approx(0.3)
    assert method_differences(results[results["method"] != "MultEdit"]).empty
    with pytest.raises(ValueError, match=r"than must be a method \('no edit', 'MultEdit'.*not 'multedit'"):
        method_differences(results, "multedit")


def test_layers_are_averaged_one_by_one():
    by_layer = edits_by_layer({"insert": [0.3, 0.9, 0.5], "correct": [0.2, 0.4, 0.06]}).sample(frac=1, random_state=0)
    by_layer.loc[by_layer["layer"].eq(2) & by_layer["id"].eq("insert-3"), "p_target"] = np.nan
    means = layer_means(pd.concat([by_layer, by_layer.assign(layer=-1, method="no edit")]))
    assert list(means.columns) == ["task", "layer", "metric", "value", "low", "high", "n"]
    assert list(dict.fromkeys(zip(means["task"], means["layer"], strict=True))) == [
        (task, layer) for task in ("correct", "insert") for layer in range(3)]
    found = cell(means, task="insert", layer=1, metric="efficacy")
    assert (found["value"], found["n"]) == (pytest.approx(0.9), 20)
    assert 0.87 < found["low"] < 0.9 < found["high"] < 0.93
    gain = cell(means, task="correct", layer=1, metric="gain")
    assert gain["value"] == pytest.approx(0.34)
    assert cell(means, task="correct", layer=1, metric="generalisation")["value"] == pytest.approx(0.3)
    assert cell(means, task="insert", layer=2, metric="efficacy")["n"] == 19
    assert cell(means, task="insert", layer=2, metric="generalisation")["n"] == 20


def test_early_layers_against_the_others():
    by_layer = edits_by_layer({"insert": [0.8, 0.6, 0.5, 0.5, 0.4, 0.3], "correct": [0.5] * 6}, spread=0.3)
    by_layer.loc[by_layer["layer"].eq(4) & by_layer["id"].eq("insert-3"), "p_target"] = np.nan
    advantage = early_advantage(by_layer, 6).set_index("task")
    assert list(advantage.index) == ["correct", "insert"]
    # Early is layer 0 of 6; the item that lacks a layer is left out, and items are paired.
    row = advantage.loc["insert"]
    offset = np.delete(np.linspace(-0.3, 0.3, 20), 3)
    assert (row["n"], row["early_layers"]) == (19, "0")
    assert row["early"] == pytest.approx(0.8 + offset.mean())
    assert row["others"] == pytest.approx(0.5 + offset.mean())
    assert [row[name] for name in ("difference", "low", "high")] == pytest.approx([0.3] * 3)
    assert [row[name] for name in ("gain", "gain_low", "gain_high")] == pytest.approx(
        bootstrap_interval(0.44 + offset), rel=0.05)
    assert advantage.loc["correct", "difference"] == pytest.approx(0)
    assert early_advantage(edits_by_layer({"insert": [0.8, 0.9]}), 2).empty  # all layers are early


def test_the_last_layer_which_nothing_reads_is_not_among_the_others():
    """Layers that are alike are no advantage of the early ones, although the last one cannot be edited."""
    flat = edits_by_layer({"insert": [0.7] * 7 + [0.06]}, spread=0.2)
    row = early_advantage(flat, 8).iloc[0]
    assert row["difference"] == pytest.approx(0) and row["others"] == pytest.approx(0.7)


def test_examples_are_drawn_and_have_their_constraint_marked():
    items = [item for item in load_testbed() if item.constraints == "single"][:8]
    results = edit_results(8)
    insert = results["task"].eq("insert")
    for method in EDIT_METHODS:
        rows = results.index[insert & results["method"].eq(method)]
        results.loc[rows, ["id", "question"]] = [(item.id, item.question) for item in items]
    examples = edit_examples(results, items, n=3)
    assert list(examples.columns) == ["id", "task", "question", "pieces", "target", "before", "after", "exact",
                                      "p_before", "p_target"]
    assert len(set(examples["id"])) == 3 and set(examples["task"]) == {"insert"}
    told = results[insert & results["method"].eq("MultEdit")].set_index("id")
    for row in examples.itertuples():
        [item] = [item for item in items if item.id == row.id]
        assert [text for text, role in row.pieces if role == "constraint"] == [item.visual_constraint]
        assert (row.p_target, row.target) == (told.loc[row.id, "p_target"], told.loc[row.id, "target"])
    shuffled = edit_examples(results.sample(frac=1, random_state=0), items, n=3)
    assert list(shuffled["id"]) == list(examples["id"])  # not the first rows
    assert any(set(edit_examples(results, items, n=3, seed=seed)["id"]) != set(examples["id"]) for seed in (1, 2, 3))
    [plain] = edit_examples(results, [], n=1)["pieces"]
    assert [role for _, role in plain] == [""]
    assert edit_examples(results[~insert], items).empty


@pytest.mark.parametrize("n", [1, 5])
def test_few_items_one_task_and_nothing_measured(n):
    results = edit_results(n, tasks=("insert",))
    for metric, column in (("generalisation", "p_paraphrase"), ("efficacy", "p_target"), ("kl", "kl")):
        empty = results.assign(**{column: np.nan})
        means, differences = method_means(empty), method_differences(empty)
        assert set(means[means["metric"] == metric]["n"]) == {0} == set(differences.query("metric == @metric")["n"])
        assert set(means[means["metric"] == "specificity"]["n"]) == {n}
        assert set(means["task"]) == {"insert"}
    assert method_means(results)["low"].isna().all() == (n == 1)
    by_layer = edits_by_layer({"insert": np.linspace(0.9, 0.3, 8)}, n)
    assert len(layer_means(by_layer.assign(p_target=np.nan))) == 8 * 9
    assert early_advantage(by_layer.assign(p_target=np.nan), 8).empty
    assert pd.isna(early_advantage(by_layer, 8)["low"].iloc[0]) == (n == 1)


def test_nothing_at_all():
    nothing = pd.DataFrame(columns=COLUMNS)
    for frame in (method_means(nothing), method_differences(nothing), layer_means(nothing),
                  early_advantage(nothing, 8), edit_examples(nothing)):
        assert frame.empty and len(frame.columns) > 5
