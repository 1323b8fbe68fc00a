"""Averages, intervals and tests over questions, on sites made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sites import early, sites, study_of

import interventions.statistics as module
from interventions.layers import early_and_middle_layers, early_layers
from interventions.statistics import bootstrap_interval, sign_flips, simultaneous_interval
from interventions.tracing.averages import (
    by_layer,
    by_role_layer,
    early_tests,
    effects_at,
    layer_tests,
    on_common_questions,
    peak_layers,
    smallest_window,
    window_effects,
)

N_STUDIES, N_QUESTIONS, N_LAYERS = 200, 12, 8


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


def test_early_and_middle_are_the_papers_shares_of_the_depth():
    assert early_layers(32) == range(6)  # the paper finds 1-4 and edits 0-5
    assert early_layers(8) == range(2)
    assert early_layers(40) == range(8)
    assert [early_layers(n) for n in (1, 2, 5)] == [range(1)] * 3
    assert early_and_middle_layers(32) == range(18)  # up to 16 and 17, which it calls middle
    assert early_and_middle_layers(8) == range(5)
    assert early_and_middle_layers(1) == range(1)


def test_effects_by_layer_are_those_of_the_token_that_is_read():
    study = study_of(sites(early, parts=("known", "movies")))
    roles = by_role_layer(study.sites)
    expected = roles[roles["role"] == "constraint_last"].drop(columns="role").reset_index(drop=True)
    pd.testing.assert_frame_equal(by_layer(study), expected, check_dtype=False, rtol=1e-12)
    restored = by_layer(study, "p_restored")
    np.testing.assert_allclose(restored["p_restored"], expected["effect"] + 0.02, atol=1e-6)


def study_of_values(values: np.ndarray):
    """A study of values [parts, questions, layers]: MLP effects at the last constraint token."""
    part, question, layer = (index.ravel() for index in np.indices(values.shape))
    frame = pd.DataFrame({
        "id": [f"{p}-{q}" for p, q in zip(part, question, strict=True)], "part": part.astype(str), "kind": "mlp",
        "position": 3, "token": "t", "role": "constraint_last", "read": True, "layer": layer,
        "p_restored": values.ravel() + 0.02, "effect": values.ravel(),
    })
    return study_of(frame.astype(dict.fromkeys(("id", "part", "kind", "role"), "category")))


def no_effect(shape: str) -> np.ndarray:
    """Effects [studies, questions, layers] that are symmetric around 0."""
    generator = np.random.default_rng(1)
    values = generator.normal(size=(N_STUDIES, N_QUESTIONS, N_LAYERS))
    if shape == "layers alike":  # as windows make them: neighbors averaged, and a size of each question's own
        values = (values + np.roll(values, 1, -1) + np.roll(values, 2, -1)) * generator.exponential(
            size=(N_STUDIES, N_QUESTIONS, 1)
        )
    if shape == "few large effects":
        values = generator.standard_t(2, size=values.shape)
    return 0.1 * values


@pytest.mark.parametrize("shape", ["layers apart", "layers alike", "few large effects"])
def test_without_an_effect_one_study_in_twenty_has_a_layer_below_five_percent(shape, monkeypatch):
    monkeypatch.setattr(module, "FLIPS", 1000)
    study = study_of_values(no_effect(shape))
    tests = layer_tests(study)
    assert len(tests) == N_STUDIES * N_LAYERS
    best = tests.groupby("part")["p_corrected"].min()
    assert 0.02 <= (best <= 0.05).mean() <= 0.08
    assert best.mean() == pytest.approx(0.5, abs=0.06)
    assert (best <= 0.25).mean() == pytest.approx(0.25, abs=0.06)
    # Uncorrected, a layer chosen in advance is honest, the best of eight is not.
    assert 0.03 < (tests["p"] <= 0.05).mean() < 0.07
    assert tests["p"].mean() == pytest.approx(0.5, abs=0.03)
    assert (tests.groupby("part")["p"].min() <= 0.05).mean() > 0.12
    assert (tests["p_corrected"] >= tests["p"]).all()
    early_p = early_tests(study)["p"]
    assert 0.02 < (early_p <= 0.05).mean() <= 0.08
    assert early_p.mean() == pytest.approx(0.5, abs=0.06)


def test_an_effect_is_found_at_its_layer_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(module, "FLIPS", 1000)
    values = no_effect("layers apart")[:60]
    values[:, :, 2] += 0.15
    tests = layer_tests(study_of_values(values))
    found = (tests["p_corrected"] <= 0.05).groupby(tests["layer"]).mean()
    assert found[2] > 0.9
    assert found.drop(2).max() < 0.1
    assert tests.loc[tests["layer"] == 2, "effect"].mean() == pytest.approx(0.15, abs=0.02)


def test_an_effect_below_zero_is_none():
    values = no_effect("layers apart")[:1]
    values[:, :, 2] -= 0.3
    tests = layer_tests(study_of_values(values)).set_index("layer")
    assert tests.loc[2, ["p", "p_corrected"]].min() > 0.95


def test_the_correction_is_for_layers_that_differ():
    """The same layer eight times is one look; eight that have nothing to do with each other are eight."""
    values = no_effect("layers apart")[0]
    values[:, 0] += 0.08
    one = layer_tests(study_of_values(values[None, :, :1]))
    assert one["p_corrected"].item() == one["p"].item()
    same = layer_tests(study_of_values(np.repeat(values[None, :, :1], 8, axis=-1)))
    assert set(same["p_corrected"]) == set(same["p"]) == set(one["p"])
    p, corrected = layer_tests(study_of_values(values[None])).loc[0, ["p", "p_corrected"]]
    assert p == one["p"].item()
    assert 0.01 < p < 0.05  # else the next line shows nothing
    assert corrected == pytest.approx(1 - (1 - p) ** 8, abs=0.05)


def test_a_question_is_one_observation_however_many_tokens_its_constraint_has():
    frame = sites(lambda part, kind, role, layer, q: 0.1 * (q - 2) if layer == 2 else 0.01 * q, kinds=("mlp",))
    once = layer_tests(study_of(frame))
    copies = [frame[frame["role"] == "constraint_last"].assign(position=10 + n, read=False) for n in range(5)]
    pd.testing.assert_frame_equal(layer_tests(study_of(pd.concat([frame, *copies]))), once)
    assert set(once["n"]) == {8}
    assert 0.01 < once["p"][2] < 0.1


def test_parts_and_kinds_are_tested_apart():
    frame = sites(lambda part, kind, role, layer, q: 0.3 + 0.01 * q if (part, kind) == ("okvqa", "mlp") else 0.0,
                  parts=("known", "okvqa"))
    tests = layer_tests(study_of(frame)).set_index(["part", "kind"])
    assert list(tests.index.unique()) == [(p, k) for p in ("known", "okvqa") for k in ("mlp", "attention")]
    assert (tests.loc[("okvqa", "mlp"), "p_corrected"] < 0.01).all()
    assert (tests.drop([("okvqa", "mlp")])["p_corrected"] == 1).all()


def test_the_tests_read_the_token_that_a_study_says():
    study = study_of(sites(lambda part, kind, role, layer, q: 0.4 if role == "last" else 0.0))
    multi = study.questions.assign(constraints="multi")  # of which the text constraint is read
    last = study.sites.replace({"role": {"last": "text_constraint_last"}})
    other = replace(study, questions=multi, sites=last.assign(read=last["role"] == "text_constraint_last"))
    assert (study.role, other.role) == ("constraint_last", "text_constraint_last")
    assert (layer_tests(study)["effect"] == 0).all()
    assert (layer_tests(other)["p_corrected"] < 0.01).all()
    assert (early_tests(other)["early"] > 0.3).all()
    assert (peak_layers(other)["effect"] > 0.3).all()
    assert (window_effects({3: other})["low"] > 0.3).all()


def test_a_constant_effect():
    """Every question says the same: no spread to divide by, and p is that of all signs being equal."""
    tests = layer_tests(study_of_values(np.full((1, 6, 8), 0.3)))
    assert tests["p"].to_numpy() == pytest.approx(2**-6, abs=0.005)
    assert (tests["p_corrected"] == tests["p"]).all()
    np.testing.assert_allclose(tests[["effect", "low", "high"]], 0.3)


def test_rounding_errors_of_one_sign_are_no_effect():
    values = np.zeros((1, 12, 8))
    values[..., 1], values[..., 2] = 3e-8, -3e-8
    study = study_of_values(values)
    assert (layer_tests(study)[["p", "p_corrected"]] == 1).all(axis=None)
    assert early_tests(study)["p"].item() == 1
    values[..., 5] = 0.2  # and they do not make a true one look worse
    tests = layer_tests(study_of_values(values)).set_index("layer")
    assert tests["p_corrected"][5] == tests["p"][5] < 0.01
    assert (tests["p_corrected"].drop(5) == 1).all()


def test_one_question_has_no_interval_and_decides_nothing():
    study = study_of(sites(early, ids=[3], kinds=("mlp",)))
    for frame in (layer_tests(study), early_tests(study), window_effects({1: study})):
        assert frame[["low", "high"]].isna().all(axis=None)
        assert (frame["n"] == 1).all()
        if "p" in frame:
            assert frame["p"].to_numpy() == pytest.approx(0.5, abs=0.02)  # either sign is as likely
    assert (layer_tests(study)["p_corrected"] >= 0.45).all()
    assert smallest_window(window_effects({1: study}))["window"].isna().all()
    assert peak_layers(study)["layer"].tolist() == [1]


def test_no_question_gives_empty_tables_with_their_columns():
    whole = study_of(sites(early))
    none = whole.only([])
    pairs = [
        (layer_tests(none), layer_tests(whole)), (early_tests(none), early_tests(whole)),
        (peak_layers(none), peak_layers(whole)), (window_effects({1: none}), window_effects({1: whole})),
        (smallest_window(window_effects({1: none})), smallest_window(window_effects({1: whole}))),
        (by_role_layer(none.sites), by_role_layer(whole.sites)),
    ]
    for empty, full in pairs:
        assert empty.empty
        assert not full.empty
        assert list(empty.columns) == list(full.columns)


def test_early_against_others_within_each_question():
    # A question's own level (0.2 q) drops out of its difference; layers 0 and 1 of 8 are early.
    frame = sites(lambda part, kind, role, layer, q: 0.2 * q + (0.1 if layer < 2 else 0), kinds=("mlp",))
    row = early_tests(study_of(frame)).iloc[0]
    assert (row["part"], row["kind"], row["n"]) == ("known", "mlp", 8)
    assert row["early"] == pytest.approx(0.8)
    assert row["others"] == pytest.approx(0.7)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx([0.1] * 3)
    assert row["p"] == pytest.approx(2**-8, abs=0.003)
    late = sites(lambda part, kind, role, layer, q: 0.01 * q + (0.1 if layer >= 2 else 0), kinds=("mlp",))
    row = early_tests(study_of(late)).iloc[0]
    assert row["difference"] == pytest.approx(-0.1)
    assert row["p"] > 0.98


def test_what_is_early_follows_the_models_depth():
    frame = sites(lambda part, kind, role, layer, q: float(layer < 6), kinds=("mlp",), n_layers=32)
    row = early_tests(replace(study_of(frame), n_layers=32)).iloc[0]
    assert (row["early"], row["others"]) == (1, 0)


def test_the_peak_of_every_question():
    frame = sites(lambda part, kind, role, layer, q: 0.5 - 0.1 * abs(layer - (q if kind == "mlp" else 7 - q)))
    peaks = peak_layers(study_of(frame)).set_index(["kind", "id"])
    for q in range(8):
        assert peaks.loc[("mlp", f"known-{q}"), "layer"] == q
        assert peaks.loc[("attention", f"known-{q}"), "layer"] == 7 - q
    np.testing.assert_allclose(peaks["effect"], 0.5)
    assert len(peaks) == 16


def swept(effects: dict[int, float], spread: float = 0.1):
    """Studies by window, with so large a mean effect at layer 5 and noise around it at every layer."""
    noise = spread * np.random.default_rng(2).normal(size=(20, 8))
    noise -= noise.mean(0)

    def study(mean):
        return study_of(sites(lambda part, kind, role, layer, q: mean * (layer == 5) + noise[q, layer], ids=range(20),
                              kinds=("mlp",)))

    return {window: study(mean) for window, mean in effects.items()}


def test_the_smallest_window_whose_effect_leaves_zero():
    effects = window_effects(swept({1: 0.01, 3: 0.3, 5: 0.4}))
    assert effects["window"].tolist() == [1, 3, 5]
    assert effects["layer"].tolist()[1:] == [5, 5]
    np.testing.assert_allclose(effects["effect"], [0.01, 0.3, 0.4], atol=1e-6)
    assert smallest_window(effects)["window"].tolist() == [3]
    assert smallest_window(effects, at_least=0.3)["window"].tolist() == [5]
    assert smallest_window(effects, at_least=0.5)["window"].isna().tolist() == [True]
    backwards = effects.iloc[::-1]  # the smallest, not the first
    assert smallest_window(backwards)["window"].tolist() == [3]
    # Effects that come and go: the smallest at which it is there, whatever larger ones do.
    assert smallest_window(window_effects(swept({1: 0.01, 2: 0.3, 3: 0.01})))["window"].tolist() == [2]


def test_the_interval_of_the_best_layer_is_wider_than_that_of_a_given_one():
    sweep = swept({1: 0.06})
    best = window_effects(sweep).iloc[0]
    given = layer_tests(sweep[1]).set_index("layer").loc[5]
    assert best["effect"] == pytest.approx(given["effect"])
    assert best["low"] < given["low"] < given["high"] < best["high"]
    # Of eight layers with 20 questions: 3.0 standard errors; of one: 2.0.
    assert 1.3 < (best["high"] - best["low"]) / (given["high"] - given["low"]) < 1.8
    effects = effects_at(sweep[1].sites, "known", "mlp").to_numpy(float)
    looser = simultaneous_interval(effects, level=0.5)[1][5]
    assert best["low"] < looser < best["effect"]


@pytest.mark.parametrize("n", [5, 10, 20])
def test_all_layers_hold_their_mean_at_once(n, monkeypatch):
    monkeypatch.setattr(module, "FLIPS", 1000)
    generator = np.random.default_rng(n)
    missed, above, plain = 0, 0, 0
    for _ in range(200):
        values = 0.02 * generator.normal(size=(n, 8))
        mean, low, high = simultaneous_interval(values)
        np.testing.assert_allclose(mean, values.mean(0))
        missed += bool(((low > 0) | (high < 0)).any())
        above += bool(low[mean.argmax()] > 0)
        plain += bool(bootstrap_interval(values, n=500)[1].max() > 0)
    assert missed <= 0.08 * 200
    assert above <= 0.05 * 200
    assert plain > 0.1 * 200  # what an interval would do that does not know of the choice


def test_intervals_know_that_layers_are_alike():
    one = 0.1 * np.random.default_rng(0).normal(size=(20, 1)) + 0.2
    apart = 0.1 * np.random.default_rng(1).normal(size=(20, 8)) + 0.2
    apart[:, :1] = one
    _, low, _ = simultaneous_interval(one)
    np.testing.assert_allclose(simultaneous_interval(np.repeat(one, 8, axis=1))[1], low[0])
    assert simultaneous_interval(apart)[1][0] < low[0] - 0.01
    assert low[0] == pytest.approx(one.mean() - 2.1 * one.std() / 19**0.5, abs=0.01)  # 2.1: of t with 19 freedoms


def test_fewer_than_four_questions_leave_nothing_to_say_about_zero():
    values = np.array([0.5, 0.8, 0.6, 0.7])[None, :, None] * np.ones(8)
    for n, (low, high) in {1: (np.nan, np.nan), 2: (-1, 1), 3: (-1, 1)}.items():
        frame = window_effects({1: study_of_values(values[:, :n])})
        np.testing.assert_array_equal(frame[["low", "high"]], [[low, high]])
        assert smallest_window(frame)["window"].isna().all()
    frame = window_effects({1: study_of_values(values)})
    assert (frame["low"] > 0.2).all()
    assert (frame["high"] <= 1).all()


def test_studies_are_compared_on_the_questions_all_of_them_used():
    studies = [study_of(sites(early, ids=ids)) for ids in (range(5), range(2, 8), range(1, 7))]
    refused = studies[2].questions["id"] == "known-3"
    studies[2] = replace(studies[2], questions=studies[2].questions.assign(used=~refused))
    for study in on_common_questions(*studies):
        assert set(study.sites["id"]) == set(study.questions["id"]) == {"known-2", "known-4"}
    apart = on_common_questions(study_of(sites(early, ids=[1])), study_of(sites(early, ids=[2])))
    assert all(study.sites.empty and study.questions.empty for study in apart)


def test_signs_flip_by_question():
    values = np.random.default_rng(0).normal(size=(5, 2))
    values[:, 1] = 3 * values[:, 0]  # layers of a question stay together, so this holds at every flip
    flipped = sign_flips(values)
    assert flipped.shape == (1 + module.FLIPS, 2)
    np.testing.assert_allclose(flipped[0], values.mean(0))
    np.testing.assert_allclose(flipped[:, 1], 3 * flipped[:, 0])
    possible = [signs @ values[:, 0] / 5 for signs in np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T]
    assert len(np.unique(flipped[:, 0].round(9))) == len(possible) == 32
    np.testing.assert_allclose(np.unique(flipped[:, 0].round(9)), np.sort(possible), atol=1e-8)
    counts = np.unique(flipped[1:, 0].round(9), return_counts=True)[1]
    assert counts.min() > 0.7 * module.FLIPS / 32  # every flip is as likely
    np.testing.assert_array_equal(flipped, sign_flips(values))
    assert (flipped[1:] != sign_flips(values, seed=1)[1:]).any()


def test_effects_at_the_token_that_is_read_by_question_and_layer():
    frame = sites(lambda part, kind, role, layer, q: 0.1 * q + 0.01 * layer, parts=("known", "okvqa"))
    frame = frame.sample(frac=1, random_state=0)  # its order does not matter
    effects = effects_at(frame, "okvqa", "mlp")
    assert effects.columns.tolist() == list(range(8))
    assert set(effects.index) == {f"okvqa-{q}" for q in range(8)}
    assert effects.loc["okvqa-3", 5] == pytest.approx(0.3 + 0.05)
    missing = frame.assign(effect=frame["effect"].where((frame["id"] != "okvqa-3") | (frame["layer"] != 5)))
    assert set(effects_at(missing, "okvqa", "mlp").index) == set(effects.index) - {"okvqa-3"}
    assert effects_at(frame, "movies", "mlp").empty


def test_in_a_run_of_both_sorts_a_row_holds_the_constraint_that_was_corrupted():
    """Before the first corrupted token effects are 0 by construction: averaged in, they halve the row."""
    frame = sites(lambda part, kind, role, layer, q: 0.8 if role == "constraint_last" else 0.0)
    other = frame["id"].isin(["known-0", "known-1"])  # their text constraint was corrupted, behind the visual one
    text = frame[other & (frame["role"] == "constraint_last")].assign(role="text_constraint_last", read=True)
    both = pd.concat([frame.assign(read=frame["read"] & ~other, effect=frame["effect"].where(~other, 0.0)), text])
    means = by_role_layer(both).set_index(["role", "kind", "layer"])
    row = means.loc[("constraint_last", "mlp", 2)]
    assert (row["effect"], row["n"]) == (pytest.approx(0.8), 6)
    row = means.loc[("text_constraint_last", "mlp", 2)]
    assert (row["effect"], row["n"]) == (pytest.approx(0.8), 2)
    assert means.loc[("last", "mlp", 2), "n"] == 8
