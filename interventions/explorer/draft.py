"""The question in the form: from a test bed, edited by hand, or written from scratch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from ..errors import PromptError, Unusable
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..studies.conditions import Conditions, clean_prompt, corrupted_prompt, corrupted_roles
from ..testbed import Item, TestBedError
from ..testbed.images import image_problem
from ..testbed.phrases import FUNCTION_WORDS, phrase_problem, trim
from ..text import find_phrase, normalize
from .worker import sentence

CUSTOM = "own"  # id and part of a user's own question
NO_ANSWER = "?"  # stands for the answers of an item when the user gives none; nothing is compared with it
DRAFT_ERRORS = (TestBedError, PromptError, Unusable)
_DEMONSTRATIVES = re.compile(r"\b(?=((?:this|these|that|those)\b(?: [\w'’-]+){0,4}))", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """The fields of the form. `answers` are separated by semicolons and may be empty."""

    question: str = ""
    image: Path | None = None
    visual_constraint: str = ""
    visual_replacement: str = ""
    text_constraint: str = ""
    text_replacement: str = ""
    answers: str = ""

    @classmethod
    def of(cls, item: Item) -> Draft:
        return cls(
            item.question, item.image, item.visual_constraint, item.visual_replacement, item.text_constraint or "",
            item.text_replacement or "", "; ".join(item.answers),
        )

    @property
    def accepted(self) -> tuple[str, ...]:
        return tuple(filter(None, map(str.strip, self.answers.split(";"))))

    def item(self) -> Item:
        """Return the draft as an item of a test bed; raise one of DRAFT_ERRORS with a sentence to show."""
        question, text = normalize(self.question), normalize(self.text_constraint)
        if not question:
            raise Unusable("Write a question.")
        if self.image is None:
            raise Unusable("Choose an image.")
        if not self.visual_constraint.strip():
            raise Unusable("Mark the visual constraint: the words that refer to the image.")
        find_phrase(question, self.visual_constraint, "visual constraint", last=False)
        if text:
            find_phrase(question, self.text_constraint, "text constraint", last=True)
        return Item(
            CUSTOM, CUSTOM, question, self.image, normalize(self.visual_constraint), normalize(self.visual_replacement),
            text or None, (normalize(self.text_replacement) or None) if text else None, self.accepted or (NO_ANSWER,),
        )

    def problem(self, model, conditions: Conditions | None) -> str:
        """Return what is wrong with the question in one sentence, or "". `conditions` are those of a trace, if any.

        This runs at every keystroke, so the image is checked once and left out of the prompts.
        """
        try:
            item = replace(self.item(), image=None)
            prompt = clean_prompt(model, item, conditions or Conditions())
            if conditions is not None:
                corrupt(model, item, prompt, conditions)
        except DRAFT_ERRORS as error:
            return sentence(error)
        return _unreadable(self.image)


def corrupt(model, item: Item, prompt: Prompt, conditions: Conditions) -> CorruptedPrompt:
    """Return the corrupted prompt; raise Unusable if the draft lacks a replacement that it needs."""
    if conditions.corruption == "replacement":
        for role in corrupted_roles(item, conditions):
            which = "text" if role == "text_constraint" else "visual"
            if not getattr(item, f"{which}_replacement"):
                raise Unusable(f"Write what replaces the {which} constraint in the corrupted question.")
    return corrupted_prompt(model, item, prompt, conditions)


def suggestions(question: str) -> list[str]:
    """Return candidates for the visual constraint: the shortest noun phrases that begin with a demonstrative."""
    question, phrases = normalize(question), []
    for match in _DEMONSTRATIVES.finditer(question):
        first, *others = match[1].split()
        words = list(takewhile(lambda word: word.lower() not in FUNCTION_WORDS, others))
        candidates = [trim(" ".join((first, *words[:n])))[0] for n in range(1, len(words) + 1)] or [first]
        phrases += [phrase for phrase in candidates if not phrase_problem(question, phrase)][:1]
    return list(dict.fromkeys(phrases))


@lru_cache(maxsize=64)
def _unreadable(path: Path) -> str:
    problem = image_problem(path)
    return f"The image cannot be used: {problem}." if problem else ""
