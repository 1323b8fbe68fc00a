"""What is known of one question on one model, and the actions that find it out; no widget.

Every action is a generator of `work.Step`s: run it to its end, `for step in exploration.trace(Settings()): ...`, or
let `Work` run it in a thread. Its result is taken over at its end only, or not at all.
"""

from __future__ import annotations

import math
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
from ..studies.conditions import Conditions, corrupted_roles
from ..testbed import Item, TestBed
from ..testbed.answers import is_accepted
from ..tracing.causal_trace import KINDS, CausalTrace, Scoring, trace
from ..tracing.examples import TracedQuestion, WorkedExample, example_at
from ..tracing.study import shown_positions
from .draft import Draft
from .work import Step, Steps

PATIENCE = 1.0  # seconds that a piece of a trace should take: that long a person waits after Stop


class Exploration:
    """One model, one question as it stands in a form (`draft`), and what was found out about it.

    A trace has the chat format of its protocol, all else the model's own. A trace, contributions and knock-outs are of
    the model without the edits.
    loading: the arguments with which `load` loads another model, as of `load_model`. edits are in force in the order in
    which they were made, each on those before it.
    """

    def __init__(self, model: VisionLanguageModel, testbed: TestBed, **loading) -> None:
        self.testbed, self.loading = testbed, loading
        self._draft = Draft()
        self._use(model)

    # What stands

    @property
    def draft(self) -> Draft:
        return self._draft

    @draft.setter
    def draft(self, draft: Draft) -> None:
        """Another question: what was found out about the one before is gone."""
        if draft != self._draft:
            self._draft = draft
            self._forget()

    def problem(self, conditions: Conditions | None = None) -> str:
        """Why nothing can be run on the question, in a sentence, or "". conditions: those of a trace, whose corruption
        must be possible, too."""
        return self._draft.problem(self.model, conditions)

    def is_right(self, answer: str) -> bool | None:
        """Whether an answer is accepted; None where nobody said what is."""
        accepted = self._draft.accepted
        return is_accepted(answer, accepted) if accepted else None

    # Actions

    def load(self, name: str) -> Steps:
        """Another model. Edits were made for the one before, and go with it."""
        yield Step(f"Loading {name}")
        model = load_model(name.strip(), **self.loading)
        yield Step(f"Loading {name}")  # here, Stop still leaves everything as it was
        self._use(model)

    def trace(self, settings: Settings) -> Steps:
        """Trace the question, then work out the best site at the corrupted constraint."""
        item, conditions = self._draft.item(), settings.conditions
        prompt = self._draft.prompt(self.model, conditions)
        corrupted = self._draft.corrupted(self.model, prompt, conditions)
        result = yield from self._traced(settings, prompt, corrupted)
        yield Step("Looking at the best site", 1, 1)
        best = _best(result, prompt.positions(corrupted_roles(item, conditions)[0])[-1])
        self.traced = self._with_example(Traced(item, prompt, corrupted, settings, result, best), best)

    def restore(self, site: tuple[str, int, int]) -> Steps:
        """What the model would say with another site (kind, position, layer) of the trace restored."""
        yield Step("Restoring the site")
        self.traced = self._with_example(self.traced, site)

    def contribute(self) -> Steps:
        """Contributions in all layers, of visual tokens and of the constraint."""
        yield Step("Computing contributions")
        prompt = self._draft.prompt(self.model, Conditions())
        if math.isqrt(len(prompt.visual)) ** 2 != len(prompt.visual):  # images in tiles
            raise AttentionError(
                f"model {self.model.name!r} has {len(prompt.visual)} visual tokens of this image, which are no square "
                "that could be drawn over it: use attention_contributions in Python."
            )
        readers = dict(zip(READERS, (prompt.constraint[-1], prompt.last), strict=True))  # one token, if it ends there
        found = attention_contributions(
            self.model, prompt, queries=readers.values(), keys=(*prompt.visual, *prompt.constraint))

        def norms(reader: int, read: tuple[int, ...]) -> np.ndarray:
            return found.norms[:, found.queries.index(reader), np.isin(found.keys, read)]

        visual = {name: norms(position, prompt.visual) for name, position in readers.items()}
        tokens = tuple(prompt.tokens[i] for i in prompt.constraint)
        view, to_last = self.model.image_view(prompt.protocol), norms(prompt.last, prompt.constraint)
        self.contributed = Contributed(self._draft.image, view, visual, to_last, tokens)

    def block(self, flows: tuple[str, ...], first: int, last: int) -> Steps:
        """Block flows of `attention.FLOWS` in the layers first to last, and in every other window as wide."""
        yield Step("Blocking the flow")
        prompt = self._draft.prompt(self.model, Conditions())
        chosen = {name: FLOWS[name] for name in flows}
        found = attention_knockout(self.model, prompt, flows=chosen, window=last - first + 1)
        self.blocked = Blocked(found, first, last)

    def ask(self, question: str) -> Steps:
        """Ask both the unedited and the edited model about the image."""
        yield Step("Asking")
        self.asked = (*self.asked, self._ask(question, self._draft.image, self.edited))

    def edit(self, target: str, layer: int) -> Steps:
        """Make the edited model answer the question with `target`, and ask everything again."""
        yield Step("Finding the value of the edit")
        item, prompt = self._draft.item(), self._draft.prompt(self.model, Conditions())
        edit = edit_facts(self.edited, [(prompt, target)], layers=[layer])
        asked = self.asked
        if (item.question, item.image) not in {(one.question, one.image) for one in asked}:
            asked = (*asked, BothAnswers(item.question, item.image, "", ""))
        yield from self._with_edits((*self.edits, edit), asked)

    def undo(self, place: int) -> Steps:
        """Take an edit back, and those made on top of it, and ask everything again."""
        yield from self._with_edits(self.edits[:place], self.asked)

    # How

    def _use(self, model: VisionLanguageModel) -> None:
        if not model.is_multimodal:
            raise ModelError(f"model {model.name!r} reads text only: choose one that sees images, such as mini.")
        self.model = self.edited = model
        self.edits: tuple[Edit, ...] = ()
        self.asked: tuple[BothAnswers, ...] = ()
        self._forget()

    def _forget(self) -> None:
        self.traced: Traced | None = None
        self.contributed: Contributed | None = None
        self.blocked: Blocked | None = None

    def _traced(
        self, settings: Settings, prompt: Prompt, corrupted: CorruptedPrompt
    ) -> Generator[Step, None, CausalTrace]:
        """A trace in pieces, each of more tokens than the one before while they are quick."""
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
            size *= 2 if time.monotonic() - began < PATIENCE / 2 else 1
        return replace(
            parts[0], positions=positions, tokens=tuple(prompt.tokens[i] for i in positions),
            roles=tuple(prompt.roles[i] for i in positions),
            restored=np.concatenate([part.restored for part in parts], axis=1),
        )

    def _with_example(self, traced: Traced, site: tuple[str, int, int]) -> Traced:
        result, settings = traced.result, traced.settings
        question = TracedQuestion(
            traced.item, traced.prompt, traced.corrupted, result.to_frame(), result.answer_text, result.answer_ids,
            settings.conditions, settings.window,
        )
        return replace(traced, example=example_at(self.model, question, site))

    def _with_edits(self, edits: tuple[Edit, ...], asked: tuple[BothAnswers, ...]) -> Steps:
        edited, again = apply_edits(self.model, edits), []
        for place, one in enumerate(asked):
            yield Step("Asking again", place, len(asked))
            again.append(self._ask(one.question, one.image, edited, one.unedited))
        self.edits, self.edited, self.asked = edits, edited, tuple(again)

    def _ask(self, question: str, image: Path, edited: VisionLanguageModel, unedited: str = "") -> BothAnswers:
        unedited = unedited or self.model.generate_answer(image, question)
        answer = edited.generate_answer(image, question) if edited.edits else unedited
        return BothAnswers(question, image, unedited, answer)


def _best(result: CausalTrace, position: int) -> tuple[str, int, int]:
    """The site with the largest P(restored) at a token: kind, position and layer."""
    at_token = result.restored[:, result.positions.index(position)]
    kind, layer = np.unravel_index(at_token.argmax(), at_token.shape)
    return result.kinds[kind], position, int(layer)



READERS = ("constraint", "last")  # of the image: the last token of the visual constraint, and of the prompt


@dataclass(frozen=True)
class Settings:
    """How a question is traced, see `causal_trace.trace` and `Conditions`."""

    window: int = 3
    kinds: tuple[str, ...] = KINDS
    answer_score: str = "first_token"
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class Traced:
    """A trace, and the worked example of one of its sites (`example.site`; None until there is one). best: (kind,
    position, layer) of the best site at the last token of the corrupted constraint."""

    item: Item
    prompt: Prompt
    corrupted: CorruptedPrompt
    settings: Settings
    result: CausalTrace
    best: tuple[str, int, int]
    example: WorkedExample | None = None


@dataclass(frozen=True)
class Contributed:
    """Contributions by layer: from each visual token to a reader ("constraint": its last token, or "last") [layers,
    visual], and from each token of the constraint to the last token [layers, tokens]."""

    image: Path
    view: str  # what the model sees of it, see `model.image_view`
    visual: dict[str, np.ndarray]
    to_last: np.ndarray
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Blocked:
    """A knock-out of the layers `first` to `last`, whose window is as wide as that."""

    found: AttentionKnockout
    first: int
    last: int

    def p_blocked(self, flow: str) -> float:
        """P(answer) with the flow blocked in these layers."""
        centre = self.first + self.found.window // 2
        return float(self.found.p_blocked[self.found.flows.index(flow), centre])


@dataclass(frozen=True)
class BothAnswers:
    """A question about an image, and what the model says without and with the edits."""

    question: str
    image: Path
    unedited: str
    edited: str
