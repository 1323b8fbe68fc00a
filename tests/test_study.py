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

import interventions.study as module
from interventions.causal_trace import trace
from interventions.claims import caveat, closing_sentence, early_layers, fig3_claims, fig3_numbers
from interventions.parameters import ParameterError
from interventions.prompt import build_prompt, corrupt
from interventions.study import ROLES, TraceStudy, by_role_layer, trace_study
from interventions.testbed import load_image


@pytest.fixture(scope="module")
def model():
    return speaking(tiny.build())


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    """Six questions of two parts that the tiny model answers right."""
    return questions(model, tmp_path_factory.mktemp("images"), n=6)


@pytest.fixture(scope="module")
def study(model, items, tmp_path_factory):
    return trace_study(model, items, window=3, results_dir=tmp_path_factory.mktemp("results"))


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


def test_roles_are_those_of_the_heat_maps(study, items):
    by_id = study.sites.drop_duplicates(["id", "position"]).groupby("id", observed=True)
    single, multi = by_id.get_group(items[0].id), by_id.get_group(items[5].id)
    assert list(single["token"][single["role"] == "constraint"]) == [" this"]
    assert list(single["token"][single["role"] == "constraint_last"]) == [" country"]
    assert "before" in set(single["role"])
    assert single["role"].iloc[-1] == "last"
    assert list(multi["token"][multi["role"] == "text_constraint_last"]) == [" B"]
    assert set(study.sites["role"]) <= set(ROLES)


def test_best_restored_is_the_largest_at_the_constraint(study):
    at = study.sites[study.sites["role"] == "constraint_last"]
    best = at[at["kind"] == "mlp"].groupby("id", observed=True)["p_restored"].max()
    np.testing.assert_allclose(study.questions.set_index("id")["p_restored_mlp"][best.index], best)


def test_the_authors_protocol(model, items, tmp_path):
    # Their format is another one, and so may the answer be: accept any.
    item = replace(items[0], answers=tuple(words(model).values()))
    study = trace_study(model, [item], window=1, protocol="authors", results_dir=tmp_path)
    assert (study.window_rule, study.reported) == ("radius", "p_restored")
    assert study.questions["used"].all()
    assert study.sites["position"].min() == 9  # their format: `<s>`, nine visual tokens, the question
    assert (study.sites["role"] == "visual").any()


def test_window_rule_can_be_chosen(model, items, tmp_path):
    study = trace_study(model, items[:1], window=2, window_rule="radius", results_dir=tmp_path)
    other = trace_study(model, items[:1], window=5, window_rule="centered", results_dir=tmp_path)
    assert study.window_rule == "radius"  # a radius of 2 spans five layers
    middle = [found.sites.loc[found.sites["layer"] == 2, "effect"].to_numpy() for found in (study, other)]
    np.testing.assert_array_equal(*middle)


def test_it_runs_where_the_model_was_loaded_to_run(model, items, tmp_path, monkeypatch):
    asked = []

    def watched(*arguments, remote, **options):
        asked.append(remote)
        return trace(*arguments, remote=remote, **options)

    monkeypatch.setattr(module, "trace", watched)
    far = renamed(model, revision="r1")
    far.remote = "local"
    trace_study(far, items[:1], results_dir=tmp_path)
    trace_study(far, items[:1], results_dir=tmp_path, remote=False)
    assert asked == ["local", False]


def test_reasons_for_leaving_a_question_out(model, items, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    changed = [
        {},
        {"answers": ("Zanzibar",)},
        {"image": tmp_path / "broken.png"},
        {"image": tmp_path / "missing.png"},
        {"visual_replacement": "\u00a0"},
    ]
    bed = [replace(items[0], id=f"q{n}", **change) for n, change in enumerate(changed)]
    study = trace_study(model, bed, results_dir=tmp_path / "results")
    reasons = study.questions["reason"].str.partition(":")[0].tolist()
    assert reasons == ["", "answered wrongly", "image unreadable", "image unreadable", "replacement refused"]
    assert study.questions["used"].tolist() == [True, False, False, False, False]
    assert "Zanzibar" in study.questions["reason"][1]
    assert set(study.sites["id"]) == {"q0"}
    summary = study.summary().iloc[0]
    assert (summary["asked"], summary["used"]) == (5, 1)
    assert "2 image unreadable" in summary["left out"]


def test_a_right_answer_that_is_improbable_is_left_out(model, items, tmp_path):
    p_clean = trace_study(model, items, results_dir=tmp_path).questions["p_clean"]
    study = trace_study(model, items, min_p_clean=p_clean.median(), results_dir=tmp_path)
    low = study.questions[~study.questions["used"]]
    assert low["reason"].str.startswith("P_clean too low").all()
    assert low["correct"].all()
    assert (low["p_clean"] < p_clean.median()).all()
    assert len(low) == 3


def test_nothing_to_trace_is_one_sentence(model, items, tmp_path):
    wrong = [replace(item, answers=("Zanzibar",)) for item in items[:2]]
    with pytest.raises(ParameterError, match=r"'model': .* 2 questions \(2 answered wrongly\)"):
        trace_study(model, wrong, results_dir=tmp_path)


@pytest.mark.parametrize("change", [{"answers": ("Zanzibar",)}, {"image": "nowhere.png"}])
def test_a_required_question_that_cannot_be_used_is_one_sentence(model, items, tmp_path, change):
    if "image" in change:
        change = {"image": tmp_path / change["image"]}
    bad = replace(items[0], id="named-one", **change)
    with pytest.raises(ParameterError, match="'items': question 'named-one'") as error:
        trace_study(model, [bad], required=True, results_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_one_failure_costs_one_question_but_not_the_others(model, items, tmp_path, monkeypatch):
    real = module.trace

    def fragile(model, prompt, corrupted, **options):
        if prompt.text_constraint:
            raise RuntimeError("out of luck")
        return real(model, prompt, corrupted, **options)

    monkeypatch.setattr(module, "trace", fragile)
    study = trace_study(model, items[4:], results_dir=tmp_path)
    assert study.questions["used"].tolist() == [True, False]
    assert "out of luck" in study.questions["reason"][1]
    with pytest.raises(RuntimeError, match="out of luck"):  # nothing came out: not the question's fault
        trace_study(model, items[5:], results_dir=tmp_path)


def test_a_second_run_computes_nothing_and_settings_are_kept_apart(model, items, tmp_path, monkeypatch):
    stored = SimpleNamespace(calls=0)
    real = module.trace

    def counting(*arguments, **options):
        stored.calls += 1
        return real(*arguments, **options)

    monkeypatch.setattr(module, "trace", counting)
    named = renamed(model, revision="r1")
    first = trace_study(named, items[:2], results_dir=tmp_path)
    calls = stored.calls
    again = trace_study(named, items[:2], results_dir=tmp_path)
    assert stored.calls == calls == 2  # one request a question
    pd.testing.assert_frame_equal(first.sites, again.sites)
    pd.testing.assert_frame_equal(first.questions, again.questions)
    for change in ({"window": 2}, {"window_rule": "radius"}, {"kinds": ("mlp",)}, {"min_p_clean": 0.2}):
        before = stored.calls
        trace_study(named, items[:1], results_dir=tmp_path, **change)
        assert stored.calls > before, change
    before = stored.calls
    trace_study(renamed(model, revision="r2"), items[:1], results_dir=tmp_path)
    assert stored.calls > before


def test_a_study_killed_at_five_random_points_ends_in_the_same_tables(model, items, tmp_path):
    named = renamed(model, revision="r1")
    whole = trace_study(named, items, results_dir=tmp_path / "whole")
    generator = random.Random(1)

    def stored() -> int:
        return len(list((tmp_path / "killed").rglob("*.parquet")))

    for stop in range(5):
        child = os.fork()  # the sweep, in a process of its own that shares what is loaded
        if child == 0:
            torch.set_num_threads(1)  # threads do not survive a fork
            try:
                trace_study(named, items, results_dir=tmp_path / "killed")
            finally:
                os._exit(0)
        while stored() < stop:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert stored() >= 4
    resumed = trace_study(named, items, results_dir=tmp_path / "killed")
    pd.testing.assert_frame_equal(resumed.sites, whole.sites)
    pd.testing.assert_frame_equal(resumed.questions, whole.questions)


# Aggregation and claims, on sites made by hand.


def sites(effect, ids=range(8), parts=("known",), kinds=("mlp", "attention"), n_layers=8) -> pd.DataFrame:
    """`effect(part, kind, role, layer, question)` at two constraint tokens and the last one."""
    rows = [
        (f"{part}-{q}", part, kind, position, "t", role, layer, np.float32(value + 0.02), np.float32(value))
        for part in parts
        for q in ids
        for kind in kinds
        for position, role in enumerate(("constraint", "constraint", "constraint_last", "last"))
        for layer in range(n_layers)
        for value in [effect(part, kind, role, layer, q) + (0.2 if position == 0 else 0)]
    ]
    columns = ["id", "part", "kind", "position", "token", "role", "layer", "p_restored", "effect"]
    return pd.DataFrame(rows, columns=columns)


def questions_of(frame: pd.DataFrame) -> pd.DataFrame:
    found = frame.drop_duplicates("id")[["id", "part"]]
    probabilities = {"p_clean": 0.95, "p_corrupted": 0.02, "p_restored_mlp": 0.8}
    return found.assign(used=True, correct=True, reason="", answer="Lima", **probabilities)


def study_of(frame: pd.DataFrame) -> TraceStudy:
    return TraceStudy(frame, questions_of(frame), 8, 3, "centered", "effect")


def test_tokens_are_averaged_within_questions_first():
    frame = sites(lambda part, kind, role, layer, q: 0.1 * q if role == "constraint" else 0.0)
    effects = by_role_layer(frame)
    row = effects.query("kind == 'mlp' and role == 'constraint' and layer == 0").iloc[0]
    assert row["effect"] == pytest.approx(np.mean([0.1 * q + 0.1 for q in range(8)]), abs=1e-6)
    assert row["n"] == 8
    assert row["low"] < row["effect"] < row["high"]
    # A question whose role has three tokens weighs as much as one whose role has one.
    extra = frame.query("id == 'known-7' and role == 'constraint'").assign(position=9)
    longer = by_role_layer(pd.concat([frame, extra]))
    np.testing.assert_allclose(longer["effect"].astype(float), effects["effect"].astype(float), atol=1e-6)


def test_order_and_missing_sites():
    frame = sites(lambda *_: 0.3, parts=("okvqa", "known"))
    frame.loc[(frame["id"] == "known-0") & (frame["role"] == "constraint"), ["effect", "p_restored"]] = np.nan
    effects = by_role_layer(frame)
    assert effects["part"].drop_duplicates().tolist() == ["okvqa", "known"]
    assert effects["role"].drop_duplicates().tolist() == ["constraint", "constraint_last", "last"]
    assert effects["kind"].drop_duplicates().tolist() == ["mlp", "attention"]
    counts = effects.groupby(["part", "role"])["n"].first()
    assert counts["known", "constraint"] == 7
    assert counts["known", "last"] == 8
    restored = by_role_layer(frame, "p_restored")
    np.testing.assert_allclose(restored["p_restored"], effects["effect"] + 0.02, atol=1e-6)


def early(part, kind, role, layer, q):
    return {0: 0.7, 1: 0.8, 2: 0.6}.get(layer, 0.02) + 0.01 * q if role == "constraint_last" else 0.0


def test_claims_hold_for_early_effects_and_not_otherwise():
    assert all(claim.holds for claim in fig3_claims(study_of(sites(early))))
    late = sites(lambda part, kind, role, layer, q: early(part, kind, role, 7 - layer, q))
    small = sites(lambda *at: early(*at) * 0.1)
    everywhere = sites(lambda part, kind, role, layer, q: early(part, kind, role, 1, q))
    noisy = sites(lambda *at: early(*at) * (5 if at[-1] == 0 else -0.3))
    for frame in (late, small, everywhere, noisy):
        assert not any(claim.holds for claim in fig3_claims(study_of(frame)))


def test_sentence_and_numbers_follow_the_claims():
    def mixed(part, kind, role, layer, q):
        return early(part, kind, role, layer, q) * (1 if kind == "mlp" else 0.1)

    study = study_of(sites(mixed, parts=("known", "movies")))
    claims = fig3_claims(study)
    assert [claim.holds for claim in claims] == [True, False, True, False]
    assert "in 2 of the 4" in closing_sentence(claims)
    assert "movies: self-attention" in closing_sentence(claims)
    assert "all 2" in closing_sentence([claims[0], claims[2]])
    assert "none of the 2" in closing_sentence([claims[1], claims[3]])
    assert "nothing" in closing_sentence([])
    numbers = fig3_numbers(study)
    assert numbers["known/mlp/peak_layer"].value == 1
    assert numbers["known/mlp/peak_effect"].value == pytest.approx(0.835, abs=1e-5)
    assert numbers["known/mlp/peak_effect"].n == 8
    assert numbers["movies/accuracy"].value == 1.0


def test_accuracy_counts_the_questions_that_were_answered():
    study = study_of(sites(early))
    found = study.questions.reset_index(drop=True)
    found.loc[0, ["used", "correct", "reason"]] = False, False, "answered wrongly: 'Rome' instead of 'Lima'"
    found.loc[1, ["used", "correct", "reason", "answer"]] = False, False, "failed: no connection", None
    accuracy = fig3_numbers(replace(study, questions=found))["known/accuracy"]
    assert (accuracy.value, accuracy.n) == (pytest.approx(6 / 7), 7)


def test_a_part_without_a_question_cannot_hold():
    study = study_of(sites(early))
    lost = questions_of(study.sites).iloc[:2].assign(part="movies", used=False, correct=False, reason="x: y")
    study = replace(study, questions=pd.concat([study.questions, lost]))
    claims = fig3_claims(study)
    assert [(claim.claim.split(":")[0], claim.holds) for claim in claims] == [
        ("known", True), ("known", True), ("movies", False), ("movies", False),
    ]  # fmt: skip
    assert "no question" in claims[-1].here


def test_what_is_early():
    assert early_layers(8) == range(4)
    assert early_layers(32) == range(8)
    assert early_layers(2) == range(2)


def test_only_embedded_models_carry_a_caveat():
    assert "no evidence for" in " ".join(caveat("mini").split())
    assert "negative control" in caveat("mini-free")
    assert caveat("llava-hf/llava-1.5-7b-hf") == ""
