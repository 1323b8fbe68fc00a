"""Candidates tried in a constraint's place: which, and in what order. What is left of P(answer): `tries_run.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..prompts.tokens import PromptError, find_phrase, normalise
from ..testbed.candidates import Candidates
from ..testbed.phrases import needs_image
from ..testbed.schema import Item

if TYPE_CHECKING:
    from ..prompts.corruption import CorruptedPrompt
    from ..prompts.prompt import Prompt

LOOKED_AT = 32  # candidates of a constraint whose length is looked up
_PROMPT_ROLES = {"visual": "constraint", "text": "text_constraint"}


class Try(NamedTuple):
    """A candidate in the question: whether that still needs the image (None: it is meant to), and the lengths there of
    the constraint and of the phrase."""

    phrase: str
    source: str
    needs_image: bool | None
    tokens: int
    phrase_tokens: int
    corrupted: CorruptedPrompt | None  # None without a model

    @property
    def equal(self) -> bool:
        return self.tokens == self.phrase_tokens


def tries_of(pool: Candidates, settings: dict, item: Item, role: str, model=None, prompt: Prompt | None = None) -> list:
    """The candidates to try for a constraint, in that order; lengths in tokens, or without a prompt in words."""
    constraint, question = getattr(item, f"{role}_constraint"), normalise(item.question)
    if prompt:
        from ..prompts.corruption import corrupt  # heavy
    begin, end = find_phrase(question, constraint, f"{role}_constraint", last=role == "text")
    n = len(prompt.positions(_PROMPT_ROLES[role])) if prompt else len(constraint.split())
    found = []
    for phrase, source in pool.of(item, role, seed=settings["seed"], most=max(LOOKED_AT, settings["tries"])):
        corrupted, length = None, len(phrase.split())
        if prompt:
            try:
                corrupted = corrupt(model, prompt, **{f"{role}_replacement": phrase})
            except PromptError:
                continue
            length = n + len(corrupted.input_ids) - len(prompt)
        # Beside another text constraint the visual one stays, and so does the need for the image.
        pointing = needs_image(question[:begin] + phrase + question[end:]) if role == "visual" else None
        found.append(Try(phrase, source, pointing, n, length, corrupted))
    return sorted(found, key=lambda one: (bool(one.needs_image), not one.equal))[: settings["tries"]]
