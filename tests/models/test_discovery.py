"""An architecture without a row: its module paths are found, compared with its own forward, and printed as a row."""

from dataclasses import replace

import pytest
import tiny
import tiny_vlms
import torch
from transformers import GPT2Config, Starcoder2Config

from interventions.errors import ModelError
from interventions.models import families
from interventions.models.discovery import discover_family, row_of
from interventions.models.families import VICUNA, Family
from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel
from interventions.models.self_check import check_fast_path

PATHS = ("model_type", "text_type", "language_model", "final_norm", "w_proj", "w_o", "deepstack")


@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_the_rows_of_the_table_are_found_again(key):
    config = tiny_vlms.build_vlm(key)[0].config
    row, found = families.family_of(config), discover_family(config, key)
    assert {name: getattr(row, name) for name in PATHS} == {name: getattr(found, name) for name in PATHS}


def test_what_is_no_decoder_of_this_shape_is_refused():
    with pytest.raises(ModelError, match="is a 'gpt2' in which no decoder"):
        discover_family(GPT2Config(n_layer=2, n_embd=8, n_head=2), "toy")


def test_a_row_is_printed_without_its_defaults():
    row = Family("toy", "toy", "toy_text", language_model="model.text_model", deepstack="more")
    assert eval(row_of(row), {"Family": Family}) == row
    assert row_of(row) == "Family('toy', 'toy', 'toy_text', language_model='model.text_model', deepstack='more')"


def test_an_unknown_family_is_loaded_checked_and_its_row_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tiny.TEXTS, "starcoder2", (Starcoder2Config, {"num_key_value_heads": 2, "use_bias": True}))
    monkeypatch.setitem(tiny.SEEDS, ("starcoder2", "clip"), 3)
    row = Family("toy", "llava", "starcoder2", VICUNA, w_proj="c_proj")
    with monkeypatch.context() as patched:
        patched.setattr(families, "FAMILIES", (*families.FAMILIES, row))
        model = tiny.build("starcoder2", "clip")
    model.module.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"families.py has no row: .*or try family='auto'"):
        load_model(tmp_path, prompt=VICUNA)
    loaded = load_model(tmp_path, family="auto", prompt=VICUNA)
    expected = replace(row, name="auto-llava", prompt="")
    assert loaded.family == expected
    assert f"Its row for families.py:\n    {row_of(expected)}," in capsys.readouterr().out
    with pytest.raises(ModelError, match="family must be 'auto' or empty, not 'llama'"):
        load_model(tmp_path, family="llama")


@pytest.mark.parametrize("key", ["qwen2_5_vl", "qwen3_vl"])
def test_a_model_with_other_positions_than_its_own_is_refused(key, monkeypatch):
    module, processor, prompt = tiny_vlms.build_vlm(key)
    model = VisionLanguageModel.from_module(module, processor, prompt=prompt)
    assert check_fast_path(model) < 1e-5
    monkeypatch.setattr(model, "position_table", lambda ids, image_inputs: torch.arange(len(ids))[None])
    with pytest.raises(ModelError, match="answers otherwise in the runs that interventions use than by itself"):
        check_fast_path(model)


def test_a_model_whose_visual_tokens_see_each_other_needs_its_row():
    """Its own forward takes marks of the image, which a row without `image_block` does not make."""
    module, processor, prompt = tiny_vlms.build_vlm("gemma3")
    model = VisionLanguageModel.from_module(module, processor, prompt=prompt)
    assert check_fast_path(model) < 1e-5
    model.family = replace(model.family, image_block=False)
    with pytest.raises(ModelError, match="answers otherwise in the runs that interventions use than by itself"):
        check_fast_path(model)
