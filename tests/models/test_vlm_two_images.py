"""One image a prompt: everything else is refused in a sentence, in every family."""

import asked_vlms
import pytest
import tiny
from asked_vlms import KEYS, load

from interventions.errors import ModelError, PromptError
from interventions.models.model import VisionLanguageModel
from interventions.prompts.prompt import build_prompt
from interventions.testbed import TestBedError


@pytest.mark.parametrize("key", KEYS)
def test_a_second_image_is_refused(key):
    model, pictures = load(key), [tiny.picture(0), tiny.picture(1)]
    with pytest.raises(TestBedError, match=r"^image must be the path of a picture or a PIL image, not"):
        build_prompt(model, tiny.QUESTION, pictures, visual_constraint="this country")
    with pytest.raises(TestBedError, match=r"^image must be the path of a picture or a PIL image, not"):
        model.generate_answer(pictures, tiny.QUESTION)
    with pytest.raises(PromptError, match=r"^question contains .*, the placeholder of the image: leave it out"):
        asked_vlms.ask(model, question=f"Look at {model.image_token} and name this country")
    twice = asked_vlms.chat_formats(key)["before"].replace("<image>", "<image><image>")
    with pytest.raises(ModelError, match=r"must hold {question} once, and <image> at most once"):
        VisionLanguageModel.from_module(model.module, model.processor, prompt=twice)


@pytest.mark.parametrize("key", KEYS)
def test_words_like_an_image_are_words(key):
    """Where `<image>` is none of the tokenizer's tokens, it may stand in a question."""
    model = load(key)
    if "<image>" in model.control_tokens:
        with pytest.raises(PromptError, match="question contains '<image>', the placeholder of the image"):
            asked_vlms.ask(model, question="The <image> shows this country and")
        return
    prompt = asked_vlms.ask(model, question="The <image> shows this country and")
    assert prompt.visual == asked_vlms.ask(model).visual and "<image>" in model.decode(prompt.input_ids)
