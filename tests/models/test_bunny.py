"""Bunny's layout becomes a native LLaVA with the same logits; what would be another arithmetic is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from interventions.__main__ import main
from interventions.errors import ModelError
from interventions.models.bunny import IMAGE_TOKEN, TOWER, convert_bunny
from interventions.models.loading import load_model

FIXTURE = Path(__file__).parents[1] / "data" / "bunny"  # what Bunny's own classes compute, see its README
IMAGE = -200  # Bunny's mark of the image in input_ids
TOWER_OF_FIXTURE = {"vision_heads": 4, "vision_layers": 4}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The fixture with a tokenizer, as a checkpoint on the Hub has one."""
    source = tmp_path_factory.mktemp("bunny")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURE / name, source / name)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(["USER: The capital of this country is ASSISTANT:"], trainers.BpeTrainer(
        vocab_size=80, special_tokens=["<|endoftext|>"], show_progress=False))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    ).save_pretrained(source)
    return source


@pytest.fixture
def source(original, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "source"))


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    destination = tmp_path_factory.mktemp("native") / "bunny"
    convert_bunny(original, destination, **TOWER_OF_FIXTURE)
    return destination


def change_config(folder: Path, **changes) -> None:
    told = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in told.items() if value != "gone"}))


def off_by(folder: Path, config=None) -> float:
    """The largest difference from the reference's logits."""
    reference = load_file(FIXTURE / "reference.safetensors")
    model = LlavaForConditionalGeneration.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    ids = reference["input_ids"][0].tolist()
    at, n = ids.index(IMAGE), reference["image_features"].shape[1]
    ids[at : at + 1] = [model.config.image_token_id] * n
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), pixel_values=reference["pixel_values"]).logits
    return (logits - reference["logits"]).abs().max().item()


def test_the_converted_model_has_bunny_s_logits(converted):
    assert off_by(converted) < 1e-5


@pytest.mark.parametrize(("part", "field", "value", "least"), [
    (None, "vision_feature_layer", -1, 1e-2),
    (None, "projector_hidden_act", "relu", 1e-3),
    ("text_config", "hidden_act", "relu", 1e-3),
    ("text_config", "hidden_act", "gelu", 1e-5),
    ("text_config", "partial_rotary_factor", 0.5, 1e-4),
])
def test_a_wrong_setting_shows_in_the_logits(converted, part, field, value, least):
    config = AutoConfig.from_pretrained(converted)
    of = getattr(config, part) if part else config
    setattr(of, field, value)
    if field == "partial_rotary_factor":
        of.rope_parameters = of.rope_parameters | {field: value}
    assert off_by(converted, config) > least


def test_both_depths_of_the_saved_tower_are_read_where_bunny_reads(source, tmp_path, converted):
    """Without its last layer, which Bunny does not use, the tower is read at its end."""
    weights = load_file(source / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(f"{TOWER}encoder.layers.3.")}
    save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    done = convert_bunny(source, tmp_path / "short", **TOWER_OF_FIXTURE)
    assert "tower of 3 layers, read at hidden state -1; 16 visual tokens" in done
    assert off_by(tmp_path / "short") < 1e-5
    assert AutoConfig.from_pretrained(converted).vision_feature_layer == -2


def test_what_was_done_with_every_tensor_is_told(source, tmp_path, capsys):
    arguments = ["convert", "bunny", str(source), str(tmp_path / "out"), "--vision-heads", "4", "--vision-layers", "4"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    weights, native = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    left_out = [name for name in weights if name.startswith(f"{TOWER}head.")]
    assert len(native) == len(weights) - len(left_out)
    assert f"{len(native)} tensors renamed" in told and f"{len(left_out)} left out: the tower's pooling head" in told
    assert main(arguments) == 1  # now there is something in that folder
    assert "is not empty: name a new folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    for nowhere in ("file", "file/deeper"):
        assert main([*arguments[:3], str(tmp_path / nowhere), *arguments[4:]]) == 1
        assert capsys.readouterr().err == (
            f"destination: {str(tmp_path / 'file')!r} is no folder: name a new folder where one can be made.\n"
        )


def test_what_another_run_is_writing_is_left_alone(source, tmp_path, monkeypatch):
    save = LlavaForConditionalGeneration.save_pretrained

    def twice(self, folder):
        save(self, folder)
        with monkeypatch.context() as patch:  # another run, which is as far as this one
            patch.setattr(LlavaForConditionalGeneration, "save_pretrained", save)
            convert_bunny(source, tmp_path / "out", **TOWER_OF_FIXTURE)
        assert off_by(folder) < 1e-5

    monkeypatch.setattr(LlavaForConditionalGeneration, "save_pretrained", twice)
    with pytest.raises(OSError, match="not empty"):
        convert_bunny(source, tmp_path / "out", **TOWER_OF_FIXTURE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert off_by(tmp_path / "out") < 1e-5


def test_the_result_is_a_model_of_this_package(converted):
    model = load_model(str(converted))
    assert model.family.name == "llava-phi" and model.n_image_tokens == 16
    assert model.image_token == IMAGE_TOKEN
    text = model.prompt_template(image=True).format(question="The capital of this country is")
    ids, _, _ = model.tokenize(text, IMAGE_TOKEN * 16)
    assert ids.count(model.image_token_id) == 16
    assert max(ids) < model.config.text_config.vocab_size


@pytest.mark.parametrize("ratio", ["pad", "square"])
def test_pictures_are_padded_if_bunny_pads_them(source, tmp_path, ratio):
    change_config(source, image_aspect_ratio=ratio)
    convert_bunny(source, tmp_path / "out", **TOWER_OF_FIXTURE)
    model = load_model(str(tmp_path / "out"))
    from PIL import Image

    inputs, _ = model.read_image(Image.new("RGB", (100, 50), (255, 0, 0)))
    pixels = inputs["pixel_values"]
    assert pixels.shape == (1, 3, 56, 56)
    edge, middle = pixels[0, :, 2, 28], pixels[0, :, 28, 28]
    assert torch.equal(edge, middle) == (ratio == "square")


def spoil_weights(folder: Path, drop: str = "", extra: str = "") -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not drop or drop not in name}
    if extra:
        kept[extra] = torch.zeros(2)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: change_config(folder, model_type="bunny-stablelm"), "model_type 'bunny-stablelm'"),
    (lambda folder: change_config(folder, mm_projector_type="linear"), "mm_projector_type 'linear'"),
    (lambda folder: change_config(folder, use_s2=True), "use_s2 True"),
    (lambda folder: change_config(folder, qk_layernorm=True), "qk_layernorm True"),
    (lambda folder: change_config(folder, partial_rotary_factor="gone"), "config.json lacks partial_rotary_factor"),
    (lambda folder: change_config(folder, num_hidden_layers=4), "does not fit its own config.json .*layers.3"),
    (lambda folder: change_config(folder, intermediate_size=96), "does not fit its own config.json"),
    (lambda folder: change_config(folder, vocab_size=100), "does not fit its own config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), "no readable config.json"),
    (lambda folder: (folder / "config.json").unlink(), "no readable config.json"),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no safetensors"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"PK junk"), "model.safetensors cannot be read"),
    (lambda folder: spoil_weights(folder, drop="layers.1.mlp.fc1"), "does not fit its own config.json"),
    (lambda folder: spoil_weights(folder, drop="vision_tower"), "has no vision tower"),
    (lambda folder: spoil_weights(folder, drop="lm_head"), "does not fit its own config.json .*lm_head"),
    (lambda folder: spoil_weights(folder, extra="model.layers.0.self_attn.lora_A.weight"), "does not fit"),
    (lambda folder: spoil_weights(folder, extra="model.query_tokens"), "'model.query_tokens' that no native LLaVA"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}})), "lacks model-00002"),
])
def test_what_is_no_such_bunny_is_refused_and_nothing_is_written(source, tmp_path, spoil, words):
    spoil(source)
    with pytest.raises(ModelError, match=words):
        convert_bunny(source, tmp_path / "out", **TOWER_OF_FIXTURE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(("given", "words"), [
    ({}, "vision tower 'google/siglip-so400m-patch14-384' of width 48 is unknown: give vision_heads"),
    ({"vision_heads": 4, "vision_layers": 7}, "tower has 4 layers, and Bunny keeps 7 or 6 of 7"),
])
def test_a_tower_whose_heads_and_depth_are_unknown_is_refused(source, tmp_path, given, words):
    with pytest.raises(ModelError, match=words):
        convert_bunny(source, tmp_path / "out", **given)


def test_a_vocabulary_without_a_free_row_is_refused(source, tmp_path):
    words = len(PreTrainedTokenizerFast.from_pretrained(source))
    weights = load_file(source / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:words].contiguous()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    change_config(source, vocab_size=words)
    with pytest.raises(ModelError, match="leave no row free for <image>"):
        convert_bunny(source, tmp_path / "out", **TOWER_OF_FIXTURE)
