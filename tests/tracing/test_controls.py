"""Controls on a model whose route is known: the trace finds it, and every control comes out as it should."""

from dataclasses import replace

import numpy as np
import pandas as pd
import planted
import pytest
import torch
from answering import renamed

import interventions.tracing.controls as module
from interventions.studies.loop import RunOptions
from interventions.tracing.averages import effects_at
from interventions.tracing.controls import CONTROLS, control_effects, run_controls, trace_controls
from interventions.tracing.study import trace_study

HIGH, LOW = 0.5, 0.05
READ, LOOKUP, MOVE = 1, 2, 4
CELLS = {"mlp": LOOKUP, "attention": READ}  # where the trace has its effect


@pytest.fixture(scope="module")
def model():
    return renamed(planted.build(READ, LOOKUP, MOVE), name="planted", revision="r1")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Two questions about each of four flags."""
    return planted.items(tmp_path_factory.mktemp("flags"), questions=planted.QUESTIONS[:2])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def study(model, items, results):
    return trace_study(model, items, window=1, run=RunOptions(results_dir=results))


@pytest.fixture(scope="module")
def controls(model, items, study, results):
    return trace_controls(model, items, study, run=RunOptions(results))


def test_the_trace_has_what_the_controls_must_lose(study):
    for kind, layer in CELLS.items():
        assert (effects_at(study.sites, "known", kind)[layer] >= HIGH).all()


def test_one_row_for_every_question_kind_and_layer(controls, study):
    assert list(controls.columns) == ["control", "id", "part", "kind", "layer", "effect"]
    assert set(controls["control"]) == set(CONTROLS) == {"other position"}
    assert not controls.duplicated(["control", "id", "kind", "layer"]).any()
    assert len(controls) == len(CONTROLS) * len(study.questions) * 2 * study.n_layers
    assert set(controls["id"]) == set(study.questions["id"])


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_loses_the_effect(controls, control):
    assert controls.loc[controls["control"] == control, "effect"].abs().max() <= LOW


def watched(monkeypatch) -> list:
    """What is traced from now on: (prompt, corrupted, positions)."""
    calls, trace = [], module.trace

    def keep(model, prompt, corrupted, *, positions, **options):
        calls.append((prompt, corrupted, positions))
        return trace(model, prompt, corrupted, positions=positions, **options)

    monkeypatch.setattr(module, "trace", keep)
    return calls


def test_another_position_is_restored_at_the_constraints_last_token(model, items, study, tmp_path, monkeypatch):
    calls = watched(monkeypatch)
    trace_controls(model, items, study, run=RunOptions(tmp_path))
    assert len(calls) == len(items)
    for prompt, corrupted, (source,) in calls:
        assert sum(p is not None for p in corrupted.alignment) == 1
        assert prompt.roles[source] == "other"
        assert source > max(prompt.visual)
        assert corrupted.tokens[corrupted.alignment[source]] == "Africa"  # of South Africa
        before = range(max(prompt.visual) + 1, prompt.constraint[0])
        assert source in before or not before


def test_the_other_position_is_drawn_by_the_seed(model, items, tmp_path, monkeypatch):
    study = trace_study(model, items[1:2], window=1, run=RunOptions(results_dir=tmp_path))
    calls = watched(monkeypatch)
    for seed in (*range(8), 0):  # all in one directory, where another seed's results must not be taken
        trace_controls(model, items[1:2], study, seed=seed, run=RunOptions(tmp_path))
    assert len(calls) == 8
    assert len({source for _, _, (source,) in calls}) > 1


def test_a_word_of_the_constraint_is_no_other_position(model, items, tmp_path, monkeypatch):
    item = replace(items[0], question="country the capital of this country is")
    study = trace_study(model, [item], window=1, run=RunOptions(results_dir=tmp_path))
    calls = watched(monkeypatch)
    for seed in range(12):
        trace_controls(model, [item], study, seed=seed, run=RunOptions(tmp_path))
    sources = {prompt.tokens[source] for prompt, _, (source,) in calls}
    assert {"capital", "of"} <= sources
    assert not sources & {"this", "country"}


def test_a_constraint_of_one_token_has_the_control(model, items, tmp_path):
    short = [replace(item, visual_constraint="country", visual_replacement="Africa") for item in items]
    study = trace_study(model, short, window=1, run=RunOptions(results_dir=tmp_path))
    controls = trace_controls(model, short, study, run=RunOptions(tmp_path))
    assert set(controls["control"]) == set(CONTROLS)
    assert controls["effect"].abs().max() <= LOW


def test_an_image_that_cannot_be_read_gives_an_empty_table(model, items, study, tmp_path):
    pool = [replace(items[0], image=tmp_path / "nowhere.png")]
    controls = trace_controls(model, pool, study.only([items[0].id]), run=RunOptions(tmp_path))
    assert controls.empty
    assert list(controls.columns) == ["control", "id", "part", "kind", "layer", "effect"]
    assert set(control_effects(study, controls)["control"]) == {"none"}


# Which questions, and what is kept


def test_questions_that_were_not_used_have_no_control(model, items, tmp_path):
    wrong = [replace(items[0], answers=("Zanzibar",)), *items[1:4]]
    study = trace_study(model, wrong, window=1, run=RunOptions(results_dir=tmp_path))
    controls = trace_controls(model, wrong, study, run=RunOptions(tmp_path))
    assert set(controls["id"]) == {item.id for item in items[1:4]}


def test_the_limit_is_of_each_part(model, items, tmp_path):
    parts = [replace(item, part="known" if n < 5 else "movies") for n, item in enumerate(items)]
    study = trace_study(model, parts, window=1, run=RunOptions(results_dir=tmp_path))
    controls = trace_controls(model, parts, study, limit=2, run=RunOptions(tmp_path))
    found = controls.groupby("part")["id"].unique()
    assert {part: list(ids) for part, ids in found.items()} == {
        "known": [item.id for item in items[:2]], "movies": [item.id for item in items[5:7]],
    }


def test_a_second_call_computes_nothing(model, items, study, controls, results, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "trace", refuse)
    pd.testing.assert_frame_equal(trace_controls(model, items, study, run=RunOptions(results)), controls)
    part = trace_controls(model, list(reversed(items)), study, limit=3, run=RunOptions(results))  # whatever the order
    assert len(part) == len(controls) * 3 // 8
    for change in ({"seed": 1}, {"method": "rows"}):
        with pytest.raises(AssertionError, match="computed again"):
            trace_controls(model, items, study, run=RunOptions(results), **change)
    for other, of in ((renamed(model, revision="r2", name="planted"), study), (model, replace(study, window=2))):
        with pytest.raises(AssertionError, match="computed again"):
            trace_controls(other, items, of, run=RunOptions(results))


def test_another_position_is_stored_by_what_determines_it(model, items, tmp_path, monkeypatch):
    """It is drawn by the question's id, and has nothing to do with other items."""
    twice = [replace(items[0], id=name) for name in ("one", "two")]
    study = trace_study(model, twice, window=1, run=RunOptions(results_dir=tmp_path))
    calls = watched(monkeypatch)
    trace_controls(model, twice, study, run=RunOptions(tmp_path))
    assert len(calls) == 2
    trace_controls(model, [*twice, *items[2:]], study, run=RunOptions(tmp_path))
    assert len(calls) == 2


def test_weights_in_memory_are_never_taken_from_the_store(items, study, results, monkeypatch):
    model = planted.build(READ, LOOKUP, MOVE)
    calls = []
    trace = module.trace
    monkeypatch.setattr(module, "trace", lambda *a, **o: (calls.append(1), trace(*a, **o))[1])
    for _ in range(2):
        trace_controls(model, items, study.only([items[0].id]), run=RunOptions(results))
    assert len(calls) == 2


# Beside each other


def test_effects_beside_their_controls(study, controls):
    table = control_effects(study, controls)
    assert list(table.columns) == ["part", "kind", "layer", "control", "effect", "low", "high", "n"]
    assert list(table["control"]) == ["none", *CONTROLS] * 2
    assert dict(zip(table["kind"], table["layer"], strict=True)) == CELLS
    assert (table["n"] == 8).all()
    real = table["control"] == "none"
    assert (table.loc[real, "low"] >= HIGH).all()
    assert (table.loc[~real, ["effect", "low", "high"]].abs() <= LOW).all(axis=None)


def test_the_values_are_means_at_the_studys_best_layer(study, controls):
    shifted = controls.assign(effect=np.where(controls["layer"] == LOOKUP, 0.25, 0.75))
    shifted = shifted[shifted["id"].isin(study.questions["id"][:3])]
    table = control_effects(study, shifted).set_index(["kind", "control"])
    assert table.loc[("mlp", "other position"), ["effect", "n"]].tolist() == [0.25, 3]
    assert table.loc[("attention", "other position"), "effect"] == 0.75


def test_a_control_model_is_read_at_the_same_cells(study, controls, items, tmp_path):
    around = planted.build(READ, LOOKUP, MOVE, reader="ASSISTANT:")
    control_study = trace_study(around, items, window=1, run=RunOptions(results_dir=tmp_path))
    table = control_effects(study, controls, control_study)
    assert list(table["control"]) == ["none", *CONTROLS, "other model"] * 2
    found = table[table["control"] == "other model"]
    assert dict(zip(found["kind"], found["layer"], strict=True)) == CELLS
    assert (found["n"] == 8).all()
    assert (found["effect"].abs() <= LOW).all()
    # Its own best layer would be another: the row is read where the study's is.
    elsewhere = trace_study(planted.build(0, 3, 5), items, window=1, run=RunOptions(results_dir=tmp_path))
    found = control_effects(study, controls, elsewhere).query("control == 'other model'")
    assert (found["effect"].abs() <= LOW).all()


def test_a_control_model_without_that_part_or_layer_has_no_row(study, controls, items, tmp_path):
    other_part = [replace(item, part="movies") for item in items[:2]]
    shallow = planted.build(0, 0, 1, n_layers=2)  # the MLP's layer 2 is not there
    for model, questions, kinds in ((planted.build(), other_part, []), (shallow, items[:2], ["attention"])):
        control_study = trace_study(model, questions, window=1, run=RunOptions(results_dir=tmp_path))
        table = control_effects(study, controls, control_study)
        assert table.loc[table["control"] == "other model", "kind"].tolist() == kinds
        assert (table["control"] != "other model").sum() == 4


def test_run_controls_asks_a_few_questions_of_the_model_and_its_control_model(model, study, items, results):
    around = planted.build(READ, LOOKUP, MOVE, reader="ASSISTANT:")
    table = run_controls(model, items, study, limit=3, control_model=around, run=RunOptions(results))
    assert list(table["control"]) == ["none", *CONTROLS, "other model"] * 2
    counts = table.groupby("control")["n"].unique()
    assert counts["none"].tolist() == [8]
    assert all(counts[name].tolist() == [3] for name in (*CONTROLS, "other model"))
    assert (table.loc[table["control"] == "none", "effect"] >= HIGH).all()
    assert (table.loc[table["control"] != "none", "effect"].abs() <= LOW).all()


def test_run_controls_of_none_shows_the_study_alone(model, study, items, results, monkeypatch):
    monkeypatch.setattr(module, "trace_controls", None)
    table = run_controls(model, items, study, limit=0, control_model=model, run=RunOptions(results))
    assert set(table["control"]) == {"none"}
    assert dict(zip(table["kind"], table["layer"], strict=True)) == CELLS


def test_a_control_model_that_knows_no_answer_is_left_out(model, study, items, results, capsys):
    ignorant = planted.build()
    with torch.no_grad():
        ignorant.module.model.language_model.layers[LOOKUP].mlp.down_proj.weight.zero_()
    table = run_controls(model, items, study, limit=2, control_model=ignorant, run=RunOptions(results))
    assert set(table["control"]) == {"none", *CONTROLS}
    assert "no question could be used" in capsys.readouterr().out


def test_the_effect_shows_wherever_the_fact_is_planted(items, tmp_path):
    """Were the controls read at a fixed layer, one of these would show it."""
    for read, lookup, move in ((0, 1, 2), (2, 4, 5)):
        model = planted.build(read, lookup, move)
        study = trace_study(model, items[:4], window=1, run=RunOptions(results_dir=tmp_path))
        table = control_effects(study, trace_controls(model, items, study, run=RunOptions(tmp_path)))
        real = table[table["control"] == "none"].set_index("kind")
        assert real["layer"].to_dict() == {"mlp": lookup, "attention": read}
        assert (real["effect"] >= HIGH).all()
        assert (table.loc[table["control"] != "none", "effect"].abs() <= LOW).all()
