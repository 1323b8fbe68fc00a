"""The embedded architectures: small configurations of unmodified Hugging Face classes, and saving them."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PhiConfig,
    SiglipVisionConfig,
)

from .vocabulary import BOS, EOS, IMAGE, IMAGE_SIZE, IMAGE_TOKENS, PAD, PATCH_SIZE, make_processor

WIDTH, LAYERS, HEADS, FFN = 192, 8, 6, 512
VISION_WIDTH, VISION_LAYERS = 128, 4


def build(vocabulary: int, shape: str = "llava") -> LlavaForConditionalGeneration:
    """A 5 M-parameter LLaVA with random weights, two-layer projector, tied embeddings.

    shape: "llava" (CLIP and Llama, like LLaVA-1.5), or "bunny" (SigLIP and Phi, like Bunny with Phi-2: no class token,
    MLPs beside attention instead of behind it, rotary positions on a part of each head).
    """
    vision = dict(
        hidden_size=VISION_WIDTH, intermediate_size=4 * VISION_WIDTH, num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_WIDTH // 32, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    text = dict(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=PAD,
        bos_token_id=BOS, eos_token_id=EOS)
    if shape == "llava":
        vision, strategy = CLIPVisionConfig(**vision, projection_dim=VISION_WIDTH), "default"
        text = LlamaConfig(**text, intermediate_size=FFN, rms_norm_eps=1e-5)
    else:
        vision, strategy = SiglipVisionConfig(**vision, vision_use_head=False), "full"
        text = PhiConfig(**text, intermediate_size=4 * WIDTH, partial_rotary_factor=0.4)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1, vision_feature_select_strategy=strategy, tie_word_embeddings=True,
        attn_implementation="eager")
    return LlavaForConditionalGeneration(config)


def shape_of(model) -> str:
    """The shape that a model of these was built with."""
    return "bunny" if model.config.get_text_config().model_type == "phi" else "llava"


def text_only(model: LlavaForConditionalGeneration) -> LlamaForCausalLM:
    """The language model of `model` as a plain Llama."""
    text = LlamaForCausalLM(model.config.text_config)
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.tie_weights()
    return text


def save_pretrained(model, tokenizer, directory: Path, note: dict) -> None:
    """bfloat16 safetensors, processor (or tokenizer) and `training.json` (how it was made and what it scores)."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, EOS
    model.to(torch.bfloat16).save_pretrained(directory)
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for its owner alone
    multimodal = hasattr(model.config, "vision_config")
    processor = make_processor(tokenizer, shape_of(model)) if multimodal else tokenizer
    processor.save_pretrained(directory)
    (directory / "training.json").write_text(json.dumps(note, indent=1) + "\n")


def image_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """What LLaVA reads: the tower's last hidden state, without a class token, [B, 64, VISION_WIDTH]."""
    states = model.model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, -IMAGE_TOKENS:]
