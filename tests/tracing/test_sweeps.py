"""Runs side by side: what is compared, on sites made by hand, and a sweep over windows on a tiny model."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from answering import questions, renamed, speaking, words
from sites import early, sites, study_of

from interventions.errors import ParameterError
from interventions.studies.conditions import Conditions
from interventions.studies.loop import RunOptions
from interventions.tracing.study import trace_study
from interventions.tracing.sweeps import (
    on_common,
    paired_bests,
    series_by_layer,
    series_peaks,
    series_windows,
    smallest_windows,
    summaries,
    trace_windows,
)


def weaker(share: float, peak: int = 1):
    """Effects as in `early`, scaled, and moved to peak at another layer."""
    return lambda part, kind, role, layer, q: share * early(part, kind, role, layer - peak + 1, q)


def without(study, *ids):
    """The same study, these questions not used (their sites gone)."""
    questions = study.questions.copy()
    questions.loc[questions["id"].isin(ids), ["used", "correct", "reason"]] = False, False, "answered wrongly: 'x'"
    return replace(study, questions=questions, sites=study.sites[~study.sites["id"].isin(ids)])


@pytest.fixture(scope="module")
def sweeps():
    first = {1: study_of(sites(weaker(0.1))), 5: study_of(sites(weaker(1)))}
    second = {window: without(study_of(sites(weaker(0.001 * window, peak=4))), "known-3") for window in (1, 5)}
    return {"image": first, "name": second}


def test_only_common_questions_are_compared(sweeps):
    common = on_common(sweeps)
    assert list(common) == ["image", "name"] and list(common["image"]) == [1, 5]
    for study in (study for sweep in common.values() for study in sweep.values()):
        assert set(study.questions["id"]) == {f"known-{q}" for q in range(8) if q != 3} == set(study.sites["id"])


def test_nothing_in_common_is_one_sentence(sweeps):
    ids = [f"known-{q}" for q in range(8)]
    with pytest.raises(ParameterError, match="'limit': no question could be used by all of 'image', 'none'"):
        on_common({"image": sweeps["image"], "none": {3: without(sweeps["image"][1], *ids)}})


def test_summaries_count_what_each_used_and_all_compare(sweeps):
    table = summaries(sweeps)
    assert table["series"].tolist() == ["image", "name"]
    assert table["used"].tolist() == [8, 7]
    assert table["compared"].tolist() == [7, 7]
    assert table["left out"].tolist() == ["none", "1 answered wrongly"]


def test_series_by_layer_are_means_at_the_constraint_with_intervals(sweeps):
    frame = series_by_layer(sweeps)
    assert list(frame) == ["series", "window", "part", "kind", "layer", "effect", "low", "high", "n"]
    assert len(frame) == 2 * 2 * 2 * 8
    row = frame.query("series == 'image' and window == 5 and kind == 'mlp' and layer == 1").iloc[0]
    assert row["effect"] == pytest.approx(0.835, abs=1e-5)
    assert row["low"] < row["effect"] < row["high"]
    assert frame.query("series == 'name'")["n"].unique().tolist() == [7]


def test_peaks_are_those_of_each_question(sweeps):
    peaks = series_peaks(sweeps)
    assert peaks.query("series == 'image'")["layer"].unique().tolist() == [1]
    assert peaks.query("series == 'name'")["layer"].unique().tolist() == [4]
    assert len(peaks) == 2 * 2 * 8 + 2 * 2 * 7


def test_smallest_windows_tell_a_trace_from_an_effect(sweeps):
    frame = series_windows(sweeps)
    assert list(frame)[:3] == ["series", "window", "part"]
    found = smallest_windows(frame).set_index(["series", "kind"])
    assert found.loc[("image", "mlp"), ["above 0", "above 0.01"]].tolist() == ["1", "1"]
    # 0.001 x 0.8 is above 0 without doubt, but below 0.01 at either window.
    assert found.loc[("name", "mlp"), ["above 0", "above 0.01"]].tolist() == ["1", "none"]


def test_pairs_are_compared_by_effect_and_by_share_of_what_is_lost():
    one = study_of(sites(weaker(1)))
    half = study_of(sites(weaker(0.5, peak=3)))
    half = replace(half, questions=half.questions.assign(p_corrupted=0.02 + 0.93 / 2))  # loses half as much
    row = paired_bests(one, half).query("kind == 'mlp'").iloc[0]
    assert (row["layer"], row["other_layer"], row["n"]) == (1, 3, 8)
    assert row["effect"] == pytest.approx(0.835, abs=1e-5)
    assert row["difference"] == pytest.approx(0.835 / 2, abs=1e-5)
    assert row["low"] < row["difference"] < row["high"]
    assert row["recovered"] == pytest.approx(0.835 / 0.93, abs=1e-4)
    assert row["recovered_difference"] == pytest.approx(0, abs=1e-4)  # both bring back the same share
    assert row["recovered_low"] <= row["recovered_difference"] + 1e-6
    single = paired_bests(one.only(["known-0"]), half).iloc[0]
    assert np.isnan([single["low"], single["recovered_low"]]).all()
    assert single["n"] == 1


def test_a_sweep_traces_the_read_token_as_a_whole_study_does(tmp_path, capsys):
    model = renamed(speaking(tiny.build()), revision="r")
    items = questions(model, tmp_path, n=4)
    for corrupted, role in (("text", {"constraint_last", "text_constraint_last"}), ("visual", {"constraint_last"})):
        options = {"run": RunOptions(tmp_path / "results"), "conditions": Conditions(corrupted=corrupted),
            "kinds": "mlp"}
        sweep = trace_windows(model, items, [1, 3], **options)
        assert list(sweep) == [1, 3]
        assert [study.window for study in sweep.values()] == [1, 3]
        whole = trace_study(model, items, window=3, **options).sites
        whole = whole[[r == ("text_constraint_last" if corrupted == "text" and i in {items[1].id, items[3].id}
                            else "constraint_last") for i, r in zip(whole["id"], whole["role"], strict=True)]]
        mine = sweep[3].sites
        assert set(mine["role"]) == role
        assert np.abs(mine["effect"]).max() > 0.05
        np.testing.assert_array_equal(mine["id"], whole["id"])
        np.testing.assert_allclose(mine["effect"], whole["effect"], atol=1e-5)
        assert not np.allclose(sweep[1].sites["effect"], mine["effect"], atol=0.01)
    assert "window 3: 4 questions asked, 4 used" in capsys.readouterr().out


def test_stored_tables_of_a_text_only_model_are_those_of_the_name_it_was_asked_about(tmp_path):
    item = questions(speaking(tiny.build()), tmp_path, n=1, parts=("known",))[0]
    item = replace(item, text_constraint=None, text_replacement=None, question="The capital of this country is")
    text = renamed(speaking(tiny.build("gqa", None)), revision="r")
    clean = []
    for entity in ("Peru", "New Zealand"):
        asked = replace(item, entity=entity, answers=tuple(words(text).values()))
        sweep = trace_windows(text, [asked], [1], run=RunOptions(results_dir=tmp_path / "results"), min_p_clean=0.0)
        clean.append(sweep[1].questions["p_clean"].iloc[0])
    assert clean[0] != clean[1]
