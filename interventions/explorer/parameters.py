"""The parameters of notebooks/explore.ipynb; the defaults are those of its `parameters` cell."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from transformers.utils.logging import disable_progress_bar

from ..errors import ModelError, ParameterError
from ..models.loading import load_model
from ..models.model import VisionLanguageModel
from ..notebook import NotebookParameters, named
from ..testbed import TestBed, TestBedError, load_testbed


class ExploreParameters(NotebookParameters):
    """notebooks/explore.ipynb"""

    model: str = "mini"
    testbed: str = "embedded"
    revision: str = ""
    dtype: str = ""
    device_map: str = ""
    prompt: str = ""
    family: Literal["", "auto"] = ""
    image_side: Annotated[int, Field(ge=0, description="it is a side in pixels")] = 0
    remote: bool = False

    @property
    def loading(self) -> dict:
        """Return the arguments of `load_model` that apply to every model."""
        return {
            "dtype": self.dtype or None, "device_map": self.device_map or None, "remote": self.remote,
            "family": self.family, "image_side": self.image_side,
        }

    def load(self) -> tuple[VisionLanguageModel, TestBed]:
        """Return the model and the test bed; raise ParameterError if one cannot be loaded."""
        disable_progress_bar()  # a bar would appear in the widget when another model is loaded
        testbed = named("testbed", TestBedError, load_testbed, self.testbed)
        model = named(
            "model", ModelError, load_model, self.model, revision=self.revision or None, prompt=self.prompt or None,
            **self.loading,
        )
        if not model.is_multimodal:
            raise ParameterError(f"Parameter 'model': {self.model!r} reads text only: choose one that sees images.")
        return model, testbed
