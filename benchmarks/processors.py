"""The image processors of published models around a small tokenizer, to count visual tokens without a download.

`processor_for` builds a checkpoint's own processor class with the settings of its preprocessor_config.json. The
tokenizer has few words, and the special tokens that the processor asks for.
"""

from __future__ import annotations

from unittest import mock

from transformers import (
    Gemma3Processor,
    InternVLProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from interventions.models.families import Family, family_of
from interventions.models.processors import without_videos

from .subjects import question_tokenizer
from .without_torchvision import pixtral_processor, square

QWEN_VL = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
# Family -> what its processor asks the tokenizer for by name; and other special tokens that it writes.
NAMED = {
    "qwen2.5-vl": QWEN_VL,
    "qwen3-vl": QWEN_VL,
    "llava-onevision": {"image_token": "<image>", "video_token": "<video>"},
    "smolvlm": {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    },
    "internvl-qwen2": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
    },
    "pixtral": {"image_token": "[IMG]"},
}
OTHERS = {
    "smolvlm": [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)],
    "pixtral": ["[IMG_BREAK]", "[IMG_END]"],
}
# A format for families without one: what a checkpoint's chat template writes around it is not needed for counting.
PROMPT = "<image>\n{question}"


def llava(config, words):
    strategy = config.vision_feature_select_strategy
    images = LlavaImageProcessorPil(size=square(config.vision_config.image_size), do_center_crop=False, do_pad=False)
    return LlavaProcessor(
        image_processor=images, tokenizer=words, patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=strategy, num_additional_image_tokens=int(strategy == "default"),
    )


def qwen_vl(kind, shortest: int, longest: int):
    """The sizes are the smallest and the largest number of pixels."""

    def build(config, words):
        images = Qwen2VLImageProcessorPil(
            size={"shortest_edge": shortest, "longest_edge": longest}, patch_size=config.vision_config.patch_size,
            merge_size=config.vision_config.spatial_merge_size, temporal_patch_size=2,
        )
        return without_videos(kind)(images, words, None)

    return build


def llava_onevision(config, words):
    vision = config.vision_config
    images = LlavaOnevisionImageProcessorPil(
        size=square(vision.image_size), image_grid_pinpoints=config.image_grid_pinpoints
    )
    return without_videos(LlavaOnevisionProcessor)(
        images, words, None, num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
    )


def smolvlm(config, words):
    """Pictures are enlarged to four tiles along their longer side."""
    side, per_side = config.vision_config.image_size, config.vision_config.patch_size * config.scale_factor
    images = SmolVLMImageProcessorPil(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side})
    with mock.patch.object(processing_smolvlm, "num2words", str):  # a package that it needs for videos only
        return without_videos(SmolVLMProcessor)(images, words, None, image_seq_len=(side // per_side) ** 2)


def internvl(config, words):
    images = GotOcr2ImageProcessorPil(
        size=square(config.vision_config.image_size[0]), crop_to_patches=True, min_patches=1, max_patches=12
    )
    return without_videos(InternVLProcessor)(images, words, None, image_seq_length=config.image_seq_length)


def gemma3(config, words):
    images = Gemma3ImageProcessorPil(size=square(config.vision_config.image_size))
    return Gemma3Processor(images, words, image_seq_length=config.mm_tokens_per_image)


def pixtral(config, words):
    vision = config.vision_config
    images = image_processing_pil_pixtral.PixtralImageProcessorPil(
        size={"longest_edge": vision.image_size}, patch_size=square(vision.patch_size)
    )
    return pixtral_processor()(images, words, patch_size=vision.patch_size, image_token="[IMG]")


BUILD = {
    "llava-llama": llava,
    "llava-phi": llava,
    "qwen2.5-vl": qwen_vl(Qwen2_5_VLProcessor, 56 * 56, 3584 * 3584),
    "qwen3-vl": qwen_vl(Qwen3VLProcessor, 256 * 256, 4096 * 4096),
    "llava-onevision": llava_onevision,
    "smolvlm": smolvlm,
    "internvl-qwen2": internvl,
    "gemma3": gemma3,
    "pixtral": pixtral,
}


def tokenizer_for(family: Family, *texts: str):
    """Return the benchmarks' tokenizer with the special tokens of a family; it knows the words of texts."""
    named = NAMED.get(family.name, {"image_token": "<image>"})
    return question_tokenizer(*texts, named=named, special=OTHERS.get(family.name, []))


def processor_for(config, tokenizer=None):
    """Return a processor for a configuration, which takes the tokenizer's image token; or its tokenizer if text-only.

    tokenizer: that of `tokenizer_for` if not given.
    """
    family = family_of(config)
    tokenizer = tokenizer or tokenizer_for(family)
    if not family.is_multimodal:
        return tokenizer
    processor = BUILD[family.name](config, tokenizer)
    config.image_token_id = getattr(tokenizer, "image_token_id", None) or processor.image_token_id  # Gemma 3 has both
    return processor
