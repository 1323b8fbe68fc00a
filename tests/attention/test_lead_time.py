"""The early end of a forward is real: fewer layers run, and time is measured on both."""

import math
from dataclasses import replace

import pytest
import tiny
from answering import questions, speaking

import interventions.attention.lead_time as module
from interventions.attention.lead_time import lead_text, lead_time
from interventions.statistics import Number
from interventions.studies.loop import RunOptions


@pytest.fixture(scope="module")
def model():
    return speaking(tiny.build())


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    return questions(model, tmp_path_factory.mktemp("bed"))


def test_the_early_forward_runs_no_layer_behind_the_last_one_needed(model, items, tmp_path):
    layers = model.module.get_submodule(model.family.language_model).layers
    ran = []
    handles = [layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
               for index, layer in enumerate(layers)]
    found = lead_time(model, items[:1], (1, 2), run=RunOptions(tmp_path))
    for handle in handles:
        handle.remove()
    assert (found["layers_needed"], found["n_layers"], found["time_ratio"].n) == (3, 5, 1)
    runs = 1 + module.REPEATS
    answered = 1  # once, to know how many tokens of the answer stand before the first visible one
    assert [ran.count(index) - answered for index in range(5)] == [2 * runs, 2 * runs, runs, runs, runs]


def test_what_is_timed_are_the_contributions_of_all_layers_of_the_predictor(model, items, monkeypatch, tmp_path):
    asked, plain = [], module.attention_contributions
    monkeypatch.setattr(
        module, "attention_contributions",
        lambda *given, layers, **options: asked.append(tuple(layers)) or plain(*given, layers=layers, **options),
    )
    lead_time(model, items[:1], (1, 3), run=RunOptions(tmp_path))
    assert set(asked) == {(1, 2, 3)}


def test_the_ratio_is_that_of_the_fastest_runs_and_its_mean_is_over_questions(model, items, monkeypatch, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = replace(items[0], image=tmp_path / "broken.png")
    clock = iter([  # early, whole, three times a question
        *(0, 3), *(0, 8), *(0, 2), *(0, 4), *(0, 9), *(0, 5),  # 2 of 4
        *(0, 1), *(0, 4), *(0, 1), *(0, 4), *(0, 1), *(0, 4),  # 1 of 4
    ])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    found = lead_time(model, [broken, *items], (0, 0), limit=2, run=RunOptions(tmp_path))
    assert found["time_ratio"].value == pytest.approx((0.5 + 0.25) / 2)
    assert (found["time_ratio"].n, found["layers_needed"]) == (2, 1)
    assert next(clock, None) is None


def test_nothing_to_time_is_no_number(model, items, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = lead_time(model, [replace(items[0], image=tmp_path / "broken.png")], (0, 0), run=RunOptions(tmp_path))
    assert found["time_ratio"].n == 0 and math.isnan(found["time_ratio"].value)
    found = lead_time(model, items, None, run=RunOptions(tmp_path))
    assert found["time_ratio"].n == 0 and math.isnan(found["layers_needed"])
    assert lead_text(found) == "No layers could be chosen, so no early end was timed."


def test_what_was_found_is_a_sentence():
    lead = {"layers_needed": 3, "n_layers": 5, "time_ratio": Number(0.5, 0.4, 0.625, n=7)}
    assert lead_text(lead) == (
        "The contribution is known after 3 of 5 layers, in 0.50 [0.40, 0.62] of the time that the confidence takes "
        "(n = 7 questions)."
    )
