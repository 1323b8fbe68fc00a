"""Tiny random models for the tests: a real LLaVA of every family in a few milliseconds, no files, no network.

Weights are random but scaled, so that a question's answer is decided and a replaced constraint changes it: a
test of effects on a model whose effects are all near zero would pass whatever the code does.
"""

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from interventions.models.families import VICUNA, family_of
from interventions.models.model import VisionLanguageModel
from interventions.prompts.prompt import Prompt, build_prompt

CORPUS = (
    "USER: The capital of this country is Lima. Sri Lanka, New Zealand and Peru ASSISTANT: Colombo",
    "USER: Name a country that borders this country and starts with B ASSISTANT: Brazil Bolivia",
    "this building is located in Paris, France; the director of this movie in year 2006",
)
IMAGE_SIZE, PATCH = 24, 8  # nine patches
QUESTION = "Name a country that borders this country and starts with B"


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with `<s>` in front, as the embedded model's."""
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )


def text_config(text: str, vocab_size: int):
    common = dict(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    config, own = TEXTS[text]
    return config(**common, **own)


def vision_config(vision: str):
    common = dict(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )
    if vision == "siglip":
        return SiglipVisionConfig(**common, vision_use_head=False)
    return CLIPVisionConfig(**common, projection_dim=16)


# Language model -> its configuration, and what is its own.
TEXTS = {
    "llama": (LlamaConfig, {"num_key_value_heads": 4}),
    "gqa": (LlamaConfig, {"num_key_value_heads": 2}),
    "phi": (PhiConfig, {"partial_rotary_factor": 0.5}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
}

# Architecture -> the seed whose random weights give clear effects for the tests' question.
SEEDS = {
    ("llama", "clip"): 12,
    ("gqa", "siglip"): 5,
    ("phi", "siglip"): 11,
    ("qwen2", "siglip"): 27,
    ("llama", "tiles"): 2,
    ("gqa", None): 9,
    ("phi", None): 52,
}


def build(text="llama", vision="clip", attention="sdpa", dtype=torch.float32, words=None) -> VisionLanguageModel:
    """text: one of TEXTS. vision: clip | siglip | tiles (LLaVA-NeXT) | None (a text-only language model).

    words: another tokenizer.
    """
    seed = SEEDS[text, vision]
    words = words or tokenizer()
    torch.manual_seed(seed)
    language = text_config(text, len(words))
    if vision is None:
        module, processor = AutoModelForCausalLM.from_config(language, attn_implementation=attention), words
    else:
        module, processor = multimodal(language, vision, words, attention)
    sharpen(module)
    family = family_of(module.config)
    prompt = None if family and family.prompt else VICUNA  # where each checkpoint has its own
    return VisionLanguageModel.from_module(module.to(dtype), processor, name=f"tiny-{text}-{vision}", prompt=prompt)


def multimodal(language, vision: str, words, attention: str):
    """The module and its processor."""
    strategy = "full" if vision == "siglip" else "default"
    settings = dict(
        text_config=language,
        vision_config=vision_config(vision),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy=strategy,
    )
    reads = dict(
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(vision != "siglip"),
    )
    if vision == "tiles":
        grids = [[IMAGE_SIZE, 2 * IMAGE_SIZE], [2 * IMAGE_SIZE, IMAGE_SIZE]]
        config, model = LlavaNextConfig(**settings, image_grid_pinpoints=grids), LlavaNextForConditionalGeneration
        side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        images = LlavaNextImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_grid_pinpoints=grids
        )
        processor = LlavaNextProcessor(image_processor=images, **reads)
    else:
        config, model = LlavaConfig(**settings, image_seq_length=9), LlavaForConditionalGeneration
        images = CLIPImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False)
        processor = LlavaProcessor(image_processor=images, **reads)
    config._attn_implementation = attention
    return model._from_config(config, attn_implementation=attention), processor


@torch.no_grad()
def sharpen(module):
    """Scale the weights of the language model: attention that picks, and logits that decide."""
    gain = (
        2.6 if module.config.get_text_config().model_type == "phi" else 1.3
    )  # Phi's MLP has no gate: weaker
    for name, weight in module.named_parameters():
        if weight.dim() < 2 or "vision" in name:
            continue
        if "embed" in name:
            weight.normal_(0, 1)
        elif "lm_head" in name:
            weight.normal_(0, 1.0)
        else:
            weight.normal_(0, gain / weight.shape[1] ** 0.5)


def picture(seed=0) -> Image.Image:
    pixels = torch.randint(
        0, 256, (30, 40, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(pixels.numpy())


def ask(model, **options) -> Prompt:
    """The prompt of QUESTION with both constraints, about a picture where the model sees one."""
    image = picture() if model.is_multimodal else None
    return build_prompt(model, QUESTION, image, visual_constraint="this country", text_constraint="B", **options)


def with_biases(model):
    """Phi has them, but they begin at zero: a bias that is forgotten would not show."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.module.named_parameters():
        if name.endswith("bias") and "layers" in name:
            weight.data = torch.randn(weight.shape, generator=generator).to(weight) * 0.5
    return model
