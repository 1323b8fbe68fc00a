"""Every row of the table names modules that exist, and counts the tokens that the encoder really delivers."""

import pytest
import tiny
from transformers import GPT2Config, LlavaConfig

from interventions import families


def test_every_row_is_a_model_that_was_built_here():
    built = {families.family_of(tiny.build(*key).config).name for key in tiny.SEEDS}
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


@pytest.mark.parametrize(
    ("vision", "size", "patch", "strategy", "expected"),
    [
        ("clip_vision_model", 336, 14, "default", 576),  # LLaVA-1.5
        ("clip_vision_model", 336, 14, "full", 577),
        ("siglip_vision_model", 384, 14, "full", 729),  # Bunny
    ],
)
def test_image_tokens_of_the_papers_models(vision, size, patch, strategy, expected):
    config = LlavaConfig(
        vision_config={"model_type": vision, "image_size": size, "patch_size": patch},
        vision_feature_select_strategy=strategy,
    )
    assert families.count_image_tokens(config) == expected


def test_a_model_that_is_not_in_the_table():
    assert families.family_of(GPT2Config()) is None
