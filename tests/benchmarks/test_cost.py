"""The cost model counts what a real run computes, and its answers follow from its counts."""

import json

import pytest
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from benchmarks import baselines, cost, cost_table, fitting, measure, whole, width
from benchmarks.cost import CPU, CostError, Device, estimate
from benchmarks.published import published_config, skeleton
from benchmarks.subjects import Subject
from benchmarks.workload import Question, Work, architecture, batch_rows, forward_work, packed_tokens, question_work
from interventions import ModelError
from interventions.engine import packing
from interventions.engine.windows import Execution
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.tracing.causal_trace import Scoring, trace

COEFFICIENTS = {
    "seconds_per_flop": 2e-12, "seconds_per_image_flop": 3e-12, "seconds_per_byte": 6e-11,
    "seconds_per_layer_call": 1e-3,
}
COUNTED = ("attention_tokens", "mlp_tokens", "head_tokens", "images")


def subject(text="llama", vision="clip", dtype=torch.float32) -> Subject:
    model = tiny.build(text, vision, dtype=dtype)
    image = tiny.picture() if vision else None
    prompt = build_prompt(model, tiny.QUESTION, image, visual_constraint="this country")
    return Subject("tiny", model, prompt, corrupt(model, prompt, repeat_token="Peru"))


def question_of(traced: Subject, **changes) -> Question:
    first, n_tokens = traced.corrupted.first_corrupted, len(traced.prompt)
    return Question(
        **{"before": first - len(traced.prompt.visual), "positions": n_tokens - first, "answer_tokens": 2} | changes
    )


def watch(traced: Subject) -> dict:
    """Tokens that enter attention, MLP and head of a module, and images, from now on."""
    seen = dict.fromkeys(COUNTED, 0)

    def count(module, name):
        def add(module, args):
            seen[name] += args[0].shape[:-1].numel() if name != "images" else len(args[0])

        module.register_forward_pre_hook(add)

    for layer in traced.decoder.layers:
        count(layer.self_attn.q_proj, "attention_tokens")
        count(layer.mlp.get_submodule(traced.model.family.w_proj), "mlp_tokens")
    count(traced.model.module.lm_head, "head_tokens")
    if traced.model.is_multimodal:
        count(traced.model.module.model.vision_tower.embeddings.patch_embedding, "images")
    return seen


@pytest.mark.parametrize("shape", [("llama", "clip"), ("phi", "siglip"), ("gqa", None)])
@pytest.mark.parametrize(("way", "budget", "changes"), [
    ("packed", 30, {}), ("packed", 7, {"window": 1}), ("packed", 1000, {"window": 2, "window_rule": "radius"}),
    ("rows", 40, {}), ("plain", 1, {"window": 1}),
])
def test_tokens_are_counted_as_a_real_run_computes_them(shape, way, budget, changes):
    traced, asked = subject(*shape), {"window": 3, "window_rule": "centered"} | changes
    seen, question = watch(traced), question_of(subject(*shape), **changes)
    asked |= {"execution": Execution(way, budget), "scoring": Scoring(max_answer_tokens=3)}
    result = trace(traced.model, traced.prompt, traced.corrupted, **asked)
    assert len(result.answer_ids) == 3  # so 2 forwards of one token
    arch = architecture(traced.model.config)
    counted = sum(question_work(arch, question, way, budget, budget // question.positions, 4).values(), Work())
    assert {name: getattr(counted, name) for name in COUNTED} == seen
    assert seen["attention_tokens"] > len(traced.prompt) * traced.model.n_layers


def test_the_authors_protocol_is_counted_as_the_baseline_runs_it():
    traced = subject()
    restore, seen = baselines.authors(traced), watch(traced)
    arch, question = architecture(traced.model.config), question_of(traced)
    for kind, ((_, position),), start, stop in question.sites(arch):
        restore((("mlp", "attention")[kind[0]], position, start, stop))
    counted = sum(question_work(arch, question, "authors", 1, 1).values(), Work())
    assert {name: getattr(counted, name) for name in COUNTED} == seen


def counted_by_torch(function, *args, **kwargs) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args, **kwargs)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["llava-1.5-7b", "bunny-phi-2"])
def test_operations_are_those_that_torch_counts(name):
    """At the real size, on the meta device. (Biases and norms are the difference.)"""
    config = published_config(name)
    arch, module, text = architecture(config), skeleton(config), config.get_text_config()
    ids, last = torch.ones(1, 300, dtype=torch.long, device="meta"), torch.tensor([299], device="meta")
    found = counted_by_torch(skeleton(text), ids, logits_to_keep=last)
    assert forward_work(arch, 300, 300, head=1).flops == pytest.approx(found, rel=1e-3)
    side = config.vision_config.image_size
    image = counted_by_torch(module.model.vision_tower, torch.zeros(1, 3, side, side, device="meta"))
    visual = torch.zeros(1, arch.visual, config.vision_config.hidden_size, device="meta")
    image += counted_by_torch(module.model.multi_modal_projector, visual)
    assert arch.image_flops == pytest.approx(image, rel=5e-3)  # without the patches' embedding


def test_budgets_are_those_of_the_package(monkeypatch):
    for size, dtype in ((4, torch.float32), (2, torch.bfloat16)):
        traced = subject(dtype=dtype)
        arch, question = architecture(traced.model.config), question_of(traced)
        end, chosen = len(traced.prompt), []
        for free in (10_000, 2_000_000, 4_000_000, 10**9):
            monkeypatch.setattr(packing, "free_bytes", lambda device, free=free: free)
            request = {"max_packed_tokens": None, "first": end - question.positions}
            asked = traced.model.traced, request, end, torch.zeros(1, dtype=dtype)
            budget, rows = packing.budget(*asked), packing.rows_that_fit(*asked)
            assert packed_tokens(arch, end, free, False, size) == budget
            assert batch_rows(arch, question, budget, free, size) == rows
            chosen.append((budget, rows))
        budgets, rows = zip(*chosen, strict=True)
        assert budgets[0] < budgets[1] < budgets[-1] == packing.CPU_PACKED_TOKENS
        assert rows[0] < rows[1] < rows[-1] == packing.CPU_PACKED_TOKENS // question.positions


def test_seconds_and_memory_follow_from_the_counts():
    device = Device("one", 1e-12, 2e-12, 1e-11, 1e-3, 1e9, 80e9)
    config = published_config("llava-1.5-7b")
    packed, rows, authors = (
        estimate(config, device, method=way, question=Question(7, 23), questions=10, max_packed_tokens=300)
        for way in ("packed", None, "authors")
    )
    total = sum(packed.work.values(), Work())
    by_hand = total.flops * 1e-12 + total.image_flops * 2e-12 + total.moved * 1e-11 + total.layer_calls * 1e-3
    assert packed.seconds == pytest.approx(by_hand)
    assert total.image_flops == packed.arch.image_flops > 0.3e12  # the image is encoded once
    assert packed.hours == pytest.approx(packed.seconds / 360)
    assert rows.way == "rows"  # what `trace` does in half precision
    assert packed.sites == 23 * 32 * 2
    assert packed.seconds < rows.seconds < authors.seconds
    # 1472 forwards of three rows of 606 tokens: two operations a weight and token.
    assert authors.work["sites"].flops == pytest.approx(1472 * 3 * 606 * 2 * 6.5e9, rel=0.1)
    assert 1e9 + 2 * 7_063_427_072 < packed.peak_bytes < 18e9
    assert packed.fits
    assert not estimate(config, "rtx4090", method="authors", dtype=torch.float32).fits


def test_more_sites_cost_more():
    few, many = (
        estimate("llava-1.5-7b", "a100", method="packed", question=Question(positions=n)).seconds for n in (5, 23)
    )
    assert few < many
    assert estimate("phi-2", "a100").seconds < estimate("bunny-phi-2", "a100").seconds


def test_a_fit_finds_the_coefficients_that_made_the_measurements():
    made, question = Device(CPU, **COEFFICIENTS, base_bytes=3e8, memory=20e9), Question(window=2)
    measurements = []
    for layers in (2, 4):
        config = published_config("bunny-phi-2")
        config.text_config.num_hidden_layers = layers
        arch = architecture(config)
        works = {n: forward_work(arch, n, n, head=1, images=n // 600) for n in (1, 25, 100, 300, 600)}
        works["trace"] = sum(question_work(arch, question, "packed", 300, 13).values(), Work())
        measurements += [
            fitting.Measurement(f"{what} of {layers}", made.seconds(work), work, 5e9 + 3e8, 5e9)
            for what, work in works.items()
        ]
    fitted = fitting.fit(measurements, memory=20e9)
    assert fitted["largest_error"] < 1e-6
    assert fitted["coefficients"] == pytest.approx({**COEFFICIENTS, "base_bytes": 3e8, "memory": 20e9})


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A fit in place of the package's own."""
    path = tmp_path / "fit.json"
    monkeypatch.setattr(cost, "FIT", path)
    return path


def test_cost_prints_seconds_hours_and_what_is_assumed(capsys, written):
    asked = ["--model", "llava-1.5-7b", "--device"]
    assert cost_table.main([*asked, "a100", "--questions", "100", "--method", "packed"]) == 0
    printed = capsys.readouterr().out
    told = estimate("llava-1.5-7b", "a100", method="packed", questions=100)
    assert f"{told.seconds:.2f}" in printed
    assert f"{told.hours:.1f}" in printed
    assert "Assumed, not fitted on a GPU (an H200 took up to twice as long)" in printed
    assert "Not yet checked" in printed

    assert cost_table.main([*asked, "cpu"]) == 1
    assert "has not been measured: run" in capsys.readouterr().err
    fitted = fitting.fit([fitting.Measurement("one", 1.0, Work(1e12, 1e9, 1), 2e9, 1e9)], memory=20e9)
    fitting.write_fit(fitted, written)
    check = dict(model="llava-1.5-7b", seconds=200, bytes=16e9, predicted_seconds=220, predicted_bytes=15.2e9)
    fitting.write_check(check, written)
    assert cost_table.main([*asked, "cpu"]) == 0
    printed = capsys.readouterr().out
    assert measure.machine()["cpu"] in printed
    assert "predicted 220 s, measured 200 s (+10%)" in printed
    assert "predicted 15.2 GB, measured 16.0 GB (-5%)" in printed
    assert all(f"\n{way} " in printed for way in ("packed", "rows", "plain", "authors"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["llava-1.5-7", "a100"], "did you mean 'llava-1.5-7b'?"),
    (["llava-1.5-7b", "h10"], "did you mean 'h100'?"),
    (["phi-2", "a100", "--method", "pack"], "did you mean 'packed'?"),
    (["phi-2", "a100", "--window", "99"], "window must be a whole number from 1 to the model's 32 layers, not 99."),
    (["phi-2", "a100", "--positions", "0"], "must be at least 1"),
])
def test_what_is_unknown_costs_one_sentence(capsys, arguments, message):
    model, device, *rest = arguments
    assert cost_table.main(["--model", model, "--device", device, *rest]) == 1
    assert message in capsys.readouterr().err


def test_costs_of_unmeasured_cpus_and_no_questions_are_refused(written):
    with pytest.raises(CostError, match=r"run `python -m benchmarks.rehearsal width`"):
        estimate("phi-2", "cpu")
    with pytest.raises(CostError, match="at least 1"):
        estimate("phi-2", "a100", questions=0)


def test_a_rehearsal_in_small_is_timed_and_saved(tmp_path, capsys, monkeypatch, written):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # else for all tests behind this one
    monkeypatch.setattr(width, "FORWARDS", (3, 20))
    job = dict(model="llava-1.5-7b", layers=1, shrink=64, budget=300, repeats=1)
    found = [m for kind in ("forwards", "packed") for m in width.run_job(job | {"kind": kind})]
    assert len(found) == 5  # two lengths, with image, authors, and the trace
    assert all(m.seconds > 0 and m.work.flops > 0 for m in found)
    assert found[-1].peak_bytes > found[-1].counted_bytes > 0
    fitting.write_fit(fitting.fit(found, memory=20e9), written)
    fitted = written.read_text()
    result = whole.whole(layers=2, shrink=64, out=tmp_path / "whole.json")
    saved = json.loads((tmp_path / "whole.json").read_text())
    assert saved["sites"] == 23 * 2 * 2
    assert saved["seconds"] == result["seconds"] >= sum(saved["stages"].values()) > 0
    assert saved["authors_hours"] == pytest.approx(saved["authors_forward_seconds"] * 92 / 3600)
    assert set(saved["predicted_stages"]) == set(saved["stages"])
    assert saved["predicted_rows_seconds"] > 0
    assert written.read_text() == fitted  # a trial checks nothing
    assert "5 + 576 + 25 tokens" in capsys.readouterr().out


def test_models_whose_work_is_not_counted_are_refused(tmp_path):
    tiny.build("llama", "tiles").config.save_pretrained(tmp_path)
    with pytest.raises(CostError, match="has another image encoder than LLaVA's, whose work is not counted here"):
        estimate(str(tmp_path), "a100")
    with pytest.raises(ModelError, match=r"is a 'gpt2' over 'gpt2', for which families\.py has no row"):
        estimate(GPT2Config(), "a100")
