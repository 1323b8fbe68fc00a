"""Load a checkpoint's processor, also one whose video part cannot be built, because torchvision is not installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available

from ..errors import ModelError
from ..text import PATH, first_line, quoted


def load_processor(path: str, config, *, multimodal: bool, name: str, revision: str | None):
    """Load the processor of a multimodal model, or the tokenizer of a text-only one.

    Args:
        path: a directory or a Hub id.
        config: the model's configuration.
        multimodal: whether it reads images.
        name: the model's, for messages.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        kind = AutoTokenizer if not multimodal else _for_pictures(config) or AutoProcessor
        return kind.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # broken files fail in many ways
        files = "processor_config.json, preprocessor_config.json and " if multimodal else ""
        fix = f"get {files}tokenizer.json of its checkpoint"
        if isinstance(error, ImportError):
            fix = f"pip install {'num2words' if 'num2words' in str(error) else 'torchvision'}"
        raise ModelError(
            f"model {quoted(name, PATH)} has a {'processor' if multimodal else 'tokenizer'} that cannot be "
            f"loaded ({first_line(error)}): {fix}."
        ) from error


def _for_pictures(config):
    """Return the model's processor class for pictures alone, if it has a part for videos that cannot be built."""
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or kind is None or "video_processor" not in kind.get_attributes():
        return None
    return without_videos(kind)


def without_videos(kind):
    """Return a processor class without its part for videos, which needs torchvision.

    A processor asks `get_attributes` which parts it has, to load, to check and to save them.
    """

    class Pictures(kind):
        video_processor = SimpleNamespace(num_frames=None, fps=None, valid_kwargs=None)  # a chat template may ask

        @classmethod
        def get_attributes(cls):
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args, processor_dict, **options):
            return super().from_args_and_dict([*args, None], processor_dict, **options)

    Pictures.__name__ = Pictures.__qualname__ = kind.__name__  # which is saved in processor_config.json
    return Pictures
