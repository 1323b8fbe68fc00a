"""The study on a tiny random model that has been made to answer in words, so that it can be right."""

import os
import random
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from answering import questions, renamed, speaking, words

import interventions.tracing.study as module
from interventions.errors import ParameterError, TraceError
from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.studies.conditions import Conditions
from interventions.studies.loop import RunOptions
from interventions.testbed import load_image
from interventions.tracing.averages import effects_at
from interventions.tracing.causal_trace import trace
from interventions.tracing.study import SITE_ROLES, trace_study


@pytest.fixture(scope="module")
def model():
    return speaking(tiny.build())


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    """Six questions of two parts that the tiny model answers right."""
    return questions(model, tmp_path_factory.mktemp("images"), n=6)


@pytest.fixture(scope="module")
def study(model, items, tmp_path_factory):
    return trace_study(model, items, window=3, run=RunOptions(results_dir=tmp_path_factory.mktemp("results")))


def test_every_question_is_used_and_described(study, items):
    questions = study.questions
    assert list(questions["id"]) == [item.id for item in items]
    assert questions["used"].all()
    assert questions["correct"].all()
    assert (questions["reason"] == "").all()
    assert list(questions["constraints"]) == ["single", "single", "multi"] * 2
    assert questions["p_clean"].between(0.1, 1).all()


def test_summary_when_nothing_is_left_out(study):
    assert study.summary()["left out"].tolist() == ["none", "none"]
    assert study.summary()["used"].tolist() == [3, 3]


def test_probabilities_are_long(study):
    frame = study.probabilities()
    assert set(frame["run"]) == {"p_clean", "p_corrupted", "p_restored_mlp", "p_restored_attention"}
    assert len(frame) == 6 * 4
    assert frame["p"].between(0, 1).all()


def test_sites_equal_a_trace_by_hand(study, model, items):
    item = items[0]
    image = load_image(item.image)
    prompt = build_prompt(model, item.question, image, visual_constraint=item.visual_constraint)
    corrupted = corrupt(model, prompt, visual_replacement=item.visual_replacement)
    expected = trace(model, prompt, corrupted, window=3).to_frame()
    own = study.sites[study.sites["id"] == item.id]
    sites = own[own["position"] >= corrupted.first_corrupted]
    assert np.abs(expected["effect"]).max() > 0.05
    np.testing.assert_array_equal(sites["effect"], expected["effect"])
    np.testing.assert_array_equal(sites["position"], expected["position"])
    before = own[own["position"] < corrupted.first_corrupted]
    assert set(before["role"]) == {"visual", "before"}
    assert (before["effect"] == 0).all()
    assert before.loc[before["role"] == "visual", "position"].unique().tolist() == [max(prompt.visual)]


def test_an_image_behind_the_question_leaves_the_constraint_among_the_sites(model):
    for template in ("<image> {question} ASSISTANT:", "{question} <image> ASSISTANT:"):
        told = VisionLanguageModel.from_module(model.module, model.processor, prompt=template)
        prompt = build_prompt(told, "The capital of this country is", tiny.picture(), visual_constraint="this country")
        shown = module.shown_positions(prompt)
        assert set(prompt.constraint) <= set(shown) and shown[-1] == prompt.last
        assert [i for i in shown if prompt.roles[i] == "visual"] == [max(prompt.visual)]
        assert shown == tuple(sorted(shown)) and shown[0] == min(max(prompt.visual), prompt.constraint[0])


def test_roles_are_those_of_the_heat_maps(study, items):
    by_id = study.sites.drop_duplicates(["id", "position"]).groupby("id", observed=True)
    single, multi = by_id.get_group(items[0].id), by_id.get_group(items[5].id)
    assert list(single["token"][single["role"] == "constraint"]) == [" this"]
    assert list(single["token"][single["role"] == "constraint_last"]) == [" country"]
    assert "before" in set(single["role"])
    assert single["role"].iloc[-1] == "last"
    assert list(multi["token"][multi["role"] == "text_constraint_last"]) == [" B"]
    assert set(study.sites["role"]) <= set(SITE_ROLES)


@pytest.mark.parametrize(("constraints", "role"), [("single", "constraint_last"), ("multi", "text_constraint_last")])
def test_best_restored_is_the_largest_at_the_corrupted_constraint(study, constraints, role):
    asked = study.questions[study.questions["constraints"] == constraints].set_index("id")
    at = study.sites[(study.sites["role"] == role) & (study.sites["kind"] == "mlp")]
    best = at[at["id"].isin(asked.index)].groupby("id", observed=True)["p_restored"].max()
    assert len(best) == len(asked)
    np.testing.assert_allclose(asked["p_restored_mlp"][best.index], best)


def test_the_authors_protocol(model, items, tmp_path):
    # Their format is another one, and so may the answer be: accept any.
    item = replace(items[0], answers=tuple(words(model).values()))
    study = trace_study(model, [item], window=1, conditions=Conditions("authors"), run=RunOptions(results_dir=tmp_path))
    assert (study.window_rule, study.reported) == ("radius", "p_restored")
    assert study.questions["used"].all()
    assert study.sites["position"].min() == 9  # their format: `<s>`, nine visual tokens, the question
    assert (study.sites["role"] == "visual").any()


def test_window_rule_can_be_chosen(model, items, tmp_path):
    study = trace_study(model, items[:1], window=2, conditions=Conditions(window_rule="radius"),
        run=RunOptions(results_dir=tmp_path))
    other = trace_study(model, items[:1], window=5, run=RunOptions(results_dir=tmp_path))
    assert study.window_rule == "radius"  # a radius of 2 spans five layers
    middle = [found.sites.loc[found.sites["layer"] == 2, "effect"].to_numpy() for found in (study, other)]
    np.testing.assert_array_equal(*middle)


def test_it_runs_where_the_model_was_loaded_to_run(model, items, tmp_path, monkeypatch):
    asked = []

    def watched(*arguments, execution, **options):
        asked.append(execution.remote)
        return trace(*arguments, execution=execution, **options)

    monkeypatch.setattr(module, "trace", watched)
    far = renamed(model, revision="r1")
    far.remote = "local"
    trace_study(far, items[:1], run=RunOptions(results_dir=tmp_path))
    trace_study(far, items[:1], run=RunOptions(results_dir=tmp_path, remote=False))
    assert asked == ["local", False]


def test_reasons_for_leaving_a_question_out(model, items, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    changed = [
        {},
        {"answers": ("Zanzibar",)},
        {"image": tmp_path / "broken.png"},
        {"image": tmp_path / "missing.png"},
        {"visual_replacement": ""},
    ]
    bed = [replace(items[0], id=f"q{n}", **change) for n, change in enumerate(changed)]
    study = trace_study(model, bed, run=RunOptions(results_dir=tmp_path / "results"))
    reasons = study.questions["reason"].str.partition(":")[0].tolist()
    assert reasons[:4] == ["", "answered wrongly", "image unreadable", "image unreadable"]
    assert reasons[4].startswith("no replacement phrase")
    assert study.questions["used"].tolist() == [True, False, False, False, False]
    assert "Zanzibar" in study.questions["reason"][1]
    assert set(study.sites["id"]) == {"q0"}
    summary = study.summary().iloc[0]
    assert (summary["asked"], summary["used"]) == (5, 1)
    assert "2 image unreadable" in summary["left out"]


def test_a_right_answer_that_is_improbable_is_left_out(model, items, tmp_path):
    p_clean = trace_study(model, items, run=RunOptions(results_dir=tmp_path)).questions["p_clean"]
    study = trace_study(model, items, min_p_clean=p_clean.median(), run=RunOptions(results_dir=tmp_path))
    low = study.questions[~study.questions["used"]]
    assert low["reason"].str.startswith("P_clean too low").all()
    assert low["correct"].all()
    assert (low["p_clean"] < p_clean.median()).all()
    assert len(low) == 3


def test_nothing_to_trace_is_one_sentence(model, items, tmp_path):
    wrong = [replace(item, answers=("Zanzibar",)) for item in items[:2]]
    with pytest.raises(ParameterError, match=r"'model': .* 2 questions \(2 answered wrongly\)"):
        trace_study(model, wrong, run=RunOptions(results_dir=tmp_path))


@pytest.mark.parametrize("change", [{"answers": ("Zanzibar",)}, {"image": "nowhere.png"}])
def test_a_required_question_that_cannot_be_used_is_one_sentence(model, items, tmp_path, change):
    if "image" in change:
        change = {"image": tmp_path / change["image"]}
    bad = replace(items[0], id="named-one", **change)
    with pytest.raises(ParameterError, match="'items': question 'named-one'") as error:
        trace_study(model, [bad], run=RunOptions(required=True, results_dir=tmp_path))
    assert "\n" not in str(error.value)


def test_one_failure_costs_one_question_but_not_the_others(model, items, tmp_path, monkeypatch):
    real = module.trace

    def fragile(model, prompt, corrupted, **options):
        if prompt.text_constraint:
            raise TraceError("out of luck")
        return real(model, prompt, corrupted, **options)

    monkeypatch.setattr(module, "trace", fragile)
    study = trace_study(model, items[4:], run=RunOptions(results_dir=tmp_path))
    assert study.questions["used"].tolist() == [True, False]
    assert "out of luck" in study.questions["reason"][1]
    with pytest.raises(TraceError, match="out of luck"):  # nothing came out: not the question's fault
        trace_study(model, items[5:], run=RunOptions(results_dir=tmp_path))


def test_a_second_run_computes_nothing_and_settings_are_kept_apart(model, items, tmp_path, monkeypatch):
    stored = SimpleNamespace(calls=0)
    real = module.trace

    def counting(*arguments, **options):
        stored.calls += 1
        return real(*arguments, **options)

    monkeypatch.setattr(module, "trace", counting)
    named = renamed(model, revision="r1")
    first = trace_study(named, items[:2], run=RunOptions(results_dir=tmp_path))
    calls = stored.calls
    again = trace_study(named, items[:2], run=RunOptions(results_dir=tmp_path))
    assert stored.calls == calls == 2  # one request a question
    pd.testing.assert_frame_equal(first.sites, again.sites)
    pd.testing.assert_frame_equal(first.questions, again.questions)
    rule = Conditions(window_rule="radius")
    changes = ({"window": 2}, {"conditions": rule}, {"kinds": ("mlp",)}, {"min_p_clean": 0.2})
    for change in changes:
        before = stored.calls
        trace_study(named, items[:1], run=RunOptions(results_dir=tmp_path), **change)
        assert stored.calls > before, change
    before = stored.calls
    trace_study(renamed(model, revision="r2"), items[:1], run=RunOptions(results_dir=tmp_path))
    assert stored.calls > before


def test_a_study_killed_at_five_random_points_ends_in_the_same_tables(model, items, tmp_path):
    named = renamed(model, revision="r1")
    whole = trace_study(named, items, run=RunOptions(results_dir=tmp_path / "whole"))
    generator = random.Random(1)

    def stored() -> int:
        return len(list((tmp_path / "killed").rglob("*.parquet")))

    for stop in range(5):
        child = os.fork()  # the sweep, in a process of its own that shares what is loaded
        if child == 0:
            torch.set_num_threads(1)  # threads do not survive a fork
            try:
                trace_study(named, items, run=RunOptions(results_dir=tmp_path / "killed"))
            finally:
                os._exit(0)
        while stored() < stop:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert stored() >= 4
    resumed = trace_study(named, items, run=RunOptions(results_dir=tmp_path / "killed"))
    pd.testing.assert_frame_equal(resumed.sites, whole.sites)
    pd.testing.assert_frame_equal(resumed.questions, whole.questions)


def test_questions_of_both_kinds_are_each_read_at_their_own_constraint(study):
    """Read at one role for all, cells that are 0 by construction would be averaged in."""
    assert set(study.questions["constraints"]) == {"single", "multi"}
    assert study.role is None and study.read_at == "corrupted constraint"
    roles = study.sites[study.sites["read"]].astype({"id": str, "role": str}).groupby("id")["role"].unique()
    kinds = study.questions.set_index("id")["constraints"]
    for name, found in roles.items():
        assert list(found) == [{"single": "constraint_last", "multi": "text_constraint_last"}[kinds[name]]]
    for part in set(study.questions["part"]):
        effects = effects_at(study.sites, part, "mlp")
        asked = study.questions[(study.questions["part"] == part) & study.questions["used"]]
        assert set(effects.index) == set(asked["id"])
        for row in asked.itertuples():
            assert effects.loc[row.id].max() == pytest.approx(row.p_restored_mlp - row.p_corrupted, abs=1e-6)


@pytest.mark.parametrize(("kind", "role", "named"), [
    ("single", "constraint_last", "visual constraint"), ("multi", "text_constraint_last", "text constraint"),
])
def test_a_study_names_where_it_reads(study, kind, role, named):
    own = study.only(study.questions.loc[study.questions["constraints"] == kind, "id"])
    assert (own.role, own.read_at) == (role, named)
