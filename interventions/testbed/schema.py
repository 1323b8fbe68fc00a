"""Items and test beds. A test bed is a folder with `items.parquet`, `images/` and a dataset card `README.md`.

A row is a question with its constraints marked (paper, section 3): the *visual constraint* is the phrase that refers to
the image ("this country"), the *text constraint*, if there is one, narrows the answer ("starting with B"). The row also
has the replacements for the corrupted run.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..draws import seeded_hash
from ..errors import PromptError, TestBedError
from ..text import constraint_spans, overlap, quoted

EMBEDDED = Path(__file__).parent / "embedded"
PAPER_PARTS = ("known", "okvqa", "movies")  # in the order of the paper's figures
TABLE = "items.parquet"
SMOL_TABLE = "smol.parquet"  # of the pretrained models, beside the embedded test bed

NOT_MARKED = "constraint not marked (python -m interventions testbed annotate marks it)"  # why an item is left out

N_ANNOTATORS = 10  # of a question in VQA and OK-VQA

# The fields of an item by type.
REQUIRED_TEXT = (
    "id", "part", "question", "visual_constraint", "visual_replacement", "entity", "relation", "split", "style",
)
OPTIONAL_TEXT = ("text_constraint", "text_replacement")
TEXTS = ("answers", "paraphrases", "annotations")


@dataclass(frozen=True)
class Item:
    """One question. The constraints are contiguous in `question` and in every paraphrase.

    An item without a marked constraint or a replacement is valid. Experiments that need them leave it out.

    Attributes:
        id: unique in the test bed.
        part: "known" | "okvqa" | "movies", or another name.
        question: the question.
        image: the path: absolute once loaded, `images/...` in the table, None for a text-only question.
        visual_constraint: "this country"; "" is not marked yet.
        visual_replacement: "Sri Lanka": fluent, and makes the image unnecessary; "" is not chosen yet.
        text_constraint: "starting with B", or None.
        text_replacement: of the text constraint; None is not chosen yet.
        answers: accepted answers, the canonical one first.
        paraphrases: other wordings of the question.
        entity: what the image shows.
        relation: between the entity and the answer.
        split: how an embedded model met the fact: "trained" | "text_only" | "never"; a pretrained one: "trained" |
            "named" (its language model knows the fact, training only named the entity) | "unknown"; "" elsewhere.
        style, held_out_style: how the image is drawn, and whether no embedded model was trained on that style.
        annotations: the answers of ten annotators, where a source has them (OK-VQA).
    """

    id: str
    part: str
    question: str
    image: Path | None
    visual_constraint: str = ""
    visual_replacement: str = ""
    text_constraint: str | None = None
    text_replacement: str | None = None
    answers: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    entity: str = ""
    relation: str = ""
    split: str = ""
    style: str = ""
    held_out_style: bool = False
    annotations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problem = _wrong_type(self)
        if not problem:
            for name in TEXTS:
                object.__setattr__(self, name, tuple(getattr(self, name)))
            if self.image is not None:
                object.__setattr__(self, "image", Path(self.image))
            problem = _problem(self)
        if problem:
            raise TestBedError(f"Item {quoted(self.id)}: {problem}.")

    @property
    def constraints(self) -> str:
        """ "single" (visual constraint only) or "multi" (a text constraint too), as the paper calls them."""
        return "single" if self.text_constraint is None else "multi"

    def with_constraints(self, visual_constraint: str, text_constraint: str | None) -> Item:
        """Return the item with other constraints. Drop paraphrases without them, and replacements of removed ones."""
        return replace(
            self, visual_constraint=visual_constraint, text_constraint=text_constraint,
            visual_replacement=self.visual_replacement if visual_constraint else "",
            text_replacement=self.text_replacement if text_constraint else None,
            paraphrases=tuple(
                text for text in self.paraphrases if not _missing(text, visual_constraint, text_constraint)
            ),
        )

    def content(self) -> dict:
        """Return everything that determines a result, as JSON: the image by its sha256, and the id, which seeds draws.

        Part, split and style are not in it.
        """
        names = (
            "id", "question", "visual_constraint", "visual_replacement", "text_constraint", "text_replacement",
            "entity", "relation",
        )
        try:
            image = None if self.image is None else hashlib.sha256(self.image.read_bytes()).hexdigest()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # other errors are faults of the machine
            image = "unreadable"
        lists = {name: list(getattr(self, name)) for name in ("answers", "paraphrases", "annotations")}
        return {name: getattr(self, name) for name in names} | lists | {"image": image}


@dataclass(frozen=True)
class TestBed:
    """A named, ordered collection of items."""

    __test__ = False

    name: str
    directory: Path
    items: tuple[Item, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts, with those of the paper first."""
        found = {item.part for item in self.items}
        return tuple(p for p in PAPER_PARTS if p in found) + tuple(sorted(found - set(PAPER_PARTS)))

    def select(
        self, part: str | Iterable[str] | None = None, constraints: str | None = None, split: str | None = None,
        limit: int = 0, seed: int = 0,
    ) -> TestBed:
        """Return the matching items, part by part, shuffled by `seed` and id within a part.

        A smaller limit is a prefix of a larger one, and a question keeps its place when others are added.

        Args:
            part: one part or several (None: all).
            constraints: "single" or "multi" (None: both).
            split: only items of this split.
            limit: the largest number of items of each part (0: all).
            seed: of the shuffle.

        Raises:
            TestBedError: there is no such part, or another argument is out of range.
        """
        wanted = self.parts if part is None else (part,) if isinstance(part, str) else tuple(part)
        for name in wanted:
            if name not in self.parts:
                raise TestBedError(
                    f"Test bed {quoted(self.name)} has no part {quoted(name)}: choose from {', '.join(self.parts)}."
                )
        if limit < 0:
            raise TestBedError(f"limit must be 0 (all) or more, not {limit}.")
        if constraints not in (None, "single", "multi"):
            raise TestBedError(f"constraints must be 'single' or 'multi', not {quoted(constraints)}.")
        chosen: list[Item] = []
        for name in wanted:
            matching = [
                item for item in self.items
                if item.part == name and constraints in (None, item.constraints) and split in (None, item.split)
            ]
            matching.sort(key=lambda item: seeded_hash(seed, item.id))
            chosen += matching[:limit] if limit else matching
        return replace(self, items=tuple(chosen))


def _missing(question: str, visual_constraint: str, text_constraint: str | None) -> str:
    """Why the constraints cannot be found in a question, as the end of a sentence, or ""."""
    spans = {}
    for phrase, pair in ((visual_constraint, (visual_constraint, None)), (text_constraint, ("", text_constraint))):
        try:
            spans |= constraint_spans(question, *pair)
        except PromptError:
            return f"the constraint {quoted(phrase)} is not a contiguous part of the question {quoted(question)}"
    if len(spans) == 2 and overlap(*spans.values()):
        return (
            f"text_constraint {quoted(text_constraint)} overlaps visual_constraint {quoted(visual_constraint)} in the "
            f"question {quoted(question)}: give phrases that stand apart"
        )
    return ""


def _wrong_type(item: Item) -> str:
    """Which field has a wrong type, as the end of a sentence, or ""."""
    for name in (*REQUIRED_TEXT, *OPTIONAL_TEXT):
        value = getattr(item, name)
        if not isinstance(value, str) and not (value is None and name in OPTIONAL_TEXT):
            return f"{name} must be a text, not {quoted(value)}"
    for name in TEXTS:
        value = getattr(item, name)
        if isinstance(value, str) or not isinstance(value, Iterable):
            return f"{name} must be a list or tuple of texts, such as ({quoted(str(value))},), not {quoted(value)}"
        wrong = [one for one in value if not isinstance(one, str)]
        if wrong and not (name == "annotations" and wrong == [None] * len(wrong)):  # `_problem` describes these
            return f"{name} must hold texts, not {quoted(wrong[0])}"
    if item.image is not None and not isinstance(item.image, (str, Path)):
        return f"image must be the path of a picture or None, not {quoted(item.image)}"
    return ""


def _is_blank(text: str) -> bool:
    """Whether a text has no visible character."""
    return all(one.isspace() or unicodedata.category(one) in ("Cc", "Cf") for one in text)


def _problem(item: Item) -> str:
    """What is wrong with an item, as the end of a sentence, or ""."""
    if not item.id or not item.part:
        return "id and part must not be empty"
    if _is_blank(item.question):
        return "question must not be empty"
    for phrase, needed in (("text_replacement", "text_constraint"), ("visual_replacement", "visual_constraint")):
        if getattr(item, phrase) and not getattr(item, needed):
            return f"{phrase} replaces {needed}, which is missing"
    if (item.text_constraint is not None and _is_blank(item.text_constraint)) or (
        item.text_replacement is not None and _is_blank(item.text_replacement)
    ):
        return "text_constraint and text_replacement must be None where there is none, not empty"
    if item.text_constraint and not item.visual_constraint:
        return "text_constraint needs a visual_constraint beside it"
    for name in ("visual_constraint", "visual_replacement"):
        if getattr(item, name) and _is_blank(getattr(item, name)):
            return f"{name} must be '' where there is none, not blank"
    if not item.answers or any(map(_is_blank, item.answers)):
        return "it needs at least one answer, and no answer may be empty"
    if len(item.annotations) not in (0, N_ANNOTATORS) or None in item.annotations:
        return (
            f"annotations must be {N_ANNOTATORS} answers, none of them missing, or () (then `answers` decide what is "
            f"right), not {len(item.annotations)}"
        )
    questions = (item.question, *item.paraphrases)
    missing = (_missing(question, item.visual_constraint, item.text_constraint) for question in questions)
    return next(filter(None, missing), "")


def same_entity(one: Item, other: Item) -> bool:
    """Return whether two items are about the same named entity."""
    return bool(one.entity) and one.entity == other.entity
