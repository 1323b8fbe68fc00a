"""The experiment of the attention figures on a tiny model: all questions are kept, answered right or wrong."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from answering import questions, renamed, speaking, words

import interventions.attention.study as module
from interventions.attention.contributions import FLOWS, attention_contributions
from interventions.attention.knockout import attention_knockout
from interventions.attention.study import SUBSETS, attention_study
from interventions.errors import AttentionError, ParameterError, TraceError
from interventions.studies.conditions import Conditions, clean_prompt
from interventions.studies.loop import RunOptions


@pytest.fixture(scope="module")
def model():
    return speaking(tiny.build())


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    items = questions(model, tmp_path_factory.mktemp("bed"))
    return [*items[:-1], replace(items[-1], answers=("Zanzibar",))]  # the last one is answered wrongly


@pytest.fixture(scope="module")
def study(model, items, tmp_path_factory):
    return attention_study(model, items, knockouts=True, window=2,
        run=RunOptions(results_dir=tmp_path_factory.mktemp("results")))


def test_contributions_are_those_of_each_question_alone(model, items, study):
    assert (study.n_layers, study.n_visual, study.window) == (5, 9, 2)
    for item in items:
        prompt = clean_prompt(model, item, Conditions())
        own = study.contributions[study.contributions["id"] == item.id]
        for flow, (source, target) in FLOWS.items():
            query = prompt.positions(target)[-1]
            alone = attention_contributions(model, prompt, queries=query)
            rows = own[own["flow"] == flow].sort_values(["layer", "position"])
            sources = prompt.positions(source)
            assert rows["position"].tolist() == list(sources) * 5
            expected = alone.norms[:, 0, list(sources)]
            np.testing.assert_allclose(rows["norm"], expected.ravel(), rtol=0, atol=2e-5)
            shares = expected / alone.norms[:, 0].sum(-1, keepdims=True)
            np.testing.assert_allclose(rows["share"], shares.ravel(), rtol=0, atol=1e-5)
            assert rows["token"].tolist() == [prompt.tokens[p] for p in sources] * 5
        read = own[own["flow"] == "constraint -> last"].drop_duplicates("position")
        assert read["role"].tolist() == ["constraint"] * (len(read) - 1) + ["constraint_last"]
        assert set(own.loc[own["flow"] != "constraint -> last", "role"]) == {"visual"}
    assert study.contributions["norm"].max() > 1


def test_knockouts_are_those_of_each_question_answered_right(model, items, study):
    assert set(study.knockouts["id"]) == {item.id for item in items[:-1]}
    for item in items[:-1]:
        alone = attention_knockout(model, clean_prompt(model, item, Conditions()), window=2).to_frame()
        own = study.knockouts[(study.knockouts["id"] == item.id) & study.knockouts["flow"].isin(FLOWS)]
        own = own.reset_index(drop=True)
        pd.testing.assert_frame_equal(
            own[["window", "layer", "p_blocked", "drop"]], alone[["window", "layer", "p_blocked", "drop"]],
            check_exact=False, atol=1e-5,
        )
        assert own["flow"].astype(str).tolist() == alone["flow"].tolist()
        confidence = study.questions.set_index("id").loc[item.id, "confidence"]
        np.testing.assert_allclose(own["p_blocked"] + own["drop"], confidence, rtol=0, atol=1e-5)
    assert study.knockouts["drop"].abs().max() > 0.05


def subsets_of(model, item, top=1) -> dict[str, tuple]:
    """What blocks a question's visual tokens by rank: the top ones, all others, and each of the others alone."""
    prompt = clean_prompt(model, item, Conditions())
    norms = attention_contributions(model, prompt, queries=prompt.constraint[-1], keys="visual").norms[:, 0]
    order = norms[norms.sum(1).argmax()].argsort()[::-1]
    ranked = [prompt.visual[i] for i in order]
    return {"top": tuple(ranked[:top]), "rest": tuple(ranked[top:])} | {
        f"one {n}": (position,) for n, position in enumerate(ranked[top:])}


def test_the_tokens_that_contribute_most_are_blocked_alone_and_left_alone(model, items, study):
    """Nine visual tokens: 5 % are one."""
    chosen, apart = {}, []
    for item in items[:-1]:
        expected = {name: (positions, "constraint") for name, positions in subsets_of(model, item).items()}
        prompt = clean_prompt(model, item, Conditions())
        alone = attention_knockout(model, prompt, flows=expected, window=2).to_frame().set_index("flow")
        own = study.knockouts[study.knockouts["id"] == item.id].set_index("flow")
        for subset, name in zip(SUBSETS, ("top", "rest"), strict=False):
            for column in ("window", "layer", "p_blocked"):
                np.testing.assert_allclose(own.loc[subset, column], alone.loc[name, column], rtol=0, atol=1e-5)
        drawn = own.loc[SUBSETS[2], "p_blocked"].to_numpy()
        same = {name: np.abs(alone.loc[name, "p_blocked"] - drawn).max() for name in expected if name[:3] == "one"}
        chosen[item.id] = min(same, key=same.get)
        assert min(same.values()) < 1e-5  # one of the others, never the top one itself
        apart.append(np.ptp([alone.loc[name, "p_blocked"] for name in ("top", "rest")], axis=0).max())
    assert len(set(chosen.values())) > 1  # the same words about another image: another draw
    assert max(apart) > 0.05


def test_five_percent_of_many_tokens_are_more_than_one():
    prompt = SimpleNamespace(visual=tuple(range(100)))
    norms = np.random.default_rng(0).random((3, 100))
    norms[1, [7, 70, 71, 72, 73]] += 2  # the layer with the largest ones decides
    norms[0, :5] += 1.1
    top, rest, drawn = (set(source) for source, _ in module._subsets(prompt, norms, "known-1").values())
    assert top == {7, 70, 71, 72, 73}
    assert top | rest == set(range(100)) and not top & rest
    assert len(drawn) == 5 and drawn < rest
    again, other = (set(module._subsets(prompt, norms, name)[SUBSETS[2]][0]) for name in ("known-1", "known-2"))
    assert again == drawn != other


def test_right_and_wrong_answers_are_told_apart_by_the_whole_answer(items, study):
    asked = study.questions.set_index("id")
    assert asked["correct"].tolist() == [True] * 5 + [False]
    assert asked["expected"].tolist() == [item.answers[0] for item in items]
    assert asked.loc[items[-1].id, "expected"] == "Zanzibar"
    assert asked["answered"].all() and (asked["reason"] == "").all()
    assert asked.loc[items[0].id, "answer"] == items[0].answers[0]
    wrong = asked.loc[items[-1].id]
    assert wrong["accuracy"] == 0 and np.isnan(wrong["p_clean"]) and wrong["confidence"] > 0
    summary = study.summary().set_index("part")
    assert summary.loc["okvqa", ["asked", "answered", "right"]].tolist() == [3, 3, 2]


def test_ten_annotations_are_scored_by_vqa_accuracy(model, items, tmp_path):
    said = items[0].answers[0]
    agree = {n: replace(items[0], id=f"{n}", annotations=(said,) * n + ("Zanzibar",) * (10 - n)) for n in (0, 1, 2, 4)}
    found = attention_study(model, agree.values(), flows=["constraint -> last"],
        run=RunOptions(results_dir=tmp_path)).questions
    assert found["accuracy"].round(2).tolist() == [0.0, 0.3, 0.6, 1.0]
    assert found["correct"].tolist() == [False, False, True, True]


def test_an_answer_of_several_tokens_is_judged_whole(model, items, tmp_path, monkeypatch):
    """The first token alone would be right."""
    said = items[0].answers[0]
    monkeypatch.setattr(type(model), "eos_token_ids", (), raising=True)
    found = attention_study(
        model, items[:1], flows=["constraint -> last"], max_answer_tokens=3, run=RunOptions(results_dir=tmp_path)
    ).questions.iloc[0]
    assert found["answer"].startswith(said) and found["answer"] != said
    assert not found["correct"]


def test_only_the_flows_asked_for(model, items, tmp_path):
    found = attention_study(model, items[:1], flows=["constraint -> last"], run=RunOptions(results_dir=tmp_path))
    assert set(found.contributions["flow"]) == {"constraint -> last"}
    direct = {"flows": ["visual -> last"], "knockouts": True, "run": RunOptions(tmp_path)}
    blocked = attention_study(model, items[:1], **direct).knockouts
    assert set(blocked["flow"]) == {"visual -> last"}  # subsets are those of visual -> constraint
    assert found.knockouts.empty and list(found.knockouts.columns) == module._BLOCK_COLUMNS


def test_a_text_only_model_is_asked_by_name(items, tmp_path):
    model = speaking(tiny.build("gqa", None))
    item = replace(items[0], entity="Peru", answers=tuple(words(model).values()))
    found = attention_study(model, [item], knockouts=True, run=RunOptions(results_dir=tmp_path))
    assert found.n_visual == 0
    assert set(found.contributions["flow"]) == set(found.knockouts["flow"]) == {"constraint -> last"}
    assert "".join(found.contributions.drop_duplicates("position")["token"].astype(str)).strip() == "Peru"
    with pytest.raises(AttentionError, match=r"flows names none that .* has, which sees no image"):
        attention_study(model, [item], flows=["visual -> last"], run=RunOptions(results_dir=tmp_path))


def test_a_second_run_computes_nothing_and_settings_are_kept_apart(model, items, tmp_path, monkeypatch):
    calls = []
    for name in ("in_session", "attention_knockout"):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, plain=plain, name=name, **k: calls.append(name) or plain(*a, **k))
    stored = renamed(model, revision="r1")
    first = attention_study(stored, items, knockouts=True, run=RunOptions(results_dir=tmp_path))
    assert calls.count("in_session") == 6 and calls.count("attention_knockout") == 5  # one request a question each
    again = attention_study(stored, items, knockouts=True, run=RunOptions(results_dir=tmp_path))
    assert len(calls) == 11
    for name in ("contributions", "knockouts", "questions"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    attention_study(stored, items[:1], knockouts=True, window=1, run=RunOptions(results_dir=tmp_path))
    assert calls[11:] == ["attention_knockout"]
    attention_study(stored, items[:1], protocol="authors", run=RunOptions(results_dir=tmp_path))
    attention_study(stored, items[:1], max_answer_tokens=2, run=RunOptions(results_dir=tmp_path))
    attention_study(renamed(model, revision="r2"), items[:1], run=RunOptions(results_dir=tmp_path))
    assert calls[12:] == ["in_session"] * 3


def test_shards_together_are_the_whole_run(model, items, study, tmp_path):
    shards = [
        attention_study(model, items, knockouts=True, window=2,
            run=RunOptions(shard=f"{k}/2", results_dir=tmp_path)) for k in (1, 2)
    ]
    for name in ("contributions", "knockouts", "questions"):
        together = pd.concat([getattr(shard, name) for shard in shards])
        whole = getattr(study, name)
        assert len(together) == len(whole)
        for item in items:
            own = [frame[frame["id"].astype(str) == item.id].reset_index(drop=True) for frame in (together, whole)]
            pd.testing.assert_frame_equal(*[frame.astype(dict.fromkeys(frame.select_dtypes("category"), str))
                                            for frame in own], check_dtype=False)


def test_a_question_whose_knockouts_fail_says_so_and_keeps_its_contributions(model, items, tmp_path, monkeypatch):
    plain = module.attention_knockout

    def failing(model, prompt, **options):
        if prompt.question != items[0].question:
            raise AttentionError("no connection")
        return plain(model, prompt, **options)

    monkeypatch.setattr(module, "attention_knockout", failing)
    asked = [items[0], next(item for item in items if item.question != items[0].question)]
    found = attention_study(model, asked, knockouts=True, run=RunOptions(results_dir=tmp_path))
    assert set(found.knockouts["id"]) == {asked[0].id}
    assert set(found.contributions["id"]) == {item.id for item in asked}
    fine, failed = found.questions["knockout_reason"]
    assert fine == "" and failed.startswith("knockouts failed") and "no connection" in failed
    assert found.summary()["left out"].tolist() == ["1 knockouts failed"]
    assert found.questions["answered"].all()


def test_what_cannot_be_asked_is_left_out_with_its_reason(model, items, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = replace(items[0], id="broken", image=tmp_path / "broken.png")
    found = attention_study(model, [broken, items[1]], run=RunOptions(results_dir=tmp_path))
    assert found.questions["answered"].tolist() == [False, True]
    assert found.questions["reason"][0].startswith("image unreadable")
    assert not found.questions["correct"][0] and np.isnan(found.questions["accuracy"][0])
    assert "1 image unreadable" in found.summary()["left out"][0]
    with pytest.raises(ParameterError, match="'items': question 'broken' cannot be answered, image unreadable"):
        attention_study(model, [broken], run=RunOptions(required=True, results_dir=tmp_path))
    with pytest.raises(ParameterError, match="gives nothing to answer on 1 questions"):
        attention_study(model, [broken], run=RunOptions(results_dir=tmp_path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"flows": ["constraint -> image"]}, AttentionError, "flows names 'constraint -> image': use 'visual -> con"),
        ({"window": 6}, TraceError, "window must be a whole number from 1 to the model's 5 layers"),
        ({"protocol": "ours"}, ValueError, "protocol cannot be 'ours'"),
        ({"run": RunOptions(shard="3")}, ParameterError, "Parameter 'shard' must be like '2/8'"),
    ],
)
def test_wrong_options_are_one_sentence(model, items, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        attention_study(model, items, **{"run": RunOptions(tmp_path)} | options)
