"""The parameters of the notebooks about edits, with the defaults of their `parameters` cells."""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ..draws import seeded_hash
from ..errors import EditError, ParameterError
from ..models.model import VisionLanguageModel
from ..notebook import Limit, Positive, listed, named, one_of
from ..studies.parameters import SampleParameters
from ..testbed import TestBed, load_testbed
from .closed_form import LAMBDA
from .evaluation import Reference
from .fine_tuning import CONSTRAINED_DEFAULT, FineTuning
from .items import TASKS, WrongItems, references, wrong_items
from .optimized_value import OPTIMIZERS, SANDBOXED
from .study import EditSettings


class EditParameters(SampleParameters):
    """What the notebooks about edits share. `limit` counts the items that are edited for each task."""

    tasks: str = "correct,insert"
    layer: Annotated[int, Field(ge=0, description="it is the layer that is edited")] = 2
    lam: Annotated[float, Field(gt=0, description="it weighs the old weights")] = LAMBDA
    unrelated: Annotated[int, Field(ge=1, description="it counts the unrelated questions after each edit")] = 20

    def check(self) -> None:
        super().check()
        for task in listed(self.tasks) or [""]:
            one_of("tasks", task, TASKS)

    def select(self, testbed: TestBed, limit: int | None = None) -> TestBed:
        """Return all items of the parts, shuffled together. The first ones answered wrongly are edited."""
        items = super().select(testbed, limit=0)
        return replace(items, items=tuple(sorted(items, key=lambda item: seeded_hash(self.seed, item.id))))

    def check_model(self, model: VisionLanguageModel) -> None:
        if self.layer >= model.n_layers - 1:
            raise ParameterError(
                f"Parameter 'layer' is {self.layer}, but model {model.name!r} has {model.n_layers} layers, and no "
                f"later token reads the last one's output: choose 0 to {model.n_layers - 2}."
            )
        if model.server and model.server.sandboxed:
            raise ParameterError(f"Parameter 'remote': {SANDBOXED.format(where=model.server.host)}")

    def wrong_items(self, model: VisionLanguageModel, questions: TestBed) -> WrongItems:
        """Find the items to edit: task -> (item, the model's wrong answer)."""
        options = {"results_dir": self.results, "protocol": self.protocol}
        return {
            task: named("tasks", EditError, wrong_items, model, questions, task, self.limit, **options)
            for task in listed(self.tasks)
        }

    def whole_testbed(self) -> TestBed:
        """Load all items: unrelated questions, other pictures and questions that follow from a fact."""
        return load_testbed(self.testbed)

    def references(self, model: VisionLanguageModel) -> list[Reference]:
        """Ask the unrelated questions."""
        return references(model, self.whole_testbed(), self.seed, self.protocol, results_dir=self.results)

    @property
    def settings(self) -> EditSettings:
        return EditSettings(
            layers=(self.layer,), lam=self.lam, optimizer=OPTIMIZERS[self.protocol], n_unrelated=self.unrelated,
            seed=self.seed, protocol=self.protocol,
        )


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
    def settings(self) -> EditSettings:
        free = FineTuning(self.learning_rate)
        return replace(super().settings, fine_tuning=free, constrained=replace(free, epsilon=self.epsilon))

    @property
    def counts(self) -> list[int]:
        """The numbers of sequential edits after which the model is evaluated."""
        return [int(entry) for entry in listed(self.kept)]


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
