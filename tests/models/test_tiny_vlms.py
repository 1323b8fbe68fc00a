"""The tiny models of the families are what their checkpoints are: plain transformers, without this package."""

import pytest
import tiny
import tiny_vlms
import torch
from transformers import AutoModelForImageTextToText, DynamicCache

MIDDLE = 5  # tokens behind the image where a run is cut in two
OF_TOKENS = "input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"
CHANGES = [("this country", "this movie"), ("with B", "with P")]


def ask(processor, prompt, question=tiny.QUESTION, seed=0, **options):
    text = prompt.format(question=question).replace("<image>", processor.image_token)
    return processor(images=tiny.picture(seed), text=text, return_tensors="pt", **options)


@torch.no_grad()
def probabilities(module, inputs):
    return module(**inputs).logits[0, -1].softmax(-1)


def positions(module, inputs):
    """The positions of the model's own rule: [1, t], or [3, 1, t] where they have three dimensions."""
    if not hasattr(module.model, "get_rope_index"):
        return torch.arange(inputs["input_ids"].shape[1])[None]
    names = "input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask"
    return module.model.get_rope_index(**{name: inputs[name] for name in names})[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_answer_is_decided_and_depends_on_picture_and_question(key, attention):
    module, processor, prompt = tiny_vlms.build_vlm(key, attention)
    inputs = ask(processor, prompt)
    answers = probabilities(module, inputs)
    assert answers.isfinite().all()
    first, second = answers.topk(2).values
    assert first > 0.5 and first - second > 0.1
    assert 4 <= (inputs["input_ids"] == module.config.image_token_id).sum() <= 30
    changed = [ask(processor, prompt, tiny.QUESTION.replace(*change)) for change in CHANGES]
    for other in [*changed, ask(processor, prompt, seed=1)]:
        assert first - probabilities(module, other)[answers.argmax()] > 0.2


@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_number_of_image_tokens_is_what_the_encoder_delivers(key):
    module, processor, prompt = tiny_vlms.build_vlm(key)
    inputs = ask(processor, prompt)
    row = inputs["input_ids"][0]
    where = (row == module.config.image_token_id).nonzero().flatten()
    fewer = {"input_ids": torch.cat([row[: where[-1]], row[where[-1] + 1 :]])[None]}
    fewer = {name: inputs[name][:, :-1] for name in OF_TOKENS if name in inputs} | fewer
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        module(**{**inputs, **fewer})


@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_chat_template_writes_the_format(key):
    _, processor, prompt = tiny_vlms.build_vlm(key)
    content = [{"type": "image"}, {"type": "text", "text": tiny.QUESTION}]
    written = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert written == prompt.format(question=tiny.QUESTION).replace("<image>", processor.image_token)


@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_replaced_text_has_the_tokens_of_the_processor(key):
    _, processor, prompt = tiny_vlms.build_vlm(key)
    question = f"{tiny.QUESTION}? It is"
    given = ask(processor, prompt, question, return_text_replacement_offsets=True)
    ((found,),) = given["text_replacement_offsets"]
    text = prompt.format(question=question).replace("<image>", processor.image_token)
    start, end = found["span"]
    assert text[start:end] == found["text"] == processor.image_token
    ids = processor.tokenizer(text[:start] + found["replacement"] + text[end:])["input_ids"]
    assert ids == given["input_ids"][0].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_two_steps_equal_one(key, attention):
    module, processor, prompt = tiny_vlms.build_vlm(key, attention)
    inputs = ask(processor, prompt)
    where = positions(module, inputs)
    ids = inputs["input_ids"]
    cut = int((ids[0] == module.config.image_token_id).nonzero()[-1]) + MIDDLE
    before = {name: value[:, :cut] if name in OF_TOKENS else value for name, value in inputs.items()}
    with torch.no_grad():
        whole = module(**inputs).logits
        cache = DynamicCache(config=module.config.get_text_config())
        module(**before, past_key_values=cache, use_cache=True)
        rest = module(
            input_ids=ids[:, cut:],
            attention_mask=inputs["attention_mask"],
            position_ids=where[..., cut:],
            past_key_values=cache,
        )
    assert (rest.logits - whole[:, cut:]).abs().max() < 1e-4


@pytest.mark.parametrize("key", tiny_vlms.TEXTS)
def test_text_only_answer_is_decided_and_depends_on_the_question(key):
    module, words, prompt = tiny_vlms.build_text(key)

    def answers(question):
        return probabilities(module, words(prompt.format(question=question), return_tensors="pt"))

    asked = answers(tiny.QUESTION)
    assert asked.max() > 0.5
    for change in CHANGES:
        assert asked.max() - answers(tiny.QUESTION.replace(*change))[asked.argmax()] > 0.2


@pytest.mark.parametrize("key", tiny_vlms.FAMILIES)
def test_saved_folder_loads(key, tmp_path):
    module, processor, prompt = tiny_vlms.build_vlm(key)
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    read = tiny_vlms.read_processor(tmp_path)
    assert processor.chat_template == read.chat_template
    inputs = ask(processor, prompt)
    again = ask(read, prompt)
    assert {*again} == {*inputs} and (again["input_ids"] == inputs["input_ids"]).all()
    difference = probabilities(loaded, again) - probabilities(module, inputs)
    assert difference.abs().max() < 1e-5
