"""The editing experiment on a tiny model: every method on the same items, and the model as it was afterwards."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from answering import questions, renamed, speaking
from edits import weights_digest

import interventions.editing.study as module
from interventions.editing import items as edit_items
from interventions.editing.evaluation import reference, sample_unrelated
from interventions.editing.fine_tuning import FineTuning
from interventions.editing.items import references, wrong_items
from interventions.editing.multedit import edit_facts
from interventions.editing.optimized_value import Optimizer
from interventions.editing.study import (
    EDIT_METHODS,
    EditSettings,
    add_known_answers,
    edit_every_layer,
    edit_study,
    random_layer,
)
from interventions.errors import EditError, JobFailed, NoGradientError
from interventions.studies import answers
from interventions.studies.loop import RunOptions

QUICK = EditSettings(
    layers=(1,), optimizer=Optimizer(steps=40), fine_tuning=FineTuning(1e-2, steps=8),
    constrained=FineTuning(1e-2, steps=8, epsilon=5e-3), n_unrelated=3,
)


@pytest.fixture(scope="module")
def model():
    return renamed(speaking(tiny.build()), revision="r1")


@pytest.fixture(scope="module")
def bed(model, tmp_path_factory):
    """Eight questions; two that it should know and two that it never met have another right answer than it gives."""
    items = questions(model, tmp_path_factory.mktemp("bed"), n=8, parts=("known",))
    others = [items[(n + 3) % 8].answers for n in range(8)]
    changes = {1: "trained", 2: "", 4: "never", 5: "unknown"}
    return [
        replace(item, entity=f"e{n}", split=changes.get(n, "trained"),
                answers=("Zanzibar",) if n == 5 else others[n] if n in changes else item.answers)
        for n, item in enumerate(items)
    ]


@pytest.fixture(scope="module")
def chosen(model, bed, tmp_path_factory):
    out = tmp_path_factory.mktemp("answers")
    return {task: wrong_items(model, bed, task, 0, results_dir=out) for task in ("correct", "insert")}


@pytest.fixture(scope="module")
def pool(model, bed):
    return [reference(model, item) for item in bed]


@pytest.fixture(scope="module")
def study(model, chosen, bed, pool, tmp_path_factory):
    return edit_study(model, chosen, bed, pool, QUICK, run=RunOptions(results_dir=tmp_path_factory.mktemp("edits")))


def failing_for(item, error):
    """`edit_facts` that fails for one item."""
    def faulty(model, facts, **options):
        if facts[0][1] == item.answers[0]:
            raise error
        return edit_facts(model, facts, **options)

    return faulty


def test_errors_are_what_is_answered_wrongly_by_task(chosen, bed):
    wrong = {task: [item.id for item, _ in found] for task, found in chosen.items()}
    assert wrong == {"correct": [bed[1].id, bed[2].id], "insert": [bed[4].id, bed[5].id]}
    assert all(said and said not in item.answers for found in chosen.values() for item, said in found)


def test_the_search_for_errors_stops_when_there_are_enough_and_remembers_answers(model, bed, tmp_path, monkeypatch):
    asked, plain = [], answers.own_answer
    monkeypatch.setattr(answers, "own_answer", lambda *given, **options: asked.append(1) or plain(*given, **options))
    assert len(wrong_items(model, bed, "correct", 1, results_dir=tmp_path)) == 1
    assert len(asked) == 2  # the first is right
    assert len(wrong_items(model, bed, "correct", 0, results_dir=tmp_path)) == 2
    assert len(asked) == 6  # no question twice
    with pytest.raises(EditError, match=r"task 'correct' .*'tiny' answers none of 1 questions wrongly"):
        wrong_items(model, bed[:1], "correct", 0, results_dir=tmp_path)


@pytest.mark.parametrize(("task", "which", "words"), [
    ("insert", slice(4), "task 'insert' .*'never'.* task 'correct'"),
    ("correct", slice(4, 6), "task 'correct' .*'never'.* task 'insert'"),
])
def test_a_test_bed_without_questions_of_a_task_is_said_in_a_sentence(model, bed, tmp_path, task, which, words):
    with pytest.raises(EditError, match=words):
        wrong_items(model, bed[which], task, 0, results_dir=tmp_path)


def test_where_no_question_can_be_asked_the_reasons_are_told(model, bed, tmp_path):
    unmarked = [replace(item, visual_constraint="", visual_replacement="") for item in bed[:3]]
    with pytest.raises(EditError, match=r"'tiny' can be asked none of 3 questions \(3 constraint not marked"):
        wrong_items(model, unmarked, "correct", 0, results_dir=tmp_path)


def test_a_request_that_fails_costs_its_own_question(model, bed, tmp_path, monkeypatch, capsys):
    def failing(model, protocol, *given):
        if given[-1].id in (bed[0].id, bed[1].id):
            raise JobFailed("out of memory")
        return answers.answer_table(model, protocol, *given)

    monkeypatch.setattr(edit_items, "answer_table", failing)
    found = wrong_items(model, bed, "correct", 0, results_dir=tmp_path)
    assert [item.id for item, _ in found] == [bed[2].id]
    told = capsys.readouterr().out
    assert "looking for errors (correct): 6 questions asked, 4 used" in told
    assert told.endswith("1 answered wrongly, left out: 2 failed\n")
    with pytest.raises(JobFailed, match="out of memory"):  # nothing else is to be told
        wrong_items(model, bed[:2], "correct", 0, results_dir=tmp_path)


def test_an_unrelated_question_whose_request_fails_is_left_out(model, bed, tmp_path, monkeypatch):
    def failing(model, item, *given):
        if item.id in (bed[0].id, bed[1].id):
            raise JobFailed("out of memory")
        return reference(model, item, *given)

    monkeypatch.setattr(edit_items, "reference", failing)
    assert {one.item.id for one in references(model, bed, results_dir=tmp_path)} == {item.id for item in bed[2:]}
    assert references(model, bed[:2], results_dir=tmp_path) == []


def test_what_is_read_back_of_an_unrelated_question_is_what_was_computed(model, bed, tmp_path, monkeypatch):
    for _ in range(2):
        found = {one.item.id: one for one in references(model, bed[:3], results_dir=tmp_path)}
        for item in bed[:3]:
            fresh = reference(model, item)
            assert found[item.id].answer_ids == fresh.answer_ids and found[item.id].accuracy == fresh.accuracy
            assert torch.equal(found[item.id].log_p, fresh.log_p)
            assert torch.equal(found[item.id].prompt.input_ids, fresh.prompt.input_ids)
        monkeypatch.setattr(edit_items, "reference", None)  # the second time all are stored


def test_every_method_edits_every_item_and_leaves_the_model_as_it_was(model, study, chosen):
    results = study.results
    assert len(results) == 4 * len(EDIT_METHODS) and not results.duplicated(["id", "method"]).any()
    assert set(results["task"]) == {"correct", "insert"}
    none = results[results["method"] == "no edit"].set_index("id")
    assert (none["p_target"] == none["p_before"]).all() and not none["exact"].any()
    assert none["kl"].abs().max() < 1e-6 and (none["accuracy_after"] == none["accuracy_before"]).all()
    possible = results[results["target"] != "Zanzibar"]
    for method in ("MultEdit", "fine-tuning", "constrained fine-tuning"):
        rows = possible[possible["method"] == method]
        assert (rows["p_target"] - rows["p_before"]).median() > 0.1, method
        assert (rows["seconds"] > 0).all()
    layers = results.groupby("method")["layer"].agg(set)
    assert layers["MultEdit"] == {1} and layers["no edit"] == layers["fine-tuning"] == {-1}
    assert 1 not in layers["random layer"] and 4 not in layers["random layer"]
    said = {item.id: answer for found in chosen.values() for item, answer in found}
    assert (results["before"] == results["id"].map(said)).all()
    exact = results[results["exact"]]
    assert (exact["after"] == exact["target"]).all()
    assert set(results["target"][~results["sayable"]]) == {"Zanzibar"}
    assert weights_digest(model) == weights_digest(speaking(tiny.build()))


def test_the_weights_are_bit_for_bit_those_before_after_every_single_evaluation(model, chosen, bed, pool, monkeypatch):
    before, seen, plain = weights_digest(model), [], module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *given: seen.append(weights_digest(model)) or plain(*given))
    for found in chosen.values():
        for method in EDIT_METHODS:
            module._edit_item(model, bed, pool, QUICK, method, found[0][0])
            assert weights_digest(model) == before, method
            trained = method.endswith("fine-tuning")
            assert (seen[-1] != before) == trained, method  # edits are no change of the weights even while in force


def test_what_could_not_be_edited_is_told(model, chosen, bed, pool, tmp_path, monkeypatch):
    lost = chosen["insert"][0][0]
    monkeypatch.setattr(module, "edit_facts", failing_for(lost, JobFailed("out of memory")))
    found = edit_study(model, chosen, bed, pool, QUICK, methods=["MultEdit"], run=RunOptions(results_dir=tmp_path))
    assert found.left_out[["task", "method", "id"]].to_numpy().tolist() == [["insert", "MultEdit", lost.id]]
    summary = found.summary().set_index("task")
    assert summary["edited"].to_dict() == {"correct": 2, "insert": 1}
    assert summary["left out"].to_dict() == {"correct": "none", "insert": "1 failed"}
    assert summary["sayable"].to_dict() == {"correct": 2, "insert": 0} and (summary["median seconds"] > 0).all()


def test_results_are_stored_by_item_and_method(model, chosen, bed, pool, study, tmp_path, monkeypatch):
    made, plain = [], module.edit_facts
    monkeypatch.setattr(module, "edit_facts", lambda *given, **options: made.append(1) or plain(*given, **options))
    one = {"correct": chosen["correct"][:1]}
    first = edit_study(model, one, bed, pool, QUICK, methods=["MultEdit"], run=RunOptions(results_dir=tmp_path))
    again = edit_study(model, one, bed, pool, QUICK, methods=["MultEdit"], run=RunOptions(results_dir=tmp_path))
    assert len(made) == 1
    pd.testing.assert_frame_equal(first.results, again.results)
    assert first.results["method"].tolist() == ["MultEdit"]  # P before comes from "no edit", which is not shown
    whole = study.results.set_index(["id", "method"]).loc[(chosen["correct"][0][0].id, "MultEdit")]
    assert first.results.iloc[0]["p_target"] == pytest.approx(whole["p_target"], abs=1e-6)
    for change in ({"lam": 1.0}, {"layers": (2,)}, {"optimizer": Optimizer(steps=5)}, {"n_unrelated": 2}):
        before = len(made)
        edit_study(model, one, bed, pool, replace(QUICK, **change), methods=["MultEdit"],
            run=RunOptions(results_dir=tmp_path))
        assert len(made) == before + 1, change
    before = len(made)
    edit_study(model, one, bed, pool, replace(QUICK, fine_tuning=FineTuning(1e-5)), methods=["MultEdit"],
               run=RunOptions(results_dir=tmp_path))
    assert len(made) == before  # what the method does not use is not in its key


def test_every_layer_is_edited_and_the_last_one_changes_nothing(model, chosen, bed, pool, tmp_path):
    one = {"correct": chosen["correct"][:1]}
    found = edit_every_layer(model, one, bed, pool, QUICK, run=RunOptions(results_dir=tmp_path)).results
    assert found["layer"].tolist() == list(range(5))
    assert found["p_target"].iloc[-1] == pytest.approx(found["p_before"].iloc[-1], abs=1e-6)
    assert (found["p_target"] - found["p_before"]).iloc[:-1].max() > 0.1


def one_after_the_other(model, chosen, bed, pool, out, counts, settings=QUICK):
    """`sequential_edits` of the errors."""
    wrong = {"correct": chosen["correct"]}
    return module.sequential_edits(model, wrong, bed, pool, settings, counts=counts, run=RunOptions(out))


def test_kept_edits_are_made_on_the_edited_model(model, chosen, bed, pool, tmp_path, monkeypatch):
    seen, plain = [], module.edit_facts

    def watched(edited, *given, **options):
        seen.append(len(edited.edits))
        return plain(edited, *given, **options)

    monkeypatch.setattr(module, "edit_facts", watched)
    found = one_after_the_other(model, chosen, bed, pool, tmp_path, (1, 2, 9))
    assert seen == [0, 1]
    assert found[["task", "edits", "skipped"]].to_numpy().tolist() == [["correct", 1, 0], ["correct", 2, 0]]
    assert np.isnan(found["low"][0]) and found["low"][1] <= found["p_target"][1] <= found["high"][1]
    assert found["p_target"].min() > 0.1 and found["kl"].min() > 0


def test_kept_edits_are_compared_on_questions_that_have_nothing_to_do_with_any(
    model, chosen, bed, pool, tmp_path, monkeypatch
):
    seen, plain = [], module.evaluate

    def watched(edited, target, questions, references, *rest):
        seen.append([one.item.id for one in references])
        return plain(edited, target, questions, references, *rest)

    monkeypatch.setattr(module, "evaluate", watched)
    found = one_after_the_other(model, chosen, bed, pool, tmp_path, (2,))
    [row] = found.to_dict("records")
    edited = [item for item, _ in chosen["correct"]]
    answers = {answer for item in edited for answer in item.answers}
    apart = {one.item.id for one in pool if one.item.entity not in {item.entity for item in edited}
             and not set(one.item.answers) & answers}
    assert set(seen[-1]) == apart and row["n_unrelated"] == len(apart) < len(pool)


def test_an_item_that_cannot_be_edited_is_skipped_and_counted(model, chosen, bed, pool, tmp_path, monkeypatch):
    (first, _), (second, _) = chosen["correct"]
    monkeypatch.setattr(module, "edit_facts", failing_for(first, NoGradientError("none")))
    seen, plain = [], module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *given: seen.append(given[3]) or plain(*given))
    apart = sample_unrelated(second, pool, len(pool))
    found = one_after_the_other(model, chosen, bed, apart, tmp_path, (1,))
    assert found[["edits", "skipped"]].to_numpy().tolist() == [[1, 1]]
    expected = {one.item.id for one in sample_unrelated(first, apart, len(apart))}
    assert {one.item.id for one in seen[-1]} == expected and len(expected) == found["n_unrelated"][0]
    # The sample was drawn for the first: one that it asks about does not take its place.
    assert any(one.item.id == second.id for one in sample_unrelated(first, pool, len(pool)))
    assert one_after_the_other(model, chosen, bed, pool, tmp_path, (1,)).empty


def test_a_count_at_which_a_request_fails_costs_its_own_row(model, chosen, bed, pool, tmp_path, monkeypatch):
    calls, plain = [], module.evaluate

    def faulty(*given):
        calls.append(given)
        if len(calls) == 1:
            raise JobFailed("out of memory")
        return plain(*given)

    monkeypatch.setattr(module, "evaluate", faulty)
    found = one_after_the_other(model, chosen, bed, pool, tmp_path, (1, 2))
    assert found[["edits", "skipped"]].to_numpy().tolist() == [[2, 0]]


def test_edits_in_several_layers_can_be_kept(model, chosen, bed, pool, tmp_path):
    settings = replace(QUICK, layers=(1, 2))
    found = one_after_the_other(model, chosen, bed, pool, tmp_path, (2,), settings)
    assert found["edits"].tolist() == [2] and found["kl"].iloc[0] > 1e-3


@pytest.mark.parametrize(("change", "words"), [
    ({"layers": (99,)}, r"layers must be among the model's 0 to 4, not \[99\]"), ({"lam": -1.0}, "lam must be above 0"),
])
def test_settings_that_cannot_be_are_an_error_and_no_result(model, chosen, bed, pool, tmp_path, change, words):
    with pytest.raises(EditError, match=words):
        edit_study(model, chosen, bed, pool, replace(QUICK, **change), methods=["MultEdit"],
            run=RunOptions(results_dir=tmp_path))


def test_a_method_that_makes_no_edit_is_told(model, chosen, bed, pool, tmp_path):
    settings = replace(QUICK, layers=(4,), fine_tuning=FineTuning(1e30))
    found = edit_study(model, chosen, bed, pool, settings, methods=["MultEdit", "fine-tuning"],
        run=RunOptions(results_dir=tmp_path))
    summary = found.summary().set_index(["method", "task"])["no edit made"].to_dict()
    assert {key: told for key, told in summary.items() if key[1] == "correct"} == {
        ("MultEdit", "correct"): "2 no gradient", ("fine-tuning", "correct"): "2 diverged",
    }
    assert found.results["p_target"].to_numpy() == pytest.approx(found.results["p_before"].to_numpy(), abs=1e-6)


def test_another_picture_in_the_test_bed_is_another_result(model, chosen, bed, pool, tmp_path):
    one = {"correct": chosen["correct"][:1]}
    edited = one["correct"][0][0]
    more = [*bed, replace(bed[0], id="more", entity=edited.entity)]
    for asked_of, n in ((bed, 0), (more, 1), (bed, 0)):
        found = edit_study(model, one, asked_of, pool, QUICK, methods=iter(["MultEdit"]),
            run=RunOptions(results_dir=tmp_path))
        assert found.results["n_pictures"].tolist() == [n]


def test_facts_whose_answer_is_said_elsewhere_are_a_task_of_their_own(study):
    apart = add_known_answers(study.results)
    own = apart[apart["task"] == module.KNOWN_ANSWER]
    assert len(own) == len(EDIT_METHODS) and own["sayable"].all() and "Zanzibar" not in set(own["target"])
    assert len(apart) == len(study.results) + len(own)


def drawn_layers(item, n_layers: int, edited) -> set[int]:
    return {random_layer(replace(item, id=str(n)), n_layers, edited) for n in range(200)}


def test_the_control_layer_is_neither_early_nor_edited_nor_the_last(bed):
    assert drawn_layers(bed[0], 8, (2, 3)) == {4, 5, 6}  # early are 0 and 1
    assert drawn_layers(bed[0], 8, (1,)) == {2, 3, 4, 5, 6}
    assert drawn_layers(bed[0], 32, (2,)) == set(range(6, 31))


def test_the_control_layer_of_a_shallow_model_is_what_is_left(bed):
    assert drawn_layers(bed[0], 3, (0,)) == {1}
    assert drawn_layers(bed[0], 3, (1,)) == {0}  # only an early one is left
    assert drawn_layers(bed[0], 2, (0,)) == {0}  # none is


def test_unrelated_questions_do_not_depend_on_the_order(model, bed, tmp_path, monkeypatch):
    monkeypatch.setattr(edit_items, "N_REFERENCES", 3)
    first, again = (references(model, asked, results_dir=tmp_path) for asked in (bed, bed[::-1]))
    assert [one.item.id for one in first] == [one.item.id for one in again] and len(first) == 3
    assert [one.item.id for one in references(model, bed, 1, results_dir=tmp_path)] != [one.item.id for one in first]


def test_an_unknown_method_is_one_sentence(model, chosen, bed, pool, tmp_path):
    with pytest.raises(EditError, match="methods names 'magic': use 'no edit', 'MultEdit'"):
        edit_study(model, chosen, bed, pool, QUICK, methods=["magic"], run=RunOptions(results_dir=tmp_path))
    with pytest.raises(EditError, match="methods has none that 'tiny' allows: name one of 'no edit', 'MultEdit', 'ran"):
        edit_study(model, chosen, bed, pool, QUICK, methods=[], run=RunOptions(results_dir=tmp_path))
