"""The parameters of every notebook that draws a tracing figure; the defaults are those of its `parameters` cell."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import pandas as pd
from nnsight.modeling.quantization import QUANTIZATIONS
from pydantic import Field

from ..engine.windows import WINDOW_RULES
from ..errors import ParameterError
from ..models.checkpoints import BASE_MODELS, CONTROL_MODELS, TEXT_MODELS
from ..models.model import VisionLanguageModel
from ..notebook import Limit, listed, one_of
from ..studies.conditions import CONSTRAINTS, CORRUPTIONS, Conditions
from ..studies.parameters import (
    SampleParameters,
    must_differ,
    parse_window,
    resolve_window,
    window_list,
    window_sentence,
)
from ..studies.transplant import transplant_shares
from ..testbed import TestBed, load_testbed
from .causal_trace import KINDS
from .examples import first_used
from .precision import DTYPES, REFERENCE
from .study import TraceStudy
from .transplant import COLUMNS, transplant_study

# Pydantic reads the values of a Literal from a tuple.
# pyright: reportInvalidTypeForm=false


class TraceParameters(SampleParameters):
    """The parameters shared by notebooks that trace; each notebook adds its window or windows."""

    window_rule: Literal[("", *WINDOW_RULES)] = ""
    corruption: Literal[("", *CORRUPTIONS)] = ""
    corrupted: Literal[("", *CONSTRAINTS)] = ""
    noise_samples: Annotated[int, Field(ge=1, description="effects are means over so many draws of noise")] = 10
    min_p_clean: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def check(self) -> None:
        super().check()
        for name, windows in self._windows().items():
            for window in windows:
                parse_window(name, window)
        if self.constraints == "single" and self.corrupted in ("text", "both"):
            raise ParameterError(
                f"Parameter 'corrupted' cannot be {self.corrupted!r} where constraints is 'single': these questions "
                "have no text constraint, so use 'visual' or set constraints to 'multi'."
            )

    def check_model(self, model: VisionLanguageModel) -> None:
        self.check_windows(model)

    def check_windows(self, model: VisionLanguageModel) -> None:
        """Raise ParameterError for a window that the model is too small for."""
        for name, windows in self._windows().items():
            for window in windows:
                resolve_window(name, window, model.n_layers)

    def _windows(self) -> dict[str, list[int | str]]:
        """Return the notebook's window parameters, name -> windows as written."""
        found = {name: [getattr(self, name)] for name in ("window", "compared_window") if hasattr(self, name)}
        windows = getattr(self, "windows", None)
        return found | ({} if windows is None else {"windows": window_list("windows", windows)})

    def window_in(self, model: VisionLanguageModel, name: str = "window") -> int:
        """Return how many layers a parameter's window has in this model."""
        return resolve_window(name, getattr(self, name), model.n_layers)

    def windows_swept(self, model: VisionLanguageModel) -> list[int]:
        """Return the windows of a sweep, with the figure's own, in layers of this model, smallest first."""
        written = [(name, window) for name, windows in self._windows().items() for window in windows]
        return sorted({resolve_window(name, window, model.n_layers) for name, window in written})

    def windows_in_layers(self, model: VisionLanguageModel) -> dict[str, int | list[int]]:
        """Return the windows in layers of this model, as the record keeps them beside the parameters."""
        single = {f"{name}_layers": self.window_in(model, name)
                  for name in ("window", "compared_window") if hasattr(self, name)}
        return single | ({"windows_layers": self.windows_swept(model)} if hasattr(self, "windows") else {})

    def windows_sentence(self, model: VisionLanguageModel) -> str:
        """Return a sentence for each window parameter: "Window: 10/32 of the depth, 3 of 8 layers."."""
        return " ".join(window_sentence(name, getattr(self, name), model.n_layers, self.rule)
                        for name in self._windows())

    @property
    def rule(self) -> str:
        """The window rule, the protocol's if none is named."""
        return Conditions(self.protocol, self.window_rule).window_rule

    @property
    def conditions(self) -> Conditions:
        """The conditions of the figure's traces."""
        return self.conditions_with()

    def conditions_with(self, **changes) -> Conditions:
        """Return the conditions with some of their fields changed."""
        names = ("protocol", "window_rule", "corruption", "corrupted", "noise_samples")
        values: dict[str, typing.Any] = {name: getattr(self, name) for name in names}
        values |= {"noise_seed": self.seed} | changes
        return Conditions(**values)


class TransplantParameters(TraceParameters):
    """The parameters shared by notebooks that show what the restored output carries."""

    transplant: Annotated[int, Field(ge=0, description="it counts the transplanted questions of each part")] = 30

    def transplanted(self, model: VisionLanguageModel, study: TraceStudy) -> pd.DataFrame:
        """Return the `transplant_shares` of a study's first `transplant` questions of each part.

        The other items are drawn from the whole test bed.
        """
        if not self.transplant:
            return transplant_shares(pd.DataFrame(columns=COLUMNS))
        bed = load_testbed(self.testbed)
        return transplant_shares(
            transplant_study(model, bed, study, limit=self.transplant, seed=self.seed, run=self.run)
        )


class Fig1Parameters(TransplantParameters):
    """notebooks/fig1_windows.ipynb"""

    text_model: str = ""
    base_model: str = ""
    windows: str = "1,2,3,4,5,6,8"
    shown: str = "1,5"
    parts: str = "known"

    figure: typing.ClassVar[str] = "fig1_windows"

    def check(self) -> None:
        super().check()
        swept = window_list("windows", self.windows)
        for window in window_list("shown", self.shown):
            if window not in swept:
                raise ParameterError(
                    f"Parameter 'shown' names window {window}, which is not among windows: choose from {self.windows}."
                )

    def shown_windows(self, model: VisionLanguageModel) -> list[int]:
        """Return the windows that are drawn by layer, in layers of this model, smallest first."""
        return sorted({resolve_window("shown", window, model.n_layers) for window in window_list("shown", self.shown)})

    def widest(self, model: VisionLanguageModel) -> int:
        """Return the largest of the windows that are drawn."""
        return self.shown_windows(model)[-1]

    def recorded(self, model: VisionLanguageModel, text_models: dict[str, VisionLanguageModel]) -> dict:
        """Return the parameters as the record keeps them."""
        parameters = {"text only": "text_model", "text only, base": "base_model"}
        return self.as_dict() | self.windows_in_layers(model) | {
            f"{parameters[series]}_revision": text_model.revision for series, text_model in text_models.items()
        }

    def load_text_models(self) -> dict[str, VisionLanguageModel]:
        """Load the text-only models that `model` is compared with.

        Returns:
            "text only": `text_model`, or the language model of an embedded or pretrained model. "text only, base":
            `base_model`, the language model before it saw images; not there for models that have none.
        """
        names = {
            "text_model": self.text_model or TEXT_MODELS.get(self.model, ""),
            "base_model": self.base_model or BASE_MODELS.get(self.model, ""),
        }
        if not names["text_model"]:
            raise ParameterError(
                f"Parameter 'text_model' is empty, and {self.model!r} has no known counterpart: name its text-only "
                "model, as params/models/ does."
            )
        return {series: self._load_text_model(parameter, names[parameter])
                for parameter, series in (("text_model", "text only"), ("base_model", "text only, base"))
                if names[parameter]}

    def _load_text_model(self, parameter: str, name: str) -> VisionLanguageModel:
        model = self.load_model(parameter, name)
        if model.is_multimodal:
            raise ParameterError(
                f"Parameter {parameter!r}: {name!r} sees images, so nothing would be compared: "
                "name a text-only model, such as mini-text."
            )
        self.check_windows(model)
        return model


class QuestionParameters(TraceParameters):
    """What the notebooks that show single questions share."""

    def pool(self) -> TestBed:
        """Return all questions that the sample is drawn from, in order, see `examples.first_used`."""
        return self.select(load_testbed(self.testbed), limit=0)


class Fig2Parameters(QuestionParameters):
    """notebooks/fig2_example.ipynb"""

    window: int | str = 3
    limit: Limit = 5
    parts: str = "known"

    figure: typing.ClassVar[str] = "fig2_example"


class Fig3Parameters(TransplantParameters):
    """notebooks/fig3_trace.ipynb"""

    window: int | str = 3
    controls: Annotated[int, Field(ge=0, description="it counts the questions of each part that controls run on")] = 10
    control_model: str = ""

    figure: typing.ClassVar[str] = "fig3_trace"

    def check(self) -> None:
        super().check()
        must_differ("control_model", self.control_model, self.model)

    def load_control_model(self) -> VisionLanguageModel | None:
        """Load the control model: `control_model`, or `mini-free` for `mini`; None without controls or such a model."""
        name = self.control_model or CONTROL_MODELS.get(self.model, "")
        if not name or not self.controls:
            return None
        model = self.load_model("control_model", name)
        self.check_windows(model)
        return model


class Fig4Parameters(TransplantParameters):
    """notebooks/fig4_constraints.ipynb"""

    window: int | str = "6/32"
    windows: str = "1,3,6,8"
    constraints: Literal["single", "multi"] = "multi"

    figure: typing.ClassVar[str] = "fig4_constraints"

    def check(self) -> None:
        super().check()
        if self.constraints != "multi":
            raise ParameterError(
                f"Parameter 'constraints' must be 'multi', not {self.constraints!r}: this figure is about questions "
                "with two."
            )
        if self.corrupted:
            raise ParameterError(
                f"Parameter 'corrupted' cannot be {self.corrupted!r} here, where the text constraint is corrupted and "
                "then the visual one: leave it empty."
            )

    def select(self, testbed: TestBed, limit: int | None = None) -> TestBed:
        selected = super().select(testbed, limit)
        for item in selected:
            if item.constraints != "multi":
                raise ParameterError(
                    f"Parameter 'items': question {item.id!r} has no text constraint: name questions with two."
                )
        return selected


class Fig7Parameters(TraceParameters):
    """notebooks/fig7_standard.ipynb"""

    window: int | str = "10/32"
    compared_window: int | str = 3
    corruption: Literal[("", *CORRUPTIONS)] = "standard"
    parts: str = "known,movies"

    figure: typing.ClassVar[str] = "fig7_standard"



class Fig8Parameters(QuestionParameters, TransplantParameters):
    """notebooks/fig8_questions.ipynb, which draws Figures 8 to 13; its files are named by the figure."""

    figure: Literal[tuple(f"fig{number}_questions" for number in range(8, 14))] = "fig8_questions"
    window: int | str = 1
    limit: Limit = 1
    kinds: str = "mlp,attention"

    def check(self) -> None:
        super().check()
        for kind in self.shown_kinds or [""]:
            one_of("kinds", kind, KINDS)

    def transplanted_sample(self, model: VisionLanguageModel, pool: TestBed) -> pd.DataFrame:
        """Return the `transplant_shares` of more questions than are shown: the first used ones of each part."""
        if not self.transplant:
            return transplant_shares(pd.DataFrame(columns=COLUMNS))
        study = first_used(
            model, pool, self.transplant, window=self.window_in(model), conditions=self.conditions,
            min_p_clean=self.min_p_clean, only_read=True, run=replace(self.run, label="questions to transplant"),
        )
        shares = self.transplanted(model, study)
        return shares[shares["kind"].isin(self.shown_kinds)]

    @property
    def shown_kinds(self) -> list[str]:
        """The kinds that have a map; both are traced."""
        return listed(self.kinds)


class PrecisionParameters(TraceParameters):
    """notebooks/precision_modes.ipynb"""

    window: int | str = 3
    limit: Limit = 5
    dtypes: str = "bfloat16,float16"

    figure: typing.ClassVar[str] = "precision_modes"

    def check(self) -> None:
        super().check()
        for dtype in listed(self.dtypes) or [""]:
            one_of("dtypes", dtype, DTYPES)
        if self.dtype in QUANTIZATIONS:
            raise ParameterError(
                f"Parameter 'dtype' cannot be {self.dtype!r} here, where precisions are compared: name it in dtypes."
            )
        if self.remote:
            raise ParameterError(
                "Parameter 'remote' cannot be True here: a server has its model in one precision, so leave it out."
            )

    def load_model(self, parameter: str, name: str = "", dtype: str = REFERENCE) -> VisionLanguageModel:
        """Load the model that a parameter names in one precision; the parameter `dtype` is not used."""
        return super().load_model(parameter, name, dtype=dtype)

    def models_by_dtype(self) -> Iterator[VisionLanguageModel]:
        """Yield the model in each of `dtypes`, loaded one after the other."""
        return (self.load_model("model", dtype=dtype) for dtype in listed(self.dtypes))
