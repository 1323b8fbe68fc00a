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

ALIASES = ("mini", "mini-free", "mini-text", "mini-bunny")
TWINS = {"mini": "mini-free"}  # an embedded model -> the one that takes another route to the same answers
CHECKPOINTS = Path(__file__).parent / "mini" / "checkpoints"
# Below this many bytes of weights a model is run in float32 unless asked otherwise: exactness costs nothing
# there.
SMALL_BYTES = 2e9
# Beside the weights, what a local model's numbers depend on.
SETTINGS_FILES = ("*.json", "*.model", "*.txt", "*.jinja")


# Else transformers asks a public service to convert pickles, and loads what that makes under another revision.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


class ModelError(ValueError):
    """A model that cannot be used, in one sentence with the fix."""


def resolve(name: str) -> tuple[str, str | None]:
    """A name -> (what `from_pretrained` takes, revision if known)."""
    if name in ALIASES:
        path = CHECKPOINTS / name
        if not (path / "config.json").exists():
            raise ModelError(
                f"model {name!r} has no checkpoint at {path}: make it with "
                "`python -m interventions.mini.train`, or name a directory or a Hub id."
            )
    elif (Path(name) / "config.json").exists():
        path = Path(name)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        return name, None
    else:
        raise ModelError(
            f"model {name!r} is unknown: give an alias ({', '.join(ALIASES)}), "
            "a directory with a config.json, or a Hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return str(path), _revision(path)


def chosen_dtype(path: str, dtype: torch.dtype | str | None) -> torch.dtype | str:
    """The `dtype` that `from_pretrained` takes: a torch dtype, or "auto" for the checkpoint's own."""
    if dtype is None:
        small = Path(path).is_dir() and sum(file.stat().st_size for file in _weights(path)) < SMALL_BYTES
        return torch.float32 if small else "auto"
    if isinstance(dtype, str) and dtype not in QUANTIZATIONS:
        name, dtype = dtype, getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(
                f"dtype {name!r} is unknown: use float32, bfloat16 or float16, or nf4 or int8 for quantised weights."
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
