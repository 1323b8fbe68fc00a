"""Saved models of today's families are loaded without torchvision, or one sentence says what to install."""

import pytest
import tiny
import tiny_vlms
from transformers.utils.import_utils import is_torchvision_available

from interventions.errors import ModelError
from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel

# What their processors import.
PACKAGES = {"smolvlm": "num2words", "pixtral": "torchvision", "mistral3": "torchvision"}


@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_a_saved_model_is_loaded_with_its_processor(key, tmp_path):
    module, processor, prompt = tiny_vlms.build_vlm(key)
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if key in PACKAGES:
        assert not is_torchvision_available()
        with pytest.raises(ModelError, match=rf"a processor that cannot be loaded .*: pip install {PACKAGES[key]}"):
            load_model(tmp_path)
        return
    loaded, here = load_model(tmp_path), VisionLanguageModel.from_module(module, processor, prompt=prompt)
    assert loaded.prompt == here.prompt and loaded.family == here.family
    assert tiny.ask(loaded).input_ids.tolist() == tiny.ask(here).input_ids.tolist()
    answers = [model.generate_answer(tiny.picture(), tiny.QUESTION, 4) for model in (loaded, here)]
    assert answers[0] == answers[1]
