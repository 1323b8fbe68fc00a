"""One wrapper for all models: an unmodified Hugging Face module, traced by nnsight under uniform module names."""

import itertools
import math
import uuid
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from nnsight.modeling.transformers import TransformersModel
from PIL import Image

from ..engine import forward
from ..errors import ModelError, PromptError
from ..models import families, load_checks
from ..prompts.prompt import Prompt, in_format
from ..prompts.tokens import blank_tokens, check_length, control_tokens
from ..testbed import TestBedError, load_image
from ..testbed.images import on_square
from ..text import PATH, first_line, quoted
from .chat_format import answer_joint, chat_format
from .checkpoints import ALIASES
from .discovery import discover_family

if TYPE_CHECKING:
    from .server import Server

# What a processor returns about the text, which is tokenized here to know where words are.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class VisionLanguageModel:
    """A multimodal or text-only language model with frozen weights, ready for prompts and traces.

    Attributes:
        traced: nnsight's view of the model, under the module names of `families.py`.
        module: the Hugging Face module.
        layers: the decoder layers as envoys.
        revision: sha256 of local files, commit on the Hub, or "in-memory".
        remote: the default of every intervention's `remote` argument: True, False or "local".
        server: the `server.Server` of a remote model, or None.
        prompt: the chat format with `{question}` and, if multimodal, `<image>`.
        image_side: side in pixels of the square that every picture is resized to before the processor reads it; 0: the
            processor decides.
    """

    def __init__(
        self, traced, processor, *, name: str, revision: str, remote: bool | str = False, prompt: str | None = None,
        server: "Server | None" = None, family: families.Family | None = None, image_side: int = 0,
    ):
        self.traced, self.processor, self.name = traced, processor, name
        self.revision, self.remote = revision, remote
        self.server = server
        self.edits: tuple = ()  # see `edit.apply_edits`
        self.unedited: VisionLanguageModel | None = None
        self.config = traced._module.config
        self.family = family or family_row(self.config, name)
        if type(image_side) is not int or image_side < 0:
            raise ModelError(f"image_side must be a number of pixels, or 0 for none, not {quoted(image_side)}.")
        self.image_side = image_side
        if self.family.is_multimodal:
            load_checks.check_processor(processor, self.config, name)
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.prompt = chat_format(processor, self.family, prompt, name)
        self.module.requires_grad_(False).eval()
        load_checks.check(self)

    @classmethod
    def from_module(
        cls, module, processor, *, name: str = "in-memory", prompt: str | None = None, family: str = "",
        image_side: int = 0,
    ) -> "VisionLanguageModel":
        """Wrap a Hugging Face module in memory, on its device. The processor may be a tokenizer.

        prompt, family and image_side are as in `load_model`.
        """
        family_found = family_row(module.config, name, family)
        traced = TransformersModel(
            module, task=family_found.task, rename=family_found.rename, dispatch=True,
            **preprocessors(family_found, processor), **where_it_is(module),
        )
        return cls(
            traced, processor, name=name, revision="in-memory", prompt=prompt, family=family_found,
            image_side=image_side,
        )

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
        """What stands for a picture in a text that the processor reads; it may not be the visual tokens' own."""
        return self.processor.image_token if self.is_multimodal else None

    @cached_property
    def n_image_tokens(self) -> int | None:
        """Visual tokens of every image (0 for a text-only model), or None if their number depends on its size."""
        if not self.is_multimodal:
            return 0
        counts = set()
        for size in ((64, 64), (640, 480), (160, 800)):
            text = self.read_image(Image.new("RGB", size))[1]
            counts.add(self.tokenize(self.image_token, text)[0].count(self.image_token_id))  # pyright: ignore
        return counts.pop() if len(counts) == 1 else None

    @property
    def image_layers(self) -> tuple[str, ...]:
        """The decoder's path and its argument with features of the image, if layers add such (DeepStack); else ()."""
        return (self.family.language_model, self.family.deepstack) if self.family.deepstack else ()

    @cached_property
    def attention_window(self) -> int | None:
        """Longest prompt with answer, in tokens, if layers see a window of the last tokens only; else None."""
        return families.attention_window(self.config)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts of the tokenizer's control tokens, such as "</s>", "<image>" or "<|im_end|>"."""
        return control_tokens(self.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.dtype  # pyright: ignore[reportReturnType]

    @property
    def quantization(self) -> str | None:
        """The format of quantized weights ("nf4", "int8", ...), or None. The model computes in `dtype`."""
        if self.server:
            return self.server.quantization
        config = getattr(self.config, "quantization_config", None)
        if config is None:
            return None
        config = config if isinstance(config, dict) else config.to_dict()
        if config.get("load_in_4bit"):
            return config["bnb_4bit_quant_type"]
        method = str(getattr(config.get("quant_method"), "value", config.get("quant_method")))
        return {"bitsandbytes": "int8"}.get(method, method)

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
        """Return the part of a stored result's key that names the model and how it computes."""
        # Weights in memory have no revision: a random one keeps them from reading stored results.
        revision = uuid.uuid4().hex if self.revision in ("in-memory", "unknown") else self.revision
        key = {"model": [self.name, revision], "dtype": str(self.dtype)}  # the dtype decides which method None is
        if self.quantization:
            key["quantization"] = self.quantization
        if self.attention != "sdpa":
            key["attention"] = self.attention
        if self.remote is True:  # servers, and sandboxes above all, may round differently
            key["remote"] = "sandbox" if self.server and self.server.sandboxed and self.dtype.itemsize < 4 else True
        device = self.server.device if self.server else self.device.type
        if self.dtype.itemsize < 4 and device != "cpu":  # other devices round differently
            key["device"] = device
        if self.image_side:
            key["image_side"] = self.image_side
        if self.prompt not in (self.family.prompt, self.family.prompt.replace(families.IMAGE, "")):
            key["prompt"] = self.prompt
        return key | ({"edits": [edit.identity for edit in self.edits]} if self.edits else {})

    def image_view(self, protocol: str = "paper") -> str:
        """Return how a picture becomes square: "cropped" to the center, "padded" by a margin, or "squeezed".

        The embedded models were trained on squeezed pictures, although their families pad.
        """
        if self.image_side:
            return "squeezed"
        if protocol == "authors" and self.family.pads and self.name not in ALIASES:
            return "padded"
        crops = self.is_multimodal and getattr(self.processor.image_processor, "do_center_crop", False)
        return "cropped" if crops else "squeezed"

    @property
    def formats(self) -> dict[str, str]:
        """The chat formats by protocol, with `{question}` and `<image>`."""
        return {"paper": self.prompt, "authors": families.AUTHORS}

    def prompt_template(self, *, image: bool, protocol: str = "paper") -> str:
        """Return the chat format with `{question}`, and with one image token if there is a picture."""
        if protocol not in self.formats:
            raise ModelError(f"protocol {quoted(protocol)} is unknown: use one of {', '.join(self.formats)}.")
        begin, end = self.family.wrapper
        picture = f"{begin}{self.image_token}{end}" if image and self.is_multimodal else ""
        return self.formats[protocol].replace(families.IMAGE, picture)

    def answer_joint(self, protocol: str = "paper") -> str:
        """Return what separates prompt and answer: a space, a line break or nothing."""
        return self._joints[protocol]

    @cached_property
    def _joints(self) -> dict[str, str]:
        return {
            protocol: answer_joint(self.processor, self.family, declared) for protocol, declared in self.formats.items()
        }

    @cached_property
    def blank_ids(self) -> tuple[int, ...]:
        """Ids of tokens without a visible character, such as spaces and line breaks."""
        return blank_tokens(self.tokenizer)

    def runs_on(self, remote: bool | str | None) -> bool | str:
        """Return where an intervention runs: `remote`, or as the model was loaded if that is None.

        Raises ModelError if the model was loaded for the other place.
        """
        remote = self.remote if remote is None else remote
        check_remote(remote)
        if remote is True and self.remote is not True:
            raise ModelError(f"remote=True needs a model that is on a server: load_model({self.name!r}, remote=True).")
        if remote is not True and self.remote is True:
            raise ModelError(f"remote={remote!r} needs the weights of model {self.name!r}, which are on a server: load "
                             "it without remote to run it here.")
        return remote

    def tokenize(self, text: str, image_text: str) -> tuple[list[int], list[tuple[int, int]], str]:
        """Return token ids, character offsets, and the text they refer to.

        image_text: what stands for the picture, see `read_image`; empty without one.
        """
        if self.is_multimodal and image_text:
            text = text.replace(self.image_token, image_text)  # pyright: ignore[reportArgumentType]
        encoding = self.tokenizer(text, return_offsets_mapping=True)
        return encoding["input_ids"], [tuple(pair) for pair in encoding["offset_mapping"]], text

    def read_image(self, image, protocol: str = "paper") -> tuple[dict[str, torch.Tensor], str]:
        """Return the model's inputs for a PIL image or a file, and what the processor writes for it into the text.

        Args:
            image: PIL image or path; the model must be multimodal.
            protocol: "authors" first pads to a square in the encoder's mean color if the original code does so.

        Returns:
            The processor's tensors by the names of the model's inputs, such as "pixel_values" [1, 3, height, width],
            and the text of the visual tokens with what stands between and around them.

        Raises:
            TestBedError: the file cannot be read, or the processor refuses the picture.
        """
        image = self.as_read(image, protocol)
        try:
            inputs = self.processor(
                images=image, text=self.image_token, return_tensors="pt", return_text_replacement_offsets=True
            )
        except ValueError as error:
            raise TestBedError(
                f"image of {image.width} x {image.height} pixels is refused by the processor of {self.name!r} "
                f"({first_line(error)}): give one of another size."
            ) from error
        replaced = inputs.pop("text_replacement_offsets")[0]
        return {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}, replaced[0]["replacement"]

    def as_read(self, image, protocol: str = "paper") -> Image.Image:
        """Return a PIL image or a file as the processor is given it: on a square, where one is asked for."""
        image = load_image(image)
        if self.image_side:
            return image.resize((self.image_side, self.image_side), Image.Resampling.BICUBIC)
        if self.image_view(protocol) == "padded":
            return on_square(image, tuple(int(255 * mean) for mean in self.processor.image_processor.image_mean))
        return image

    def position_table(self, ids: list[int], image_inputs: dict) -> torch.Tensor:
        """Return the positions [rows, T] of a prompt by the model's own rule.

        One row; three (time, height, width) for a model that counts an image in three dimensions (M-RoPE).
        """
        rule = getattr(getattr(self.module, "model", None), "get_rope_index", None)
        if rule is None or not image_inputs:
            return torch.arange(len(ids))[None]
        sequence = torch.tensor([ids])
        marks = (sequence == self.image_token_id).int()
        return rule(sequence, mm_token_type_ids=marks, image_grid_thw=image_inputs["image_grid_thw"])[0][:, 0]

    def patch_grid(self, prompt: Prompt) -> tuple[int, int] | None:
        """Return the rows and columns of the image's visual tokens; None if they form no single grid, as tiles do."""
        n = len(prompt.visual)
        if "image_grid_thw" in prompt.image_inputs:
            _, height, width = prompt.image_inputs["image_grid_thw"][0].tolist()
            merged = self.processor.image_processor.merge_size
            return height // merged, width // merged
        rows = 1 + sum(b - a > 1 for a, b in itertools.pairwise(prompt.visual))  # breaks end the rows of Pixtral's
        if rows > 1:
            return (rows, n // rows) if self.config.vision_config.model_type == "pixtral" else None
        side = math.isqrt(n)
        return (side, side) if side and side**2 == n else None

    def image_marks(self, ids: list[int], image_inputs: dict) -> dict[str, torch.Tensor]:
        """Return the input [1, T] that marks visual tokens, of a model whose visual tokens see each other; else {}."""
        if not (self.family.image_block and image_inputs):
            return {}
        return {"token_type_ids": (torch.tensor([ids]) == self.image_token_id).long()}

    def generate_answer(self, image, question: str, max_new_tokens: int = 16) -> str:
        """Return the model's greedy answer to a question, in the chat format, without outer space.

        `image` is a PIL image, a path or None. Raises PromptError, TestBedError (unreadable image) or NDIFError.
        """
        if type(max_new_tokens) is not int or max_new_tokens < 1:
            raise PromptError(f"max_new_tokens must be a whole number, at least 1, not {quoted(max_new_tokens)}.")
        template, question = in_format(self, question, image is not None)
        image_inputs, image_text = ({}, "") if image is None else self.read_image(image)
        ids = self.tokenize(template.format(question=question), image_text)[0]
        check_length(self, len(ids), max_new_tokens)
        request = {
            "input_ids": torch.tensor([ids]), "positions": self.position_table(ids, image_inputs),
            "image_inputs": image_inputs | self.image_marks(ids, image_inputs),
            "eos_token_ids": self.eos_token_ids, "max_answer_tokens": max_new_tokens,
        }
        answer = forward.in_session(self.traced, forward.greedy_answer, request, self.runs_on(None))
        return self.decode(answer)

    def decode(self, answer_ids) -> str:
        """Return the text of an answer's tokens."""
        return self.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()


def family_row(config, name, given: str = "") -> families.Family:
    """Return the family of a configuration.

    Args:
        config: the Hugging Face configuration.
        name: the model's, for messages.
        given: "auto" to discover the module paths of an architecture that the table does not have.

    Raises:
        ModelError: the table has none, or the architecture cannot work.
    """
    if given not in ("", "auto"):
        raise ModelError(f"family must be 'auto' or empty, not {quoted(given)}.")
    family, reason = families.family_of(config), families.why_unusable(config)
    named = quoted(str(name), PATH)
    if reason:
        raise ModelError(f"model {named} is a {config.model_type!r}, which cannot be traced: {reason}.")
    if family is None and given == "auto":
        return discover_family(config, str(name))
    if family is None:
        raise ModelError(
            f"model {named} is a {config.model_type!r} over {config.get_text_config().model_type!r}, "
            "for which families.py has no row: "
            f"use one of {', '.join(row.name for row in families.FAMILIES)}, add a row, or try family='auto'."
        )
    return family


def check_remote(remote) -> None:
    """Raise ModelError unless it is True, False or "local"; nnsight takes other texts for a server's address."""
    if not isinstance(remote, bool) and remote != "local":
        raise ModelError(
            f"remote must be True (on the server that NDIF_HOST names), False or 'local', not {quoted(remote)}."
        )


def where_it_is(module: torch.nn.Module) -> dict:
    """Return nnsight's keyword that leaves a module on its device; accelerate's modules need none."""
    return {} if getattr(module, "hf_device_map", None) else {"device": module.device}


def preprocessors(family: families.Family, processor) -> dict:
    """Return nnsight's keyword for the processor or tokenizer."""
    return {"processor": processor} if family.is_multimodal else {"tokenizer": processor}
