"""Answers, attention contributions and knock-outs of today's families against plain modules."""

import asked_vlms
import numpy as np
import pytest
import tiny
import tiny_vlms
import torch
from asked_vlms import KEYS, TEXTS, decided, likeliest, load
from hooked import own_inputs, p_masked

from interventions import attention_contributions, attention_knockout
from interventions.attention.contributions import FLOWS
from interventions.attention.knockout import METHODS, flow_edges
from interventions.engine.runs import own_answer
from interventions.engine.windows import Execution, window_spans
from interventions.models.model import VisionLanguageModel

WAYS = ("sdpa", "eager")


@pytest.mark.parametrize("place", asked_vlms.PLACES)
@pytest.mark.parametrize("key", KEYS)
def test_the_answer_is_that_of_generate(key, place):
    model = load(key, place=place)
    prompt, _ = decided(model)
    inputs = own_inputs(model.module, prompt.input_ids[None], prompt.image_inputs)
    generated = model.module.generate(**inputs, max_new_tokens=6, do_sample=False)[0, len(prompt) :].tolist()
    ids = [token for token in generated if token not in model.eos_token_ids]
    assert list(own_answer(model, prompt, max_answer_tokens=6).ids) == ids
    assert len(ids) > 1


@pytest.mark.parametrize("key", KEYS)
def test_an_answer_about_a_picture_is_what_the_processor_s_own_inputs_give(key):
    model = load(key)
    text = model.prompt_template(image=True).format(question=tiny.QUESTION)
    inputs = model.processor(images=tiny.picture(), text=text, return_tensors="pt")
    generated = model.module.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert model.generate_answer(tiny.picture(), tiny.QUESTION, 6) == model.decode(generated)


def build(key, way):
    """With weights in the norms, which begin at what changes nothing, and biases likewise; of one's own."""
    make = tiny_vlms.build_vlm if key in KEYS else tiny_vlms.build_text
    module, processor, prompt = make(key, way)
    if key in KEYS:
        prompt = asked_vlms.chat_formats(key)["before"]
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "norm" in name and "layers" in name and weight.dim() == 1:
                weight += 0.3 * torch.randn(weight.shape)
    return tiny.with_biases(VisionLanguageModel.from_module(module, processor, name=key, prompt=prompt))


@torch.no_grad()
def seen_by_hooks(model, prompt):
    """By layer: what attention reads [T, d], its weights [H, T, T], and what it adds to the residual stream [T, d]."""
    layers, seen = model.module.get_submodule(model.family.language_model).layers, [{} for _ in range(model.n_layers)]
    handles = []
    for layer, found in zip(layers, seen, strict=True):
        def read(_, __, named, output, found=found):
            found["read"] = named["hidden_states"][0].double()

        def added(_, __, output, found=found):
            found["added"] = (output[0] if isinstance(output, tuple) else output)[0].double()

        handles.append(layer.self_attn.register_forward_hook(read, with_kwargs=True))
        behind = model.family.attention_norm
        handles.append((getattr(layer, behind) if behind else layer.self_attn).register_forward_hook(added))
    inputs = own_inputs(model.module, prompt.input_ids[None], prompt.image_inputs)
    model.module(**inputs)
    for handle in handles:
        handle.remove()
    way = model.attention
    model.module.set_attn_implementation("eager")
    weights = model.module(**inputs, output_attentions=True).attentions
    model.module.set_attn_implementation(way)
    return [found | {"weights": weights[layer][0].double()} for layer, found in enumerate(seen)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", [*KEYS, *TEXTS])
def test_contributions_are_those_of_the_formula_and_add_up(key, way, record_property):
    """Eq. 1 in float64; in Gemma through the norm behind it, whose scale is that of the sum."""
    model = build(key, way)
    prompt = tiny.ask(model)
    found = attention_contributions(model, prompt, also=("vectors", "head_norms", "weights"))
    largest = 0.0
    for layer, seen in enumerate(seen_by_hooks(model, prompt)):
        module = model.module.get_submodule(model.family.language_model).layers[layer]
        block, rows = module.self_attn, list(found.queries)
        w_o = block.o_proj.weight.double()
        bias = 0.0 if block.o_proj.bias is None else block.o_proj.bias.double()
        heads = model.config.get_text_config().num_attention_heads
        values = block.double().v_proj(seen["read"])
        block.float()
        values = values.view(len(prompt), -1, w_o.shape[1] // heads).transpose(0, 1)
        values = values.repeat_interleave(heads // len(values), 0)  # [H, T, e]
        by_head = w_o.view(len(w_o), heads, -1)
        weights = seen["weights"][:, rows]
        terms = torch.einsum("hqk,hke,dhe->hqkd", weights, values, by_head)
        scale = torch.ones(len(rows), 1, dtype=torch.double)
        if model.family.attention_norm:
            norm, whole = getattr(module, model.family.attention_norm), terms.sum((0, 2)) + bias
            scale = (1 + norm.weight.double()) * (whole.pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
            assert (scale - 1).abs().max() > 0.3
        terms, bias = terms * scale[:, None], bias * scale
        for name, expected in (
            ("weights", weights), ("vectors", terms.sum(0)), ("norms", terms.sum(0).norm(dim=-1)),
            ("head_norms", terms.norm(dim=-1)),
        ):
            difference = np.abs(getattr(found, name)[layer] - expected.detach().numpy()).max()
            assert difference <= 1e-5 * max(1.0, expected.abs().max().item())
        added, total = seen["added"][rows] - bias, torch.tensor(found.vectors[layer]).sum(1)
        largest = max(largest, ((total - added).norm() / added.norm()).item())
    record_property("difference", float(largest))
    record_property("effect", float(found.norms.max()))
    assert largest <= 2e-6 and found.norms.max() > 0.5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", KEYS)
def test_knockouts_equal_hooks(key, way, record_property):
    model = load(key, way)
    prompt, _ = decided(model)
    options = {"flows": FLOWS | {"words -> last": (("other", "text_constraint"), "last")}, "window": 2}
    options["answer"] = token = likeliest(model, prompt)
    results = [attention_knockout(model, prompt, execution=Execution(method), **options) for method in METHODS]
    spans = [*window_spans(2, "centered", model.n_layers), (0, model.n_layers)]
    edges = flow_edges(prompt, options["flows"])
    assert tuple(edges) == results[0].flows and len(edges) == 4
    expected = np.array([
        [p_masked(model, prompt, token[0], *edge, range(*span)) for span in spans] for edge in edges.values()
    ])
    for method, found in zip(METHODS, results, strict=True):
        differences = np.abs(found.p_blocked - expected[:, :-1]), np.abs(found.p_all_blocked - expected[:, -1])
        difference = max(values.max() for values in differences)
        record_property(method, float(difference))
        assert difference <= 1e-5
    effect = np.abs(results[0].p_clean - expected).max()
    record_property("effect", float(effect))
    assert effect >= 0.3


@pytest.mark.parametrize("key", KEYS)
def test_serialized_as_for_a_server_they_give_the_same(key):
    model = load(key)
    prompt, _ = decided(model)
    one, other = (attention_contributions(model, prompt, also="vectors", remote=remote) for remote in (False, "local"))
    np.testing.assert_array_equal(one.vectors, other.vectors)
    one, other = (attention_knockout(model, prompt, execution=Execution(remote=remote)) for remote in (False, "local"))
    np.testing.assert_array_equal(one.p_blocked, other.p_blocked)
    one, other = (own_answer(model, prompt, remote=remote) for remote in (False, "local"))
    assert one == other
