"""The parameters of the notebooks about attention; the defaults are those of their `parameters` cells."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

import pandas as pd
from pydantic import Field

from ..errors import AttentionError, ParameterError
from ..models.checkpoints import CONTROL_MODELS
from ..models.model import VisionLanguageModel
from ..notebook import Limit, named
from ..studies.parameters import SampleParameters, must_differ, parse_window, resolve_window, window_sentence
from ..testbed import Item, load_testbed
from .study import AttentionStudy, attention_study, check_comparable
from .transplant import COLUMNS, flow_transplant_shares, flow_transplants

# Model shape (family, layers, hidden size) -> the layers of the paper's section 4.4, counted from 0.
PAPER_LAYERS = {("llava-llama", 32, 4096): (16, 17)}


class Fig5Parameters(SampleParameters):
    """notebooks/fig5_attention.ipynb"""

    window: int | str = 3
    examples: Annotated[int, Field(ge=1, description="it counts the questions of each part that are drawn")] = 1
    control_model: str = ""
    transplant: Annotated[int, Field(ge=0, description="it counts the transplanted questions of each part")] = 30

    figure: typing.ClassVar[str] = "fig5_attention"

    def check(self) -> None:
        super().check()
        parse_window("window", self.window)
        must_differ("control_model", self.control_model, self.model)

    def check_model(self, model: VisionLanguageModel) -> None:
        self._check_shape("model", model)

    def _check_shape(self, parameter: str, model: VisionLanguageModel) -> None:
        named(parameter, AttentionError, check_comparable, model)
        if not model.is_multimodal:
            raise ParameterError(
                f"Parameter {parameter!r}: {model.name!r} sees no image, so it has no visual tokens: name a multimodal "
                "model."
            )
        resolve_window("window", self.window, model.n_layers)

    def windows_in_layers(self, model: VisionLanguageModel) -> dict[str, int]:
        """Return the window in layers of this model, as the record keeps it beside the parameters."""
        return {"window_layers": self.window_in(model)}

    def window_in(self, model: VisionLanguageModel) -> int:
        """Return how many layers the window has in this model."""
        return resolve_window("window", self.window, model.n_layers)

    def windows_sentence(self, model: VisionLanguageModel) -> str:
        """Return a sentence: "Window: 3 of 8 layers."."""
        return window_sentence("window", self.window, model.n_layers)

    def load_control_model(self) -> VisionLanguageModel | None:
        """Load the control model: `control_model`, or `mini-free` for `mini`; None if there is none."""
        name = self.control_model or CONTROL_MODELS.get(self.model, "")
        if not name:
            return None
        model = self.load_model("control_model", name)
        self._check_shape("control_model", model)
        return model

    def control_studies(self, model: VisionLanguageModel | None, questions: Iterable[Item]) -> list[AttentionStudy]:
        """Return the figure's study of the control model, or nothing if there is none."""
        if model is None:
            return []
        return [attention_study(
            model, questions, knockouts=True, window=self.window_in(model), protocol=self.protocol,
            run=replace(self.run, label=model.name),
        )]

    def transplanted(self, model: VisionLanguageModel, study: AttentionStudy) -> pd.DataFrame:
        """Return the `flow_transplant_shares` of a study's first `transplant` questions of each part.

        The other items are drawn from the whole test bed.
        """
        if not self.transplant:
            return flow_transplant_shares(pd.DataFrame(columns=COLUMNS))
        bed = load_testbed(self.testbed)
        return flow_transplant_shares(flow_transplants(
            model, bed, study, limit=self.transplant, seed=self.seed, protocol=self.protocol, run=self.run
        ))


class OutcomeParameters(SampleParameters):
    """The parameters shared by notebooks that compare right with wrong answers."""

    limit: Limit = 0
    parts: str = "known"

    def check_model(self, model: VisionLanguageModel) -> None:
        named("model", AttentionError, check_comparable, model)


class Fig15Parameters(OutcomeParameters):
    """notebooks/fig15_examples.ipynb"""

    examples: Annotated[int, Field(ge=1, description="it counts the right and the wrong answers that are shown")] = 3

    figure: typing.ClassVar[str] = "fig15_examples"


class Fig16Parameters(OutcomeParameters):
    """notebooks/fig16_contributions.ipynb"""

    figure: typing.ClassVar[str] = "fig16_contributions"


class Fig17Parameters(OutcomeParameters):
    """notebooks/fig17_failure.ipynb"""

    layers: str = ""
    timed: Annotated[int, Field(ge=1, description="it counts the questions on which the early end is timed")] = 10

    figure: typing.ClassVar[str] = "fig17_failure"

    def check(self) -> None:
        super().check()
        entries = self.layers.split(",")
        if self.layers and not (len(entries) == 2 and all(entry.strip().isdecimal() for entry in entries)):
            raise ParameterError(
                f"Parameter 'layers' must be the first and the last layer, not {self.layers!r}: write for example -p "
                "layers 16,17."
            )

    def check_model(self, model: VisionLanguageModel) -> None:
        super().check_model(model)
        first, last = self.layers_for(model) or (0, 0)
        if first > last:
            raise ParameterError(f"Parameter 'layers' is {self.layers!r}: write the first layer first.")
        if last >= model.n_layers:
            raise ParameterError(
                f"Parameter 'layers' is {self.layers!r}, but model {model.name!r} has {model.n_layers} layers: choose "
                f"a first and a last one from 0 to {model.n_layers - 1}."
            )

    def layers_for(self, model: VisionLanguageModel) -> tuple[int, int] | None:
        """Return (first, last) of the layers whose mean contribution predicts: as named, or the paper's for its model.

        None: choose them on other questions than they are scored on.
        """
        if not self.layers:
            return PAPER_LAYERS.get((model.family.name, model.n_layers, model.hidden_size))
        first, last = self.layers.split(",")
        return int(first), int(last)
