"""Transplants tell two planted models apart, whose effects are the same."""

from dataclasses import replace

import numpy as np
import pandas as pd
import planted
import pytest
from answering import renamed

import interventions.tracing.transplant as module
from interventions.studies import transplant as shared
from interventions.studies.loop import RunOptions
from interventions.studies.transplant import (
    BOTH,
    CANNOT_SAY,
    CARRIES,
    TAKES_AWAY,
    other_items,
    strongest,
    transplant_shares,
    verdict,
)
from interventions.testbed import Item
from interventions.tracing.study import trace_study
from interventions.tracing.transplant import COLUMNS, transplant_study

LAYER = 1  # of the MLP that has the effect, in both models
KINDS = ("mlp", "attention", "hidden")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Three questions about each of four flags."""
    return planted.items(tmp_path_factory.mktemp("flags"))


@pytest.fixture(scope="module")
def models():
    """The MLP at the constraint writes the answer, or it takes the name away and the last token reads the image."""
    built = {"writes": planted.build(0, LAYER, 4), "unnames": planted.build(2, 3, 4, reader="ASSISTANT:", unname=LAYER)}
    return {name: renamed(model, name=name, revision="r1") for name, model in built.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def studies(models, items, results):
    return {name: trace_study(model, items, window=1, kinds=KINDS, only_read=True, run=RunOptions(results))
            for name, model in models.items()}


@pytest.fixture(scope="module")
def transplants(models, items, studies, results):
    return {name: transplant_study(models[name], items, study, run=RunOptions(results))
            for name, study in studies.items()}


def at(frame: pd.DataFrame, kind: str = "mlp", layer: int = LAYER) -> pd.DataFrame:
    return frame[(frame["kind"] == kind) & (frame["layer"] == layer)]


def test_the_effect_is_the_same_and_the_transplant_tells_them_apart_exactly(transplants):
    for name, own, other in (("writes", 0.0, 1.0), ("unnames", 1.0, 0.0)):
        found = at(transplants[name])
        assert len(found) == 12
        for column, expected in {"p_clean": 1, "p_restored": 1, "p_corrupted_own": 0, "p_corrupted_other": 0,
                                 "p_donor": 1, "p_own": own, "p_other": other}.items():
            assert found[column].to_numpy() == pytest.approx(np.full(12, expected), abs=1e-3), (name, column)


def test_shares_and_verdicts(transplants):
    for name, fact, word, says in (("writes", 1, 0, CARRIES), ("unnames", 0, 1, TAKES_AWAY)):
        shares = transplant_shares(transplants[name])
        row = at(shares).iloc[0]
        numbers = row[["effect", "low", "high", "fact", "fact_low", "fact_high", "word", "word_low", "word_high"]]
        assert numbers.tolist() == pytest.approx([1] * 3 + [fact] * 3 + [word] * 3, abs=1e-3)
        assert row["n"] == 12 and verdict(row) == says
        best = strongest(shares).set_index("kind")
        assert best.loc["mlp", ["layer", "verdict"]].tolist() == [LAYER, says]
        assert best.loc["hidden", "verdict"] == says
        nothing = at(shares, layer=5).iloc[0]
        assert np.isnan(nothing["fact"]) and np.isnan(nothing["word"]) and verdict(nothing) == CANNOT_SAY


def test_the_whole_state_holds_the_answer_only_where_it_was_written(transplants):
    """Up to the layer in which the last token reads: behind it nothing is restored in either model."""
    for name, until in (("writes", 4), ("unnames", 2)):
        own, other = (transplants[name].query("kind == 'hidden'").groupby("layer")[column].mean().round(3).tolist()
                      for column in ("p_own", "p_other"))
        there = [1.0] * until + [0.0] * (6 - until)
        assert (own, other) == ((there, [0.0] * 6) if name == "unnames" else ([0.0] * 6, there))


def test_one_row_for_every_question_kind_and_layer(transplants, studies):
    for name, frame in transplants.items():
        assert list(frame.columns) == COLUMNS
        assert len(frame) == 12 * 3 * 6 and not frame.duplicated(["id", "kind", "layer"]).any()
        assert list(dict.fromkeys(frame["id"])) == list(studies[name].questions["id"])
        for row in frame.drop_duplicates("id").itertuples():
            assert row.other.split("-")[1] != row.id.split("-")[1]  # another flag
            assert row.other.split("-")[2] == row.id.split("-")[2]  # the same words


# Which questions, and what is kept


def test_the_limit_is_of_each_part_and_counts_questions_with_another_item(models, items, tmp_path):
    mixed = [replace(item, part="known" if n < 6 else "movies") for n, item in enumerate(items)]
    mixed[0] = replace(mixed[0], question="country this country has the capital")  # nobody else asks that
    study = trace_study(models["writes"], mixed, window=1, kinds="mlp", only_read=True, run=RunOptions(tmp_path))
    frame = transplant_study(models["writes"], mixed, study, limit=2, run=RunOptions(tmp_path))
    found = frame.groupby("part", sort=False)["id"].unique()
    assert {part: list(ids) for part, ids in found.items()} == {
        "known": [item.id for item in mixed[1:3]], "movies": [item.id for item in mixed[6:8]],
    }


def test_an_other_item_that_is_answered_wrongly_is_not_taken(models, items, tmp_path):
    """Nor one that cannot be asked."""
    asked = items[::3]  # one question about each flag
    wrong, unseen = replace(asked[1], answers=("Zanzibar",)), replace(asked[2], image=tmp_path / "no.png")
    spoilt = [asked[0], wrong, unseen, asked[3]]
    study = trace_study(models["writes"], asked[:1], window=1, kinds="mlp", only_read=True, run=RunOptions(tmp_path))
    for seed in range(4):
        frame = transplant_study(models["writes"], spoilt, study, seed=seed, run=RunOptions(tmp_path))
        assert set(frame["other"]) == {asked[3].id}


def test_without_another_item_there_is_no_row(models, items, tmp_path):
    alone = items[:3]  # about the same flag
    study = trace_study(models["writes"], alone, window=1, kinds="mlp", only_read=True, run=RunOptions(tmp_path))
    frame = transplant_study(models["writes"], alone, study, run=RunOptions(tmp_path))
    assert frame.empty and list(frame.columns) == COLUMNS
    assert transplant_shares(frame).empty and strongest(transplant_shares(frame)).empty


def test_answers_with_the_same_first_token_are_not_compared(models, items, tmp_path, monkeypatch):
    """P(own) and P(other) would be one number."""
    study = trace_study(models["writes"], items[:1], window=1, kinds="mlp", only_read=True, run=RunOptions(tmp_path))
    monkeypatch.setattr(shared, "scored_part", lambda ids, blank_ids, sequence: ([], [7]))
    assert transplant_study(models["writes"], items, study, run=RunOptions(tmp_path)).empty


def test_a_second_call_computes_nothing(models, items, studies, transplants, results, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    model, study = models["writes"], studies["writes"]
    monkeypatch.setattr(module, "trace", refuse)
    again = transplant_study(model, items, study, run=RunOptions(results))
    pd.testing.assert_frame_equal(again, transplants["writes"])
    part = transplant_study(model, list(reversed(items)), study, limit=3, run=RunOptions(results))
    pd.testing.assert_frame_equal(part, again[: len(part)])
    others = [renamed(model, revision="r2", name="writes"), replace(study, window=2)]
    for changed in ({"seed": 1}, {"method": "rows"}):
        with pytest.raises(AssertionError, match="computed again"):
            transplant_study(model, items, study, run=RunOptions(results), **changed)
    for asked, of in ((others[0], study), (model, others[1])):
        with pytest.raises(AssertionError, match="computed again"):
            transplant_study(asked, items, of, run=RunOptions(results))


def test_every_method_and_a_remote_run_give_the_same_table(models, items, studies, transplants, tmp_path):
    name = "unnames"
    study, expected = studies[name].only([items[0].id]), transplants[name].query("id == @items[0].id")
    for n, (method, remote) in enumerate((("rows", None), ("plain", None), ("packed", "local"))):
        frame = transplant_study(
            models[name], items, study, method=method, run=RunOptions(tmp_path / str(n), remote=remote)
        )
        pd.testing.assert_frame_equal(frame, expected.reset_index(drop=True), rtol=0, atol=1e-5)


# Shares and verdicts of numbers made by hand


def made(n: int = 40, own=0.8, fact=0.8, word=0.0, noise=0.05) -> pd.DataFrame:
    """A transplant of one layer: P(own) restored to .1 + own, and so on."""
    draw = np.random.default_rng(0).normal(0, noise, (3, n))
    return pd.DataFrame({
        "id": [f"q{i}" for i in range(n)], "other": "o", "part": "known", "kind": "mlp", "layer": 0,
        "p_own": 0.1 + word + draw[0], "p_other": 0.05 + fact + draw[1], "p_corrupted_own": 0.1,
        "p_corrupted_other": 0.05, "p_restored": 0.1 + own + draw[2], "p_clean": 0.9, "p_donor": 0.9,
    })


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, CARRIES),
        ({"fact": 0.0, "word": 0.8}, TAKES_AWAY),
        ({"fact": 0.4, "word": 0.4}, BOTH),
        ({"fact": 0.2, "word": 0.0}, CANNOT_SAY),  # .25 of the effect: neither present nor absent
        ({"fact": 0.0, "word": 0.0}, CANNOT_SAY),
        ({"n": 9}, CANNOT_SAY),
        ({"own": 0.0}, CANNOT_SAY),
        ({"own": 0.008, "noise": 0.0}, CANNOT_SAY),
    ],
)
def test_verdicts(given, expected):
    [row] = transplant_shares(made(**given)).iloc
    assert verdict(row) == expected


def test_shares_are_ratios_of_means():
    frame = made(fact=0.6, word=0.2, noise=0.1)
    [row] = transplant_shares(frame).iloc
    effect = (frame["p_restored"] - 0.1).mean()
    assert row["effect"] == pytest.approx(effect)
    assert row["fact"] == pytest.approx((frame["p_other"] - 0.05).mean() / effect)
    assert row["word"] == pytest.approx((frame["p_own"] - 0.1).mean() / effect)
    for name in ("fact", "word"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_a_token_without_a_counterpart_is_left_out():
    frame = made()
    frame.loc[:4, "p_own"] = np.nan
    assert transplant_shares(frame)["n"].item() == 35


def test_nothing_gives_empty_tables():
    empty = transplant_shares(pd.DataFrame(columns=COLUMNS))
    assert empty.empty and "fact_low" in empty
    assert list(strongest(empty).columns) == [*empty.columns, "verdict"]


# Other items


def item_like(name: str, **fields) -> Item:
    given = {
        "id": name, "part": "known", "question": "The capital of this country is", "image": f"{name}.png",
        "visual_constraint": "this country", "visual_replacement": "Chile", "answers": (f"capital of {name}",),
        "entity": name, "relation": "capital",
    }
    return Item(**given | fields)


def test_other_items_have_the_same_words_and_another_answer():
    item = item_like("Peru")
    unfit = [
        item_like("same entity", entity="Peru"),
        item_like("same answer", answers=("Rome", "capital of Peru")),
        item_like("other words", question="The currency of this country is"),
        item_like("another constraint", visual_constraint="country"),
        item_like("another text constraint", text_constraint="capital"),
        item_like("no image", image=None),
        item_like("same image", image="Peru.png"),
        item,
    ]
    assert other_items(item, unfit) == []
    fit = item_like("Japan")
    assert other_items(item, [*unfit, fit]) == [fit]


def test_an_unknown_entity_is_not_the_same_one():
    """Imported questions of OK-VQA do not say what their image shows."""
    item, fit = item_like("Peru", entity=""), item_like("Japan", entity="")
    assert other_items(item, [item_like("same image", entity="", image="Peru.png"), item, fit]) == [fit]
    assert other_items(item_like("Peru"), [fit]) == [fit]
    assert other_items(item, [item_like("Japan")]) == [item_like("Japan")]


def test_the_order_depends_on_the_seed_but_not_on_that_of_the_pool():
    item = item_like("Peru")
    pool = [item_like(f"c{n}") for n in range(20)]
    chosen = [other_items(item, pool, seed) for seed in range(10)]
    assert chosen == [other_items(item, reversed(pool), seed) for seed in range(10)]
    assert len({one[0].id for one in chosen}) > 4
    asked_by = {other_items(item_like(f"q{n}"), pool)[0].id for n in range(10)}
    assert len(asked_by) > 4  # nor is one image the donor of all
