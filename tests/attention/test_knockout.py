"""Knock-outs against an oracle that shares no code with them: PyTorch hooks that put a mask into whole forwards."""

import elsewhere
import numpy as np
import pytest
import tiny
import torch
from hooked import p_masked
from tiny import QUESTION, ask

from interventions import attention_knockout
from interventions.attention.contributions import FLOWS
from interventions.attention.knockout import METHODS, flow_edges
from interventions.engine.windows import Execution, window_spans
from interventions.errors import AttentionError, PromptError, TraceError
from interventions.prompts.prompt import build_prompt

# What no standard flow has: several roles at once, a source between the targets, a position.
ODD = {"question -> end": (("constraint", "other"), ("text_constraint", "last")), "first -> second": (0, (1, -1))}


@pytest.fixture(scope="module", params=[(*key, way) for key in tiny.SEEDS for way in ("sdpa", "eager")], ids=str)
def model(request):
    return tiny.build(*request.param)


def expected(model, prompt, found, flows, rule="centered"):
    spans = [*window_spans(found.window, rule, model.n_layers), (0, model.n_layers)]
    edges = flow_edges(prompt, flows)
    assert tuple(edges) == found.flows
    return np.array([
        [p_masked(model, prompt, found.answer_ids[0], *edge, range(*span)) for span in spans]
        for edge in edges.values()
    ])


@pytest.mark.parametrize(
    ("flows", "window", "rule", "answer"),
    [(None, 2, "centered", None), (None, 5, "centered", "Lima"), (ODD, 1, "radius", None), (ODD, 2, "radius", None)],
)
def test_both_methods_equal_hooks(model, flows, window, rule, answer):
    prompt = ask(model)
    options = {"flows": flows, "window": window, "window_rule": rule, "answer": answer}
    found = attention_knockout(model, prompt, **options)
    want = expected(model, prompt, found, flows, rule)
    p_clean = p_masked(model, prompt, found.answer_ids[0], (), (), ())
    if answer is None and model.is_multimodal:
        assert np.abs(p_clean - want).max() > 0.1
    for method in METHODS:
        for budget in (None, 9):
            again = attention_knockout(model, prompt, execution=Execution(method, budget), **options)
            assert again.p_clean == pytest.approx(p_clean, abs=1e-5)
            np.testing.assert_allclose(again.p_blocked, want[:, :-1], rtol=0, atol=1e-5)
            np.testing.assert_allclose(again.p_all_blocked, want[:, -1], rtol=0, atol=1e-5)


def test_blocked_is_every_target_token_and_only_those():
    """The edges of the standard flows, by role."""
    prompt = ask(tiny.build())
    edges = flow_edges(prompt)
    assert tuple(edges) == tuple(FLOWS)
    assert edges["visual -> constraint"] == (prompt.constraint, prompt.visual)
    assert edges["visual -> last"] == ((prompt.last,), prompt.visual)
    assert edges["constraint -> last"] == ((prompt.last,), prompt.constraint)
    assert tuple(flow_edges(ask(tiny.build("gqa", None)))) == ("constraint -> last",)


def test_without_what_it_reads_the_image_is_of_no_use():
    """Blocked in all layers from all text, two pictures give the same probability; unblocked they do not."""
    model = tiny.build()
    flows = {"visual -> text": ("visual", ("constraint", "text_constraint", "last", "other"))}
    results = []
    for seed in (0, 1):
        prompt = build_prompt(model, QUESTION, tiny.picture(seed), visual_constraint="this country")
        results.append(attention_knockout(model, prompt, flows=flows, answer="Lima"))
    one, two = results
    assert abs(np.log(one.p_clean / two.p_clean)) > 0.1
    assert one.p_all_blocked[0] == pytest.approx(two.p_all_blocked[0], rel=1e-4)


def test_the_table_has_every_window_once(model):
    prompt = ask(model)
    found = attention_knockout(model, prompt, window=2)
    frame = found.to_frame()
    assert list(frame.columns) == ["flow", "window", "layer", "p_blocked", "drop"]
    assert len(frame) == len(found.flows) * (model.n_layers + 1)
    assert not frame.duplicated(["flow", "window", "layer"]).any()
    row = frame[(frame["flow"] == found.flows[-1]) & (frame["window"] == 2) & (frame["layer"] == 3)].iloc[0]
    assert row["p_blocked"] == found.p_blocked[-1, 3]
    assert row["drop"] == pytest.approx(found.p_clean - found.p_blocked[-1, 3], abs=1e-6)
    everything = frame[frame["window"] == model.n_layers]
    assert everything["p_blocked"].tolist() == found.p_all_blocked.tolist()
    whole = attention_knockout(model, prompt, window=model.n_layers).to_frame()
    assert len(whole) == len(found.flows) * model.n_layers
    at_center = whole[whole["layer"] == model.n_layers // 2]["p_blocked"]
    np.testing.assert_allclose(at_center, found.p_all_blocked, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_rows_and_a_row_does_not_know_its_neighbors(dtype, monkeypatch):
    model = tiny.build(dtype=dtype)
    prompt = ask(model)
    used = []
    plain = attention_knockout.__globals__["in_session"]
    monkeypatch.setitem(
        attention_knockout.__globals__, "in_session",
        lambda lm, function, request, remote: used.append(request["method"]) or plain(lm, function, request, remote),
    )
    rows = attention_knockout(model, prompt)
    alone = attention_knockout(model, prompt, execution=Execution(max_packed_tokens=1))
    assert used == ["rows", "rows"]
    np.testing.assert_allclose(rows.p_blocked, alone.p_blocked, rtol=0, atol=1e-7)
    assert np.abs(rows.p_clean - rows.p_blocked).max() > 0.1
    # In the last layer nothing reads the constraint any more: not even a rounding error may be taken for a drop.
    assert attention_knockout(model, prompt, window=1).p_blocked[0, -1] == rows.p_clean


def test_serialized_as_for_a_server_it_gives_the_same(model):
    prompt = ask(model)
    for method in METHODS:
        here, there = (
            attention_knockout(model, prompt, execution=Execution(method, remote=remote)) for remote in (False, "local")
        )
        np.testing.assert_array_equal(here.p_blocked, there.p_blocked)


def test_a_process_without_the_package_can_run_a_request(tmp_path, monkeypatch):
    model = tiny.build()
    prompt = ask(model)
    here, there = elsewhere.both(
        model, tmp_path, monkeypatch, lambda: attention_knockout(model, prompt, execution=Execution(remote="local"))
    )
    np.testing.assert_array_equal(there["blocked"][1:].reshape(3, -1)[:, :-1], here.p_blocked)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 6}, TraceError, "window must be a whole number from 1 to the model's 5 layers"),
        ({"execution": Execution("plain")}, AttentionError, "method is unknown: 'plain'; use 'packed', 'rows'"),
        ({"flows": {"x": ("subject", "last")}}, PromptError, "flow 'x': positions names the unknown role 'subject'"),
        ({"flows": {"x": ("last", "constraint")}}, AttentionError, "flow 'x' has no edge"),
        ({"flows": {"x": "last"}}, AttentionError, r"^flow 'x' must be a pair \(source, target\), each positions or"),
        ({"flows": {"x": ("visual", "constraint", "last")}}, AttentionError, "^flow 'x' must be a pair"),
        ({"flows": {"x": 3}}, AttentionError, "^flow 'x' must be a pair"),
        ({"flows": {}}, AttentionError, "flows has no flow"),
        ({"answer": " "}, TraceError, "has no tokens of its own"),
    ],
)
def test_what_cannot_be_computed_is_said_in_a_sentence(options, error, message):
    model = tiny.build()
    with pytest.raises(error, match=message):
        attention_knockout(model, ask(model), **options)


def test_attention_without_masks_is_refused(monkeypatch):
    model = tiny.build()
    monkeypatch.setattr(type(model), "attention", "flash_attention_2")
    with pytest.raises(AttentionError, match="'flash_attention_2' takes no mask of single edges"):
        attention_knockout(model, ask(model))
