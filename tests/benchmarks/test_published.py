"""The paper's models as configurations, and random models of their shapes."""

from pathlib import Path

import pytest
import tiny
import torch
import yaml

from benchmarks import real_size, rehearsal
from benchmarks.published import PUBLISHED, published_config, skeleton
from interventions import ModelError
from interventions.models.families import family_of

ROOT = Path(__file__).parents[2]
MODELS = (ROOT / "docs" / "models.md").read_text()
# As the checkpoints on the Hub have them; Bunny's tower without its last layer.
PARAMETERS = {
    "llava-1.5-7b": 7_063_427_072,
    "llava-1.5-13b": 13_351_494_656,
    "vicuna-7b": 6_738_415_616,
    "bunny-phi-2": 3_186_888_224,
    "phi-2": 2_779_683_840,
}
SHAPES = {  # layers, W_proj, W_o, visual tokens
    "llava-1.5-7b": (32, (4096, 11_008), (4096, 4096), 576),
    "llava-1.5-13b": (40, (5120, 13_824), (5120, 5120), 576),
    "vicuna-7b": (32, (4096, 11_008), (4096, 4096), 0),
    "bunny-phi-2": (32, (2560, 10_240), (2560, 2560), 729),
    "phi-2": (32, (2560, 10_240), (2560, 2560), 0),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_paths_shapes_and_parameters_of_the_whole_model(name):
    row = rehearsal.meta_row(name)
    layers, w_proj, w_o, visual = SHAPES[name]
    assert row["parameters"] == PARAMETERS[name]
    assert (row["layers"], row["visual tokens"]) == (layers, visual)
    assert (row["W_proj"], row["W_o"]) == ({w_proj}, {w_o})  # one shape in all layers


def test_every_published_model_is_checked():
    assert set(PUBLISHED) == set(PARAMETERS) == set(SHAPES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_model_s_file_says_how_large_its_weights_are_and_how_it_is_asked(name):
    text = (ROOT / "params" / "models" / f"{name}.yaml").read_text()
    size = f"{2 * PARAMETERS[name] / 1e9:.1f} GB"
    assert f"Memory: {size} of weights" in text and size in MODELS
    told, family = yaml.safe_load(text), family_of(published_config(name))
    assert told["dtype"] in ("float16", "bfloat16") and told["device_map"] == "auto"
    prompt = family.prompt.replace("<image>", "<image>" if family.is_multimodal else "").replace("\n", r"\n")
    assert f'Asked as "{prompt}"' in text.replace("\n# ", " ")


def test_a_fresh_configuration_every_time():
    published_config("phi-2").num_hidden_layers = 1
    assert published_config("phi-2").num_hidden_layers == 32


def test_unknown_names_are_told_the_closest():
    with pytest.raises(ModelError, match=r"'llava-7b' is none of the paper's: did you mean 'llava-1.5-7b'\?"):
        published_config("llava-7b")


@pytest.mark.parametrize("shape", [("llama", "clip"), ("phi", "siglip")])
def test_a_random_module_computes_what_an_ordinary_one_does(shape):
    """Buffers that `to_empty` leaves unset would show here: rotary frequencies and the tower's positions."""
    ordinary = tiny.build(*shape).module
    random = real_size.random_module(ordinary.config, torch.float32)
    ordinary.load_state_dict(random.state_dict(), strict=True)
    inputs = {"input_ids": torch.tensor([[1, *[3] * 9, 40, 50, 60]]), "pixel_values": torch.randn(1, 3, 24, 24)}
    with torch.no_grad():
        logits = random(**inputs).logits
        assert torch.equal(logits, ordinary(**inputs).logits)
    assert logits.std() > 0.1


def test_a_random_module_models_by_dtype_keeps_its_frequencies():
    module = real_size.random_module(tiny.text_config("llama", 400))
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
    for name in ("inv_freq", "original_inv_freq"):
        found = getattr(module.model.rotary_emb, name)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, 10_000 ** (-torch.arange(0, 8, 2) / 8))
    weight = module.model.layers[0].mlp.up_proj.weight
    assert weight.float().std() == pytest.approx(real_size.GAIN / 32**0.5, rel=0.05)
    assert len(weight.float().unique(dim=0)) == len(weight)


def test_skeletons_hold_no_memory():
    assert {weight.device.type for weight in skeleton(published_config("phi-2")).parameters()} == {"meta"}
