"""The tiny models of `tiny_vlms` under the wrapper, each with a question whose answer a corruption takes away."""

from functools import cache

import tiny
import tiny_vlms
import torch
from hooked import own_inputs

from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt

PLACES = ("before", "after", "between")  # where the image stands: in relation to the question, and between two texts
REPLACEMENTS = ("Sri Lanka", "New Zealand", "the big country of Lima", "Peru")
KEYS, TEXTS = tuple(tiny_vlms.FAMILIES), tuple(tiny_vlms.TEXTS)
QUESTIONS = (tiny.QUESTION, "The capital of this country is", "Sri Lanka and this country are", "Is this country big?")


def chat_formats(key):
    """The family's chat format by place of the image. What it writes around an image comes from its row."""
    begin, turn, end = tiny_vlms.FORMATS[key]
    turn = turn.replace("<|vision_start|><image><|vision_end|>", "<image>")
    turns = {"before": turn, "after": "{question}\n<image>", "between": "Look: <image> {question}"}
    return {place: begin + text + end for place, text in turns.items()}


@cache
def load(key, attention="sdpa", place="before"):
    """Only for tests that leave the model as it is: they share it."""
    if key in TEXTS:
        module, processor, prompt = tiny_vlms.build_text(key, attention)
    else:
        module, processor, _ = tiny_vlms.build_vlm(key, attention)
        prompt = chat_formats(key)[place]
    return VisionLanguageModel.from_module(module, processor, name=key, prompt=prompt)


def ask(model, picture=None, question=tiny.QUESTION, constraint="this country"):
    picture = tiny.picture() if picture is None and model.is_multimodal else picture
    text = "B" if question.endswith("B") else None
    return build_prompt(model, question, picture, visual_constraint=constraint, text_constraint=text)


@torch.no_grad()
def next_token(model, ids, image_inputs):
    """The probabilities [V] behind a prompt, by a plain forward."""
    return model.module(**own_inputs(model.module, ids[None], image_inputs)).logits[0, -1].softmax(-1)


def likeliest(model, prompt):
    """The likeliest token behind a prompt, as an answer: the one that `decided` went by, visible or not."""
    return [int(next_token(model, prompt.input_ids, prompt.image_inputs).argmax())]


def lost(before, after):
    """How much less probable the likeliest of the tokens before is after; both: probabilities [V]."""
    return (before.max() - after[before.argmax()]).item()


@cache
def decided(model):
    """(prompt, corrupted): of some prompts and replacements, those where the answer depends most on the constraint."""
    found = []
    prompts = [ask(model, tiny.picture(seed)) for seed in range(6)] if model.is_multimodal else [
        ask(model, question=question) for question in QUESTIONS
    ]
    for prompt in prompts:
        before = next_token(model, prompt.input_ids, prompt.image_inputs)
        for words in REPLACEMENTS:
            corrupted = corrupt(model, prompt, visual_replacement=words)
            after = next_token(model, corrupted.input_ids, prompt.image_inputs)
            found.append((lost(before, after), prompt, corrupted))
    return max(found, key=lambda one: one[0])[1:]


@cache
def decided_donor(model):
    """A donor with another, upright picture, whose own answer is far from that of the corrupted prompt."""
    prompt, corrupted = decided(model)
    after = next_token(model, corrupted.input_ids, prompt.image_inputs)
    donors = [ask(model, tiny.picture(seed).rotate(90, expand=True)) for seed in range(8, 14)]
    return max(donors, key=lambda donor: lost(next_token(model, donor.input_ids, donor.image_inputs), after))
