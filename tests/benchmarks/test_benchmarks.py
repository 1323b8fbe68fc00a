"""The baselines compute what the trace computes, and the counts are right: a ratio needs both."""

import json
import platform

import pandas as pd
import pytest
import tiny
import torch

from benchmarks import attention, editing, measure, standard, testbed, tracing
from benchmarks.subjects import TOKENS, Subject, llava_shape, long_text
from benchmarks.ways import WAYS, Task
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt


@pytest.fixture(scope="module")
def subject():
    model = tiny.build()
    prompt = build_prompt(
        model, "The capital of this country is", tiny.picture(), visual_constraint="this country"
    )
    return Subject("tiny", model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"))


def test_every_way_finds_the_same_probabilities(subject, monkeypatch):
    monkeypatch.setattr(measure, "matmul_rate", lambda subject: 1e9)
    seconds, facts = tracing.measure_speed(subject, repeats=2)
    assert set(seconds) == {"packed", "floor", "naive", "hooks", "authors"}
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    assert facts["largest_effect"] > 0.1
    assert facts["max_abs_diff"] < 1e-5


def test_standard_tracing_is_compared_on_outputs_that_noise_changed(subject, capsys):
    numbers = standard.report(subject, repeats=1)
    assert set(numbers) == {"standard/tiny/ratio_naive", "standard/tiny/max_abs_diff"}
    assert numbers["standard/tiny/max_abs_diff"]["value"] < 1e-5
    assert numbers["standard/tiny/ratio_naive"]["value"] > 0
    assert float(capsys.readouterr().out.split("largest effect ")[1].split()[0]) > 0.1


@pytest.mark.parametrize("way", ["hooks", "authors"])
def test_baselines_restore_something(subject, way):
    module = subject.model.module
    restore, first = WAYS[way].ask(module, Task(subject, module)), subject.positions[:1]
    untouched = restore(("mlp", first, 0, 0))
    assert restore(("mlp", first, 0, 3)) != pytest.approx(untouched, abs=1e-4)


def test_the_floor_by_hand(subject):
    """Two sites, counted with a pencil: the last position, and the one before it."""
    last = subject.prompt.last
    layer = subject.decoder.layers[0]
    mlp, attention = (
        2 * sum(weight.numel() for weight in part.parameters()) for part in (layer.mlp, layer.self_attn)
    )
    head = 2 * subject.model.module.lm_head.weight.numel()
    keys = 4 * subject.model.hidden_size

    def cost(*sites):
        return measure.necessary_flops(subject, sites) - measure.necessary_flops(subject, ())

    # Five layers. MLPs 3 and 4 of the last token given: only its attention in layer 4 is left.
    assert cost(("mlp", last, 3, 5)) == attention + keys * (last + 1) + head
    # Attention 3 of the token before given: its MLP in layer 3, then attention 4 of both, MLP 4 of the last.
    assert cost(("attention", last - 1, 3, 4)) == 2 * mlp + 2 * attention + keys * (2 * last + 1) + head
    assert cost(("mlp", last, 3, 5), ("mlp", last, 3, 5)) == 2 * cost(("mlp", last, 3, 5))


def test_peak_bytes_counts_what_is_alive_together():
    def work():
        for _ in range(4):
            torch.zeros(250_000)  # 1 MB each, never two at a time

    assert 1_000_000 <= measure.peak_bytes(work) < 1_100_000


def test_results_of_other_benchmarks_stay(tmp_path):
    path = tmp_path / "results.json"
    measure.save({"edit/ratio": measure.spread([3.0, 1.0, 2.0])}, path)
    measure.save({"tracing/ratio": measure.spread([5.0])}, path)
    found = json.loads(path.read_text())
    assert list(found) == ["edit/ratio", "tracing/ratio"]
    assert [found["edit/ratio"][key] for key in ("value", "low", "high", "n")] == [2.0, 1.0, 3.0, 3]
    assert found["edit/ratio"]["machine"]["cores"] >= 1


def test_a_system_that_does_not_list_its_processor_is_asked_for_its_name(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast\n")
    monkeypatch.setattr(measure, "CPUINFO", tmp_path / "cpuinfo")
    assert measure.machine()["cpu"] == "Fast"
    monkeypatch.setattr(measure, "CPUINFO", tmp_path / "none")  # as on macOS
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert measure.machine()["cpu"] == "arm"


def test_an_import_that_is_not_as_it_must_be_ends_the_benchmark():
    rows = [("known", 0, "kept"), ("known", 1, "repaired"), ("movies", 0, "kept")]
    due = pd.DataFrame(rows, columns=["part", "number", "status"])
    testbed.refuse_wrong(due[::-1], due)
    with pytest.raises(SystemExit, match="1 of 3 rows are not as they must be: row 1 of known is 'kept', not 'rep"):
        testbed.refuse_wrong(due.replace("repaired", "kept"), due)
    with pytest.raises(SystemExit, match="1 of 3 rows"):
        testbed.refuse_wrong(due[:2], due)


def test_the_large_question_has_llava_s_layout():
    subject = llava_shape()
    assert subject.layout == TOKENS == (5, 576, 25)
    assert len(subject.positions) == 23
    assert len(subject.corrupted.input_ids) == len(subject.prompt)


def test_ways_to_contributions_agree_and_are_counted_in_forwards(subject, capsys):
    numbers = attention.report(subject, repeats=1)
    assert numbers["attention/tiny/max_relative_diff"]["value"] < 1e-5
    for way in ("cost", "whole", "eager", "knockout"):
        assert numbers[f"attention/tiny/{way}_in_forwards"]["value"] > 0
    assert "4 query rows, all layers" in capsys.readouterr().out


def test_only_eager_attention_makes_tensors_of_tokens_by_tokens():
    long = long_text(300)
    assert len(long.prompt) == 300
    numbers = attention.memory(long)
    assert numbers["attention/long_text/square_tensors"]["value"] == 0
    assert numbers["attention/long_text/eager_square_tensors"]["value"] > 0
    assert numbers["attention/long_text/eager_memory_in_forwards"]["value"] > 1.5


def test_square_tensors_counts_by_two_dimensions():
    tensors = [torch.zeros(shape) for shape in ((50, 50), (2, 50), (3, 50, 50), (60, 60))]

    def work():
        for tensor in tensors:
            tensor.exp()

    assert measure.square_tensors(work, 50) == 2


def test_the_closed_form_is_compared_on_weights_that_changed(capsys):
    numbers = editing.closed_form(24, 60, repeats=1)
    names = ("ratio_explicit_inverse", "rank_one_error", "explicit_inverse_error")
    assert set(numbers) == {f"edit/{name}" for name in names}
    assert numbers["edit/ratio_explicit_inverse"]["n"] == 2 and numbers["edit/ratio_explicit_inverse"]["low"] > 0
    assert numbers["edit/rank_one_error"]["value"] < 1e-5 and numbers["edit/explicit_inverse_error"]["value"] < 1e-3
    assert "closed form, 60 -> 24, float32" in capsys.readouterr().out


def test_value_steps_are_compared_on_losses_that_fell(subject, monkeypatch, capsys):
    monkeypatch.setattr(editing, "TARGET", "Lima")
    numbers = editing.value(subject, repeats=1, steps=3)
    ratios = {f"edit/ratio_value_{name}" for name in ("step", "step_few_logits", "whole")}
    assert set(numbers) == ratios | {"edit/max_abs_diff"}
    assert numbers["edit/max_abs_diff"]["value"] < 1e-3
    start, end = capsys.readouterr().out.split("-log P from ")[1].split(" in ")[0].split(" to ")
    assert float(end) < float(start) - 0.1
