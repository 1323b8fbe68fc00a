"""What would go wrong silently is refused when a model is loaded, in one sentence that names the remedy."""

import importlib.metadata
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from interventions.errors import ModelError
from interventions.models import checkpoints, load_checks
from interventions.models.families import BUNNY, VICUNA
from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel
from interventions.prompts.prompt import build_prompt

ROOT = Path(__file__).parents[2]
CHAT = (
    "{{ bos_token }}{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "ASSISTANT:"
)
CHATML = (
    "{% for message in messages %}<|im_start|>user {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


@pytest.fixture
def copied(tmp_path):
    """A saved tiny LLaVA that a test may spoil."""
    model = tiny.build()
    model.module.save_pretrained(tmp_path / "model")
    model.processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(path, sentence: str, **options):
    with pytest.raises(ModelError, match=sentence) as error:
        load_model(path, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# Weights


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.language_model.layers.3.mlp.down_proj.weight",
        "model.multi_modal_projector.linear_1.bias",
    ],
)
def test_missing_weights_are_not_replaced_by_random_ones(copied, name):
    weights = load_file(copied / "model.safetensors")
    [key] = [key for key in weights if key.endswith(name.removeprefix("model.").removeprefix("language_model."))]
    del weights[key]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    refused(copied, re.escape(f"lacks 1 of its weights ({name})"))


def test_weights_of_another_shape(copied):
    weights = load_file(copied / "model.safetensors")
    [key] = [key for key in weights if key.endswith("layers.1.mlp.up_proj.weight")]
    weights[key] = weights[key][:-1].clone()
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    refused(copied, "has the wrong shape for 1 of its weights .*up_proj")


def test_bunny_s_own_layout_is_told_to_be_converted(copied):
    weights = load_file(copied / "model.safetensors")
    renamed = {f"bunny.{key}": value for key, value in weights.items()}
    save_file(renamed, copied / "model.safetensors", metadata={"format": "pt"})
    refused(copied, r"lacks \d\d of its weights .*which would be left random.*convert bunny")


def test_tied_embeddings_are_no_missing_weights(copied):
    module = tiny.build().module
    module.config.tie_word_embeddings = module.config.text_config.tie_word_embeddings = True
    tied = LlavaForConditionalGeneration(module.config)
    shutil.rmtree(copied)
    tied.save_pretrained(copied)
    tiny.build().processor.save_pretrained(copied)
    assert not any("lm_head" in key for key in load_file(copied / "model.safetensors"))
    loaded = load_model(copied).module
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    config = json.loads((copied / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (copied / "config.json").write_text(json.dumps(config))
    refused(copied, r"lacks 1 of its weights \(lm_head.weight\)")


def test_pickled_weights_are_not_read(copied):
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    refused(copied, "has no safetensors there, .*: name a revision that has them .*, or a folder")


def test_a_file_that_was_cut_short(copied):
    data = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(copied, "has weights that cannot be loaded")


def test_a_server_chooses_how_it_holds_weights(copied):
    refused(copied, "dtype 'nf4' is for the server to choose", remote=True, dtype="nf4")


def test_a_revision_of_local_files(copied):
    refused(copied, "revision 'v1' is given for local files", revision="v1")
    assert load_model(copied, revision="main").revision == load_model(copied).revision  # as params/models have it


def test_a_checkpoint_that_has_only_sentencepiece_s_own_file(tmp_path):
    """As Vicuna's: transformers makes a fast tokenizer of it, with the help of sentencepiece and protobuf."""
    config = tiny.text_config("llama", 32_000)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    shutil.copy(ROOT / "tests/data/tokenizers/llama_style.model", tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ))
    model = load_model(tmp_path)
    prompt = build_prompt(model, "The capital of Peru is", visual_constraint="Peru")
    assert "".join(prompt.tokens[i] for i in prompt.constraint).strip() == "Peru"


# Versions


@pytest.mark.parametrize(
    ("package", "version"),
    [("transformers", "4.57.1"), ("transformers", "5.23.0"), ("transformers", "5.25.0"), ("nnsight", "0.9.0")],
)
def test_other_versions(monkeypatch, package, version):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else real(name))
    refused("mini", re.escape(f"{package} {version} is installed") + f".*pip install '{package}>=")


def test_the_versions_are_those_of_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {f"{name}{allowed}" for name, allowed in load_checks.VERSIONS.items()} <= set(declared)


# Chat formats


def with_chat(template, key=("llama", "clip"), **options):
    model = tiny.build(*key)
    model.processor.chat_template = template
    return VisionLanguageModel.from_module(model.module, model.processor, name="chatty", **options)


def test_the_checkpoint_s_template_agrees_with_the_declared_format():
    assert with_chat(CHAT).prompt == VICUNA  # its <s> is the tokenizer's own


def test_a_checkpoint_tuned_on_another_format_is_refused_unless_one_is_chosen():
    with pytest.raises(ModelError, match=r"'chatty' was tuned on the chat format '<\|im_start\|>user .* pass the one"):
        with_chat(CHATML)
    own = "<|im_start|>user <image>\n{question}<|im_end|><|im_start|>assistant\n"
    assert with_chat(CHATML, prompt=VICUNA).prompt == VICUNA  # one of the two that the sentence names
    model = with_chat(CHATML, prompt=own)
    assert model.prompt == model.prompt_template(image=True) == own
    assert model.prompt_template(image=False) == own.replace("<image>", "")
    assert model.key()["prompt"] == own and "prompt" not in tiny.build().key()


def test_braces_in_a_chat_template_stay_braces():
    model = with_chat("{{ '{\"tools\": []} ' }}" + CHATML, ("qwen2", "siglip"))
    asked = model.prompt_template(image=True).format(question="What?")
    assert asked.startswith('{"tools": []} <|im_start|>user <image>')


def test_where_the_family_declares_none_it_is_the_checkpoint_s():
    model = with_chat(CHATML, ("qwen2", "siglip"))
    assert model.prompt == "<|im_start|>user <image>\n{question}<|im_end|><|im_start|>assistant\n"
    with pytest.raises(ModelError, match=r"'chatty' has no chat template .* pass its format as prompt"):
        with_chat(None, ("qwen2", "siglip"))
    with pytest.raises(ModelError, match="'chatty' has no chat template"):
        with_chat("{{ messages | length }}", ("qwen2", "siglip"))  # which shows neither question nor picture


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ('<image> {"q": "{question}"}', "has braces of its own: write {{ and }}"),
        ("<image> Q:", "must hold {question} once"),
        ("<image><image>{question}", "at most once"),
        ("{question}", "lacks <image>"),
    ],
)
def test_formats_that_are_none(prompt, sentence):
    with pytest.raises(ModelError, match=re.escape(sentence)):
        with_chat(None, prompt=prompt)


def test_a_text_only_model_is_asked_as_its_counterpart_without_the_picture():
    assert tiny.build("phi", None).prompt == BUNNY.replace("<image>", "")
    assert with_chat(CHATML, ("gqa", None)).prompt == VICUNA.replace("<image>", "")
    assert with_chat(None, ("gqa", None), prompt="Q: {question} A:").prompt == "Q: {question} A:"


# Processors, layouts, devices


def rewrite(path, **changes):
    """Change a JSON file; None takes a field away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(("field", "sentence"), [
    ("patch_size", r"has no patch_size in its processor_config.json, .*: write it there, such as \"patch_size\": 8"),
    ("vision_feature_select_strategy", r"has no vision_feature_select_strategy in its .*: \"default\""),
])
def test_a_processor_that_lacks_a_setting(copied, field, sentence):
    rewrite(copied / "processor_config.json", **{field: None})
    refused(copied, sentence)


@pytest.mark.parametrize("value", ["one", 1.5])
def test_a_processor_with_a_setting_of_another_type(copied, value):
    rewrite(copied / "processor_config.json", num_additional_image_tokens=value)
    refused(copied, f"has the num_additional_image_tokens {value!r} in its processor_config.json: write 1 for")


def test_an_image_token_that_the_tokenizer_does_not_know(copied):
    rewrite(copied / "config.json", image_token_index=99_999, image_token_id=99_999)
    refused(copied, "has the image token 99999, which its tokenizer does not know")


def test_a_processor_that_is_none(copied):
    """transformers takes a tokenizer for the processor where the other files are missing."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        (copied / name).unlink(missing_ok=True)
    refused(copied, "has a processor that cannot be loaded .* get processor_config.json, preprocessor_config.json and")
    model = tiny.build()
    with pytest.raises(ModelError, match=r"has no image processor: get preprocessor_config.json"):
        VisionLanguageModel.from_module(model.module, model.tokenizer)


@pytest.mark.parametrize(("config", "sentence"), [
    ({"model_type": "bunny-phi"}, "Bunny's own layout: make a native LLaVA .* `python -m interventions convert bunny"),
    ({"model_type": "bunny-phi", "auto_map": {"AutoConfig": "bunny_phi.BunnyPhiConfig"}}, "convert bunny"),
    ({"model_type": "bunny-llama"}, "only Bunny over Phi-2 can be converted"),
    ({"model_type": "llava_llama"}, "layout of LLaVA's original code: .* llava-hf/llava-1.5-7b-hf"),
    ({"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "LLaVA's original code"),
    ({"model_type": "llava_mistral", "auto_map": {"AutoConfig": "a.B"}}, "LLaVA's original code"),
])
def test_checkpoints_with_classes_of_their_own(tmp_path, config, sentence):
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(tmp_path, sentence)


def test_remote_code_is_never_asked_for(tmp_path, monkeypatch):
    """transformers would ask at the keyboard whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *told: pytest.fail("asked"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other", "auto_map": {"AutoConfig": "a.B"}}))
    refused(tmp_path, "cannot be loaded")


@pytest.mark.parametrize(("device_map", "problem"), [
    ("cuda", "is not on this machine, which has no cuda devices"), ("cuda:7", "no cuda devices"),
    (0, "no cuda devices"), ("0", "no cuda devices"), (torch.device("cuda", 1), "no cuda devices"),
    ("mps", "no mps devices"), ("xpu", "no xpu devices"), ("meta", "has no memory for weights"),
    ("cpu:3", "which has 1 cpu device"), ("disk", "no intervention reaches them"), ("gpu", "is no device"),
    ({"": "cuda"}, "no cuda devices"), ({"model": "cpu", "lm_head": "cuda:1"}, "'cuda:1' is not on this machine"),
    ({"": "meta"}, "'meta' has no memory"), ({"": "disk"}, "'disk' leaves weights"), ({"": "auto"}, "is no device"),
    (True, "is no device"), (1.5, "is no device"), ({}, "is an empty dict"), ("x" * 9_999, "is no device"),
    (-1, "no device"),
], ids=lambda value: str(value)[:20])
def test_devices_that_are_not_there(monkeypatch, device_map, problem):
    for backend in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, backend), "device_count", lambda: 0)
    with pytest.raises(ModelError, match=problem) as error:
        load_model("mini", device_map=device_map)
    message = str(error.value)
    assert message.startswith("device_map ") and message.endswith(".") and "\n" not in message and len(message) < 400


def test_devices_that_are_there(copied, monkeypatch):
    for device_map in (None, "auto", "cpu", torch.device("cpu"), {"": "cpu"}, "cpu:0"):
        assert load_model(copied, device_map=device_map).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device_map in ("cuda", "cuda:1", 1, {"": 0}):
        checkpoints.check_device_map(device_map)
    with pytest.raises(ModelError, match="which has 2 cuda devices"):
        checkpoints.check_device_map("cuda:2")


@pytest.mark.parametrize("options", [{"name": "n" * 9_999}, {"name": "a/" + "b" * 9_999}, {"dtype": "d" * 9_999}])
def test_long_names_are_quoted_by_their_beginning(options):
    with pytest.raises(ModelError) as error:
        load_model(**options)
    assert len(str(error.value)) < 400
