"""Single questions of a tiny random model that answers in words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from answering import questions, renamed, speaking, words

from interventions.errors import ParameterError
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.studies.loop import RunOptions
from interventions.testbed.phrases import question_pieces
from interventions.tracing.examples import first_used, pictures, typical, worked_example
from interventions.tracing.study import trace_study

CONDITIONS = {
    "replacement": Conditions(),
    "repeated token": Conditions(corruption="repeat", window_rule="radius"),
    "text constraint noised": Conditions(corruption="noise", noise_samples=3),
    "image noised": Conditions(corruption="standard", noise_samples=2),
}


@pytest.fixture(scope="module")
def model():
    return renamed(speaking(tiny.build()), revision="r1")


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    """Four questions of each of two parts, the last of each with a text constraint."""
    return questions(model, tmp_path_factory.mktemp("images"), n=8)


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("which", [0, 3])  # one constraint, two
def test_the_three_runs_are_those_of_the_trace(model, items, name, which, tmp_path):
    item = items[which]
    study = trace_study(model, [item], window=2, conditions=CONDITIONS[name], run=RunOptions(results_dir=tmp_path))
    example = worked_example(model, item, study)
    asked, role = study.questions.iloc[0], study.role
    assert role == ("text_constraint_last" if which == 3 else "constraint_last")
    at = study.sites[study.sites["role"] == role]
    best = at.loc[at["p_restored"].idxmax()]
    assert (example.site["kind"], example.site["position"], example.site["layer"]) == (
        best["kind"], best["position"], best["layer"])
    expected = {"clean": asked["p_clean"], "corrupted": asked["p_corrupted"], "restored": best["p_restored"]}
    for run, p in expected.items():
        assert abs(example.p_answer(run) - p) < min(1e-5, 1e-3 * p)
    # The restored run cannot be the corrupted one.
    assert best["p_restored"] - asked["p_corrupted"] > 10 * min(1e-5, 1e-3 * best["p_restored"])
    again = worked_example(model, item, study, remote="local")
    pd.testing.assert_frame_equal(again.answers, example.answers)


def test_answers_are_the_likeliest_tokens(model, items, tmp_path):
    study = trace_study(model, items[:1], window=1, run=RunOptions(results_dir=tmp_path))
    example = worked_example(model, items[0], study, top=3)
    prompt = clean_prompt(model, items[0], Conditions())
    corrupted = corrupted_prompt(model, items[0], prompt, Conditions())
    for run, ids in (("clean", prompt.input_ids), ("corrupted", corrupted.input_ids)):
        with torch.no_grad():
            logits = model.module(input_ids=ids[None], **prompt.image_inputs).logits[0, -1]
        p, tokens = logits.softmax(-1).sort(descending=True)
        rows = example.answers[example.answers["run"] == run]
        assert rows["token_id"].tolist()[:3] == tokens[:3].tolist()
        np.testing.assert_allclose(rows["p"], p[(rows["rank"] - 1).tolist()], atol=1e-5)
        assert rows["token_id"].tolist() == tokens[(rows["rank"] - 1).tolist()].tolist()
        assert rows["token"].tolist() == [model.tokenizer.decode([token]) for token in rows["token_id"]]
        assert rows.loc[rows["is_answer"], "token_id"].tolist() == list(study.questions["answer_ids"][0])[:1]


def test_an_answer_that_is_not_among_the_likeliest_comes_last_with_its_rank(model, items, tmp_path):
    study = trace_study(model, items, window=1, run=RunOptions(results_dir=tmp_path))
    lost = study.questions.loc[study.questions["p_corrupted"].idxmin(), "id"]
    [item] = [item for item in items if item.id == lost]
    rows = worked_example(model, item, study, top=2).answers.query("run == 'corrupted'")
    assert list(rows["is_answer"]) == [False, False, True]
    assert rows["rank"].iloc[-1] > 2


def test_texts_mark_what_is_corrupted(model, items, tmp_path):
    def told(which, conditions=None):
        study = trace_study(model, [items[which]], window=1, conditions=conditions,
            run=RunOptions(results_dir=tmp_path))
        texts = worked_example(model, items[which], study).texts
        texts["text"] = texts["text"].where(texts["role"] == "", "[" + texts["text"] + "]")
        return texts.groupby("run")["text"].sum()

    assert told(0)["clean"] == "The capital of [this country] is"
    assert told(0)["corrupted"] == "The capital of [Sri Lanka] is"
    assert told(0, Conditions(corruption="repeat"))["corrupted"] == "The capital of [Paris Paris] is"
    assert told(0, Conditions(corruption="noise"))["corrupted"] == "The capital of [this country] is"
    two = told(3)
    assert two["clean"] == "Name a country that borders [this country] and starts with [B]"
    assert two["corrupted"] == "Name a country that borders this country and starts with [L]"


def test_a_text_only_model_is_shown_the_question_it_was_asked(tmp_path, items):
    text_model = speaking(tiny.build("gqa", None))
    item = replace(items[0], entity="Peru", answers=tuple(words(text_model).values()))  # any answer will do
    study = trace_study(text_model, [item], window=1, min_p_clean=0.0, run=RunOptions(results_dir=tmp_path))
    texts = worked_example(text_model, item, study).texts
    assert texts.loc[(texts["run"] == "clean") & (texts["role"] == "constraint"), "text"].tolist() == ["Peru"]


def test_marked_finds_the_first_visual_and_the_last_text_constraint(items):
    item = replace(items[3], question="B or B: this country, this country or B?", paraphrases=())
    assert question_pieces(item) == [("B or B: ", ""), ("this country", "constraint"), (", this country or ", ""),
                            ("B", "text_constraint"), ("?", "")]
    changed = question_pieces(item, {"text_constraint": "L"})
    assert "".join(text for text, _ in changed) == "B or B: this country, this country or L?"


def wrong(item):
    return replace(item, answers=("Zanzibar",))


def test_a_question_that_cannot_be_used_is_replaced_by_the_next(model, items, tmp_path):
    pool = [wrong(items[0]), items[1], wrong(items[2]), items[3], *items[4:]]
    study = first_used(model, pool, 2, window=1, run=RunOptions(tmp_path))
    used = study.questions[study.questions["used"]]
    assert used["id"].tolist() == [pool[place].id for place in (1, 3, 4, 5)]
    assert study.questions["id"].tolist() == [item.id for item in pool[:6]]  # and no more were asked
    assert study.questions["reason"].str.startswith("answered wrongly").sum() == 2
    assert set(study.sites["id"]) == set(used["id"])


def test_what_is_not_replaced(model, items, tmp_path):
    pool = [wrong(items[0]), *items[1:]]
    everything = first_used(model, pool, 0, window=1, run=RunOptions(tmp_path))
    assert len(everything.questions) == 8
    shard = first_used(model, pool, 2, window=1, run=RunOptions(tmp_path, shard="1/2"))
    assert shard.questions["id"].tolist() == [pool[0].id, pool[4].id]
    with pytest.raises(ParameterError, match="'items'"):
        first_used(model, pool[:2], 1, window=1, run=RunOptions(tmp_path, required=True))
    assert len(first_used(model, pool[1:3], 1, window=1, run=RunOptions(tmp_path, required=True)).questions) == 2


def test_a_pool_that_ends_gives_what_it_has(model, items, tmp_path):
    pool = [wrong(items[0]), wrong(items[1]), items[2]]
    for n in (3, 1):
        found = first_used(model, pool, n, window=1, run=RunOptions(tmp_path))
        assert found.questions["used"].tolist() == [False, False, True]
    with pytest.raises(ParameterError, match="2 questions"):
        first_used(model, pool[:2], 1, window=1, run=RunOptions(tmp_path))


def test_a_part_is_given_up_in_the_end(model, items, tmp_path, monkeypatch):
    monkeypatch.setattr("interventions.tracing.examples.ASK_AT_MOST", 2)
    pool = [wrong(items[0]), wrong(items[1]), items[2], *items[4:]]
    study = first_used(model, pool, 1, window=1, run=RunOptions(tmp_path))
    assert study.questions["id"].tolist() == [pool[0].id, pool[1].id, pool[3].id]


def test_the_typical_question_has_the_median_effect(model, items, tmp_path):
    study = trace_study(model, items, window=1, run=RunOptions(results_dir=tmp_path))
    found = study.questions.assign(used=[True] * 4 + [False] + [True] * 3, p_corrupted=0.1, p_restored_attention=0.0)
    found["p_restored_mlp"] = [0.9, 0.3, 0.5, 0.2, 0.6, 0.4, 0.8, 0.7]
    # Of the seven that are used, 0.5 has three below and three above.
    assert typical(replace(study, questions=found)) == items[2].id
    found.loc[0, "used"] = False  # of six: 0.2, 0.3, 0.4, 0.5, 0.7, 0.8
    assert typical(replace(study, questions=found)) == items[5].id


def test_pictures_are_those_asked_for(items):
    assert list(pictures(items, [items[1].id])) == [items[1].id]
    assert pictures(items, [items[1].id])[items[1].id].size == (40, 30)
    assert pictures([replace(items[1], image=None)], [items[1].id]) == {}
