"""What processors without torchvision are made of, beside `interventions.models.processors.without_videos`."""

from __future__ import annotations

from unittest import mock

from transformers.models.pixtral import image_processing_pil_pixtral


def pixtral_processor():
    """Return PixtralProcessor, whose module cannot be imported without torchvision, although it needs one function."""
    absent = "transformers.models.pixtral.image_processing_pixtral"
    with mock.patch.dict("sys.modules", {absent: image_processing_pil_pixtral}):
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor
    return PixtralProcessor


def square(side: int) -> dict:
    """Return a size as image processors take it."""
    return {"height": side, "width": side}
