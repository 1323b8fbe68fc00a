"""Loading, what is checked then, and the greedy answer."""

import shutil
import unicodedata
from pathlib import Path

import huggingface_hub
import pytest
import tiny
import tiny_vlms
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from interventions.errors import ModelError, PromptError
from interventions.models import checkpoints, loading
from interventions.models import model as model_module
from interventions.models.checkpoints import resolve
from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt
from interventions.testbed import TestBedError
from interventions.tracing.causal_trace import trace

QUESTION = "The capital of this country is"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny.build()
    model.module.to(torch.bfloat16).save_pretrained(path)
    model.processor.save_pretrained(path)
    return path


def test_a_directory_loads_in_float32_and_traces(directory):
    model = load_model(directory)
    assert model.dtype == torch.float32 and model.name == str(directory) and len(model.revision) == 64
    assert load_model(directory, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(directory, attn_implementation="eager").attention == "eager"
    assert not any(p.requires_grad for p in model.module.parameters()) and not model.module.training
    prompt = tiny.ask(model)
    result = trace(model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"))
    assert abs(result.effects).max() > 0.05


def test_the_revision_changes_with_all_that_determines_a_result(directory, tmp_path):
    copied = Path(shutil.copytree(directory, tmp_path / "model"))
    (copied / "training.json").write_text("{}")
    seen = [resolve(str(directory))[1]]
    assert resolve(str(copied))[1] == seen[0]  # wherever it lies, and however it was made
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        text = (copied / name).read_text()
        (copied / name).write_text(text + " ")
        seen.append(resolve(str(copied))[1])
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    seen.append(resolve(str(copied))[1])
    (copied / "model.safetensors").write_bytes(b"others")
    seen.append(resolve(str(copied))[1])
    assert len(set(seen)) == len(seen)


def generated(model, image) -> str:
    """The answer of Hugging Face's own `generate`, five tokens at most."""
    text = model.prompt_template(image=image is not None).format(question=QUESTION)
    if image is not None:
        inputs = model.processor(images=image, text=text, return_tensors="pt")
    else:
        inputs = model.tokenizer(text, return_tensors="pt")
    ids = model.module.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("key", [("llama", "clip"), ("phi", "siglip"), ("gqa", None)], ids=str)
def test_the_answer_is_that_of_generate(key):
    model = tiny.build(*key)
    image = tiny.picture() if model.is_multimodal else None
    expected = generated(model, image)
    assert model.generate_answer(image, QUESTION, max_new_tokens=5) == expected
    model.remote = "local"
    assert model.generate_answer(image, QUESTION, max_new_tokens=5) == expected


def test_text_only_question_to_a_multimodal_model():
    model = tiny.build()
    assert model.prompt_template(image=False) == "USER: \n{question} ASSISTANT:"
    assert model.generate_answer(None, QUESTION, max_new_tokens=5) == generated(model, None)


def test_an_answer_is_asked_for_as_a_prompt_is_built(monkeypatch):
    """Letters in two ways, outer space and a question mark that the format has itself make no other question."""
    model, asked = tiny.build(), []
    monkeypatch.setattr(
        model_module.forward, "in_session", lambda lm, f, request, remote: asked.append(request["input_ids"][0]) or []
    )
    question = "La capitale de São Tomé est"
    model.generate_answer(tiny.picture(), f" {unicodedata.normalize('NFD', question)}\n")
    prompt = build_prompt(model, question, tiny.picture(), visual_constraint="São Tomé")
    assert torch.equal(asked[0], prompt.input_ids)
    model.prompt = "<image> {question}?"
    model.generate_answer(None, "Who?")
    assert asked[1].tolist() == model.tokenize(" Who?", "")[0]


@pytest.mark.parametrize(("key", "image", "question", "sentence"), [
    (("gqa", None), tiny.picture(), QUESTION, "image was given but model 'tiny-gqa-None' reads text only"),
    (("llama", "clip"), None, "<image> here", "question contains '<image>', the placeholder of the image"),
    (("llama", "clip"), None, " ", "question is empty"),
])
def test_what_cannot_be_asked_is_one_sentence(key, image, question, sentence):
    with pytest.raises(PromptError, match=sentence):
        tiny.build(*key).generate_answer(image, question)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("minni", "model 'minni' is unknown: give an alias"),
        ("no/where/at/all", "is unknown"),
    ],
)
def test_unknown_names_end_in_a_sentence(name, sentence):
    with pytest.raises(ModelError, match=sentence) as error:
        load_model(name)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_an_embedded_model_without_its_files(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    with pytest.raises(ModelError, match=r"model 'mini-bunny' has no checkpoint at .*: make it with .*\.$"):
        load_model("mini-bunny")


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="model 'no-one/nothing' cannot be loaded") as error:
        load_model("no-one/nothing")
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_and_attention_that_is_unknown(directory, tmp_path):
    copied = Path(shutil.copytree(directory, tmp_path / "model"))
    (copied / "model.safetensors").unlink()
    cases = [
        (copied, {}, "has no safetensors there"),
        (directory, {"attn_implementation": "fancy"}, "has weights that cannot be loaded"),
    ]
    for path, options, sentence in cases:
        with pytest.raises(ModelError, match=sentence) as error:
            load_model(path, **options)
        assert "\n" not in str(error.value)


def test_a_module_stays_where_it_is_and_a_loaded_one_goes_where_it_is_sent(directory, monkeypatch):
    """Hugging Face's pipeline moves a module to the first GPU unless it is told a device; here there is none to see."""
    told = []
    real = model_module.TransformersModel
    for module in (model_module, loading):
        monkeypatch.setattr(module, "TransformersModel", lambda *args, **kw: told.append(kw) or real(*args, **kw))
    tiny.build()
    for device_map in ("cpu", "auto", None):
        assert load_model(directory, device_map=device_map).device.type == "cpu"
    assert [kwargs.get("device") for kwargs in told] == [torch.device("cpu")] * 3 + [None]


def test_an_unknown_dtype(directory):
    with pytest.raises(ModelError, match="dtype 'float23' is unknown"):
        load_model(directory, dtype="float23")


def test_an_architecture_that_no_row_describes():
    module = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=300))
    with pytest.raises(ModelError, match="is a 'gpt2' over 'gpt2', for which"):
        VisionLanguageModel.from_module(module, tiny.tokenizer())


def test_a_processor_that_miscounts_the_image():
    """575 versus 576: the processor takes a class token away that the encoder never had."""
    model = tiny.build()
    model.processor.num_additional_image_tokens = 0
    with pytest.raises(ModelError, match="makes 9 visual tokens of an image but its processor writes 8 into"):
        VisionLanguageModel.from_module(model.module, model.processor)


def test_a_transparent_picture_is_read_as_its_file_is(tmp_path):
    clear = Image.new("RGBA", (24, 24), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    model = tiny.build()
    (drawn, text), (read, other) = model.read_image(clear), model.read_image(tmp_path / "clear.png")
    assert torch.equal(drawn["pixel_values"], read["pixel_values"]) and text == other == "<image>" * 9


def test_an_unreadable_image(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(TestBedError, match="cannot be read"):
        tiny.build().generate_answer(broken, QUESTION)


def squared(image, mean):
    """`expand2square` of LLaVA's original code (llava/mm_utils.py), which Bunny's repeats."""
    colour, (width, height) = tuple(int(x * 255) for x in mean), image.size
    if width == height:
        return image
    side = max(width, height)
    result = Image.new(image.mode, (side, side), colour)
    result.paste(image, (0, (width - height) // 2) if width > height else ((height - width) // 2, 0))
    return result


@pytest.mark.parametrize("size", [(40, 30), (31, 60), (24, 24)])
@pytest.mark.parametrize("key", [("llama", "clip"), ("gqa", "siglip"), ("phi", "siglip"), ("qwen2", "siglip"),
                                 ("llama", "tiles")], ids=str)
@pytest.mark.parametrize("crops", [True, False])
def test_the_authors_protocol_pads_where_the_original_code_does(key, size, crops):
    model, image = tiny.build(*key), Image.effect_noise(size, 90).convert("RGB")
    reads = model.processor.image_processor
    if crops and key[1] != "tiles":
        reads.do_center_crop, reads.size = True, {"shortest_edge": 24}
        reads.crop_size = {"height": 24, "width": 24}
    pads = key in (("llama", "clip"), ("gqa", "siglip"), ("phi", "siglip"))
    plain, _ = model.read_image(image)
    padded, text = model.read_image(image, "authors")
    expected = squared(image, reads.image_mean) if pads else image
    expected = reads(expected, return_tensors="pt")["pixel_values"]
    assert torch.equal(padded["pixel_values"], expected)
    assert torch.equal(plain["pixel_values"], reads(image, return_tensors="pt")["pixel_values"])
    assert torch.equal(plain["pixel_values"], padded["pixel_values"]) == (not pads or size == (24, 24))
    if pads:
        assert text == "<image>" * 9 and model.image_view("authors") == "padded"
    assert model.image_view() == ("cropped" if reads.do_center_crop else "squeezed")
    prompts = [build_prompt(model, QUESTION, image, visual_constraint="this country", protocol=protocol)
               for protocol in ("paper", "authors")]
    for prompt, pixels in zip(prompts, (plain, padded), strict=True):
        assert torch.equal(prompt.image_inputs["pixel_values"], pixels["pixel_values"])


def test_a_picture_that_the_processor_refuses_is_one_sentence(monkeypatch):
    model = tiny.build()

    def refusing(*arguments, **options):
        raise ValueError("mean must have 1 elements\nand more")

    monkeypatch.setattr(model.processor.image_processor, "preprocess", refusing)
    with pytest.raises(TestBedError, match=r"^image of 40 x 30 pixels is refused by .* \(mean must have 1 elements\)"):
        model.read_image(tiny.picture())


@pytest.mark.parametrize(("key", "side"), [("qwen2_5_vl", 32), ("pixtral", 32), ("gemma3", 0)])
def test_a_fixed_square_gives_every_picture_as_many_visual_tokens(key, side):
    grid = (4, 4)
    module, processor, prompt = tiny_vlms.build_vlm(key)
    free, fixed = (VisionLanguageModel.from_module(module, processor, prompt=prompt, image_side=n) for n in (0, side))
    assert free.n_image_tokens == (None if side else 16) and fixed.n_image_tokens == grid[0] * grid[1]
    images = [Image.effect_noise(size, 60).convert("RGB") for size in ((64, 32), (32, 64), (40, 40))]
    asked = [build_prompt(fixed, QUESTION, image, visual_constraint="this country") for image in images]
    assert {fixed.patch_grid(one) for one in asked} == {grid} and {len(one.visual) for one in asked} == {16}
    assert fixed.image_view() == "squeezed" and ("image_side" in fixed.key()) == bool(side)
    wide = build_prompt(free, QUESTION, images[0], visual_constraint="this country")
    rows, columns = free.patch_grid(wide)
    assert rows * columns == len(wide.visual) and (columns > rows or not side)
    for wrong in (-1, 2.5, True):
        with pytest.raises(ModelError, match="image_side must be a number of pixels"):
            VisionLanguageModel.from_module(module, processor, prompt=prompt, image_side=wrong)


def test_tiles_form_no_grid():
    model = tiny.build("llama", "tiles")
    assert model.patch_grid(build_prompt(model, QUESTION, tiny.picture(), visual_constraint="this country")) is None
