"""Choosing replacement phrases, on a tiny random model that answers in words."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from answering import MULTI, questions, renamed, speaking

import interventions.studies.candidate_runs as module
from interventions.errors import PromptError
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.studies.loop import RunOptions
from interventions.studies.replacements import choose_corruptions, write_corruptions
from interventions.testbed import TestBed, TestBedError, load_image, load_testbed, save_testbed
from interventions.testbed.candidates import Candidates
from interventions.tracing.causal_trace import Scoring, trace

NONE = 1e-12  # no candidate is as improbable as that, so all are tried


@pytest.fixture(scope="module")
def model():
    return renamed(speaking(tiny.build()), revision="1")


@pytest.fixture(scope="module")
def bed(model, tmp_path_factory):
    """Six questions that the tiny model answers right, two of them with a text constraint; no replacements."""
    directory = tmp_path_factory.mktemp("bed")
    items = [stripped(replace(item, relation="capital" if item.text_constraint is None else "borders"))
             for item in questions(model, directory, n=6)]
    save_testbed(items, directory)
    return load_testbed(directory)


def stripped(item):
    return replace(item, visual_replacement="", text_replacement=None)


def changed(bed, **by_id) -> TestBed:
    """The test bed with fields of items changed: changed(bed, **{id: {"answers": …}})."""
    return replace(bed, items=tuple(replace(item, **by_id.get(item.id, {})) for item in bed))


def prompt_of(model, item):
    return build_prompt(model, item.question, load_image(item.image), visual_constraint=item.visual_constraint,
                        text_constraint=item.text_constraint)


def in_turn(model, bed, item, role: str, tries: int) -> pd.DataFrame:
    """What is to be tried, each by a trace of its own: phrase, equal, p, p_clean."""
    prompt, rows = prompt_of(model, item), []
    for phrase, _ in Candidates(bed).of(item, role, most=32):
        corrupted = corrupt(model, prompt, **{f"{role}_replacement": phrase})
        rows.append((phrase, len(corrupted.input_ids) == len(prompt), corrupted))
    rows = sorted(rows, key=lambda row: not row[1])[:tries]
    scoring = Scoring(max_answer_tokens=1)
    traced = [trace(model, prompt, corrupted, positions=(0,), scoring=scoring) for *_, corrupted in rows]
    return pd.DataFrame([(phrase, equal, one.p_corrupted, one.p_clean) for (phrase, equal, _), one in
                         zip(rows, traced, strict=True)], columns=["phrase", "equal", "p", "p_clean"])


@pytest.mark.parametrize("tries", [3, 8])
def test_the_lowest_of_those_tried_is_chosen(model, bed, tmp_path, tries):
    known = bed.select("known")
    found = choose_corruptions(known, model, tries=tries, max_p=NONE, run=RunOptions(tmp_path))
    rows, spreads = found.choices, []
    assert sorted(rows["role"]) == ["text", "visual", "visual", "visual"] and set(rows["status"]) == {"chosen"}
    by_id = {item.id: item for item in bed}
    for row in rows.itertuples():
        expected = in_turn(model, known, by_id[row.id], row.role, tries)
        assert row.tried == len(expected) == tries
        best = expected.loc[expected["p"].idxmin()]
        assert (row.phrase, row.equal_length) == (best["phrase"], best["equal"])
        assert row.p_corrupted == pytest.approx(best["p"], abs=1e-5)
        assert row.p_clean == pytest.approx(best["p_clean"], abs=1e-5) and row.p_clean > 0.2
        spreads.append(expected["p"].max() - best["p"])
    assert np.median(spreads) > 0.05  # the choice matters
    for item in found.items:
        own = rows[rows["id"] == item.id].set_index("role")["phrase"]
        assert item.visual_replacement == own["visual"] and (item.text_replacement or "") == own.get("text", "")


def test_the_first_of_equal_length_that_is_low_enough_ends_the_search(model, bed, tmp_path):
    known = bed.select("known")
    rows = choose_corruptions(known, model, max_p=0.6, run=RunOptions(tmp_path)).choices
    by_id, stopped = {item.id: item for item in known}, 0
    for row in rows.itertuples():
        expected = in_turn(model, known, by_id[row.id], row.role, 8)
        good = expected[expected["equal"] & (expected["p"] <= 0.6 * expected["p_clean"])]
        if len(good):
            assert row.phrase == good["phrase"].iloc[0] and row.tried == good.index[0] + 1
            stopped += row.tried < 8
    assert stopped >= 2


def test_equal_length_goes_before_the_draw(model, bed, tmp_path):
    first = bed.items[0]
    names = [*(f"Land number {n}" for n in range(9)), "Sri Lanka"]  # which alone has two tokens
    others = [replace(first, id=name, entity=name, answers=(name,)) for name in names]
    bed = replace(bed, items=(first, *others))
    assert [phrase for phrase, _ in Candidates(bed).of(first, "visual")].index("Sri Lanka") > 0
    rows = choose_corruptions(bed, model, tries=1, run=RunOptions(tmp_path)).choices.set_index("id")
    assert rows.loc[first.id, "phrase"] == "Sri Lanka" and rows.loc[first.id, "equal_length"]
    assert (rows["tokens"] == 2).all() and (rows["equal_length"] == (rows["phrase_tokens"] == 2)).all()
    assert not rows.loc["Sri Lanka", "equal_length"] and rows.loc["Sri Lanka", "phrase_tokens"] > 2


def test_one_with_the_same_answer_is_not_chosen_even_if_it_is_the_only_one_of_equal_length(model, bed, tmp_path):
    items = [item for item in bed if item.text_constraint is None]
    twin = replace(items[1], id="twin", part=items[0].part, entity="Sri Lanka", answers=items[0].answers)
    other = replace(twin, id="other", answers=("Colombo",))
    for added, expected in ((other, True), (twin, False)):
        alone = replace(bed, items=(items[0], added))
        tried = Candidates(alone).of(items[0], "visual")
        assert ("Sri Lanka" in dict(tried)) == expected
        rows = choose_corruptions(alone, model, tries=1, run=RunOptions(tmp_path)).choices
        chosen = dict(zip(rows["id"], rows["phrase"], strict=True))[items[0].id]
        assert (chosen == "Sri Lanka") == expected


def test_what_the_prompt_refuses_is_passed_over(model, bed, tmp_path, monkeypatch):
    before = choose_corruptions(bed, model, run=RunOptions(tmp_path / "1")).choices
    refused = set(before["phrase"])

    def strict(model, prompt, **replacements):
        if set(replacements.values()) & refused:
            raise PromptError("no")
        return corrupt(model, prompt, **replacements)

    monkeypatch.setattr("interventions.prompts.corruption.corrupt", strict)
    after = choose_corruptions(bed, model, run=RunOptions(tmp_path / "2")).choices
    assert set(after["status"]) == {"chosen"} and not refused & set(after["phrase"])


def test_what_needs_no_image_goes_first_and_what_does_is_noted(model, bed, tmp_path, monkeypatch):
    plain = choose_corruptions(bed, model, tries=2, run=RunOptions(tmp_path / "1")).choices
    assert not plain["needs_image"].any() and plain.loc[plain["role"] == "text", "needs_image"].isna().all()
    points = set(plain.loc[plain["role"] == "visual", "phrase"])
    place = "interventions.studies.replacements.needs_image"
    monkeypatch.setattr(place, lambda text: any(phrase in text for phrase in points))
    other = choose_corruptions(bed, model, tries=2, run=RunOptions(tmp_path / "2")).choices
    assert not points & set(other.loc[other["role"] == "visual", "phrase"]) and not other["needs_image"].any()
    monkeypatch.setattr(place, lambda text: True)
    all_point = choose_corruptions(bed, model, tries=2, run=RunOptions(tmp_path / "3"))
    assert all_point.choices["needs_image"].sum() == 6 and all_point.summary()["needs image"].sum() == 6


def test_each_item_is_one_request_with_one_clean_run(model, bed, tmp_path, monkeypatch):
    calls, runs = [], []
    in_session, clean_run = module.in_session, module.clean_run
    monkeypatch.setattr(module, "in_session", lambda *arguments: (calls.append(1), in_session(*arguments))[1])
    monkeypatch.setattr(module, "clean_run", lambda *arguments: (runs.append(1), clean_run(*arguments))[1])
    rows = choose_corruptions(bed, model, max_p=NONE, run=RunOptions(tmp_path)).choices
    assert rows["tried"].sum() == 8 * 8 and len(calls) == len(runs) == len(bed) == 6


def test_as_it_travels_to_a_server_it_gives_the_same(model, bed, tmp_path):
    here, there = (
        choose_corruptions(bed, model, limit=1, tries=3, run=RunOptions(tmp_path / str(remote), remote=remote))
        for remote in (False, "local")
    )
    assert (here.choices["status"] == "chosen").sum() >= 2
    pd.testing.assert_frame_equal(here.choices, there.choices)


def test_a_run_that_was_killed_goes_on(model, bed, tmp_path, monkeypatch):
    whole = choose_corruptions(bed, model, run=RunOptions(tmp_path / "whole"))
    in_session, calls = module.in_session, []

    def until_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return in_session(*arguments)

    monkeypatch.setattr(module, "in_session", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        choose_corruptions(bed, model, run=RunOptions(tmp_path / "part"))
    again = choose_corruptions(bed, model, run=RunOptions(tmp_path / "part"))
    assert len(calls) == 3 + 4  # two were done
    pd.testing.assert_frame_equal(again.choices, whole.choices)
    choose_corruptions(bed, model, run=RunOptions(tmp_path / "part"))
    assert len(calls) == 3 + 4
    choose_corruptions(bed, model, run=RunOptions(tmp_path / "part"), seed=1)
    assert len(calls) == 3 + 4 + 6


def test_wrong_answers_are_given_a_phrase_and_counted(model, bed, tmp_path):
    single = next(item for item in bed if item.text_constraint is None)
    found = choose_corruptions(changed(bed, **{single.id: {"answers": ("nonsense",)}}), model, run=RunOptions(tmp_path))
    rows = found.choices.set_index("id")
    assert not rows.loc[single.id, "correct"] and rows.loc[single.id, "status"] == "chosen"
    assert found.choices["correct"].sum() == len(found.choices) - 1
    assert found.summary()["answered wrongly"].sum() == 1


def test_every_constraint_is_accounted_for(model, bed, tmp_path):
    ids = [item.id for item in bed]
    broken = changed(bed, **{
        ids[0]: {"visual_replacement": "Tuvalu"},
        ids[1]: {"image": tmp_path / "missing.png"},
        ids[3]: {"visual_constraint": ""},
        ids[4]: {"question": "x this flibbertigibbet", "visual_constraint": "this flibbertigibbet", "relation": "y",
                 "paraphrases": ()} | {"entity": ""},
        ids[5]: {"visual_replacement": "Tuvalu"},
    })
    found = choose_corruptions(broken, model, run=RunOptions(tmp_path))
    rows = found.choices.set_index(["id", "role"])
    assert list(dict.fromkeys(found.choices["id"])) == ids and len(rows) == 8
    assert dict(rows["status"]) == {
        (ids[0], "visual"): "kept", (ids[1], "visual"): "none", (ids[2], "visual"): "chosen",
        (ids[2], "text"): "chosen", (ids[3], "visual"): "none", (ids[4], "visual"): "none", (ids[5], "visual"): "kept",
        (ids[5], "text"): "chosen",
    }
    for name, reason in ((ids[1], "image unreadable"), (ids[3], "constraint not marked"), (ids[4], "unknown kind")):
        assert rows.loc[(name, "visual"), "reason"].startswith(reason)
    summary = found.summary()
    assert summary[["chosen", "unchecked", "kept", "not asked", "none"]].sum(axis=1).equals(summary["constraints"])
    assert summary["constraints"].sum() == 8
    known = summary.set_index(["part", "role"]).loc[("okvqa", "visual")]
    unmarked = "constraint not marked (python -m interventions testbed annotate marks it)"
    assert known["why none"] == f"1 {unmarked}, 1 unknown kind"
    assert [item.visual_replacement for item in found.items][:2] == ["Tuvalu", ""]
    assert found.items[3] == broken.items[3] and found.items[5].visual_replacement == "Tuvalu"


def test_the_summary_tells_what_the_choices_say(model, bed, tmp_path):
    found = choose_corruptions(bed, model, max_p=0.3, run=RunOptions(tmp_path))
    for row in found.summary().to_dict("records"):
        own = found.choices[(found.choices["part"] == row["part"]) & (found.choices["role"] == row["role"])]
        assert row["constraints"] == row["chosen"] == len(own) and row["why none"] == "none"
        assert row["equal length"] == pytest.approx((own["tokens"] == own["phrase_tokens"]).mean())
        assert row["median p_clean"] == own["p_clean"].median()
        assert row["median p_corrupted"] == own["p_corrupted"].median()
        assert row["low"] == ((own["p_corrupted"] / own["p_clean"]) <= 0.3).mean()
        assert row["mean tried"] == own["tried"].mean()
    assert 0 < found.summary()["low"].mean() <= 1


def test_parts_and_limit_are_of_items_that_lack_one(model, bed, tmp_path):
    first = choose_corruptions(bed, model, limit=1, run=RunOptions(tmp_path))
    assert first.choices.groupby("part")["status"].apply(lambda s: (s == "chosen").any()).all()
    asked = {row.id for row in first.choices.itertuples() if row.status == "chosen"}
    assert len(asked) == 2 and set(first.choices["status"]) == {"chosen", "not asked"}
    then = choose_corruptions(replace(bed, items=first.items), model, limit=1, run=RunOptions(tmp_path))
    assert not asked & {row.id for row in then.choices.itertuples() if row.status == "chosen"}
    assert (then.choices["status"] == "chosen").any()
    known = choose_corruptions(bed, model, parts="known", run=RunOptions(tmp_path)).choices
    assert set(known.loc[known["status"] == "chosen", "part"]) == {"known"}
    assert set(known.loc[known["part"] == "okvqa", "status"]) == {"not asked"}


def test_overwrite_gives_up_what_was_there_and_does_not_draw_from_it(model, bed, tmp_path):
    old = changed(bed, **{item.id: {"visual_replacement": "Tuvalu"} for item in bed})
    kept = choose_corruptions(old, model, parts="known", run=RunOptions(tmp_path))
    assert {item.visual_replacement for item in kept.items} == {"Tuvalu"}
    fresh = choose_corruptions(old, model, overwrite=True, run=RunOptions(tmp_path))
    assert "Tuvalu" not in {item.visual_replacement for item in fresh.items}
    pd.testing.assert_frame_equal(fresh.choices, choose_corruptions(bed, model, run=RunOptions(tmp_path)).choices)
    odd = {"question": "x this thingamajig", "visual_constraint": "this thingamajig", "paraphrases": (), "relation": ""}
    item = next(item for item in old if item.text_constraint is None)
    found = choose_corruptions(changed(old, **{item.id: odd}), model, overwrite=True, run=RunOptions(tmp_path))
    assert next(one for one in found.items if one.id == item.id).visual_replacement == "Tuvalu"  # nothing better
    assert list(found.choices.loc[found.choices["id"] == item.id, "status"]) == ["none"]


def test_without_a_model_the_length_is_told_by_words_and_nothing_is_checked(bed):
    found = choose_corruptions(bed)
    rows = found.choices
    assert set(rows["status"]) == {"unchecked"} and rows["p_clean"].isna().all() and rows["correct"].isna().all()
    visual = rows[rows["role"] == "visual"]
    assert (visual["tokens"] == 2).all()
    assert (visual["phrase"].str.split().str.len() == 2).all() and visual["equal_length"].all()  # "Sri Lanka"
    assert list(rows.loc[rows["role"] == "text", "phrase"].str.len()) == [1, 1]
    pd.testing.assert_frame_equal(rows, choose_corruptions(bed).choices)
    assert found.summary()["unchecked"].sum() == 8
    unmarked = changed(bed, **{item.id: {"visual_constraint": ""} for item in bed if item.text_constraint is None})
    assert (choose_corruptions(unmarked).choices["reason"].str.startswith("constraint not marked")).sum() == 4


def test_a_text_constraint_stays_of_its_form(bed):
    year = MULTI | {"question": "Name a movie of this director in 1994", "visual_constraint": "this director",
                    "text_constraint": "1994", "text_replacement": None, "visual_replacement": ""}
    item = replace(bed.items[0], paraphrases=(), **year)
    chosen = choose_corruptions(replace(bed, items=(item,))).items[0]
    assert chosen.text_replacement.isdigit() and len(chosen.text_replacement) == 4
    assert chosen.text_replacement != "1994" and "this" not in chosen.visual_replacement


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"max_p": 0.0}, {"max_p": 1.5}, {"limit": -1}])
def test_parameters_that_cannot_be_are_refused(bed, wrong):
    with pytest.raises(TestBedError, match=r"tries must be .* max_p .* limit"):
        choose_corruptions(bed, **wrong)


def test_an_unknown_part_is_refused(bed):
    with pytest.raises(TestBedError, match="no part 'knwon'"):
        choose_corruptions(bed, parts="knwon")


def test_what_is_written_is_loaded_again_with_its_history(bed, tmp_path):
    items = [replace(item, image=None) for item in bed]
    save_testbed(items, tmp_path)
    loaded = load_testbed(tmp_path)
    found = choose_corruptions(loaded)
    assert load_testbed(tmp_path).items == loaded.items  # choosing alone writes nothing
    written = write_corruptions(loaded, found)
    assert written.items == found.items == load_testbed(tmp_path).items
    assert all(item.visual_replacement for item in written)
    step = json.loads((tmp_path / "provenance.json").read_text())["steps"][-1]
    assert step["command"] == "corruptions" and step["counts"] == {"unchecked": 8}
    assert step["settings"]["max_p"] == 0.05 and step["settings"]["model"] is None
    assert step["inputs"][0]["name"] == "entity_kinds.yaml"
    assert set(choose_corruptions(written).choices["status"]) == {"kept"}
