"""Summarize a test bed: counts by part, example questions, and whether a model's prompts have the constraints."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from PIL import Image

from ..errors import PromptError, Unusable
from ..models.model import VisionLanguageModel
from ..prompts.corruption import corrupt
from ..prompts.prompt import build_prompt
from ..testbed import Item, TestBed
from ..testbed.phrases import question_pieces
from .conditions import as_asked, must_be_marked

# VQA-Constraints as its authors describe it (section 3.4 and appendix B), rounded as there.
PAPER_COUNTS = {
    ("known", "single"): 1200, ("okvqa", "single"): 5000, ("movies", "single"): 1500, ("okvqa", "multi"): 150,
    ("movies", "multi"): 500,
}
MARKS = {"": "", "constraint": "**", "text_constraint": "***"}  # Markdown's bold, and bold italic


def count_items(testbed: TestBed, checked: pd.DataFrame) -> pd.DataFrame:
    """Count the items of a test bed by part and constraints.

    Args:
        testbed: the items.
        checked: the result of `find_constraints`.

    Returns:
        Columns part, constraints, questions, entities, images, relations, checked (questions that were checked), found
        (those with all constraints) and paper (questions in VQA-Constraints; missing without any).
    """
    rows = []
    for part in testbed.parts:
        for constraints in ("single", "multi"):
            items = testbed.select(part, constraints).items
            looked = checked[(checked["part"] == part) & (checked["constraints"] == constraints)]
            entities, images, relations = (
                len({getattr(item, name) for item in items} - {None, ""}) for name in ("entity", "image", "relation")
            )
            rows.append({
                "part": part, "constraints": constraints, "questions": len(items), "entities": entities,
                "images": images, "relations": relations, "checked": len(looked),
                "found": int((looked["reason"] == "").sum()), "paper": PAPER_COUNTS.get((part, constraints)),
            })
    return pd.DataFrame(rows).astype({"paper": "Int64"})


def find_constraints(
    model: VisionLanguageModel, testbed: TestBed, limit: int = 0, seed: int = 0, protocol: str = "paper"
) -> pd.DataFrame:
    """Check whether these questions can be traced with this model. No image is read, since it changes no position.

    The constraints and their replacements must have tokens of their own in the model's prompt.

    Args:
        model: the model whose prompts are built.
        testbed: the items.
        limit: the largest number of questions of each part (0: all).
        seed: of the selection.
        protocol: "paper" | "authors".

    Returns:
        Columns id, part, constraints, reason ("" for a question that can be traced).
    """
    reasons: dict[tuple, str] = {}  # many questions are the same but for the image
    rows = []
    for item in testbed.select(limit=limit, seed=seed):
        phrases = (item.question, item.visual_constraint, item.visual_replacement, item.text_constraint,
                   item.text_replacement, item.image is None, None if model.is_multimodal else item.entity)
        if phrases not in reasons:
            reasons[phrases] = _problem(model, item, protocol)
        rows.append((item.id, item.part, item.constraints, reasons[phrases]))
    return pd.DataFrame(rows, columns=["id", "part", "constraints", "reason"])


def example_items(testbed: TestBed, n: int, seed: int = 0) -> list[Item]:
    """Return n questions of each part, single and multi, with different wordings and entities first."""
    chosen = []
    for part in testbed.parts:
        for constraints in ("single", "multi"):
            seen, repeats = set(), {}
            for item in testbed.select(part, constraints, seed=seed):
                looks = {item.question, item.entity, item.image} - {None, ""}
                repeats[item] = bool(seen & looks)
                seen |= set() if repeats[item] else looks
            chosen += sorted(repeats, key=repeats.__getitem__)[:n]
    return chosen


def example_frame(items: Iterable[Item]) -> pd.DataFrame:
    """Return what figures and tables show: id, part, constraints, question, answer, entity, pieces.

    pieces: the question as [(text, role)], see `phrases.question_pieces`.
    """
    return pd.DataFrame([
        {"id": item.id, "part": item.part, "constraints": item.constraints, "question": item.question,
         "answer": item.answers[0], "entity": item.entity, "pieces": question_pieces(item)}
        for item in items
    ])


def markdown_table(examples: pd.DataFrame) -> str:
    """Return `example_frame` as a Markdown table, visual constraints bold and text constraints bold italic."""
    lines = ["| part | constraints | question | answer |", "|---|---|---|---|"]
    for row in examples.itertuples():
        question = "".join(f"{MARKS[role]}{_escaped(text)}{MARKS[role]}" for text, role in row.pieces)
        lines.append(f"| {row.part} | {row.constraints} | {question} | {_escaped(row.answer)} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\|*_<`" else letter for letter in text)


def _problem(model: VisionLanguageModel, item: Item, protocol: str) -> str:
    try:
        must_be_marked(item)
        item = as_asked(model, item)
        prompt = build_prompt(
            model, item.question, None if item.image is None else Image.new("RGB", (32, 32)),
            visual_constraint=item.visual_constraint, text_constraint=item.text_constraint,
            protocol=protocol,
        )
        replacements = {"visual_replacement": item.visual_replacement, "text_replacement": item.text_replacement}
        replacements = {name: phrase for name, phrase in replacements.items() if phrase}
        if replacements:
            corrupt(model, prompt, **replacements)
    except (PromptError, Unusable) as error:
        return str(error)
    return ""
