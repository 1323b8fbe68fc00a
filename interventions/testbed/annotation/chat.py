"""Ask an LLM about one question: mark constraints, propose replacements, and judge the questions that these make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...errors import PromptError
from . import prompt as prompts
from .endpoint import QuestionFailed, Reply
from .prompt import Example, Marks, Question, substituted


@dataclass(frozen=True)
class Outcome:
    """The result of the chats about a question.

    Attributes:
        marks: the constraints, and the replacements that passed; None if there are no usable marks.
        reason: why there are no marks or no replacements.
        fault: whether the endpoint is to blame.
        retries: how often a reply was asked for again.
    """

    marks: Marks | None
    reason: str = ""
    fault: bool = False
    retries: int = 0


def ask_about(
    question: Question, ask: Callable[[list[dict], dict], Reply], examples: Sequence[Example], retries: int
) -> Outcome:
    """Mark a question and judge its replacements. ask: (messages, schema) -> reply."""
    again, marks = 0, None

    def converse(messages: list[dict], schema: dict, read: Callable) -> tuple:
        """The last usable reply, and the rule that the very last one breaks."""
        nonlocal again
        usable, broken = None, ""
        for attempt in range(retries + 1):
            again += attempt > 0
            text = ask(messages, schema).text
            value, broken = read(text)
            usable = value or usable
            if not broken:
                break
            messages = [*messages, *prompts.complaint(text, broken)]
        return usable, broken

    try:
        chat = prompts.marking(question, examples)
        marks, broken = converse(chat, prompts.MARK_SCHEMA, partial(prompts.read_marks, question))
        if marks is None:
            return Outcome(None, f"no usable reply: {broken}", retries=again)
        if not marks.visual_constraint:
            return Outcome(None, "no words of the question refer to the image", retries=again)
        replaced = _replaced(question.text, marks)
        if not replaced:
            return Outcome(marks, f"no usable replacement: {broken}", retries=again)
        chat = prompts.judging(replaced)
        verdicts, broken = converse(chat, prompts.JUDGE_SCHEMA, partial(prompts.read_verdicts, len(replaced)))
        if verdicts is None:
            return Outcome(_bare(marks), f"no usable verdict: {broken}", retries=again)
        return Outcome(_passed(marks, verdicts), retries=again)
    except QuestionFailed as fault:
        return Outcome(marks and _bare(marks), f"the endpoint failed: {fault}", fault=True, retries=again)
    except PromptError as error:  # given marks that are spelled differently in the question
        return Outcome(None, f"constraint not found: {error}", retries=again)


def _replaced(question: str, marks: Marks) -> list[str]:
    """The questions with each replacement: first of the visual constraint, then of the text constraint."""
    visual, text = marks.visual_constraint, marks.text_constraint or ""
    return [substituted(question, visual, phrase) for phrase in marks.visual_replacements] + [
        substituted(question, text, phrase, last=True) for phrase in marks.text_replacements
    ]


def _passed(marks: Marks, verdicts: list[dict[str, bool]]) -> Marks:
    """The marks with the replacements that passed. verdicts: one for each of `_replaced`."""
    n_visual = len(marks.visual_replacements)
    visual = zip(marks.visual_replacements, verdicts[:n_visual], strict=True)
    text = zip(marks.text_replacements, verdicts[n_visual:], strict=True)
    return replace(
        marks,
        visual_replacements=tuple(p for p, said in visual if said["makes_sense"] and not said["needs_image"]),
        # Beside another text constraint, the visual one still needs the image.
        text_replacements=tuple(p for p, said in text if said["makes_sense"]),
    )


def _bare(marks: Marks) -> Marks:
    return replace(marks, visual_replacements=(), text_replacements=())
