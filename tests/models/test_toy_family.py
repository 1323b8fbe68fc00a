"""A new family is one row of `models/families.py` and one tiny configuration: nothing else is touched here."""

import pytest
import tiny
import torch
from transformers import Starcoder2Config

from interventions.errors import ModelError
from interventions.models import families
from interventions.models.families import VICUNA, Family
from interventions.prompts.corruption import corrupt
from interventions.tracing.causal_trace import trace

ROWS = (
    Family("llava-starcoder2", "llava", "starcoder2", VICUNA, w_proj="c_proj"),
    Family("starcoder2", "starcoder2", "starcoder2", VICUNA, "model", w_proj="c_proj"),
)
SEEDS = {("starcoder2", "clip"): 3, ("starcoder2", None): 3}


@pytest.fixture(params=SEEDS, ids=str)
def model(request, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES + ROWS)
    monkeypatch.setitem(tiny.TEXTS, "starcoder2", (Starcoder2Config, {"num_key_value_heads": 2, "use_bias": True}))
    monkeypatch.setitem(tiny.SEEDS, request.param, SEEDS[request.param])
    return tiny.build(*request.param)


def probability(model, prompt, ids, answer, module=None, hook=None) -> float:
    """P(answer) behind the prompt's tokens `ids`, by the Hugging Face module itself, with a hook on one module."""
    handle = module.register_forward_hook(hook) if module else None
    logits = model.module(input_ids=ids[None], **prompt.image_inputs).logits[0, -1]
    if handle:
        handle.remove()
    return float(logits.softmax(-1)[answer])


@torch.no_grad()
def test_a_toy_family_is_traced_as_by_plain_hooks(model):
    prompt = tiny.ask(model)
    corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
    assert len(corrupted.input_ids) == len(prompt)
    result = trace(model, prompt, corrupted, window=1)
    answer = result.answer_ids[0]
    assert model.tokenizer.decode([answer]).strip()  # the first token is the one that is scored
    largest = 0.0
    for k, kind in enumerate(result.kinds):
        for layer in result.layers:
            block = model.module.get_submodule(model.family.language_model).layers[layer]
            module, clean = block.mlp if kind == "mlp" else block.self_attn, []

            def outputs(output):
                return output[0] if isinstance(output, tuple) else output

            def keep(_, __, output, clean=clean):
                clean.append(outputs(output).clone())

            p_clean = probability(model, prompt, prompt.input_ids, answer, module, keep)
            assert result.p_clean == pytest.approx(p_clean, abs=1e-5)
            for i, position in enumerate(result.positions):
                def put(_, __, output, position=position, clean=clean):
                    outputs(output)[0, position] = clean[0][0, position]

                restored = probability(model, prompt, corrupted.input_ids, answer, module, put)
                if corrupted.alignment[position] is not None:
                    assert float(result.restored[k, i, layer]) == pytest.approx(restored, abs=1e-5)
                    largest = max(largest, abs(restored - float(result.p_corrupted)))
    assert largest > 0.05


def test_without_its_row_it_is_refused(monkeypatch):
    monkeypatch.setitem(tiny.TEXTS, "starcoder2", (Starcoder2Config, {}))
    monkeypatch.setitem(tiny.SEEDS, ("starcoder2", None), 0)
    with pytest.raises(ModelError, match="no row"):
        tiny.build("starcoder2", None)
