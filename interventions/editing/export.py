"""Edits as weights: written into a copy of a model, or as an adapter that other libraries load."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch

from ..errors import EditError
from ..files import write_atomically
from ..models.model import VisionLanguageModel
from .edit import Edit, stacked, w_proj, w_proj_path, with_edits


def merged(model: VisionLanguageModel, edits: Iterable[Edit] = ()) -> VisionLanguageModel:
    """A model of its own with the edits written into W_proj; all other weights are shared with the one given.

    Raises EditError, also for weights that are on a server.
    """
    if model.device.type == "meta":
        raise EditError(f"model {model.name!r} has its weights on a server: use apply_edits, which leaves them there.")
    if model.quantization:
        raise EditError(
            f"model {model.name!r} has {model.quantization} weights, which cannot be changed: use apply_edits, or "
            "load it with dtype='bfloat16'."
        )
    factors, base = stacked(with_edits(model, edits)), model.unedited or model
    changed = {id(w_proj(base, layer).weight) for layer in factors}
    weights = (*base.module.parameters(), *base.module.buffers())
    kept = {id(weight): weight for weight in weights if id(weight) not in changed}
    module = copy.deepcopy(base.module, kept)
    copied = VisionLanguageModel.from_module(module, base.processor, name=f"{base.name}, edited", prompt=base.prompt)
    with torch.no_grad():
        for layer, (a, b) in factors.items():
            weight = w_proj(copied, layer).weight
            change = (a.to(weight.device) @ b.to(weight.device)).to(weight)
            weight += change
    return copied


def export_peft(model: VisionLanguageModel, edits: Iterable[Edit], directory: str | Path) -> Path:
    """Write the edits, after those that the model has, as one LoRA adapter, which `peft` loads onto the plain model.

    Layers of a lower rank than the largest are filled up with zeros. Raises EditError.
    """
    edits, directory = with_edits(model, edits), Path(directory)
    if not edits:
        raise EditError("edits must not be empty: give the edits that the adapter is to have.")
    factors = stacked(edits)
    rank = max(a.shape[1] for a, _ in factors.values())
    paths = {layer: w_proj_path(model, layer) for layer in factors}
    tensors = {}
    for layer, (a, b) in factors.items():
        name, missing = f"base_model.model.{paths[layer]}", rank - a.shape[1]
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(b, (0, 0, 0, missing)).contiguous()
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(a, (0, missing)).contiguous()
    write_atomically(
        directory / "adapter_model.safetensors",
        lambda path: safetensors.torch.save_file(tensors, path, metadata={"format": "pt"}),
    )
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": model.name, "r": rank, "lora_alpha": rank,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "target_modules": list(paths.values()),
    }
    text = json.dumps(config, indent=1) + "\n"
    # Last, for a folder without it is no adapter.
    write_atomically(directory / "adapter_config.json", lambda path: path.write_text(text))
    return directory
