"""Find the row of the family table that a model without one would need."""

from __future__ import annotations

import copy
from dataclasses import MISSING, fields
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from ..errors import ModelError
from ..text import PATH, quoted
from .families import DEEPSTACK, GEMMA_NORM, Family


def discover_family(config, name: str) -> Family:
    """Return a row for an architecture that the table does not have, from the modules of an empty model.

    The row is a guess: `self_check.check_fast_path` compares what is computed by it with the model's own forward.

    Args:
        config: the Hugging Face configuration.
        name: the model's, for messages.

    Raises:
        ModelError: no stack of decoder layers with self-attention and an MLP is found.
    """
    text, module = config.get_text_config(), empty_module(config)
    found = [
        path.removesuffix(".layers") for path, child in module.named_modules()
        if path.endswith(".layers") and isinstance(child, torch.nn.ModuleList) and len(child) == text.num_hidden_layers
        and all(hasattr(child[0], part) for part in ("self_attn", "mlp", "input_layernorm"))
        and hasattr(module.get_submodule(path.removesuffix(".layers")), "embed_tokens")
    ]
    if len(found) != 1:
        raise ModelError(
            f"model {quoted(name, PATH)} is a {config.model_type!r} in which no decoder with embed_tokens and layers "
            "of input_layernorm, self_attn and mlp is found: family 'auto' cannot trace it."
        )
    decoder = module.get_submodule(found[0])
    norms = [path for path, child in decoder.named_children() if "norm" in path.lower() and child is not None]
    if not norms:
        raise ModelError(f"model {quoted(name, PATH)} has no norm behind its layers: family 'auto' cannot trace it.")
    layer, vision = decoder.layers[0], getattr(config, "vision_config", None)
    return Family(
        f"auto-{config.model_type}", config.model_type, text.model_type, language_model=found[0], final_norm=norms[-1],
        w_proj=_last_linear(layer.mlp, text.hidden_size, name),
        w_o=_last_linear(layer.self_attn, text.hidden_size, name),
        # If the MLP has a norm of its own, this one stands behind the attention (Gemma), else before the MLP (Llama).
        attention_norm=GEMMA_NORM if hasattr(layer, "pre_feedforward_layernorm") else "",
        deepstack=DEEPSTACK if getattr(vision, "deepstack_visual_indexes", None) else "",
    )


def empty_module(config) -> Any:
    """Return a model on the meta device, with modules and shapes but no weights. The configuration is left as it is."""
    multimodal = config.model_type != config.get_text_config().model_type
    with torch.device("meta"):
        auto = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        return auto.from_config(copy.deepcopy(config))


def _last_linear(module: torch.nn.Module, width: int, name: str) -> str:
    """Return the name of the last linear child whose output has the hidden size."""
    found = [path for path, child in module.named_children() if getattr(child, "out_features", None) == width]
    if not found:
        raise ModelError(
            f"model {quoted(name, PATH)} has no projection to the hidden size {width} in its {type(module).__name__}: "
            "family 'auto' cannot trace it."
        )
    return found[-1]


def row_of(family: Family) -> str:
    """Return a family as a line of the table in `families.py`, without its defaults."""
    given = [field.name for field in fields(family) if field.default is MISSING]
    parts = [repr(getattr(family, name)) for name in given]
    parts += [
        f"{field.name}={getattr(family, field.name)!r}" for field in fields(family)
        if field.name not in given and getattr(family, field.name) != field.default
    ]
    return f"Family({', '.join(parts)})"
