"""Averages of contributions and knockouts, and the examples that are shown, on studies made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from contributions import contributions_study, late_visual

from interventions.attention.averages import (
    agreement,
    blocked_entirely,
    flow_shares,
    knockout_drops,
    outcome_examples,
    patch_examples,
    total_shares,
)
from interventions.attention.study import SUBSETS
from interventions.attention.visual_tokens import concentration, first_layer, mean_contributions

FLOW, DIRECT, ON = "visual -> constraint", "visual -> last", "constraint -> last"
HALF_RIGHT = np.arange(6) % 2 == 0


def noise(n=6, n_layers=4, n_tokens=16, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 0.5, (n, n_layers, n_tokens))


def test_maps_are_means_of_right_answers():
    norms = {part: noise(seed=seed) for seed, part in enumerate(("okvqa", "known"))}
    study = contributions_study({(part, FLOW): values for part, values in norms.items()}, right={"known": HALF_RIGHT})
    frame = mean_contributions(study)
    assert list(frame["part"].unique()) == ["okvqa", "known"]
    for part, values in norms.items():
        cells = frame[frame["part"] == part]
        chosen = values[HALF_RIGHT] if part == "known" else values
        grid = cells.pivot(index="layer", columns="index", values="norm")
        assert (list(grid.index), list(grid.columns)) == (list(range(4)), list(range(16)))
        np.testing.assert_allclose(grid, chosen.mean(0), rtol=1e-5)
        assert set(cells["n"]) == {len(chosen)}


def test_a_question_that_was_not_answered_is_left_out():
    study = contributions_study({("known", FLOW): noise()})
    study.questions.loc[0, "answered"] = False
    assert set(mean_contributions(study)["n"]) == {5}


def test_only_flows_from_the_visual_tokens_have_a_map():
    study = contributions_study({("known", FLOW): noise(), ("known", ON): noise(n_tokens=2)})
    for function in (mean_contributions, concentration, first_layer):
        with pytest.raises(ValueError, match=r"flow must start at the visual tokens.*not 'constraint -> last'"):
            function(study, "constraint -> last")
    with pytest.raises(ValueError, match="n_visual = 25"):
        mean_contributions(replace(study, n_visual=25))
    with pytest.raises(ValueError, match="top must be a share"):
        concentration(study, top=0)
    assert mean_contributions(study, DIRECT).empty


def test_the_top_tokens_share_and_overlap():
    """Layer 0: tokens 0 to 2 of 64 have 11, the others 1, everywhere; layer 1: three other tokens in every question."""
    values = np.ones((10, 2, 64))
    values[:, 0, :3] = 11
    for q in range(10):
        values[q, 1, 3 * q : 3 * q + 3] = 11
    same, own = concentration(contributions_study({("known", FLOW): values}), top=0.05).itertuples()
    for row in (same, own):
        assert [row.share_top, row.low, row.high] == pytest.approx([33 / (33 + 61)] * 3)
        assert (row.n, row.entities) == (10, 10)
        assert row.overlap_null == pytest.approx(3 / 64)
    assert (same.overlap, own.overlap) == (1, 0)
    assert same.p < 0.002
    assert own.p == 1


def test_the_last_sixteenth_and_the_most_of_another():
    values = np.ones((4, 1, 64))
    values[:, :, 60:] = 5
    values[:, :, 8:12] = 2
    [row] = concentration(contributions_study({("known", FLOW): values})).itertuples()
    assert [row.share_last, row.last_low, row.last_high] == pytest.approx([20 / 84] * 3)
    assert row.share_other == pytest.approx(8 / 84)
    # 729 tokens are 16 blocks of 45, and 9 tokens before them that are none.
    values = np.ones((4, 1, 729))
    values[:, :, :9] = 1000
    [row] = concentration(contributions_study({("known", FLOW): values})).itertuples()
    assert row.share_last == row.share_other == pytest.approx(45 / (720 + 9000))


def test_random_tokens_overlap_as_often_as_p_says():
    """Every layer is a draw of its own."""
    values = np.random.default_rng(3).random((12, 400, 64))
    frame = concentration(contributions_study({("known", FLOW): values}))
    assert frame["overlap"].mean() == pytest.approx(3 / 64, abs=0.003)
    assert 0.02 < (frame["p"] <= 0.05).mean() < 0.09
    assert frame["p"].median() == pytest.approx(0.5, abs=0.12)
    leaning = values.copy()
    leaning[:, :, 20:26] += 0.3  # in some questions some of these get into the top 3
    assert (concentration(contributions_study({("known", FLOW): leaning}))["p"] <= 0.05).mean() > 0.95


def test_questions_about_one_entity_are_no_evidence_that_others_agree():
    values = np.repeat(np.random.default_rng(1).random((10, 1, 64)), 4, axis=0)  # four questions, one image
    names = np.repeat([f"country {n}" for n in range(10)], 4)
    [row] = concentration(contributions_study({("known", FLOW): values}, entities={"known": names})).itertuples()
    assert (row.n, row.entities) == (40, 10)
    assert row.p > 0.05
    for unknown in (None, ""):  # a test bed without entities: every question counts
        entities = {"known": [unknown] * 40}
        [row] = concentration(contributions_study({("known", FLOW): values}, entities=entities)).itertuples()
        assert row.entities == 40
        assert row.p < 0.002  # and the images repeated would have looked like agreement


def test_equal_contributions_have_no_top_tokens_in_common():
    [row] = concentration(contributions_study({("known", FLOW): np.ones((20, 1, 64))})).itertuples()
    assert row.overlap == pytest.approx(3 / 64, abs=0.03)


def test_the_first_layer_against_the_largest_other():
    values = np.ones((8, 4, 16))
    values[:, 0] = 3 + 0.1 * np.arange(8)[:, None]
    values[:, 2] = 2
    [row] = first_layer(contributions_study({("known", FLOW): values})).itertuples()
    assert (row.layer, row.n) == (0, 8)
    assert [row.norm, row.first, row.difference] == pytest.approx([3.35, 3.35, 1.35])
    assert 1 < row.low < 1.35 < row.high < 1.7
    values[:, 2] = 4
    [row] = first_layer(contributions_study({("known", FLOW): values})).itertuples()
    assert row.layer == 2
    assert row.high < 0


def test_a_first_layer_like_the_others_does_not_lead():
    held = [
        first_layer(contributions_study({("known", FLOW): noise(12, 4, 4, seed)}))["low"].item() > 0
        for seed in range(60)
    ]
    assert np.mean(held) < 0.05


def test_shares_are_summed_over_the_source():
    values = noise(n_tokens=2)
    study = contributions_study(
        {("known", FLOW): noise(), ("known", ON): values}, right={"known": HALF_RIGHT},
        shares={("known", ON): values / 10},
    )
    frame = flow_shares(study)
    assert list(frame["flow"].unique()) == [FLOW, ON]
    cells = frame[frame["flow"] == ON]
    np.testing.assert_allclose(cells["share"], (values / 10).sum(-1)[HALF_RIGHT].mean(0), rtol=1e-5)
    assert ((cells["low"] < cells["share"]) & (cells["share"] < cells["high"])).all()
    assert set(cells["n"]) == {3}
    total = total_shares(study).query("flow == @ON").set_index("id")["share"]
    assert total["known-2"] == pytest.approx((values[2] / 10).sum(-1).mean(), rel=1e-5)
    assert list(total.index) == ["known-0", "known-2", "known-4"]


def blocked(n=6, n_layers=4, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, n_layers + 1))


def test_drops_by_window():
    drops = {("known", FLOW): blocked(), ("known", DIRECT): blocked(seed=1)}
    study = contributions_study({key: noise() for key in drops}, drops=drops, right={"known": HALF_RIGHT})
    frame = knockout_drops(study)
    for (_, flow), values in drops.items():
        cells = frame[frame["flow"] == flow]
        assert list(cells["window"]) == [3] * 4 + [4]
        assert list(cells["layer"]) == [0, 1, 2, 3, 2]
        np.testing.assert_allclose(cells["drop"], values[HALF_RIGHT].mean(0), rtol=1e-5)
        assert set(cells["n"]) == {3}
    whole = blocked_entirely(study).set_index(["flow", "id"])["drop"]
    assert whole[FLOW, "known-4"] == pytest.approx(drops["known", FLOW][4, -1], rel=1e-5)
    assert len(whole) == 6


def test_parts_of_a_flow_that_are_blocked_alone_have_drops_but_no_share():
    drops = {("known", flow): blocked(seed=seed) for seed, flow in enumerate((FLOW, *SUBSETS))}
    study = contributions_study({("known", FLOW): noise()}, drops=drops, right={"known": HALF_RIGHT})
    whole = blocked_entirely(study).set_index(["flow", "id"])["drop"]
    for (_, flow), values in drops.items():
        np.testing.assert_allclose(whole[flow], values[HALF_RIGHT, -1], rtol=1e-5)
        cells = knockout_drops(study).query("flow == @flow")
        np.testing.assert_allclose(cells["drop"], values[HALF_RIGHT].mean(0), rtol=1e-5)
    for table in (flow_shares(study), total_shares(study), agreement(study)):
        assert set(table["flow"]) == {FLOW}


def test_a_window_of_all_layers_is_blocked_entirely_at_its_center():
    values = blocked()
    study = contributions_study({("known", FLOW): noise()}, drops={("known", FLOW): values}, window=4)
    assert list(knockout_drops(study)["layer"]) == [0, 1, 2, 3]
    np.testing.assert_allclose(blocked_entirely(study)["drop"], values[:, 2], rtol=1e-5)


@pytest.mark.parametrize("order", [1, -1])
def test_agreement_is_the_rank_correlation_over_layers(order):
    rise = np.array([0.1, 0.2, 0.3, 0.7])
    shares = np.tile(rise[:, None], (6, 1, 1)) / 2 * np.ones(2)
    drops = np.append(0.9 * rise[::order] ** 3, 0.99) * np.ones((6, 1))
    study = contributions_study(
        {("known", ON): shares}, shares={("known", ON): shares}, drops={("known", ON): drops}, n_visual=16
    )
    [row] = agreement(study).itertuples()
    assert [row.rho, row.low, row.high] == pytest.approx([order] * 3)
    assert (row.flow, row.peak_share, row.peak_drop, row.n) == (ON, 3, 3 if order == 1 else 0, 6)


def test_nothing_agrees_with_drops_that_are_rounding_errors():
    shares, generator = noise(n_tokens=2), np.random.default_rng(0)
    drops = 1e-7 * shares.sum(-1)[:, [0, 1, 2, 3, 3]]
    study = contributions_study({("known", ON): shares}, drops={("known", ON): drops}, n_visual=16)
    assert agreement(study)[["rho", "low", "high"]].to_numpy().tolist() == [[0, 0, 0]]
    large = contributions_study({("known", ON): shares}, shares={("known", ON): shares / 10},
                                drops={("known", ON): 1e5 * drops}, n_visual=16)
    assert agreement(large)["rho"].item() == pytest.approx(1)
    unrelated = [
        agreement(contributions_study(
            {("known", ON): noise(n_layers=8, n_tokens=2, seed=seed)},
            drops={("known", ON): generator.random((6, 9))}, n_visual=16,
        ))["rho"].item() for seed in range(30)
    ]
    assert abs(np.mean(unrelated)) < 0.25


def all_tables(study) -> list[pd.DataFrame]:
    return [function(study) for function in (mean_contributions, concentration, first_layer, flow_shares, total_shares,
                                             knockout_drops, blocked_entirely, agreement)]


def test_without_right_answers_tables_are_empty_and_have_their_columns():
    norms, drops = {("known", FLOW): noise()}, {("known", FLOW): blocked()}
    full = all_tables(contributions_study(norms, drops=drops))
    none = all_tables(contributions_study(norms, drops=drops, right={"known": np.zeros(6, bool)}))
    for table, empty in zip(full, none, strict=True):
        assert len(table) and empty.empty
        assert list(table.columns) == list(empty.columns)
    without = contributions_study(norms)
    assert knockout_drops(without).empty and blocked_entirely(without).empty and agreement(without).empty
    assert len(flow_shares(without))


def test_one_question_has_no_interval_and_agrees_with_nobody():
    study = contributions_study({("known", FLOW): noise(1)}, drops={("known", FLOW): blocked(1)})
    for table in all_tables(study):
        assert len(table)
        if "low" in table:
            assert table[["low", "high"]].isna().all(axis=None)
    found = concentration(study)
    assert found[["overlap", "p"]].isna().all(axis=None)
    assert found["share_top"].notna().all()


def test_llavas_size_is_no_burden():
    study = contributions_study({("known", FLOW): late_visual(6, 32, 576)})
    found = concentration(study)
    assert found.loc[0, "share_last"] > 0.5
    assert found["overlap_null"].iloc[0] == pytest.approx(29 / 576)


def test_patches_of_examples():
    norms = {("known", FLOW): noise(), ("known", DIRECT): noise(seed=1), ("known", ON): noise(n_tokens=2)}
    study = contributions_study(norms, right={"known": HALF_RIGHT})
    frame = patch_examples(study, 2, ["known-5", "known-0"])
    assert list(frame["id"].unique()) == ["known-5", "known-0"]
    for name, cells in frame.groupby("id"):
        np.testing.assert_allclose(cells["norm"], norms["known", FLOW][int(name[-1]), 2], rtol=1e-5)
        assert list(cells["index"]) == list(range(16))
        assert set(cells["constraint"]) == {"this country"}
    assert set(frame["answer"]) == {"Rome", "Lima"}
    drawn = patch_examples(study, 2, each=2)
    assert drawn["id"].nunique() == 2
    assert set(drawn["answer"]) == {"Lima"}  # only right ones
    parts = contributions_study({(part, FLOW): noise() for part in ("known", "movies")})
    each = patch_examples(parts, 2, each=2).drop_duplicates("id")
    assert each["part"].tolist() == ["known"] * 2 + ["movies"] * 2 and set(each["constraint"]) == {""}
    with pytest.raises(ValueError, match="ids must be questions of the study, but 'other' is none"):
        patch_examples(study, 2, ["other"])


def test_examples_do_not_depend_on_the_order():
    study = contributions_study({("known", ON): noise(20, n_tokens=2), ("movies", ON): noise(20, n_tokens=2)},
                                right={"known": np.arange(20) < 15, "movies": np.arange(20) < 15})
    found = outcome_examples(study, each=3)
    assert found["correct"].tolist() == [True] * 3 + [False] * 3
    shuffled = replace(study, questions=study.questions.sample(frac=1, random_state=1))
    assert outcome_examples(shuffled, each=3)["id"].tolist() == found["id"].tolist()
    assert outcome_examples(study, each=3, seed=1)["id"].tolist() != found["id"].tolist()
    assert len(outcome_examples(study, each=12)) == 12 + 10  # as many as there are
    all_right = contributions_study({("known", ON): noise(5, n_tokens=2)})
    assert outcome_examples(all_right)["correct"].tolist() == [True] * 3
