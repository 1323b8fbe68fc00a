"""The state of an exploration (one model, one question, what was measured) and its actions, without widgets.

Every action is a generator of `worker.Step`s. Iterate over it, `for step in exploration.trace(Settings()): ...`, or
let a `Worker` run it in a thread. An action stores its result at its end, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..attention.contributions import FLOWS, attention_contributions
from ..attention.knockout import AttentionKnockout, attention_knockout
from ..editing.edit import Edit, apply_edits
from ..editing.multedit import edit_facts
from ..errors import AttentionError, ModelError
from ..models.loading import load_model
from ..models.model import VisionLanguageModel
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..studies.conditions import Conditions, clean_prompt, corrupted_roles
from ..testbed import Item, TestBed
from ..testbed.answers import is_accepted
from ..tracing.causal_trace import KINDS, CausalTrace, Scoring, trace
from ..tracing.examples import TracedQuestion, WorkedExample, example_at
from ..tracing.study import shown_positions
from .draft import Draft, corrupt
from .worker import Step, Steps

STOP_DELAY = 1.0  # seconds that one piece of a trace should take, so that Stop takes no longer
READERS = ("constraint", "last")  # the tokens that read the image: the last one of the visual constraint, of the prompt


@dataclass(frozen=True)
class Settings:
    """How a question is traced, see `trace` and `Conditions`."""

    window: int = 3
    kinds: tuple[str, ...] = KINDS
    answer_score: str = "first_token"
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class TraceResult:
    """A trace and the worked example of one of its sites.

    Attributes:
        best: (kind, position, layer) of the best site at the last token of the corrupted constraint.
        example: The worked example of the site that is shown (`example.site`).
    """

    item: Item
    prompt: Prompt
    corrupted: CorruptedPrompt
    settings: Settings
    result: CausalTrace
    best: tuple[str, int, int]
    example: WorkedExample | None = None


@dataclass(frozen=True)
class ContributionResult:
    """Contributions by layer.

    Attributes:
        view: What the model sees of the image, see `model.image_view`.
        visual: By name of READERS, from each visual token to the reader [layers, visual tokens].
        to_last: From each token of the constraint to the last token [layers, tokens].
        tokens: The tokens of the constraint.
        grid: Rows and columns of the visual tokens.
    """

    image: Path | None
    view: str
    visual: dict[str, np.ndarray]
    to_last: np.ndarray
    tokens: tuple[str, ...]
    grid: tuple[int, int]


@dataclass(frozen=True)
class KnockoutResult:
    """A knock-out of the layers `first` to `last`, and of all other windows of this width."""

    result: AttentionKnockout
    first: int
    last: int

    def p_blocked(self, flow: str) -> float:
        """Return P(answer) with the flow blocked in these layers."""
        center = self.first + self.result.window // 2
        return float(self.result.p_blocked[self.result.flows.index(flow), center])


@dataclass(frozen=True)
class AnswerPair:
    """A question about an image, and the answers of the unedited and the edited model."""

    question: str
    image: Path | None
    unedited: str
    edited: str


class Exploration:
    """One model, the question in the form (`draft`), and the results for it.

    A trace uses the chat format of its protocol; everything else uses that of the model. Traces, contributions and
    knock-outs run on the model without the edits.

    Attributes:
        model: The model as it was loaded; `edited` is the model with all edits applied.
        edits: The edits in the order in which they were made, each on top of those before.
        answers: The questions that both models were asked.
        loading: The arguments of `load_model` for every other model.
    """

    def __init__(self, model: VisionLanguageModel, testbed: TestBed, **loading) -> None:
        self.testbed, self.loading = testbed, loading
        self._draft = Draft()
        self._use(model)

    @property
    def draft(self) -> Draft:
        return self._draft

    @draft.setter
    def draft(self, draft: Draft) -> None:
        """Set another question and drop the results of the one before."""
        if draft != self._draft:
            self._draft = draft
            self._drop_results()

    def problem(self, conditions: Conditions | None = None) -> str:
        """Return what is wrong with the question, or "". With `conditions`, a trace's corruption is checked too."""
        return self._draft.problem(self.model, conditions)

    def is_right(self, answer: str) -> bool | None:
        """Return whether an answer is accepted; None if the draft gives no answers."""
        accepted = self._draft.accepted
        return is_accepted(answer, accepted) if accepted else None

    def load(self, name: str) -> Steps:
        """Load another model and drop the edits, which were made for the one before."""
        yield Step(f"Loading {name}")
        model = load_model(name.strip(), **self.loading)
        yield Step(f"Loading {name}")  # Stop still works here
        self._use(model)

    def trace(self, settings: Settings) -> Steps:
        """Trace the question, then work out the best site at the corrupted constraint."""
        item, conditions = self._draft.item(), settings.conditions
        prompt = clean_prompt(self.model, item, conditions)
        corrupted = corrupt(self.model, item, prompt, conditions)
        result = yield from self._traced(settings, prompt, corrupted)
        yield Step("Restoring the best site", 1, 1)
        position = prompt.positions(corrupted_roles(item, conditions)[0])[-1]
        at_token = result.restored[:, result.positions.index(position)]
        kind, layer = np.unravel_index(at_token.argmax(), at_token.shape)
        best = result.kinds[kind], position, int(layer)
        self.trace_result = self._with_example(TraceResult(item, prompt, corrupted, settings, result, best), best)

    def restore(self, site: tuple[str, int, int]) -> Steps:
        """Restore another site (kind, position, layer) of the trace and see what the model says."""
        yield Step("Restoring the site")
        self.trace_result = self._with_example(self.trace_result, site)  # pyright: ignore[reportArgumentType]

    def compute_contributions(self) -> Steps:
        """Compute the contributions of visual tokens and of the constraint in all layers."""
        yield Step("Computing contributions")
        prompt = self._prompt()
        grid = self.model.patch_grid(prompt)
        if grid is None:
            raise AttentionError(
                f"model {self.model.name!r} has {len(prompt.visual)} visual tokens of this image, which do not form "
                "one grid to draw over it: use attention_contributions in Python."
            )
        readers = dict(zip(READERS, (prompt.constraint[-1], prompt.last), strict=True))  # may be one token
        result = attention_contributions(
            self.model, prompt, queries=readers.values(), keys=(*prompt.visual, *prompt.constraint))

        def norms(reader: int, sources: tuple[int, ...]) -> np.ndarray:
            return result.norms[:, result.queries.index(reader), np.isin(result.keys, sources)]

        self.contributions = ContributionResult(
            self._draft.image, self.model.image_view(prompt.protocol),
            {name: norms(position, prompt.visual) for name, position in readers.items()},
            norms(prompt.last, prompt.constraint), tuple(prompt.tokens[i] for i in prompt.constraint), grid,
        )

    def block(self, flows: tuple[str, ...], first: int, last: int) -> Steps:
        """Block flows of `FLOWS` in the layers first to last, and in every other window of this width."""
        yield Step("Blocking attention")
        chosen = {name: FLOWS[name] for name in flows}
        result = attention_knockout(self.model, self._prompt(), flows=chosen, window=last - first + 1)
        self.knockout = KnockoutResult(result, first, last)

    def ask(self, question: str) -> Steps:
        """Ask the unedited and the edited model a question about the image."""
        yield Step("Asking")
        self.answers = (*self.answers, self._ask(question, self._draft.image, self.edited))

    def edit(self, target: str, layer: int) -> Steps:
        """Make the edited model answer the question with `target`, then ask all questions again."""
        yield Step("Optimizing the edit")
        item, answers = self._draft.item(), self.answers
        edit = edit_facts(self.edited, [(self._prompt(), target)], layers=[layer])
        if (item.question, item.image) not in {(pair.question, pair.image) for pair in answers}:
            answers = (*answers, AnswerPair(item.question, item.image, "", ""))
        yield from self._with_edits((*self.edits, edit), answers)

    def undo(self, index: int) -> Steps:
        """Undo an edit and those made on top of it, then ask all questions again."""
        yield from self._with_edits(self.edits[:index], self.answers)

    def _use(self, model: VisionLanguageModel) -> None:
        if not model.is_multimodal:
            raise ModelError(f"model {model.name!r} reads text only: choose one that sees images, such as mini.")
        self.model = self.edited = model
        self.edits: tuple[Edit, ...] = ()
        self.answers: tuple[AnswerPair, ...] = ()
        self._drop_results()

    def _prompt(self) -> Prompt:
        return clean_prompt(self.model, self._draft.item(), Conditions())

    def _drop_results(self) -> None:
        self.trace_result: TraceResult | None = None
        self.contributions: ContributionResult | None = None
        self.knockout: KnockoutResult | None = None

    def _traced(
        self, settings: Settings, prompt: Prompt, corrupted: CorruptedPrompt
    ) -> Generator[Step, None, CausalTrace]:
        """Trace in pieces, and double the number of tokens of a piece while pieces are fast."""
        positions = shown_positions(prompt)
        parts, done, size, answer = [], 0, 1, None
        while done < len(positions):
            yield Step("Tracing", done, len(positions))
            began = time.monotonic()
            part = trace(
                self.model, prompt, corrupted, window=settings.window, kinds=settings.kinds,
                window_rule=settings.conditions.window_rule, positions=positions[done : done + size], answer=answer,
                scoring=Scoring(settings.answer_score, require_top=False),
            )
            parts.append(part)
            done, answer = done + size, part.answer_ids
            size *= 2 if time.monotonic() - began < STOP_DELAY / 2 else 1
        return replace(
            parts[0], positions=positions, tokens=tuple(prompt.tokens[i] for i in positions),
            roles=tuple(prompt.roles[i] for i in positions),
            restored=np.concatenate([part.restored for part in parts], axis=1),
        )

    def _with_example(self, traced: TraceResult, site: tuple[str, int, int]) -> TraceResult:
        result, settings = traced.result, traced.settings
        question = TracedQuestion(
            traced.item, traced.prompt, traced.corrupted, result.to_frame(), result.answer_text, result.answer_ids,
            settings.conditions, settings.window,
        )
        return replace(traced, example=example_at(self.model, question, site))

    def _with_edits(self, edits: tuple[Edit, ...], answers: tuple[AnswerPair, ...]) -> Steps:
        edited, again = apply_edits(self.model, edits), []
        for i, pair in enumerate(answers):
            yield Step("Asking again", i, len(answers))
            again.append(self._ask(pair.question, pair.image, edited, pair.unedited))
        self.edits, self.edited, self.answers = edits, edited, tuple(again)

    def _ask(
        self, question: str, image: Path | None, edited: VisionLanguageModel, unedited: str = ""
    ) -> AnswerPair:
        unedited = unedited or self.model.generate_answer(image, question)
        answer = edited.generate_answer(image, question) if edited.edits else unedited
        return AnswerPair(question, image, unedited, answer)
