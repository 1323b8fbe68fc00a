"""Models of the paper's sizes with random weights: as large and as slow as the real ones, and without a download.

Their answers mean nothing. What is real is their width, their depth, their numbers of tokens, and so time and memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import answer_tokens, build_prompt
from interventions.testbed import load_testbed

from .processors import processor_for
from .published import published_config, skeleton
from .subjects import QUESTION, Subject, question_tokenizer

GAIN = 1.28  # over the root of a matrix's inputs: 0.02 at LLaVA-1.5-7B's width, as Hugging Face initializes
POOL = 16_777_213  # random numbers that all weights are cut from: a prime, so that no two rows of a matrix agree
BUNNY_WORDS = "A chat between a curious user and an artificial intelligence assistant The assistant gives helpful"
BUNNY_REST = "detailed and polite answers to the user's questions"


def resized(name: str, layers: int = 0, shrink: int = 1):
    """A published configuration with fewer layers of text (0: all).

    shrink: to try things out, divides every width, and leaves two layers of the image encoder.
    """
    config = published_config(name)
    text = config.get_text_config()
    text.num_hidden_layers = layers or text.num_hidden_layers
    parts = [text]
    if hasattr(config, "vision_config"):
        parts.append(config.vision_config)
        if shrink > 1:
            config.vision_config.num_hidden_layers = 2
    for part in parts:
        for size in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
            if getattr(part, size, None):
                setattr(part, size, max(1, getattr(part, size) // shrink))
    return config


@torch.no_grad()
def random_module(
    config, dtype: torch.dtype = torch.bfloat16, seed: int = 0, device: str = "cpu"
) -> torch.nn.Module:
    """The model of a configuration with random weights, made in its final precision: no second copy is ever held."""
    module = skeleton(config).to(dtype).to_empty(device=device)
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    begin = 0
    for name, weight in module.named_parameters():
        if weight.dim() < 2:
            weight.fill_(0 if name.endswith("bias") else 1)
            continue
        flat = weight.view(-1)
        for chunk in flat.split(POOL):
            parts = pool[begin : begin + len(chunk)], pool[: max(0, begin + len(chunk) - POOL)]
            torch.cat(parts, out=chunk)
            begin = (begin + len(chunk)) % POOL
        flat.mul_(GAIN / weight[0].numel() ** 0.5)
    _fill_buffers(module)
    module.to(device)  # what was filled
    module.config.dtype = dtype  # with which `save_pretrained` labels it
    return module.requires_grad_(False).eval()


def _fill_buffers(module: torch.nn.Module) -> None:
    """What no checkpoint holds: `to_empty` leaves it unset, and half precision would spoil the rotary frequencies."""
    for path, part in list(module.named_modules()):
        if path.endswith("rotary_emb"):
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, type(part)(config=part.config))
        elif "position_ids" in dict(part.named_buffers(recurse=False)):
            part.position_ids.copy_(torch.arange(part.position_ids.shape[-1])[None])
    unset = [name for name, _ in module.named_buffers()
             if not name.endswith(("position_ids", "inv_freq"))]
    if unset:
        raise ValueError(f"buffers {', '.join(unset)} are left unset: fill them here")


def real_size_subject(name: str, layers: int = 0, shrink: int = 1, device: str = "cpu") -> Subject:
    """A published model with random bfloat16 weights, and the question of `subjects.llava_shape` about an image."""
    config = resized(name, layers, shrink)
    processor = processor_for(config, question_tokenizer(BUNNY_WORDS, BUNNY_REST))
    model = VisionLanguageModel.from_module(random_module(config, device=device), processor, name=name)
    image = Image.radial_gradient("L") if model.is_multimodal else None
    prompt = build_prompt(model, QUESTION, image, visual_constraint="this country")
    return Subject(name, model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"))


def save_checkpoint(directory: str | Path, name: str, layers: int, shrink: int = 1) -> list[str]:
    """A directory that the notebooks take as `model`: a published size, the embedded model's tokenizer and questions.

    The rows of its vocabulary behind that tokenizer stay unused. A random model answers no question, and the notebooks
    trace only what was answered right; so the rows of its head that begin the answers of a few questions are solved
    for: those that the notebooks take with limit=1. Returns the ids of these questions.
    """
    tokenizer = load_model("mini").tokenizer
    config = resized(name, layers, shrink)
    processor = processor_for(config, tokenizer)
    module = random_module(config)
    model = VisionLanguageModel.from_module(module, processor, name=name)
    testbed = load_testbed("embedded")
    items = list(testbed.select(testbed.parts, constraints="single", limit=1, seed=0))
    _answer(model, items)
    module.save_pretrained(directory)
    processor.save_pretrained(directory)
    return [item.id for item in items]


@torch.no_grad()
def _answer(model: VisionLanguageModel, items, odds: float = 3.0) -> None:
    """Sets the head's row of each answer's first token: odds e^3 after the item's prompt, e^-3 after all the others."""
    last, begins = [], []
    for item in items:
        prompt = build_prompt(model, item.question, item.image, visual_constraint=item.visual_constraint)
        replaced = corrupt(model, prompt, visual_replacement=item.visual_replacement)
        begins += [answer_tokens(model, prompt, item.answers[0])[0], None]
        for ids in (prompt.input_ids, replaced.input_ids):
            hidden = model.module.model(input_ids=ids[None], **prompt.image_inputs).last_hidden_state
            last.append(hidden[0, -1].float())
    last, head = torch.stack(last), model.module.lm_head.weight  # [2 items, d], [V, d]
    others = (last @ head.float().T).logsumexp(-1)  # [2 items]
    for token in dict.fromkeys(token for token in begins if token is not None):
        wanted = others + torch.tensor([odds if begin == token else -odds for begin in begins])
        head[token] = torch.linalg.lstsq(last, wanted[:, None], driver="gelsd").solution[:, 0].to(head)
