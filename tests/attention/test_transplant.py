"""Flows that are read from another image tell two planted models apart."""

from dataclasses import replace

import numpy as np
import pandas as pd
import planted
import pytest
from answering import renamed

import interventions.attention.transplant as module
from interventions.attention.study import attention_study
from interventions.attention.transplant import COLUMNS, flow_transplant_shares, flow_transplants
from interventions.studies.loop import RunOptions
from interventions.studies.transplant import CANNOT_SAY, CARRIES, TAKES_AWAY

ON, DIRECT = "constraint -> last", "visual -> last"


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Three questions about each of four flags."""
    return planted.items(tmp_path_factory.mktemp("flags"))


@pytest.fixture(scope="module")
def models():
    """The last token reads the answer at the constraint, or the image itself."""
    built = {"constraint": planted.build(1, 2, 4), "image": planted.build(2, 3, 4, reader="ASSISTANT:")}
    return {name: renamed(model, name=name, revision="r1") for name, model in built.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def studies(models, items, results):
    return {name: attention_study(model, items, knockouts=True, window=1, run=RunOptions(results))
            for name, model in models.items()}


@pytest.fixture(scope="module")
def transplants(models, items, studies, results):
    return {name: flow_transplants(models[name], items, study, run=RunOptions(results))
            for name, study in studies.items()}


def test_the_flow_that_is_used_carries_the_answer_and_the_other_one_nothing(transplants):
    for name, used, unused in (("constraint", ON, DIRECT), ("image", DIRECT, ON)):
        frame = transplants[name]
        assert list(frame.columns) == COLUMNS and len(frame) == 12 * 2
        for flow, own, other, blocked in ((used, 0, 1, 0), (unused, 1, 0, 1)):
            found = frame[frame["flow"] == flow]
            for column, expected in {"p_clean": 1, "p_donor": 1, "p_own": own, "p_other": other,
                                     "p_blocked_own": blocked, "p_blocked_other": 0}.items():
                assert found[column].to_numpy() == pytest.approx(np.full(12, expected), abs=1e-3), (name, flow, column)
        for row in frame.itertuples():
            assert row.other.split("-")[1] != row.id.split("-")[1]  # another flag
            assert row.other.split("-")[2] == row.id.split("-")[2]  # the same words


def test_shares_and_verdicts(transplants):
    for name, used, unused in (("constraint", ON, DIRECT), ("image", DIRECT, ON)):
        shares = flow_transplant_shares(transplants[name]).set_index("flow")
        numbers = shares.loc[used, ["effect", "low", "high", "fact", "fact_low", "fact_high", "word", "word_low",
                                    "word_high"]]
        assert numbers.tolist() == pytest.approx([1] * 6 + [0] * 3, abs=1e-3)
        assert shares["n"].tolist() == [12, 12]
        assert shares["verdict"].to_dict() == {used: CARRIES, unused: CANNOT_SAY}
        assert np.isnan(shares.loc[unused, "fact"])


def test_the_stored_blocked_probabilities_are_those_of_the_study(studies, transplants):
    study, frame = studies["constraint"], transplants["constraint"]
    whole = study.knockouts[study.knockouts["window"] == study.n_layers].astype({"id": str, "flow": str})
    both = frame.merge(whole, on=["id", "flow"])
    assert len(both) == len(frame)
    np.testing.assert_allclose(both["p_blocked_own"], both["p_blocked"], rtol=0, atol=1e-5)


def test_a_flow_that_any_image_serves_does_not_carry_the_answer():
    """Numbers made by hand."""
    draw = np.random.default_rng(0).normal(0, 0.05, 40)
    frame = pd.DataFrame({
        "id": [f"q{n}" for n in range(40)], "other": "o", "part": "known", "flow": ON, "p_own": 0.85 + draw,
        "p_other": 0.01, "p_blocked_own": 0.1, "p_blocked_other": 0.01, "p_clean": 0.9, "p_donor": 0.9,
    })
    [row] = flow_transplant_shares(frame).itertuples()
    assert (row.flow, row.verdict) == (ON, TAKES_AWAY)
    assert (row.effect, row.fact, row.word) == pytest.approx((0.8, 0, (0.75 + draw.mean()) / 0.8))


def test_the_limit_is_of_each_part_and_a_second_call_computes_nothing(
    models, items, studies, transplants, results, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "in_session", refuse)
    model, study, expected = models["image"], studies["image"], transplants["image"]
    pd.testing.assert_frame_equal(flow_transplants(model, items, study, run=RunOptions(results)), expected)
    few = flow_transplants(model, list(reversed(items)), study, limit=2, run=RunOptions(results))
    pd.testing.assert_frame_equal(few, expected[:4])
    with pytest.raises(AssertionError, match="computed again"):
        flow_transplants(model, items, study, seed=1, run=RunOptions(results))


def test_without_another_item_or_a_knockout_there_is_no_row(models, items, studies, results):
    model, study = models["image"], studies["image"]
    alone = flow_transplants(model, items[:3], replace(study, knockouts=study.knockouts[:1]), run=RunOptions(results))
    nothing = flow_transplants(model, items, replace(study, knockouts=study.knockouts[:0]), run=RunOptions(results))
    for frame in (alone, nothing, pd.DataFrame(columns=COLUMNS)):
        assert frame.empty and list(frame.columns) == COLUMNS
        assert flow_transplant_shares(frame).empty and "verdict" in flow_transplant_shares(frame)
