"""Attention contributions against the model's own output, its eager weights and the formula, one head at a time."""

import elsewhere
import numpy as np
import pytest
import tiny
import torch
from sizes import LargestTensor
from tiny import ask, with_biases

from interventions.attention import contributions as attention
from interventions.attention.contributions import attention_contributions
from interventions.engine.forward import attention_call
from interventions.engine.runs import clean_run, prompt_request
from interventions.errors import AttentionError

EVERYTHING = ("vectors", "head_norms", "weights")


@pytest.fixture(scope="module", params=[(*key, way) for key in tiny.SEEDS for way in ("sdpa", "eager")], ids=str)
def model(request):
    return with_biases(tiny.build(*request.param))


def decoder_layers(model):
    return model.module.get_submodule(model.family.language_model).layers


@torch.no_grad()
def attention_blocks(model, prompt):
    """Of every layer, by plain hooks: what the attention block reads and writes [T, d]."""
    seen = []

    def keep(_, __, inputs, output):
        seen.append((inputs["hidden_states"][0], output[0][0]))

    handles = [layer.self_attn.register_forward_hook(keep, with_kwargs=True) for layer in decoder_layers(model)]
    image = prompt.image_inputs
    model.module(input_ids=prompt.input_ids[None], **image)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def eager_weights(model, prompt):
    """A [layers, heads, T, T] as Hugging Face returns it, from the same weights under eager attention."""
    way = model.attention
    model.module.set_attn_implementation("eager")
    image = prompt.image_inputs
    weights = model.module(input_ids=prompt.input_ids[None], output_attentions=True, **image).attentions
    model.module.set_attn_implementation(way)
    return torch.stack(weights)[:, 0]


def output_projection(block):
    return block.dense if hasattr(block, "dense") else block.o_proj


def test_all_contributions_add_up_to_the_output_without_its_bias(model):
    prompt = ask(model)
    found = attention_contributions(model, prompt, queries=("constraint", "text_constraint", "last"), also="vectors")
    assert found.keys == tuple(range(len(prompt)))
    for layer, (_, written) in enumerate(attention_blocks(model, prompt)):
        output = written[list(found.queries)]
        bias = output_projection(decoder_layers(model)[layer].self_attn).bias
        if bias is not None:
            assert bias.abs().max() > 0.5
            output = output - bias
        total = torch.tensor(found.vectors[layer]).sum(1)
        assert ((total - output).norm() / output.norm()).item() <= 1e-6


def test_rows_of_a_are_those_of_eager_attention(model):
    prompt = ask(model)
    found = attention_contributions(model, prompt, also="weights")
    expected = eager_weights(model, prompt)[:, :, list(found.queries)].numpy()
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(found.weights, expected, rtol=0, atol=1e-5)


def test_equal_to_the_formula_head_by_head(model):
    """Eq. 1 in float64, a head, a query and a key at a time; A of Eq. 2 is Hugging Face's own."""
    prompt = ask(model)
    keys = (0, 3, prompt.constraint[0], prompt.constraint[-1])
    queries = (prompt.constraint[-1], prompt.last)
    found = attention_contributions(model, prompt, queries=queries, keys=keys, also=EVERYTHING)
    weights = eager_weights(model, prompt).double()
    config = model.config.get_text_config()
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = config.hidden_size // heads
    for layer, (read, _) in enumerate(attention_blocks(model, prompt)):
        block = decoder_layers(model)[layer].self_attn
        w_v, w_o = block.v_proj.weight.double(), output_projection(block).weight.double()
        b_v = torch.zeros(len(w_v)) if block.v_proj.bias is None else block.v_proj.bias
        for row, query in enumerate(queries):
            for column, key in enumerate(keys):
                vector, norms = torch.zeros(config.hidden_size, dtype=torch.float64), []
                for head in range(heads):
                    group = head // (heads // groups)
                    part = slice(group * size, (group + 1) * size)
                    value = read[key].double() @ w_v[part].T + b_v[part]
                    term = weights[layer, head, query, key] * (w_o[:, head * size : (head + 1) * size] @ value)
                    vector, norms = vector + term, [*norms, term.norm().item()]
                scale = vector.norm().item() + max(norms) + 1e-3
                np.testing.assert_allclose(found.vectors[layer, row, column], vector, rtol=0, atol=1e-5 * scale)
                assert found.norms[layer, row, column] == pytest.approx(vector.norm().item(), abs=1e-5 * scale)
                np.testing.assert_allclose(found.head_norms[layer, :, row, column], norms, rtol=0, atol=1e-5 * scale)
    assert found.norms.max() > 1


def test_a_key_behind_the_query_contributes_nothing(model):
    prompt = ask(model)
    first = prompt.constraint[0]
    found = attention_contributions(model, prompt, queries=first, keys=range(first, len(prompt)))
    assert (found.norms[:, :, 1:] == 0).all() and (found.norms[:, :, 0] > 0).all()
    frame = found.to_frame()
    assert list(frame.columns) == ["layer", "query", "key", "norm"]
    assert set(frame["key"]) == {first} and frame["layer"].tolist() == list(range(model.n_layers))
    assert frame["norm"].tolist() == found.norms[:, 0, 0].tolist()


def test_behind_a_clean_run_only_the_suffix_is_run_again(model, monkeypatch):
    """The same numbers as from one whole forward, out of the cache that tracing has."""
    prompt = ask(model)
    whole = attention_contributions(model, prompt, queries=("constraint", "last"), also=EVERYTHING)
    request = prompt_request(prompt) | {
        "queries": whole.queries, "image_layers": model.image_layers,
        "keys": whole.keys, "layers": whole.layers, "also": EVERYTHING, "kinds": (), "first": 0, "answer_ids": [5],
        "image_token_id": model.image_token_id if model.is_multimodal else -1, "sequence": False,
        "blank_ids": (),
    }
    with torch.no_grad():
        clean = clean_run(model.traced, request)
    lengths = []
    plain = attention.run

    def watched(lm, inputs, **options):
        lengths.append(inputs["inputs_embeds"].shape[1])
        return plain(lm, inputs, **options)

    monkeypatch.setattr(attention, "run", watched)
    found = attention.contributions_from_cache(model.traced, request, clean)
    assert lengths == [len(prompt) - min(whole.queries)]
    assert clean["cache"].layers[0].keys.shape[2] == len(prompt)  # as it was, for whoever needs it next
    for name in ("norms", *EVERYTHING):
        np.testing.assert_allclose(found[name].numpy(), getattr(whole, name), rtol=0, atol=2e-5)


def test_the_forward_ends_where_the_last_layer_has_read_its_queries(model):
    prompt = ask(model)
    whole, run_to_the_end = attention_contributions(model, prompt), []
    handles = [
        module.register_forward_hook(lambda *_, name=name: run_to_the_end.append(name))
        for index, layer in enumerate(decoder_layers(model))
        for name, module in ((("attention", index), layer.self_attn), (("mlp", index), layer.mlp))
    ]
    some = attention_contributions(model, prompt, layers=(2, 1))
    for handle in handles:
        handle.remove()
    # Phi runs its MLP behind the attention, too
    assert run_to_the_end == [("attention", 0), ("mlp", 0), ("attention", 1), ("mlp", 1)]
    assert some.layers == (1, 2)
    np.testing.assert_array_equal(some.norms, whole.norms[1:3])


def test_one_layer_is_given_by_its_number():
    model = tiny.build()
    whole = attention_contributions(model, ask(model))
    for layer in (3, np.int64(3)):  # as tables name it
        found = attention_contributions(model, ask(model), layers=layer)
        assert found.layers == (3,)
        np.testing.assert_array_equal(found.norms, whole.norms[3:4])


def test_keys_in_chunks_change_nothing(model, monkeypatch):
    prompt = ask(model)
    whole = attention_contributions(model, prompt, also=EVERYTHING)
    monkeypatch.setattr(attention, "CHUNK", 1)
    parts = attention_contributions(model, prompt, also=EVERYTHING)
    for name in ("norms", *EVERYTHING):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("text", "vision"), [("llama", "clip"), ("phi", "siglip")])
def test_half_precision_accumulates_in_float32(text, vision, dtype):
    """From the same half-precision queries, keys and values, the result is that of float64, not of the half type."""
    generator = torch.Generator().manual_seed(0)
    heads, groups, size, tokens, d = 8, 4, 16, 300, 128
    shapes = (heads, 3, size), (groups, tokens, size), (groups, tokens, size), (d, heads * size)
    queries, keys, values, output = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    rows, columns = torch.tensor([250, 280, 299]), torch.arange(300)
    half = attention.layer_contributions(queries, keys, values, output, rows, columns, ("vectors",))
    exact = attention.layer_contributions(
        queries.double(), keys.double(), values.double(), output.double(), rows, columns, ("vectors",)
    )
    assert half["norms"].dtype == torch.float32 and exact["norms"].dtype == torch.float64
    assert (half["vectors"].sum(1) - exact["vectors"].sum(1)).norm() / exact["vectors"].sum(1).norm() < 1e-5
    model = tiny.build(text, vision, dtype=dtype)
    prompt = ask(model)
    found = attention_contributions(model, prompt)
    single = attention_contributions(tiny.build(text, vision), prompt)
    assert found.norms.dtype == np.float32
    assert np.corrcoef(found.norms.ravel(), single.norms.ravel())[0, 1] > 0.99


def test_nothing_of_size_tokens_by_tokens_is_made():
    """2,000 tokens, 4 rows: a matrix of scores in all heads would be the largest tensor by far."""
    heads, size, tokens, d = 8, 16, 2000, 128
    keys, values = torch.randn(heads, tokens, size), torch.randn(heads, tokens, size)
    with LargestTensor() as seen:
        attention.layer_contributions(
            torch.randn(heads, 4, size), keys, values, torch.randn(d, d), torch.tensor([500, 900, 1500, 1999]),
            torch.arange(tokens),
        )
    assert seen.numel <= heads * tokens * d < tokens * tokens


def test_serialized_as_for_a_server_it_gives_the_same(model):
    prompt = ask(model)
    here, there = (
        attention_contributions(model, prompt, also=EVERYTHING, remote=remote) for remote in (False, "local")
    )
    for name in ("norms", *EVERYTHING):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def test_a_process_without_the_package_can_run_a_request(tmp_path, monkeypatch):
    model = tiny.build()
    prompt = ask(model)
    here, there = elsewhere.both(
        model, tmp_path, monkeypatch, lambda: attention_contributions(model, prompt, also="vectors", remote="local")
    )
    np.testing.assert_array_equal(there["norms"], here.norms)
    np.testing.assert_array_equal(there["vectors"], here.vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": "subject"}, "queries names the unknown role 'subject'"),
        ({"queries": ()}, "queries names no token of this prompt"),
        ({"keys": 999}, "keys holds 999, but the prompt has"),
        ({"layers": (2, 99)}, "layers must be among the model's 0 to 4"),
        ({"layers": 5}, "layers must be among the model's 0 to 4"),
        ({"layers": ()}, "layers must be among the model's 0 to 4"),
        ({"also": "heads"}, "also names 'heads': use 'vectors', 'head_norms', 'weights'"),
    ],
)
def test_what_cannot_be_computed_is_said_in_a_sentence(options, message):
    model = tiny.build()
    with pytest.raises(AttentionError, match=message):
        attention_contributions(model, ask(model), **options)


def test_a_model_without_an_attention_interface_is_refused():
    class Bare:
        class source:
            names = ("q_proj_0",)

    with pytest.raises(ValueError, match="calls no attention interface"):
        attention_call(Bare)
