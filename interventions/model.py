"""One wrapper for the models of the paper: `load_model("mini")`, a directory, or a Hub id.

The Hugging Face module is used as it is. nnsight wraps it (`.traced`) under the uniform module names of
`families.py`, weights are frozen, and what has gone wrong silently for others is checked when the model is
loaded: that all module paths exist, and that the number of visual tokens the processor writes into a prompt
is the number the vision encoder delivers (575 versus 576 is the classic).
"""

import uuid

import torch
from nnsight.modeling.transformers import TransformersModel
from PIL import Image

from . import families, forward
from .checkpoints import ALIASES, ModelError, chosen_dtype, resolve
from .testbed import load_image, on_white


class VisionLanguageModel:
    """A multimodal (or text-only) language model, ready for prompts and traces.

    traced: nnsight's view of the model; module: the Hugging Face module; layers: its decoder layers as
    envoys.
    revision: what identifies the weights (sha256 of local files with configuration and tokenizer,
        commit on the Hub, "in-memory" otherwise).
    remote: the default of every intervention's `remote` argument (True | False | "local").
    """

    def __init__(self, traced, processor, *, name: str, revision: str, remote: bool | str = False):
        self.traced, self.processor, self.name = traced, processor, name
        self.revision, self.remote = revision, remote
        self.edits, self.unedited = (), None  # see `edit.apply_edits`
        self.config = traced._module.config
        self.family = _family(self.config, name)
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.module.requires_grad_(False).eval()
        self._check()

    @classmethod
    def from_module(cls, module, processor, *, name: str = "in-memory") -> "VisionLanguageModel":
        """Wrap a Hugging Face module that is already in memory. processor: a LlavaProcessor, or a
        tokenizer."""
        family = _family(module.config, name)
        traced = TransformersModel(
            module, task=family.task, rename=family.rename, dispatch=True, **_preprocessors(family, processor)
        )
        return cls(traced, processor, name=name, revision="in-memory")

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
        return families.count_image_tokens(self.config) if self.is_multimodal else 0

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.dtype

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
        revision = uuid.uuid4().hex if self.revision == "in-memory" else self.revision
        key = {"model": [self.name, revision], "dtype": str(self.dtype)}  # the dtype decides which method None is
        return key | ({"edits": [edit.identity for edit in self.edits]} if self.edits else {})

    @property
    def crops_images(self) -> bool:
        """Whether the model sees an image's central square, instead of all of it made square."""
        return self.is_multimodal and bool(getattr(self.processor.image_processor, "do_center_crop", False))

    def prompt_template(self, *, image: bool, protocol: str = "paper") -> str:
        """The chat format with `{question}` in it, and with one `<image>` if there is a picture."""
        templates = self.family.templates if image else self.family.text_templates
        if protocol not in templates:
            raise ModelError(f"protocol {protocol!r} is unknown: use one of {', '.join(templates)}.")
        return templates[protocol].replace("<image>", self.image_token or "")

    # What it does outside any intervention

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]], str]:
        """Token ids, character offsets, and the text they refer to: `<image>` written once a visual token."""
        if self.is_multimodal:
            text = text.replace(self.image_token, self.image_token * self.n_image_tokens)
        encoding = self.tokenizer(text, return_offsets_mapping=True)
        return encoding["input_ids"], [tuple(pair) for pair in encoding["offset_mapping"]], text

    def read_image(self, image) -> torch.Tensor:
        """A PIL image or a file -> pixel values [1, 3, height, width]; an unreadable file is a
        TestBedError."""
        image = on_white(image) if isinstance(image, Image.Image) else load_image(image)
        return self.processor.image_processor(images=image, return_tensors="pt")["pixel_values"]

    def generate_answer(self, image, question: str, max_new_tokens: int = 16) -> str:
        """The model's greedy answer. image: PIL image, path, or None for a question without a picture."""
        text = self.prompt_template(image=image is not None).format(question=question)
        request = {
            "input_ids": torch.tensor([self.tokenize(text)[0]]),
            "pixel_values": None if image is None else self.read_image(image),
            "eos_token_ids": self.eos_token_ids,
            "max_answer_tokens": max_new_tokens,
        }
        answer = forward.in_session(self.traced, forward.greedy_answer, request, self.remote)
        return self.decode(answer)

    def decode(self, answer_ids) -> str:
        """The text of an answer's tokens."""
        return self.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()

    # What is checked when it is loaded

    def _check(self):
        for path in ("layers", "final_norm", "lm_head"):
            if not hasattr(self.traced, path):
                raise ModelError(
                    f"model {self.name!r} has no module {path!r}: correct its row in families.py."
                )
        layer = self.traced.layers[0]
        for path in ("mlp.down_proj", "self_attn.o_proj"):
            try:
                layer.get(path)
            except AttributeError:
                raise ModelError(
                    f"model {self.name!r} has no module layers[0].{path}: correct its row in families.py."
                ) from None
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"model {self.name!r} has a slow tokenizer, which gives no character offsets: "
                "install `tokenizers` and load a fast one."
            )
        if self.is_multimodal:
            self._check_image_tokens()

    def _check_image_tokens(self):
        """The processor's real output against the configuration, and against this class's own
        tokenisation."""
        text = self.prompt_template(image=True).format(question="?")
        blank = Image.new("RGB", (32, 32))
        ids = self.processor(images=blank, text=text, return_tensors="pt")["input_ids"][0].tolist()
        found, expected = ids.count(self.image_token_id), self.n_image_tokens
        if found != expected:
            raise ModelError(
                f"model {self.name!r} makes {expected} visual tokens of an image but its processor writes "
                f"{found} into a prompt: set patch_size, num_additional_image_tokens and "
                "vision_feature_select_strategy of the processor as the checkpoint was trained."
            )
        if ids != self.tokenize(text)[0]:
            raise ModelError(
                f"model {self.name!r}: its processor and its tokenizer disagree about a prompt's tokens: "
                "load the processor that belongs to the checkpoint."
            )


def load_model(
    name: str = "mini", *, remote: bool | str = False, dtype=None, device_map=None, attn_implementation=None
) -> VisionLanguageModel:
    """Load a model by alias ("mini", "mini-free", "mini-text"), directory or Hub id.

    remote: True leaves the weights where they are (NDIF) and loads only the skeleton and the processor.
    dtype: a torch dtype or its name; None = float32 for small models, the checkpoint's own for large ones.
    device_map, attn_implementation: as in `from_pretrained`. Raises ModelError in one sentence.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer

    path, revision = resolve(str(name))
    try:
        config = AutoConfig.from_pretrained(path)
        family = _family(config, name)
        processor = (AutoProcessor if family.is_multimodal else AutoTokenizer).from_pretrained(path)
    except ModelError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"model {str(name)!r} cannot be loaded ({_reason(error)}): "
            f"give an alias ({', '.join(ALIASES)}), a directory with a config.json, or a Hub id."
        ) from error
    dtype = chosen_dtype(path, dtype)
    options = {"device_map": device_map, "attn_implementation": attn_implementation}
    try:
        traced = TransformersModel(
            path,
            task=family.task,
            rename=family.rename,
            dispatch=remote is not True,
            dtype=dtype,
            **_preprocessors(family, processor),
            **{key: value for key, value in options.items() if value is not None},
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"model {str(name)!r} has weights that cannot be loaded ({_reason(error)}): "
            "check its files, device_map and attn_implementation."
        ) from error
    revision = revision or getattr(config, "_commit_hash", None) or "unknown"
    return VisionLanguageModel(traced, processor, name=str(name), revision=revision, remote=remote)


def _family(config, name) -> families.Family:
    """The row of the table for a configuration, or the error of a model that has none."""
    family = families.family_of(config)
    if family is None:
        raise ModelError(
            f"model {str(name)!r} is a {config.model_type!r} over {config.get_text_config().model_type!r}, "
            "for which families.py has no row: "
            f"use one of {', '.join(row.name for row in families.FAMILIES)}, or add a row."
        )
    return family


def _preprocessors(family: families.Family, processor) -> dict:
    """nnsight's keyword for what turns text and images into model inputs."""
    return {"processor": processor} if family.is_multimodal else {"tokenizer": processor}


def _reason(error: Exception) -> str:
    """The first line of an error, to stand in brackets."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
