"""A tiny random model that answers in words, and questions it answers right: studies need right answers."""

import copy
from pathlib import Path

import tiny
import torch

from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.testbed import Item, load_image
from interventions.tracing.causal_trace import Scoring, trace

SINGLE = {
    "question": "The capital of this country is",
    "visual_constraint": "this country",
    "visual_replacement": "Sri Lanka",
    "paraphrases": ("The capital of this country",),
}
MULTI = {
    "question": "Name a country that borders this country and starts with B",
    "visual_constraint": "this country",
    "visual_replacement": "New Zealand",
    "text_constraint": "B",
    "text_replacement": "L",
}


def words(model) -> dict[int, str]:
    """Tokens that begin a word, and the text of each as an answer."""
    pieces = model.tokenizer.convert_ids_to_tokens(range(model.module.lm_head.weight.shape[0]))
    found = {token: piece.removeprefix("Ġ") for token, piece in enumerate(pieces) if piece.startswith("Ġ")}
    return {token: text for token, text in found.items() if len(text) > 1 and text.isalpha()}


@torch.no_grad()
def speaking(model):
    """Leave only words to be said, so that an answer's text has the answer's token, and end behind each."""
    others = [token for token in range(model.module.lm_head.weight.shape[0]) if token not in words(model)]
    model.module.lm_head.weight[others] = 0
    model.module.generation_config.eos_token_id = list(words(model))
    return model


def renamed(model, *, revision: str, name: str = "tiny"):
    """The same weights under a revision, so that results of theirs are stored for good."""
    model = copy.copy(model)
    model.name, model.revision = name, revision
    return model


def questions(model, directory: Path, n: int = 6, parts=("known", "okvqa")) -> list[Item]:
    """n questions that `model` answers right; the last of each part has a text constraint."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    items, seed = [], 0
    while len(items) < n:
        path = directory / "images" / f"{seed}.png"
        tiny.picture(seed).save(path)
        part = parts[len(items) * len(parts) // n]
        last = (len(items) + 1) * len(parts) // n > len(items) * len(parts) // n
        fields = MULTI if last else SINGLE
        item = Item(id=f"{part}-{seed}", part=part, image=path, answers=("unknown",), entity=f"e{seed}", **fields)
        prompt = build_prompt(
            model, item.question, load_image(path), visual_constraint=item.visual_constraint,
            text_constraint=item.text_constraint,
        )
        corrupted = corrupt(
            model, prompt, visual_replacement=item.visual_replacement, text_replacement=item.text_replacement
        )
        seen = trace(model, prompt, corrupted, positions=(0,), scoring=Scoring(max_answer_tokens=1))
        if seen.p_clean > 0.2:
            items.append(Item(**vars(item) | {"answers": (seen.answer_text,)}))
        seed += 1
    return items
