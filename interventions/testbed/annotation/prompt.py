"""The chats about a question, the rules for replies, and the in-context examples.

One chat marks the constraints and proposes replacement phrases, after examples that people made. The other judges the
questions with these phrases. A reply that breaks a rule is answered with the rule.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import TestBedError
from ...text import find_phrase, first_line, normalize, overlap
from ..phrases import contiguity_problem, needs_image, phrase_problem

STARTER_EXAMPLES = Path(__file__).with_name("examples.json")

_MARK, _JUDGE = (
    Path(__file__).with_name(name).read_text(encoding="utf-8").strip() for name in ("mark.txt", "judge.txt"))


def _object(properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_PHRASES = {"type": "array", "items": {"type": "string"}}
MARK_SCHEMA = _object({
    "visual_constraint": {"type": "string"}, "text_constraint": {"type": ["string", "null"]},
    "visual_replacements": _PHRASES, "text_replacements": _PHRASES,
})
_VERDICT = _object({"needs_image": {"type": "boolean"}, "makes_sense": {"type": "boolean"}})
JUDGE_SCHEMA = _object({"verdicts": {"type": "array", "items": _VERDICT}})


@dataclass(frozen=True)
class Marks:
    """The constraints of a question, and phrases that may replace them. An empty visual constraint: there is none."""

    visual_constraint: str
    text_constraint: str | None = None
    visual_replacements: tuple[str, ...] = ()
    text_replacements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question that items share. given: constraints that are marked already and stay."""

    part: str
    text: str
    given: Marks | None = None


@dataclass(frozen=True)
class Example:
    """A question that people annotated. part: the part that it is an example for; empty: every part."""

    part: str
    question: str
    marks: Marks


class _Broken(Exception):
    """A reply breaks a rule. The message is the rule, without a full stop."""


def marking(question: Question, examples: Sequence[Example]) -> list[dict]:
    """Return the chat that asks for the constraints of a question and for their replacements."""
    chat = [_message("system", _MARK)]
    for example in examples:
        chat += [_message("user", _request(example.question)), _message("assistant", _as_json(example.marks))]
    return [*chat, _message("user", _request(question.text, question.given))]


def read_marks(question: Question, reply: str) -> tuple[Marks | None, str]:
    """Return the marks in a reply, and the rule that it breaks, or "".

    With marks and a rule, the constraints are good, and only the good replacements are left.
    """
    try:
        row = _parsed(reply)
        marks = _constraints(question.text, row) if question.given is None else question.given
        if not marks.visual_constraint:
            return marks, ""
        complaints: list[str] = []
        visual = _replacements(question.text, marks.visual_constraint, row, "visual_replacements", complaints)
        text = ()
        if marks.text_constraint is not None:
            text = _replacements(question.text, marks.text_constraint, row, "text_replacements", complaints)
        return Marks(marks.visual_constraint, marks.text_constraint, visual, text), "; ".join(complaints)
    except _Broken as rule:
        return None, str(rule)


def judging(questions: Sequence[str]) -> list[dict]:
    """Return the chat that asks whether questions need an image, and make sense."""
    numbered = "\n".join(f"{number}. {question}" for number, question in enumerate(questions, 1))
    return [_message("system", _JUDGE), _message("user", numbered)]


def read_verdicts(n_questions: int, reply: str) -> tuple[list[dict[str, bool]] | None, str]:
    """Return the verdicts in a reply, one a question, or the rule that it breaks."""
    try:
        verdicts = _parsed(reply).get("verdicts")
    except _Broken as rule:
        return None, str(rule)
    if not isinstance(verdicts, list) or len(verdicts) != n_questions:
        return None, f'"verdicts" must be a list of {n_questions} entries, one for each question'
    for verdict in verdicts:
        if not isinstance(verdict, dict) or {type(verdict.get(n)) for n in ("needs_image", "makes_sense")} != {bool}:
            return None, 'each entry of "verdicts" must have "needs_image" and "makes_sense", both true or false'
    return verdicts, ""


def complaint(reply: str, broken: str) -> list[dict]:
    """Return the messages that follow a reply that breaks a rule."""
    told = f"This reply cannot be used: {broken}. Reply with the whole JSON object again."
    return [_message("assistant", reply), _message("user", told)]


def read_examples(path: str | Path) -> tuple[Example, ...]:
    """Read in-context examples from JSON (a list) or JSONL, and check them by the rules for replies.

    A row has `question`, `visual_constraint`, `text_constraint` (or null), `visual_replacements` and
    `text_replacements`, and may have `part`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise TestBedError(f"examples: {path} is not readable as JSON or JSONL ({first_line(error)}).") from error
    if not rows:
        raise TestBedError(f"examples: {path} has no examples.")
    return tuple(_example(row, f"examples: {path}, example {number}") for number, row in enumerate(rows, 1))


def examples_of(examples: Sequence[Example], part: str) -> list[Example]:
    """Return the examples of a part and of every part, or all examples if there are none."""
    return [example for example in examples if example.part in (part, "")] or list(examples)


def substituted(question: str, phrase: str, replacement: str, *, last: bool = False) -> str:
    """Return the question with a phrase replaced where tracing replaces it. last: a text constraint."""
    begin, end = find_phrase(question, phrase, "phrase", last=last)
    return question[:begin] + replacement + question[end:]


def _example(row, where: str) -> Example:
    question = row.get("question") if isinstance(row, dict) else None
    if not isinstance(question, str) or not question.strip() or not isinstance(row.get("part", ""), str):
        raise TestBedError(f"{where}: it must be an object with a question.")
    question = normalize(question)
    marks, broken = read_marks(Question("", question), json.dumps(row))
    if broken or marks is None or not marks.visual_constraint:
        raise TestBedError(f"{where}: {broken or 'it has no visual_constraint'}.")
    return Example(row.get("part", ""), question, marks)


def _parsed(reply: str) -> dict:
    begin, end = reply.find("{"), reply.rfind("}") + 1  # models like to wrap it in prose or a code fence
    try:
        return json.loads(reply[begin:end])
    except (ValueError, RecursionError):
        raise _Broken("it is not one JSON object") from None


def _constraints(question: str, row: dict) -> Marks:
    visual, text = row.get("visual_constraint"), row.get("text_constraint")
    if not isinstance(visual, str) or not isinstance(text, str | None):
        raise _Broken('"visual_constraint" must be a text, and "text_constraint" a text or null')
    if not visual.strip():
        return Marks("")
    wrong = phrase_problem(question, visual)
    if wrong:
        raise _Broken(f'"visual_constraint" {visual!r} is not usable: {wrong}')
    visual_span = find_phrase(question, visual, "visual_constraint", last=False)
    if text is None or not text.strip():
        return Marks(question[slice(*visual_span)])
    wrong = _text_problem(question, text)
    if wrong:
        raise _Broken(f'"text_constraint" {text!r} is not usable: {wrong}')
    text_span = find_phrase(question, text, "text_constraint", last=True)
    if overlap(visual_span, text_span):
        raise _Broken(f'"text_constraint" {text!r} overlaps "visual_constraint" {visual!r}: they must stand apart')
    return Marks(question[slice(*visual_span)], question[slice(*text_span)])


def _text_problem(question: str, phrase: str) -> str:
    """As `phrase_problem`, but a word may stand before the noun phrase ("in India")."""
    wrong, (_, _, rest) = phrase_problem(question, phrase), normalize(phrase).partition(" ")
    if wrong and rest and not contiguity_problem(question, phrase) and not phrase_problem(question, rest):
        return ""
    return wrong


def _replacements(question: str, constraint: str, row: dict, name: str, complaints: list[str]) -> tuple[str, ...]:
    """The usable phrases of a list. Append what is wrong with the others to `complaints`."""
    phrases = row.get(name)
    if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
        complaints.append(f'"{name}" must be a list of texts')
        return ()
    usable = []
    for phrase in dict.fromkeys(" ".join(normalize(phrase).split()) for phrase in phrases):
        wrong = ""
        if not phrase or not phrase.isprintable():
            wrong = "it is no text"
        elif phrase.casefold() == constraint.casefold():
            wrong = "it is the constraint itself"
        elif needs_image(substituted(question, constraint, phrase) if name == "visual_replacements" else phrase):
            wrong = "the question would still refer to an image"
        if wrong:
            complaints.append(f'{phrase!r} in "{name}" is not usable: {wrong}')
        else:
            usable.append(phrase)
    if not phrases:
        complaints.append(f'"{name}" must hold three phrases')
    return tuple(usable)


def _request(question: str, given: Marks | None = None) -> str:
    if given is None:
        return f"Question: {question}"
    text = "null" if given.text_constraint is None else repr(given.text_constraint)
    return f"Question: {question}\nIts visual_constraint is {given.visual_constraint!r}, its text_constraint {text}."


def _as_json(marks: Marks) -> str:
    return json.dumps({name: getattr(marks, name) for name in MARK_SCHEMA["properties"]}, ensure_ascii=False)


def _message(role: str, content: str) -> dict:
    return {"role": role, "content": content}
