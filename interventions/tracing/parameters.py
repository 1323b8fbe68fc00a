"""The parameters of every notebook that draws a tracing figure; the defaults are those of its `parameters` cell."""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoConfig

from ..models.checkpoints import ALIASES, CHECKPOINTS, TWINS
from ..models.model import VisionLanguageModel
from ..studies.parameters import ParameterError, Parameters, at_least, listed, must_differ, one_of
from ..testbed import TestBed, load_testbed
from .causal_trace import KINDS
from .trace_parameters import TraceParameters, resolve_window, window_list


@dataclass(frozen=True)
class Fig1Parameters(TraceParameters):
    """notebooks/fig1_windows.ipynb"""

    text_model: str = "mini-text"
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
        """The windows that are drawn by layer, in layers of this model, smallest first."""
        return sorted({resolve_window("shown", window, model.n_layers) for window in window_list("shown", self.shown)})

    def widest(self, model: VisionLanguageModel) -> int:
        """The largest of the windows that are drawn."""
        return self.shown_windows(model)[-1]

    def for_claims(self, model: VisionLanguageModel) -> dict:
        """The windows that `claims.fig1_claims` reads."""
        return {"at": self.shown_windows(model)[0], "compared": self.widest(model)}

    def recorded(self, model: VisionLanguageModel, text_model: VisionLanguageModel) -> dict:
        """The parameters as the record keeps them."""
        return self.as_dict() | self.windows_in_layers(model) | {"text_model_revision": text_model.revision}

    def load_text_model(self) -> VisionLanguageModel:
        """The text-only model that `model` is compared with."""
        if self.text_model in ALIASES and self.model not in ALIASES and not self._same_vocabulary():
            raise ParameterError(
                f"Parameter 'text_model': {self.text_model!r} is no counterpart of {self.model!r}: name its text-only "
                "model, as params/models/ does."
            )
        model = self.load_model("text_model")
        if model.is_multimodal:
            raise ParameterError(
                f"Parameter 'text_model': {self.text_model!r} sees images, so nothing would be compared: "
                "name a text-only model, such as mini-text."
            )
        self.check_windows(model)
        return model

    def _same_vocabulary(self) -> bool:
        """Whether `model` is a directory whose text vocabulary is as large as that of `text_model`, an alias."""
        if not Path(self.model).exists():
            return False
        own, other = (AutoConfig.from_pretrained(path).get_text_config().vocab_size
                      for path in (self.model, CHECKPOINTS / self.text_model))
        return own == other


@dataclass(frozen=True)
class QuestionParameters(TraceParameters):
    """What the notebooks that show single questions share."""

    def pool(self) -> TestBed:
        """All questions that the sample is drawn from, in its order, see `example.first_used`."""
        return replace(self, limit=0).select(load_testbed(self.testbed))


@dataclass(frozen=True)
class Fig2Parameters(QuestionParameters):
    """notebooks/fig2_example.ipynb"""

    window: int | str = 3
    limit: int = 5
    parts: str = "known"

    figure: typing.ClassVar[str] = "fig2_example"


@dataclass(frozen=True)
class Fig3Parameters(TraceParameters):
    """notebooks/fig3_trace.ipynb"""

    window: int | str = 3
    controls: int = 10
    control_model: str = ""

    figure: typing.ClassVar[str] = "fig3_trace"

    def check(self) -> None:
        super().check()
        at_least("controls", self.controls, 0, "it counts the questions of each part that controls run on")
        must_differ("control_model", self.control_model, self.model)

    def for_controls(self) -> dict:
        """The arguments of `controls.run_controls`."""
        return {
            "limit": self.controls,
            "twin": self.load_control_model(),
            "seed": self.seed,
            "min_p_clean": self.min_p_clean,
            "results_dir": self.results,
            "remote": self.remote,
        }

    def load_control_model(self) -> VisionLanguageModel | None:
        """A model that takes another route: `control_model`, or the twin of `mini`; None without controls or a twin."""
        name = self.control_model or TWINS.get(self.model, "")
        if not name or not self.controls:
            return None
        model = self.load_model("control_model", name)
        self.check_windows(model)
        return model


@dataclass(frozen=True)
class Fig4Parameters(TraceParameters):
    """notebooks/fig4_constraints.ipynb"""

    window: int | str = "6/32"
    windows: str = "1,3,6,8"
    constraints: str = "multi"

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

    def select(self, testbed: TestBed) -> TestBed:
        selected = super().select(testbed)
        for item in selected:
            if item.constraints != "multi":
                raise ParameterError(
                    f"Parameter 'items': question {item.id!r} has no text constraint: name questions with two."
                )
        return selected


@dataclass(frozen=True)
class Fig7Parameters(TraceParameters):
    """notebooks/fig7_standard.ipynb"""

    window: int | str = "10/32"
    compared_window: int | str = 3
    corruption: str = "standard"
    parts: str = "known,movies"

    figure: typing.ClassVar[str] = "fig7_standard"

    def for_comparison(self, model: VisionLanguageModel) -> dict:
        """The arguments of `study.trace_study` for the run that standard tracing is compared with, that of Figure 3."""
        return self.for_study(self.window_in(model, "compared_window"), corruption="")


@dataclass(frozen=True)
class Fig8Parameters(QuestionParameters):
    """notebooks/fig8_questions.ipynb, which draws Figures 8 to 13; its files are named by the figure."""

    figure: str = "fig8_questions"
    window: int | str = 1
    limit: int = 1
    kinds: str = "mlp,attention"

    def check(self) -> None:
        super().check()
        one_of("figure", self.figure, [f"fig{number}_questions" for number in range(8, 14)])
        for kind in self.shown_kinds or [""]:
            one_of("kinds", kind, KINDS)

    @property
    def shown_kinds(self) -> list[str]:
        """The kinds that have a map; both are traced, so that they can be compared."""
        return listed(self.kinds)


@dataclass(frozen=True)
class Table1Parameters(Parameters):
    """notebooks/table1_testbed.ipynb"""

    limit: int = 0
    parts: str = ""
    examples: int = 3

    figure: typing.ClassVar[str] = "table1_testbed"

    def check(self) -> None:
        super().check()
        at_least("examples", self.examples, 1, "it counts the questions shown of each part")

    def select(self, testbed: TestBed) -> TestBed:
        for part in listed(self.parts):
            one_of("parts", part, testbed.parts)
        return testbed.select(listed(self.parts) or None)
