"""Where a model's files are, which ones they are, and in which precision they are loaded.

A name is an alias of the package's own models, a directory, or an id on the Hub.
"""

import hashlib
import os
import re
from pathlib import Path

import torch
import transformers
from nnsight.modeling.quantization import QUANTIZATIONS, resolve_load_kwargs

from ..errors import ModelError
from ..files import is_file
from ..text import PATH, quoted

ALIASES = ("mini", "mini-free", "mini-text", "mini-bunny")
TWINS = {"mini": "mini-free"}  # an embedded model -> the one that takes another route to the same answers
CHECKPOINTS = Path(__file__).parent.parent / "mini" / "checkpoints"
# Below this many bytes of weights a model is run in float32 unless asked otherwise: exactness costs nothing
# there.
SMALL_BYTES = 2e9
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")  # what accelerate decides about devices
# Beside the weights, what a local model's numbers depend on.
SETTINGS_FILES = ("*.json", "*.model", "*.txt", "*.jinja")


# Else transformers asks a public service to convert pickles, and loads what that makes under another revision.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def resolve(name: str) -> tuple[str, str | None]:
    """A name -> (what `from_pretrained` takes, revision if known)."""
    if name in ALIASES:
        path = CHECKPOINTS / name
        if not (path / "config.json").exists():
            raise ModelError(
                f"model {name!r} has no checkpoint at {path}: make it with "
                "`python -m recipes.mini.train`, or name a directory or a Hub id."
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
    """Raises ModelError for a device that this machine has not, alone or in a map of modules to devices."""
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
    """Why weights cannot lie on a device, as the end of a sentence; empty if they can."""
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
    """What to do about a checkpoint with classes of its own, as the end of a sentence; empty for others."""
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
        return (
            "it has the layout of LLaVA's original code: name its copy for Hugging Face, such as "
            "llava-hf/llava-1.5-7b-hf"
        )
    return ""


def chosen_dtype(path: str, dtype: torch.dtype | str | None) -> torch.dtype | str:
    """The `dtype` that `from_pretrained` takes: a torch dtype, or "auto" for the checkpoint's own."""
    if dtype is None:
        small = Path(path).is_dir() and sum(file.stat().st_size for file in _weights(path)) < SMALL_BYTES
        return torch.float32 if small else "auto"
    if isinstance(dtype, str) and dtype not in QUANTIZATIONS:
        name, dtype = dtype, getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(
                f"dtype {quoted(name)} is unknown: use float32, bfloat16 or float16, or nf4 or int8 for quantized "
                "weights."
            )
    return dtype


def read_module(path: str, *, multimodal: bool, name: str, **options) -> torch.nn.Module:
    """The Hugging Face module of a checkpoint with all of its weights. options: as for `from_pretrained`.

    Raises ModelError where weights are missing, which transformers would fill with random numbers, or have another
    shape; weights that no module takes are left aside. Only safetensors are read: other formats are pickles.
    """
    auto = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
    try:
        module, found = auto.from_pretrained(
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
    wrong = sorted(found["missing_keys"]) or sorted(str(key[0]) for key in found["mismatched_keys"])
    if wrong:
        what = "lacks" if found["missing_keys"] else "has the wrong shape for"
        raise ModelError(
            f"model {name!r} {what} {len(wrong)} of its weights ({', '.join(wrong[:3])}"
            f"{', …' if len(wrong) > 3 else ''}), which would be left random: get a complete checkpoint of this "
            "architecture (Bunny's need `python -m interventions convert bunny`)."
        )
    return module


def _revision(path: Path) -> str:
    """One sha256 of all that a local model's numbers depend on: weights, configuration, tokenizer, processor."""
    digest = hashlib.sha256()
    for file in sorted({*_weights(path), *(file for kind in SETTINGS_FILES for file in path.glob(kind))}):
        if file.name != "training.json":  # a note of how it was made
            with open(file, "rb") as handle:
                digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _weights(path: str | Path) -> list[Path]:
    """The files of weights in a directory."""
    return sorted(Path(path).glob("*.safetensors"))
