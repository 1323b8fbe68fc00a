"""Settings by search: the best of a grid by efficacy, generalisation and specificity alike, as the study measures."""

from dataclasses import replace

import pandas as pd
import pytest
import tiny
from answering import questions, renamed, speaking

import benchmarks.edit_search as module
from benchmarks.edit_search import GRIDS, search
from interventions.editing.closed_form import LAMBDA
from interventions.editing.evaluation import reference
from interventions.editing.fine_tuning import CONSTRAINED_DEFAULT, FineTuning
from interventions.editing.items import wrong_items
from interventions.editing.optimized_value import Optimizer
from interventions.editing.study import EDIT_METHODS, EditSettings, EditStudy, edit_study
from interventions.errors import EditError
from interventions.studies.loop import RunOptions


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Model, what is edited, test bed and unrelated questions."""
    model = renamed(speaking(tiny.build()), revision="r1")
    items = questions(model, tmp_path_factory.mktemp("bed"), n=6, parts=("known",))
    bed = [replace(item, entity=f"e{n}", answers=items[(n + 3) % 6].answers if n < 2 else item.answers)
           for n, item in enumerate(items)]
    chosen = {"correct": wrong_items(model, bed, "correct", 0, results_dir=tmp_path_factory.mktemp("answers"))}
    return model, chosen, bed, [reference(model, item) for item in bed]


def test_lambda_is_searched_with_the_study_itself(given, tmp_path):
    base = EditSettings(layers=(1,), optimizer=Optimizer(steps=30), n_unrelated=3)
    best, table = search(*given, "MultEdit", base, [{"lam": 1e6}, {"lam": 0.01}], run=RunOptions(tmp_path))
    assert best == replace(base, lam=0.01)  # old weights that count for a million times the fact's let nothing in
    assert table["lam"].tolist() == [0.01, 1e6] and (table["n"] == 2).all() and (table["seconds"] > 0).all()
    for lam, (_, row) in zip((0.01, 1e6), table.iterrows(), strict=True):
        results = edit_study(*given, replace(base, lam=lam), methods=["MultEdit"],
            run=RunOptions(tmp_path)).results
        assert row["efficacy"] == results["p_target"].mean()
        assert row["generalisation"] == results["p_paraphrase"].mean()
    assert table["efficacy"][0] > table["efficacy"][1] + 0.1


@pytest.mark.parametrize(("method", "rates"), [
    ("fine-tuning", (1e-8, 1e-2, 1e30)), ("constrained fine-tuning", (1e-8, 1e-2)),
])
def test_baselines_are_searched_and_what_diverges_changes_nothing(given, tmp_path, method, rates):
    field = "constrained" if method.startswith("constrained") else "fine_tuning"
    epsilon = 1e-2 if field == "constrained" else 0.0
    grid = [{field: FineTuning(rate, steps=8, epsilon=epsilon)} for rate in rates]
    best, table = search(*given, method, EditSettings(n_unrelated=3), grid, run=RunOptions(tmp_path))
    assert best == EditSettings(**grid[1], n_unrelated=3)
    assert table["learning_rate"][0] == 1e-2 and set(table["epsilon"]) == {epsilon} and set(table["steps"]) == {8}
    assert (table["specificity"][table["learning_rate"] != 1e-2] == 1).all()


def test_the_three_metrics_weigh_alike(monkeypatch):
    columns = {0.1: (0.9, 0.9, 0.0), 0.2: (0.7, 0.5, 0.8), 0.3: (0.1, 0.9, 0.9)}  # accuracy: of 0.5 before

    def study(model, chosen, testbed, pool, settings, *, methods, **options):
        p, paraphrase, kept = columns[settings.lam]
        row = {"p_target": p, "p_paraphrase": paraphrase, "accuracy_before": 0.5, "accuracy_after": kept / 2,
               "seconds": 1.0}
        return EditStudy(pd.DataFrame([row]), pd.DataFrame(), 8)

    monkeypatch.setattr(module, "edit_study", study)
    best, table = search(None, {}, [], [], "MultEdit", grid=[{"lam": lam} for lam in columns])
    assert best.lam == 0.2
    assert table["score"].tolist() == pytest.approx([2 / 3, 1.9 / 3, 0.6])
    assert table["specificity"].tolist() == pytest.approx([0.8, 0.9, 0.0])


def test_a_method_without_settings_is_one_sentence(given):
    with pytest.raises(EditError, match=r"method must be one that has settings .'MultEdit', .* not 'no edit'"):
        search(*given, "no edit")


def test_the_defaults_are_of_the_grids():
    assert set(GRIDS) == set(EDIT_METHODS) - {"no edit", "random layer"}
    assert {"lam": LAMBDA} in GRIDS["MultEdit"]
    assert {"fine_tuning": FineTuning()} in GRIDS["fine-tuning"]
    assert {"constrained": CONSTRAINED_DEFAULT} in GRIDS["constrained fine-tuning"]
    assert all(change["fine_tuning"].epsilon == 0 for change in GRIDS["fine-tuning"])
    assert all(change["constrained"].epsilon > 0 for change in GRIDS["constrained fine-tuning"])
