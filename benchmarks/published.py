"""Configurations of the paper's models, to check module paths and count costs without a download."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PhiConfig,
    SiglipVisionConfig,
)

from interventions.errors import ModelError
from interventions.models.model import family_row
from interventions.notebook import closest

# The configurations of transformers take more than they declare.
# pyright: reportCallIssue=false

SDPA = "sdpa"  # what `from_pretrained` chooses for these classes


def published_config(name: str) -> LlavaConfig | LlamaConfig | PhiConfig:
    """Return a fresh configuration of a model in `PUBLISHED`. Raises ModelError for another name."""
    if name not in PUBLISHED:
        raise ModelError(f"model {name!r} is none of the paper's: {closest(name, PUBLISHED)}")
    return PUBLISHED[name]()


def skeleton(config) -> torch.nn.Module:
    """Return a model on the meta device, with modules and shapes but no weights. Raises ModelError."""
    family = family_row(config, config.model_type)
    auto = AutoModelForImageTextToText if family.is_multimodal else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config)


def _llama(vocabulary: int, width: int = 4096, ffn: int = 11_008, layers: int = 32, heads: int = 32) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096, rms_norm_eps=1e-5,
        attn_implementation=SDPA,
    )


def _llava(text: LlamaConfig) -> LlavaConfig:
    """LLaVA-1.5 over a Vicuna: CLIP ViT-L/14 at 336 pixels, whose last layer but one is read."""
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, projection_dim=768,
        image_size=336, patch_size=14,
    )
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=32_000, image_seq_length=576,
        vision_feature_layer=-2, vision_feature_select_strategy="default", attn_implementation=SDPA,
    )


def _phi() -> PhiConfig:
    return PhiConfig(
        vocab_size=51_200, hidden_size=2560, intermediate_size=10_240, num_hidden_layers=32, num_attention_heads=32,
        partial_rotary_factor=0.4, hidden_act="gelu_new", layer_norm_eps=1e-5, max_position_embeddings=2048,
        bos_token_id=50_256, eos_token_id=50_256, attn_implementation=SDPA,
    )


def _bunny() -> LlavaConfig:
    """As `convert_bunny` writes it for a tower that was saved without its last layer."""
    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16, image_size=384,
        patch_size=14, vision_use_head=False,
    )
    return LlavaConfig(
        vision_config=vision, text_config=_phi(), image_token_index=50_295,  # the first id behind Phi-2's tokenizer
        image_seq_length=729, vision_feature_layer=-1, vision_feature_select_strategy="full",
        projector_hidden_act="gelu", attn_implementation=SDPA,
    )


# The checkpoints of llava-hf have 64 rows more than Vicuna: two new tokens, and padding.
PUBLISHED = {
    "llava-1.5-7b": lambda: _llava(_llama(32_064)),
    "llava-1.5-13b": lambda: _llava(_llama(32_064, 5120, 13_824, 40, 40)),
    "vicuna-7b": lambda: _llama(32_000),
    "bunny-phi-2": _bunny,
    "phi-2": _phi,
}
