"""Find a model's files, identify them by a checksum, and read them in the right precision."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from nnsight.modeling.quantization import QUANTIZATIONS, resolve_load_kwargs

from ..errors import ModelError
from ..files import file_sha256, is_file
from ..text import PATH, quoted
from . import pretrained

EMBEDDED_MODELS = ("mini", "mini-free", "mini-text", "mini-bunny")  # their weights are in the package
ALIASES = (*EMBEDDED_MODELS, *pretrained.ALIASES)
TEXT_MODELS = {  # multimodal model -> a text-only model of the same facts
    "mini": "mini-text", "mini-free": "mini-text", "mini-bunny": "mini-text", "smol": "smol-text"
}
BASE_MODELS = {"smol": "smol-base"}  # model -> its language model before it saw images
CONTROL_MODELS = {"mini": "mini-free"}  # embedded model -> a model that takes another route to the same answers
CHECKPOINTS = Path(__file__).parent.parent / "mini" / "checkpoints"
SMALL_BYTES = 2e9  # models with fewer bytes of weights run in float32 by default
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")  # accelerate's own device maps
SETTINGS_FILES = ("*.json", "*.model", "*.txt", "*.jinja")  # a model's numbers depend on these and the weights

# Without this, transformers asks a public service to convert pickles and loads the result under another revision.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def resolve(name: str) -> tuple[str, str | None]:
    """Return what `from_pretrained` takes for an alias, a directory or a Hub id, and the revision if known."""
    if name in pretrained.ALIASES:
        path = pretrained.cached_checkpoint(name)
    elif name in EMBEDDED_MODELS:
        path = CHECKPOINTS / name
        if not (path / "config.json").exists():
            raise ModelError(
                f"model {name!r} has no checkpoint at {path}: make it with `python -m recipes.mini.train`, or name a "
                "directory or a Hub id."
            )
    elif is_file(Path(name) / "config.json"):
        path = Path(name)
    elif re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name) and not Path(name).exists():
        return name, None
    else:
        raise ModelError(
            f"model {quoted(name, PATH)} is unknown: give an alias ({', '.join(ALIASES)}), "
            "a directory with a config.json, or a Hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return str(path), _revision(path)


def check_device_map(device_map) -> None:
    """Raise ModelError if this machine lacks a device that `device_map` names."""
    wanted = device_map.values() if isinstance(device_map, dict) else (device_map,)
    if isinstance(device_map, dict) and not device_map:
        raise ModelError("device_map is an empty dict: name a device for each module, or leave it out.")
    for device in wanted:
        if device is None or (device in PLACEMENTS and not isinstance(device_map, dict)):
            continue
        problem = _device_problem(device)
        if problem:
            raise ModelError(
                f"device_map {quoted(device)} {problem}: use 'auto', 'cpu', a device of this machine, or leave it out."
            )


def _device_problem(device) -> str:
    """Return why a device cannot hold weights, as the end of a sentence; empty if it can."""
    if isinstance(device, str) and device.isdecimal():
        device = int(device)
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        return "is no device"
    if device == "disk":
        return "leaves weights on the disk, where no intervention reaches them"
    try:
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except (RuntimeError, ValueError):
        return "is no device"
    if device.type == "meta":
        return "has no memory for weights"
    backend = getattr(torch, device.type, None)
    n = 1 if device.type == "cpu" else backend.device_count() if hasattr(backend, "device_count") else 0
    if device.type == "mps" and not torch.backends.mps.is_available():
        n = 0
    if (device.index or 0) >= n:
        return f"is not on this machine, which has {n or 'no'} {device.type} device{'' if n == 1 else 's'}"
    return ""


def foreign_layout(path: str, revision: str | None) -> str:
    """Return why a checkpoint needs its own classes and what to do, as the end of a sentence; empty for others."""
    try:
        config, _ = transformers.PretrainedConfig.get_config_dict(path, revision=revision)
    except (OSError, ValueError):
        return ""
    kind = str(config.get("model_type", ""))
    if kind == "bunny-phi":
        return (
            "it has Bunny's own layout: make a native LLaVA of its folder with `python -m interventions convert bunny "
            "SRC DST`, and name DST"
        )
    if kind.startswith("bunny"):
        return "it has Bunny's own layout, and only Bunny over Phi-2 can be converted: use BAAI/Bunny-v1_0-3B"
    if "mm_vision_tower" in config or (kind.startswith("llava_") and kind not in transformers.CONFIG_MAPPING):
        return "it has the layout of LLaVA's original code: use its Hugging Face copy such as llava-hf/llava-1.5-7b-hf"
    return ""


def chosen_dtype(path: str, dtype: torch.dtype | str | None) -> torch.dtype | str:
    """Return the dtype for `from_pretrained`; "auto" means the checkpoint's own."""
    if dtype is None:
        small = Path(path).is_dir() and sum(file.stat().st_size for file in _weights(path)) < SMALL_BYTES
        return torch.float32 if small else "auto"
    if isinstance(dtype, str) and dtype not in QUANTIZATIONS:
        name, dtype = dtype, getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(
                f"dtype {quoted(name)} is unknown: use float32, bfloat16 or float16; nf4 or int8 for quantized weights."
            )
    return dtype


def read_module(path: str, *, multimodal: bool, name: str, **options) -> torch.nn.Module:
    """Load the Hugging Face module of a checkpoint from safetensors; other formats are pickles.

    Raises ModelError if weights are missing or have another shape; transformers would leave those random.
    """
    auto: Any = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
    try:
        module, report = auto.from_pretrained(
            path, output_loading_info=True, use_safetensors=True, ignore_mismatched_sizes=True,
            **resolve_load_kwargs(options),
        )
    except OSError as error:
        if "file named model.safetensors" in str(error):  # which is missing
            raise ModelError(
                f"model {name!r} has no safetensors there, and other formats are not read, for they are pickles: name "
                "a revision that has them (on the Hub often refs/pr/N), or a folder into which you converted it."
            ) from error
        raise
    wrong = sorted(report["missing_keys"]) or sorted(str(key[0]) for key in report["mismatched_keys"])
    if wrong:
        what = "lacks" if report["missing_keys"] else "has the wrong shape for"
        raise ModelError(
            f"model {name!r} {what} {len(wrong)} of its weights ({', '.join(wrong[:3])}"
            f"{', …' if len(wrong) > 3 else ''}), which would be left random: get a complete checkpoint of this "
            "architecture (Bunny's need `python -m interventions convert bunny`)."
        )
    return module


def _revision(path: Path) -> str:
    """Return one sha256 of a local model's weights, configuration, tokenizer and processor."""
    digest = hashlib.sha256()
    for file in sorted({*_weights(path), *(file for kind in SETTINGS_FILES for file in path.glob(kind))}):
        if file.name != "training.json":  # the training log
            digest.update(file.name.encode() + bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()


def _weights(path: str | Path) -> list[Path]:
    return sorted(Path(path).glob("*.safetensors"))
