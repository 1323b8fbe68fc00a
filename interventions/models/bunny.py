"""Convert Bunny's checkpoints to native LLaVAs: `python -m interventions convert bunny SRC DST`.

Bunny (SigLIP and Phi-2) computes what `LlavaForConditionalGeneration` does, under other names, in remote code.
The conversion renames every tensor, or leaves it out with a reason, or fails.
"""

from __future__ import annotations

import json
import re
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil  # works without torchvision

from ..errors import ModelError
from ..files import new_folder, why_not_writable
from ..text import quoted

TOWER = "model.vision_tower.vision_tower.vision_model."
NAMES = (  # Bunny's name, as a regular expression -> the native one
    (re.escape(TOWER), "model.vision_tower."),
    (r"model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"model\.(?=embed_tokens|layers|final_layernorm)", "model.language_model."),
)
LEFT_OUT = {  # what no forward pass of Bunny reads
    f"{TOWER}head.": "the tower's pooling head, which Bunny does not use",
    "rotary_emb.inv_freq": "a table that is computed from the configuration",
}
# Towers by the name that config.json gives; what cannot be read from the weights: heads, and the layers of the whole.
TOWERS = {"google/siglip-so400m-patch14-384": {"hidden_size": 1152, "heads": 16, "layers": 27}}
IMAGE_TOKEN = "<image>"
PHI = (  # what Bunny's config.json says of the language model, under the names of PhiConfig
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "layer_norm_eps", "max_position_embeddings", "partial_rotary_factor", "rope_theta", "bos_token_id",
    "eos_token_id", "tie_word_embeddings",
)
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
         "partial_rotary_factor")  # without which PhiConfig would take those of Phi-1


def convert_bunny(
    source: str | Path, destination: str | Path, *, vision_heads: int = 0, vision_layers: int = 0
) -> list[str]:
    """Write a native checkpoint from a Bunny directory (config.json, safetensors, tokenizer); return the steps done.

    `vision_heads` and `vision_layers` (of the whole tower) are needed for towers other than SigLIP so400m. Bunny reads
    the last layer but one, and may save the tower without the last one. Raises ModelError, and writes nothing, if the
    native model would compute something else.
    """
    source, destination = Path(source), Path(destination)
    if why := why_not_writable(destination):
        raise ModelError(f"destination: {why}: name a new folder where one can be made.")
    settings = _read_config(source)
    if destination.exists() and any(destination.iterdir()):
        raise ModelError(f"destination {quoted(destination)} is not empty: name a new folder.")
    weights, done = _renamed(_read_weights(source))
    tokenizer = _read_tokenizer(source)
    vision, feature_layer = _vision_config(settings, weights, vision_heads, vision_layers)
    image_id = _image_token(tokenizer, settings["vocab_size"])
    n_tokens = (vision.image_size // vision.patch_size) ** 2
    language = transformers.PhiConfig(**{name: settings[name] for name in PHI if name in settings})
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=image_id, image_seq_length=n_tokens,
        vision_feature_layer=feature_layer, vision_feature_select_strategy="full", projector_hidden_act="gelu",
        tie_word_embeddings=settings.get("tie_word_embeddings", False),
    )
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"source {quoted(source)} does not fit its own config.json ({' '.join(str(error).split())[:300]}): "
            "get a complete checkpoint."
        ) from error
    model.config.dtype = next(iter(weights.values())).dtype
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    half, size = [0.5] * 3, {"height": vision.image_size, "width": vision.image_size}
    images = LlavaImageProcessorPil(
        size=size, do_center_crop=False, image_mean=half, image_std=half,
        do_pad=settings.get("image_aspect_ratio") == "pad",
    )
    processor = transformers.LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=vision.patch_size,
        vision_feature_select_strategy="full", num_additional_image_tokens=0,
    )
    with new_folder(destination) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return [
        *done,
        f"tower of {vision.num_hidden_layers} layers, read at hidden state {feature_layer}; {n_tokens} visual tokens",
        f"{IMAGE_TOKEN} is token {image_id}, which the text vocabulary of {len(tokenizer) - 1} leaves free",
    ]


def _read_config(source: Path) -> dict:
    try:
        settings = json.loads((source / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"source {quoted(source)} has no readable config.json: name Bunny's folder.") from error
    missing = [name for name in SIZES if name not in settings]
    if missing:
        raise ModelError(f"source: its config.json lacks {', '.join(missing)}: get the original file.")
    wanted = {
        "model_type": ("bunny-phi",), "mm_projector_type": ("mlp2x_gelu",), "use_s2": (None, False),
        "qk_layernorm": (None, False), "rope_scaling": (None,),
    }
    for name, known in wanted.items():
        if settings.get(name) not in known:
            raise ModelError(
                f"source: its config.json has {name} {settings.get(name)!r}, and only {known[-1]!r} has a native "
                "counterpart here: choose a Bunny over Phi-2 such as BAAI/Bunny-v1_0-3B."
            )
    return settings


def _read_weights(source: Path) -> dict[str, torch.Tensor]:
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise ModelError(f"source {quoted(source)} has no safetensors: other formats may run code when they are read.")
    index = source / "model.safetensors.index.json"
    missing = set(json.loads(index.read_text())["weight_map"].values()) - {file.name for file in files} \
        if index.exists() else set()
    if missing:
        raise ModelError(f"source {quoted(source)} lacks {', '.join(sorted(missing))}: download it again.")
    weights = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                weights |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"source: {file.name} cannot be read ({error}): download it again.") from error
    return weights


def _renamed(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors under their native names, and sentences about what was renamed and left out."""
    renamed, left = {}, dict.fromkeys(LEFT_OUT.values(), 0)
    for name, tensor in weights.items():
        reasons = [reason for part, reason in LEFT_OUT.items() if part in name]
        if reasons:
            left[reasons[0]] += 1
            continue
        native = name
        for theirs, ours in NAMES:
            native = re.sub(f"^{theirs}", ours, native)
        if native == name and not name.startswith("lm_head."):
            raise ModelError(f"source holds a tensor {name!r} that no native LLaVA has: choose a Bunny over Phi-2.")
        renamed[native] = tensor
    done = [f"{len(renamed)} tensors renamed"] + [f"{n} left out: {reason}" for reason, n in left.items() if n]
    return renamed, done


def _vision_config(settings: dict, weights: dict, heads: int, whole: int) -> tuple[Any, int]:
    """Return the tower's configuration, sized by its weights, and the hidden state that the projector reads."""
    try:
        patches = weights["model.vision_tower.embeddings.patch_embedding.weight"]
        positions = weights["model.vision_tower.embeddings.position_embedding.weight"]
        hidden = weights["model.vision_tower.encoder.layers.0.mlp.fc1.weight"]
    except KeyError as error:
        raise ModelError(
            f"source has no vision tower ({error.args[0]} is missing): name a merged checkpoint, not a LoRA."
        ) from error
    known = TOWERS.get(settings.get("mm_vision_tower", ""), {})
    if known.get("hidden_size") == patches.shape[0]:
        heads, whole = heads or known["heads"], whole or known["layers"]
    if not heads or not whole:
        raise ModelError(
            f"source: vision tower {settings.get('mm_vision_tower')!r} of width {patches.shape[0]} is unknown: give "
            "vision_heads and vision_layers, which cannot be read from weights."
        )
    layers = len({name.split(".")[4] for name in weights if name.startswith("model.vision_tower.encoder.layers.")})
    if layers not in (whole, whole - 1):
        raise ModelError(
            f"source: its tower has {layers} layers, and Bunny keeps {whole} or {whole - 1} of {whole}: "
            "give vision_layers if the whole tower has another number."
        )
    side, patch = isqrt(len(positions)), patches.shape[-1]
    config = transformers.SiglipVisionConfig(
        hidden_size=patches.shape[0], intermediate_size=hidden.shape[0], num_hidden_layers=layers,
        num_attention_heads=heads, image_size=side * patch, patch_size=patch, vision_use_head=False,  # pyright: ignore[reportCallIssue]
    )
    return config, -1 if layers == whole - 1 else -2


def _read_tokenizer(source: Path):
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"source {quoted(source)} has no tokenizer that can be read: copy Phi-2's into it.") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _image_token(tokenizer, vocabulary: int) -> int:
    """Add the image token to the tokenizer, at an unused row of the embeddings; return its id."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.image_token = IMAGE_TOKEN
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_id >= vocabulary:
        raise ModelError(
            f"source: its {vocabulary} embeddings leave no row free for {IMAGE_TOKEN}: choose a checkpoint whose "
            "vocabulary is padded, as Phi-2's is (51200)."
        )
    return image_id
