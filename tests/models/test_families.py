"""Every row of the table names modules that exist, and counts the tokens that the encoder really delivers."""

import copy

import pytest
import tiny
import tiny_vlms
import torch
from PIL import Image
from transformers import (
    BartConfig,
    Blip2Config,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    IdeficsConfig,
    InstructBlipConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MllamaConfig,
    PaliGemmaConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from interventions.errors import ModelError, PromptError
from interventions.models import families
from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel, family_row
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.tracing.causal_trace import trace


def test_every_row_is_a_model_that_was_built_here():
    built = {families.family_of(tiny.build(*key).config).name for key in tiny.SEEDS}
    built |= {families.family_of(tiny_vlms.build_vlm(key)[0].config).name for key in tiny_vlms.FAMILIES}
    built |= {families.family_of(tiny_vlms.build_text(key)[0].config).name for key in tiny_vlms.TEXTS}
    assert built == {row.name for row in families.FAMILIES}


@pytest.mark.parametrize("key", tiny.SEEDS, ids=str)
def test_uniform_names_reach_the_native_modules(key):
    model = tiny.build(*key)
    decoder = model.module.get_submodule(model.family.language_model)
    assert len(model.layers) == model.n_layers == len(decoder.layers)
    for i, layer in enumerate(decoder.layers):
        assert model.layers[i].mlp.down_proj._module is getattr(layer.mlp, model.family.w_proj)
        assert model.layers[i].self_attn.o_proj._module is getattr(layer.self_attn, model.family.w_o)
    assert model.traced.final_norm._module is getattr(decoder, model.family.final_norm)


def test_a_model_that_is_not_in_the_table():
    assert families.family_of(GPT2Config()) is None and families.why_unusable(GPT2Config()) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (InstructBlipConfig(), "Q-Former"),
        (Blip2Config(), "Q-Former"),
        (MllamaConfig(), "cross-attention"),
        (IdeficsConfig(), "cross-attention"),
        (BartConfig(), "an encoder and a decoder"),
        (PaliGemmaConfig(), "see each other both ways"),
        (LlavaConfig(text_config=Qwen3NextConfig()), "'linear_attention', where the intervened runs expect"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_models_that_cannot_work_are_refused_with_the_reason(config, reason, tmp_path):
    assert reason in families.why_unusable(config)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is a '{config.model_type}', which cannot be traced: .*{reason}"):
        load_model(tmp_path)


def test_the_models_of_the_table_are_not_refused():
    assert {families.why_unusable(tiny.build(*key).config) for key in tiny.SEEDS} == {None}


def test_a_row_is_no_excuse():
    """A family of the table whose configuration turns on what the interventions cannot follow."""
    config = tiny.build("qwen2", "siglip").config
    config.text_config.layer_types = ["full_attention", "linear_attention"]
    assert families.family_of(config).name == "llava-qwen2"
    with pytest.raises(ModelError, match="cannot be traced: some of its layers are 'linear_attention'"):
        family_row(config, "tiny")


@pytest.mark.parametrize(("config", "window"), [
    (Qwen2Config(), None), (Qwen2Config(sliding_window=8), None), (LlamaConfig(), None), (GPT2Config(), None),
    (Qwen2Config(use_sliding_window=True, sliding_window=64, num_hidden_layers=5, max_window_layers=2), 64),
    (Qwen2Config(use_sliding_window=True, sliding_window=64, num_hidden_layers=5, max_window_layers=5), None),
    (MistralConfig(sliding_window=512), 512), (MistralConfig(sliding_window=None), None), (GPTNeoConfig(), 256),
    (Gemma2Config(), 4096), (LlavaConfig(text_config=MistralConfig(sliding_window=32)), 32),
    (Llama4TextConfig(attention_chunk_size=128), 128),
])
def test_the_window_of_attention_is_read_off_any_configuration(config, window):
    assert families.attention_window(config) == window


def windowed(window):
    """LLaVA over Qwen2 whose last three layers see a window, with the weights of `tiny.build`."""
    model = tiny.build("qwen2", "siglip")
    config = copy.deepcopy(model.config)
    text = config.text_config.to_dict() | {
        "use_sliding_window": True, "sliding_window": window, "max_window_layers": 2, "layer_types": None,
    }
    config.text_config = Qwen2Config(**text)
    config._attn_implementation = "sdpa"
    module = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    module.load_state_dict(model.module.state_dict())
    return model, VisionLanguageModel.from_module(module, model.processor, prompt=families.VICUNA)


@pytest.mark.parametrize("window", [4096, 64])  # of the second, packed runs are longer
def test_a_model_whose_window_holds_the_prompt_is_traced_as_one_without(window):
    plain, model = windowed(window)
    assert plain.attention_window is None and model.attention_window == window
    assert set(model.config.text_config.layer_types) == {"full_attention", "sliding_attention"}
    results = []
    for one in (plain, model):
        prompt = tiny.ask(one)
        assert len(prompt) + 16 <= 64
        results.append(trace(one, prompt, corrupt(one, prompt, visual_replacement="Sri Lanka")))
    assert abs(results[0].effects - results[1].effects).max() < 1e-5 < abs(results[0].effects).max()
    assert results[0].answer_ids == results[1].answer_ids
    answers = [one.generate_answer(tiny.picture(), tiny.QUESTION) for one in (plain, model)]
    assert answers[0] == answers[1]


def test_a_prompt_longer_than_the_window_is_refused():
    """Everything that asks: the traced runs see all tokens, the model itself would not."""
    n = len(tiny.ask(tiny.build("qwen2", "siglip")))
    _, model = windowed(8)
    told = f"question makes a prompt of {n} tokens, and with 16 of an answer that is more than the 8 that"
    with pytest.raises(PromptError, match=told):
        tiny.ask(model)
    with pytest.raises(PromptError, match="with 16 of an answer that is more than the 8 that"):
        model.generate_answer(tiny.picture(), tiny.QUESTION)
    for window, refused in ((n + 16, False), (n + 15, True)):
        _, model = windowed(window)
        if refused:
            with pytest.raises(PromptError, match=f"more than the {window} that"):
                tiny.ask(model)
            continue
        prompt = tiny.ask(model)
        with pytest.raises(PromptError, match=f"more than the {window} that"):  # the corrupted prompt is longer
            corrupt(model, prompt, visual_replacement="this very long name of another country")


def test_an_image_becomes_as_many_tiles_as_its_size_asks_for():
    """The encoder's own count for every size: Hugging Face refuses a prompt with any other number."""
    model = tiny.build("llama", "tiles")
    seen = set()
    for size in ((24, 24), (100, 30), (30, 100), (17, 60)):
        image = Image.effect_noise(size, 60).convert("RGB")
        prompt = build_prompt(model, "The capital of this country is", image, visual_constraint="this country")
        assert prompt.image_inputs["image_sizes"].tolist() == [list(reversed(size))]
        features = model.module.model.get_image_features(**prompt.image_inputs).pooler_output
        assert len(prompt.visual) == len(torch.cat(tuple(features))) > 9
        logits = model.module(input_ids=prompt.input_ids[None], **prompt.image_inputs).logits[0, -1]
        corrupted = corrupt(model, prompt, visual_replacement="Sri Lanka")
        result = trace(model, prompt, corrupted, answer=[int(logits.argmax())], positions=("last",))
        assert result.p_clean == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)
        seen.add(len(prompt.visual))
    assert len(seen) >= 3 and model.n_image_tokens is None


def test_tiles_that_the_processor_miscounts():
    model = tiny.build("llama", "tiles")
    model.processor.num_additional_image_tokens = 0
    with pytest.raises(ModelError, match="makes 24 visual tokens of an image but its processor writes 23"):
        VisionLanguageModel.from_module(model.module, model.processor, prompt=families.VICUNA)
