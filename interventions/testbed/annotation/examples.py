"""In-context examples for annotating: a starter set that comes with the package, or the user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...errors import TestBedError
from ...text import first_line, normalize
from .prompt import Example, Question, read_marks

STARTER_EXAMPLES = Path(__file__).with_name("examples.json")


def read_examples(path: str | Path) -> tuple[Example, ...]:
    """In-context examples from JSON (a list) or JSONL, checked by the rules for replies.

    A row has `question`, `visual_constraint`, `text_constraint` (or null), `visual_replacements` and
    `text_replacements`, and may have `part`. Raises TestBedError that names the row.
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


def of_part(examples: Sequence[Example], part: str) -> list[Example]:
    """The examples for questions of a part: its own and those of every part, or all where there are none."""
    return [example for example in examples if example.part in (part, "")] or list(examples)


def _example(row, where: str) -> Example:
    question = row.get("question") if isinstance(row, dict) else None
    if not isinstance(question, str) or not question.strip() or not isinstance(row.get("part", ""), str):
        raise TestBedError(f"{where}: it must be an object with a question.")
    question = normalize(question)
    marks, broken = read_marks(Question("", question), json.dumps(row))
    if broken or not marks.visual_constraint:
        raise TestBedError(f"{where}: {broken or 'it has no visual_constraint'}.")
    return Example(row.get("part", ""), question, marks)
