"""The question as it stands in the form: from a test bed, changed by hand, or a person's own from the first word."""

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
from .work import sentence

OWN = "own"  # id and part of a question of one's own
UNKNOWN = "?"  # an item must have an answer; where nobody gave one, none is ever compared with it
PROBLEMS = (TestBedError, PromptError, Unusable)  # what is wrong with a question, in a sentence
_POINTERS = re.compile(r"\b(?=((?:this|these|that|those)\b(?: [\w'’-]+){0,4}))", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """The fields of the form; answers are separated by semicolons, and there may be none."""

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
        """The same as an item of a test bed. Raises Unusable, PromptError or TestBedError in a sentence."""
        question = normalize(self.question)
        for missing, remedy in (
            (not question, "Write a question."),
            (self.image is None, "Choose an image."),
            (not self.visual_constraint.strip(), "Mark the visual constraint: the words that refer to the image."),
        ):
            if missing:
                raise Unusable(remedy)
        for name, last in (("visual_constraint", False), ("text_constraint", True)):
            if getattr(self, name).strip():
                find_phrase(question, getattr(self, name), name.replace("_", " "), last=last)
        text = normalize(self.text_constraint)
        return Item(
            OWN, OWN, question, self.image, normalize(self.visual_constraint), normalize(self.visual_replacement),
            text or None, (normalize(self.text_replacement) or None) if text else None, self.accepted or (UNKNOWN,),
        )

    def prompt(self, model, conditions: Conditions) -> Prompt:
        """The clean prompt. Raises as `item` does."""
        return clean_prompt(model, self.item(), conditions)

    def corrupted(self, model, prompt: Prompt, conditions: Conditions) -> CorruptedPrompt:
        """The corrupted prompt. Raises as `item` does."""
        return _corrupted(model, self.item(), prompt, conditions)

    def problem(self, model, conditions: Conditions | None) -> str:
        """What is wrong with the question, in a sentence, or "". conditions: those of a trace, whose corruption must be
        possible, too. It is asked at every key, so the image is looked at once, and left out of the prompts."""
        try:
            item = replace(self.item(), image=None)
            prompt = clean_prompt(model, item, conditions or Conditions())
            if conditions is not None:
                _corrupted(model, item, prompt, conditions)
        except PROBLEMS as error:
            return sentence(error)
        return _unreadable(self.image)


@lru_cache(maxsize=64)
def _unreadable(path: Path) -> str:
    problem = image_problem(path)
    return f"The image cannot be used: {problem}." if problem else ""


def _corrupted(model, item: Item, prompt: Prompt, conditions: Conditions) -> CorruptedPrompt:
    if conditions.corruption == "replacement":
        for role in corrupted_roles(item, conditions):
            which = "text" if role == "text_constraint" else "visual"
            if not getattr(item, f"{which}_replacement"):
                raise Unusable(f"Write what replaces the {which} constraint in the corrupted question.")
    return corrupted_prompt(model, item, prompt, conditions)


def suggestions(question: str) -> list[str]:
    """Phrases that may be the visual constraint: the shortest whole noun phrases that point at something."""
    question, found = normalize(question), []
    for match in _POINTERS.finditer(question):
        first, *others = match[1].split()
        words = list(takewhile(lambda word: word.lower() not in FUNCTION_WORDS, others))
        tried = [trim(" ".join((first, *words[:n])))[0] for n in range(1, len(words) + 1)] or [first]
        found += [phrase for phrase in tried if not phrase_problem(question, phrase)][:1]
    return list(dict.fromkeys(found))
