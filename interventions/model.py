"""One wrapper for the models of the paper: `load_model("mini")`, a directory, or a Hub id.

The Hugging Face module is used as it is. nnsight wraps it (`.traced`) under the uniform module names of
`families.py`, weights are frozen, and what has gone wrong silently for others is checked when the model is
loaded: that all module paths exist, and that the number of visual tokens the processor writes into a prompt
is the number the vision encoder delivers (575 versus 576 is the classic).
"""

import uuid

import torch
from nnsight.modeling.quantization import QUANTIZATIONS
from nnsight.modeling.transformers import TransformersModel
from PIL import Image
from safetensors import SafetensorError

from . import families, forward, load_checks
from .chat_format import chat_format
from .checkpoints import ALIASES, ModelError, chosen_dtype, read_module, resolve
from .testbed import load_image, on_white


class VisionLanguageModel:
    """A multimodal (or text-only) language model, ready for prompts and traces.

    traced: nnsight's view of the model; module: the Hugging Face module; layers: its decoder layers as
    envoys.
    revision: what identifies the weights (sha256 of local files with configuration and tokenizer,
        commit on the Hub, "in-memory" otherwise).
    remote: the default of every intervention's `remote` argument (True | False | "local").
    prompt: the chat format with `{question}` and, if multimodal, `<image>`.
    """

    def __init__(
        self, traced, processor, *, name: str, revision: str, remote: bool | str = False, prompt: str | None = None
    ):
        self.traced, self.processor, self.name = traced, processor, name
        self.revision, self.remote = revision, remote
        self.edits, self.unedited = (), None  # see `edit.apply_edits`
        self.config = traced._module.config
        self.family = _family(self.config, name)
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.prompt = chat_format(processor, self.family, prompt, name)
        self.module.requires_grad_(False).eval()
        load_checks.check(self)

    @classmethod
    def from_module(
        cls, module, processor, *, name: str = "in-memory", prompt: str | None = None
    ) -> "VisionLanguageModel":
        """Wrap a Hugging Face module that is already in memory, where it is. processor: a LlavaProcessor, or a
        tokenizer."""
        family = _family(module.config, name)
        traced = TransformersModel(
            module, task=family.task, rename=family.rename, dispatch=True, **_preprocessors(family, processor),
            **_where_it_is(module),
        )
        return cls(traced, processor, name=name, revision="in-memory", prompt=prompt)

    # What a model is

    @property
    def module(self) -> torch.nn.Module:
        return self.traced._module

    @property
    def layers(self):
        return self.traced.layers

    @property
    def n_layers(self) -> int:
        return self.config.get_text_config().num_hidden_layers

    @property
    def hidden_size(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def is_multimodal(self) -> bool:
        return self.family.is_multimodal

    @property
    def image_token_id(self) -> int | None:
        return self.config.image_token_id if self.is_multimodal else None

    @property
    def image_token(self) -> str | None:
        return self.tokenizer.convert_ids_to_tokens(self.image_token_id) if self.is_multimodal else None

    @property
    def n_image_tokens(self) -> int:
        """Visual tokens of an image; of each tile of it, if the model cuts images into tiles."""
        return families.count_image_tokens(self.config) if self.is_multimodal else 0

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.dtype

    @property
    def quantization(self) -> str | None:
        """How the weights are held where it is in fewer bits than `dtype`, in which the model computes: "nf4", ..."""
        held = getattr(self.config, "quantization_config", None)
        if held is None:
            return None
        told = held if isinstance(held, dict) else held.to_dict()
        method = str(getattr(told.get("quant_method"), "value", told.get("quant_method")))
        return told["bnb_4bit_quant_type"] if told.get("load_in_4bit") else {"bitsandbytes": "int8"}.get(method, method)

    @property
    def attention(self) -> str:
        """The attention implementation of the language model: "sdpa", "eager", ..."""
        return self.config.get_text_config()._attn_implementation

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        ids = getattr(self.module.generation_config, "eos_token_id", None)
        if ids is None:
            ids = self.tokenizer.eos_token_id
        return tuple(ids) if isinstance(ids, (list, tuple)) else (() if ids is None else (ids,))

    def key(self) -> dict:
        """What of it determines a result."""
        # Weights made in memory have no revision: nothing stored is ever taken for theirs.
        revision = uuid.uuid4().hex if self.revision in ("in-memory", "unknown") else self.revision
        key = {"model": [self.name, revision], "dtype": str(self.dtype)}  # the dtype decides which method None is
        if self.quantization:
            key["quantization"] = self.quantization
        if self.attention != "sdpa":
            key["attention"] = self.attention
        if self.dtype.itemsize < 4 and self.device.type != "cpu":  # other devices round otherwise
            key["device"] = self.device.type
        if self.prompt not in (self.family.prompt, self.family.prompt.replace("<image>", "")):
            key["prompt"] = self.prompt
        return key | ({"edits": [edit.identity for edit in self.edits]} if self.edits else {})

    @property
    def crops_images(self) -> bool:
        """Whether the model sees an image's central square, instead of all of it made square."""
        return self.is_multimodal and bool(getattr(self.processor.image_processor, "do_center_crop", False))

    def prompt_template(self, *, image: bool, protocol: str = "paper") -> str:
        """The chat format with `{question}` in it, and with one `<image>` if there is a picture."""
        formats = {"paper": self.prompt, "authors": families.AUTHORS}
        if protocol not in formats:
            raise ModelError(f"protocol {protocol!r} is unknown: use one of {', '.join(formats)}.")
        return formats[protocol].replace("<image>", self.image_token if image and self.is_multimodal else "")

    # What it does outside any intervention

    def tokenize(self, text: str, n_visual: int) -> tuple[list[int], list[tuple[int, int]], str]:
        """Token ids, character offsets, and the text they refer to: `<image>` written once a visual token.

        n_visual: how many visual tokens the picture becomes (of no effect without one).
        """
        if self.is_multimodal:
            text = text.replace(self.image_token, self.image_token * n_visual)
        encoding = self.tokenizer(text, return_offsets_mapping=True)
        return encoding["input_ids"], [tuple(pair) for pair in encoding["offset_mapping"]], text

    def read_image(self, image) -> tuple[dict[str, torch.Tensor], int]:
        """A PIL image or a file -> what the model takes of it, and how many visual tokens it becomes.

        "pixel_values" [1, 3, height, width], or [1, tiles, 3, height, width] and "image_sizes" [1, 2] where the model
        cuts images into tiles. An unreadable file is a TestBedError.
        """
        image = on_white(image) if isinstance(image, Image.Image) else load_image(image)
        inputs = dict(self.processor(images=image, text=self.image_token, return_tensors="pt"))
        n_visual = int((inputs.pop("input_ids") == self.image_token_id).sum())
        return {name: inputs[name] for name in self.processor.image_processor.model_input_names}, n_visual

    def generate_answer(self, image, question: str, max_new_tokens: int = 16) -> str:
        """The model's greedy answer. image: PIL image, path, or None for a question without a picture."""
        text = self.prompt_template(image=image is not None).format(question=question)
        image_inputs, n_visual = ({}, 0) if image is None else self.read_image(image)
        request = {
            "input_ids": torch.tensor([self.tokenize(text, n_visual)[0]]),
            "image_inputs": image_inputs,
            "eos_token_ids": self.eos_token_ids,
            "max_answer_tokens": max_new_tokens,
        }
        answer = forward.in_session(self.traced, forward.greedy_answer, request, self.remote)
        return self.decode(answer)

    def decode(self, answer_ids) -> str:
        """The text of an answer's tokens."""
        return self.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()


def load_model(
    name: str = "mini", *, remote: bool | str = False, revision: str | None = None, dtype=None, device_map=None,
    attn_implementation=None, prompt: str | None = None,
) -> VisionLanguageModel:
    """Load a model by alias ("mini", "mini-free", "mini-text", "mini-bunny"), directory or Hub id.

    remote: True leaves the weights where they are (NDIF) and loads only the skeleton and the processor.
    revision: branch, tag or commit of a Hub id.
    dtype: a torch dtype or its name; "nf4" or "int8" hold the weights in fewer bits (bitsandbytes), which changes the
        model's numbers; None = float32 for small models, the checkpoint's own for large ones.
    device_map, attn_implementation: as in `from_pretrained`.
    prompt: the chat format, see `chat_format`; None = that of the family, or the checkpoint's own.
    Raises ModelError in one sentence.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer

    load_checks.check_versions()
    path, digest = resolve(str(name))
    revision = None if revision == "main" else revision  # the same, and servers know models by no revision
    if remote is True and dtype in QUANTIZATIONS:
        raise ModelError(f"dtype {dtype!r} is for the server to choose, which holds the weights: leave it out.")
    if revision and digest:
        raise ModelError(f"revision {revision!r} is given for local files at {path}: leave it out.")
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        family = _family(config, name)
        kind = AutoProcessor if family.is_multimodal else AutoTokenizer
        processor = kind.from_pretrained(path, revision=revision)
    except ModelError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"model {str(name)!r} cannot be loaded ({_reason(error)}): "
            f"give an alias ({', '.join(ALIASES)}), a directory with a config.json, or a Hub id."
        ) from error
    options = {"dtype": chosen_dtype(path, dtype), "device_map": device_map, "attn_implementation": attn_implementation}
    options = {key: value for key, value in options.items() if value is not None}
    wrapped = {"task": family.task, "rename": family.rename, "revision": revision} | _preprocessors(family, processor)
    try:
        if remote is True:
            traced = TransformersModel(path, dispatch=False, **options, **wrapped)
        else:
            module = read_module(
                path, multimodal=family.is_multimodal, name=str(name), revision=revision, **options
            )
            placed = _where_it_is(module) if device_map else {}  # else on the first GPU, if there is one
            traced = TransformersModel(module, dispatch=True, **wrapped, **placed)
    except ModelError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {str(name)!r} does not fit: use device_map='auto' for several GPUs, or fewer bits (dtype)."
        ) from error
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"model {str(name)!r} has weights that cannot be loaded ({_reason(error)}): "
            "check its files, dtype, device_map and attn_implementation."
        ) from error
    commit = digest or getattr(config, "_commit_hash", None) or revision or "unknown"
    return VisionLanguageModel(traced, processor, name=str(name), revision=commit, remote=remote, prompt=prompt)


def _family(config, name) -> families.Family:
    """The row of the table for a configuration, or the error of a model that has none."""
    family = families.family_of(config)
    if family is None:
        reason = families.why_unusable(config)
        if reason:
            raise ModelError(f"model {str(name)!r} is a {config.model_type!r}, which cannot be traced: {reason}.")
        raise ModelError(
            f"model {str(name)!r} is a {config.model_type!r} over {config.get_text_config().model_type!r}, "
            "for which families.py has no row: "
            f"use one of {', '.join(row.name for row in families.FAMILIES)}, or add a row."
        )
    return family


def _where_it_is(module: torch.nn.Module) -> dict:
    """nnsight's keyword that leaves a module on its device; what accelerate has placed stays in any case."""
    return {} if getattr(module, "hf_device_map", None) else {"device": module.device}


def _preprocessors(family: families.Family, processor) -> dict:
    """nnsight's keyword for what turns text and images into model inputs."""
    return {"processor": processor} if family.is_multimodal else {"tokenizer": processor}


def _reason(error: Exception) -> str:
    """The first line of an error, to stand in brackets."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
