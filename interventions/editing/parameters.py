"""The parameters of the notebooks about edits; the defaults are those of their `parameters` cells."""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ..draws import seeded_hash
from ..errors import ParameterError
from ..models.model import VisionLanguageModel
from ..notebook import Limit, Positive, listed, one_of
from ..studies.parameters import SampleParameters
from ..testbed import TestBed, load_testbed
from .closed_form import LAMBDA
from .evaluation import Reference
from .fine_tuning import CONSTRAINED_DEFAULT, FineTuning
from .items import TASKS, Chosen, references, wrong_items
from .optimized_value import OPTIMIZERS, SANDBOXED
from .study import Editing


class EditParameters(SampleParameters):
    """What the notebooks about edits share; limit counts the questions edited of each task."""

    tasks: str = "correct,insert"
    layer: Annotated[int, Field(ge=0, description="it is the layer that is edited")] = 2
    lam: Annotated[float, Field(gt=0, description="it weighs the old weights")] = LAMBDA
    unrelated: Annotated[int, Field(ge=1, description="it counts the unrelated questions after each edit")] = 20

    def check(self) -> None:
        super().check()
        for task in listed(self.tasks) or [""]:
            one_of("tasks", task, TASKS)

    def select(self, testbed: TestBed, limit: int | None = None) -> TestBed:
        """All questions of the parts, shuffled together: those that are edited are the first wrong ones among them."""
        found = super().select(testbed, limit=0)
        return replace(found, items=tuple(sorted(found, key=lambda item: seeded_hash(self.seed, item.id))))

    def check_model(self, model: VisionLanguageModel) -> None:
        if self.layer >= model.n_layers - 1:
            raise ParameterError(
                f"Parameter 'layer' is {self.layer}, but model {model.name!r} has {model.n_layers} layers, of which no "
                f"token reads the last one's output: choose 0 to {model.n_layers - 2}."
            )
        if model.server and model.server.sandboxed:
            raise ParameterError(f"Parameter 'remote': {SANDBOXED.format(where=model.server.host)}")

    def chosen(self, model: VisionLanguageModel, questions: TestBed) -> Chosen:
        """Task -> the questions to edit, answered wrongly now, each with what the model says."""
        options = {"results_dir": self.results, "protocol": self.protocol}
        return {task: wrong_items(model, questions, task, self.limit, **options) for task in listed(self.tasks)}

    def whole_testbed(self) -> TestBed:
        """Where unrelated questions, other pictures and questions that follow come from."""
        return load_testbed(self.testbed)

    def pool(self, model: VisionLanguageModel) -> list[Reference]:
        return references(model, self.whole_testbed(), self.seed, self.protocol, results_dir=self.results)

    @property
    def settings(self) -> Editing:
        return Editing(
            layers=(self.layer,), lam=self.lam, optimizer=OPTIMIZERS[self.protocol], n_unrelated=self.unrelated,
            seed=self.seed, protocol=self.protocol,
        )

    def for_study(self) -> dict:
        """The arguments of `edit_study.edit_study`, and of `edit_every_layer`."""
        return {"settings": self.settings, "run": self.run}


class Fig6Parameters(EditParameters):
    """notebooks/fig6_editing.ipynb"""

    limit: Limit = 20
    learning_rate: Positive = FineTuning.learning_rate
    epsilon: Positive = CONSTRAINED_DEFAULT.epsilon
    kept: str = "1,10,50"

    figure: typing.ClassVar[str] = "fig6_editing"

    def check(self) -> None:
        super().check()
        if not all(entry.isdecimal() and int(entry) for entry in listed(self.kept)):
            raise ParameterError(
                f"Parameter 'kept' must be numbers of edits, at least 1, not {self.kept!r}: write for example 1,10,50."
            )

    @property
    def settings(self) -> Editing:
        free = FineTuning(self.learning_rate)
        return replace(super().settings, fine_tuning=free, constrained=replace(free, epsilon=self.epsilon))

    @property
    def counts(self) -> list[int]:
        """After how many kept edits the model is looked at."""
        return [int(entry) for entry in listed(self.kept)]

    def for_kept(self) -> dict:
        """The arguments of `sequential_edits.sequential_edits`."""
        return {"settings": self.settings, "counts": self.counts, "results_dir": self.results}


class Fig14Parameters(EditParameters):
    """notebooks/fig14_layers.ipynb"""

    limit: Limit = 10

    figure: typing.ClassVar[str] = "fig14_layers"


class Fig18Parameters(EditParameters):
    """notebooks/fig18_inserted.ipynb"""

    limit: Limit = 6
    tasks: str = "insert"

    figure: typing.ClassVar[str] = "fig18_inserted"

    def check(self) -> None:
        super().check()
        if self.tasks not in TASKS:
            raise ParameterError(f"Parameter 'tasks' must be one of {', '.join(TASKS)} here, not {self.tasks!r}.")
