"""Checks at load time, against mistakes that otherwise stay silent."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings

from packaging.specifiers import SpecifierSet
from PIL import Image

from ..errors import ModelError
from ..text import PATH, first_line, quoted
from .discovery import empty_module

# The interventions rely on the module paths and wrappers of these versions (the same as in pyproject.toml).
VERSIONS = {"nnsight": ">=0.8.1,<0.9", "transformers": ">=5.22,!=5.23.*,<5.25"}
# transformers 5.24 calls `past_key_values` `cache`, takes the old name until 5.40, and would tell every notebook so.
warnings.filterwarnings("ignore", message="`past_key_values` is deprecated", category=FutureWarning)
logging.getLogger("transformers.utils.generic").addFilter(lambda record: "past_key_values" not in record.getMessage())


def check_versions() -> None:
    """Raise ModelError for an unsupported version of nnsight or transformers."""
    for package, allowed in VERSIONS.items():
        installed = importlib.metadata.version(package)
        if not SpecifierSet(allowed).contains(installed, prereleases=True):
            raise ModelError(
                f"{package} {installed} is installed, but this package knows the modules of {package}{allowed}: "
                f"pip install '{package}{allowed}'."
            )


def check(model) -> None:
    """Raise ModelError unless module paths, tokenizer and number of visual tokens are as the interventions need."""
    for path in ("embed_tokens", "layers", "final_norm", "lm_head"):
        if not hasattr(model.traced, path):
            raise ModelError(f"model {model.name!r} has no module {path!r}: correct its row in families.py.")
    layer = model.layers[0]
    for path in ("input_layernorm", "mlp.down_proj", "self_attn.o_proj"):
        try:
            layer.get(path)
        except AttributeError:
            raise ModelError(
                f"model {model.name!r} has no module layers[0].{path}: correct its row in families.py."
            ) from None
    if not model.tokenizer.is_fast:
        raise ModelError(
            f"model {model.name!r} has a slow tokenizer, which gives no character offsets: "
            "install `tokenizers` and load a fast one."
        )
    if model.is_multimodal:
        _check_image_tokens(model)


def check_processor(processor, config, name: str) -> None:
    """Raise ModelError if the processor of a multimodal model lacks a part or a setting."""
    named = quoted(name, PATH)
    for part, file in (("image_processor", "preprocessor_config.json"), ("tokenizer", "tokenizer.json")):
        if getattr(processor, part, None) is None:
            what = part.replace("_", " ")
            raise ModelError(f"model {named} has no {what}: get {file} and processor_config.json of its checkpoint.")
    if hasattr(processor, "num_additional_image_tokens"):  # LLaVA's, which counts visual tokens by settings
        _check_counting(processor, config, named)
    token = processor.tokenizer.convert_ids_to_tokens(config.image_token_id)
    if not isinstance(token, str):
        raise ModelError(
            f"model {named} has the image token {config.image_token_id}, which its tokenizer does not know: "
            "correct image_token_index in config.json, or load the tokenizer that belongs to the checkpoint."
        )


def _check_counting(processor, config, named: str) -> None:
    """Raise ModelError if a processor lacks a setting without which it cannot count visual tokens."""
    for setting, example in (("patch_size", 14), ("vision_feature_select_strategy", "default")):
        if getattr(processor, setting, None) is None:
            ours = getattr(config.vision_config, setting, None) or getattr(config, setting, None) or example
            raise ModelError(
                f"model {named} has no {setting} in its processor_config.json, without which visual tokens "
                f"cannot be counted: write it there, such as {json.dumps({setting: ours})[1:-1]}."
            )
    n_additional = processor.num_additional_image_tokens
    if type(n_additional) is not int:
        raise ModelError(
            f"model {named} has the num_additional_image_tokens {n_additional!r} in its processor_config.json: "
            "write 1 for an encoder with a class token, and 0 for others."
        )


def _check_image_tokens(model) -> None:
    """Compare the processor's visual tokens with what the encoder delivers, and its prompt with `model.tokenize`."""
    text = model.prompt_template(image=True).format(question="?")
    picture = Image.new("RGB", (32, 32))
    try:
        encoded = model.processor(images=picture, text=text, return_tensors="pt")
    except Exception as error:  # missing settings fail in many ways
        raise ModelError(
            f"model {quoted(model.name, PATH)} has a processor that cannot read a picture and a question "
            f"({type(error).__name__}: {first_line(error)}): get processor_config.json and preprocessor_config.json of "
            "its checkpoint."
        ) from error
    ids = encoded["input_ids"][0].tolist()
    image_inputs, image_text = model.read_image(picture)
    if ids != model.tokenize(text, image_text)[0]:
        raise ModelError(
            f"model {model.name!r}: its processor and its tokenizer disagree about a prompt's tokens: "
            "load the processor that belongs to the checkpoint."
        )
    written, delivered = ids.count(model.image_token_id), _delivered(model, image_inputs)
    if delivered not in (written, None):
        raise ModelError(
            f"model {model.name!r} makes {delivered} visual tokens of an image but its processor writes "
            f"{written} into a prompt: set the processor's settings (patch_size, num_additional_image_tokens and "
            "vision_feature_select_strategy of LLaVA's) as the checkpoint was trained."
        )


def _delivered(model, image_inputs: dict) -> int | None:
    """Return how many visual tokens the image encoder makes of a picture; None for one that looks at values.

    An empty copy is asked: transformers leaves hooks in an encoder that has run.
    """
    skeleton = empty_module(model.config)
    floating = {name: value.to("meta", skeleton.dtype) for name, value in image_inputs.items()
                if value.is_floating_point()}
    try:
        found = skeleton.model.get_image_features(**image_inputs | floating).pooler_output
    except Exception:  # there are no values
        return None
    parts = found if isinstance(found, (list, tuple)) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts)
