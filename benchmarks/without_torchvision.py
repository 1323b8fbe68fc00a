"""Processors whose video part needs torchvision, for pictures alone and without it."""

from __future__ import annotations

from unittest import mock

from transformers.models.pixtral import image_processing_pil_pixtral


def without_videos(kind):
    """Return the processor class without its video processor, which needs torchvision, in any version of it.

    A processor asks `get_attributes` which parts it has, to load, to check and to save them.
    """

    class Pictures(kind):
        video_processor = mock.Mock(num_frames=None, fps=None, valid_kwargs=None)  # SmolVLM's chat template asks it

        @classmethod
        def get_attributes(cls):
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args, processor_dict, **options):
            return super().from_args_and_dict([*args, None], processor_dict, **options)

    Pictures.__name__ = Pictures.__qualname__ = kind.__name__  # which is saved in processor_config.json
    return Pictures


def pixtral_processor():
    """Return PixtralProcessor, whose module cannot be imported without torchvision, although it needs one function."""
    absent = "transformers.models.pixtral.image_processing_pixtral"
    with mock.patch.dict("sys.modules", {absent: image_processing_pil_pixtral}):
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor
    return PixtralProcessor


def square(side: int) -> dict:
    """Return a size as image processors take it."""
    return {"height": side, "width": side}
