"""Configurations of the models in `params/models`, to check module paths and count costs without a download.

Those of the paper come first. The others are written as the config.json of their checkpoints has them: names and sizes
that decide modules, shapes and visual tokens; what decides neither (dropout, initialization) is left out.
"""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PhiConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
)

from interventions.errors import ModelError
from interventions.models.discovery import empty_module
from interventions.models.model import family_row
from interventions.notebook import closest

# The configurations of transformers take more than they declare.
# pyright: reportCallIssue=false

SDPA = "sdpa"  # what `from_pretrained` chooses for these classes


def published_config(name: str) -> PreTrainedConfig:
    """Return a fresh configuration of a model in `PUBLISHED`. Raises ModelError for another name."""
    if name not in PUBLISHED:
        raise ModelError(f"model {name!r} has no configuration in benchmarks/published.py: {closest(name, PUBLISHED)}")
    return PUBLISHED[name]()


def skeleton(config) -> torch.nn.Module:
    """Return a model on the meta device, with modules and shapes but no weights. Raises ModelError."""
    family_row(config, config.model_type)
    return empty_module(config)


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


def _text(kind: str, width: int, ffn: int, layers: int, heads: int, shared: int, words: int, **own) -> dict:
    """A decoder as its config.json has it. shared: heads of keys and values."""
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": shared, "vocab_size": words, **own,
    }


def _tower(kind: str, width: int, ffn: int, layers: int, side: int, patch: int, **own) -> dict:
    """An image encoder of 16 heads, for images of side x side pixels."""
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": 16, "image_size": side, "patch_size": patch, **own,
    }


def _qwen_tower(kind: str, width: int, ffn: int, depth: int, out: int, **own) -> dict:
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": ffn, "depth": depth, "num_heads": 16,
        "out_hidden_size": out, "spatial_merge_size": 2, "temporal_patch_size": 2, **own,
    }


def _model(kind: str, text: dict, vision: dict, **own):
    """A function that returns a fresh configuration of a multimodal model."""
    return lambda: AutoConfig.for_model(
        kind, text_config=dict(text), vision_config=dict(vision), attn_implementation=SDPA, **own
    )


def _decoder(text: dict):
    """A function that returns a fresh configuration of a text-only model."""
    return lambda: AutoConfig.for_model(**text, attn_implementation=SDPA)


def _rope(section: list[int], theta: float, **own) -> dict:
    """M-RoPE: how many frequencies turn with time, height and width."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": section, **own}}


QWEN_2_5, QWEN_3 = _rope([16, 24, 24], 1e6), _rope([24, 20, 20], 5e6, mrope_interleaved=True) | {"head_dim": 128}
QWEN_7B = 3584, 18_944, 28, 28, 4  # Qwen2 and Qwen2.5 alike; the vocabulary is padded differently
SO400M = 1152, 4304  # SigLIP so400m: width and MLP
ANYRES = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]  # OneVision's tiles

# The checkpoints of llava-hf have 64 rows more than Vicuna: two new tokens, and padding.
PUBLISHED = {
    "llava-1.5-7b": lambda: _llava(_llama(32_064)),
    "llava-1.5-13b": lambda: _llava(_llama(32_064, 5120, 13_824, 40, 40)),
    "vicuna-7b": lambda: _llama(32_000),
    "bunny-phi-2": _bunny,
    "phi-2": _phi,
    "qwen2.5-vl-3b": _model(
        "qwen2_5_vl", _text("qwen2_5_vl_text", 2048, 11_008, 36, 16, 2, 151_936, **QWEN_2_5),
        _qwen_tower("qwen2_5_vl", 1280, 3420, 32, 2048, patch_size=14), tie_word_embeddings=True,
    ),
    "qwen2.5-vl-7b": _model(
        "qwen2_5_vl", _text("qwen2_5_vl_text", *QWEN_7B, 152_064, **QWEN_2_5),
        _qwen_tower("qwen2_5_vl", 1280, 3420, 32, 3584, patch_size=14), tie_word_embeddings=False,
    ),
    "qwen3-vl-2b": _model(
        "qwen3_vl", _text("qwen3_vl_text", 2048, 6144, 28, 16, 8, 151_936, **QWEN_3),
        _qwen_tower("qwen3_vl", 1024, 4096, 24, 2048, patch_size=16, deepstack_visual_indexes=[5, 11, 17]),
        tie_word_embeddings=True,
    ),
    "qwen3-vl-8b": _model(
        "qwen3_vl", _text("qwen3_vl_text", 4096, 12_288, 36, 32, 8, 151_936, **QWEN_3),
        _qwen_tower("qwen3_vl", 1152, 4304, 27, 4096, patch_size=16, deepstack_visual_indexes=[8, 16, 24]),
        tie_word_embeddings=False,
    ),
    "llava-onevision-7b": _model(
        "llava_onevision", _text("qwen2", *QWEN_7B, 152_064, tie_word_embeddings=False),
        _tower("siglip_vision_model", *SO400M, 26, 384, 14, vision_use_head=False), image_grid_pinpoints=ANYRES,
        vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=False,
    ),
    "smolvlm2-500m": _model(
        "smolvlm", _text("llama", 960, 2560, 32, 15, 5, 49_280),
        _tower("smolvlm_vision", 768, 3072, 12, 512, 16) | {"num_attention_heads": 12}, scale_factor=4,
        tie_word_embeddings=False,
    ),
    "smolvlm2-2.2b": _model(
        "smolvlm", _text("llama", 2048, 8192, 24, 32, 32, 49_280), _tower("smolvlm_vision", *SO400M, 27, 384, 14),
        scale_factor=3, tie_word_embeddings=False,
    ),
    "internvl3-1b": _model(
        "internvl", _text("qwen2", 896, 4864, 24, 14, 2, 151_674),
        _tower("internvl_vision", 1024, 4096, 24, [448, 448], [14, 14], attention_bias=True), tie_word_embeddings=False,
    ),
    "internvl3-8b": _model(
        "internvl", _text("qwen2", *QWEN_7B, 151_674),
        _tower("internvl_vision", 1024, 4096, 24, [448, 448], [14, 14], attention_bias=True), tie_word_embeddings=False,
    ),
    "gemma-3-4b": _model(
        "gemma3", _text("gemma3_text", 2560, 10_240, 34, 8, 4, 262_208, head_dim=256, sliding_window=1024),
        _tower("siglip_vision_model", *SO400M, 27, 896, 14, vision_use_head=False), mm_tokens_per_image=256,
    ),
    "gemma-3-12b": _model(
        "gemma3", _text("gemma3_text", 3840, 15_360, 48, 16, 8, 262_208, head_dim=256, sliding_window=1024),
        _tower("siglip_vision_model", *SO400M, 27, 896, 14, vision_use_head=False), mm_tokens_per_image=256,
    ),
    "pixtral-12b": _model(
        "llava", _text("mistral", 5120, 14_336, 40, 32, 8, 131_072, head_dim=128, sliding_window=None),
        _tower("pixtral", 1024, 4096, 24, 1024, 16), vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    ),
    "qwen2.5-3b": _decoder(_text("qwen2", 2048, 11_008, 36, 16, 2, 151_936, tie_word_embeddings=True)),
    "qwen2.5-7b": _decoder(_text("qwen2", *QWEN_7B, 152_064)),
    "qwen3-1.7b": _decoder(_text("qwen3", 2048, 6144, 28, 16, 8, 151_936, head_dim=128, tie_word_embeddings=True)),
    "qwen3-8b": _decoder(_text("qwen3", 4096, 12_288, 36, 32, 8, 151_936, head_dim=128)),
    "mistral-nemo-12b": _decoder(
        _text("mistral", 5120, 14_336, 40, 32, 8, 131_072, head_dim=128, sliding_window=None, tie_word_embeddings=False)
    ),
}
