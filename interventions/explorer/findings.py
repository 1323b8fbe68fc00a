"""What the actions of an exploration find out, as `Exploration` keeps it and the panels show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..attention.knockout import AttentionKnockout
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..studies.conditions import Conditions
from ..testbed import Item
from ..tracing.causal_trace import KINDS, CausalTrace
from ..tracing.examples import WorkedExample

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
