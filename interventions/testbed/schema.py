"""One format for every test bed: a directory with `items.parquet`, `images/` and a dataset card `README.md`.

A row is one question with its constraints marked (paper, section 3): the *visual constraint* is the phrase
that refers to the image ("this country"), the *text constraint*, if there is one, the phrase that narrows the
answer ("starting with B"). Replacements stand ready for the corrupted run: tracing never invents a phrase.
The embedded sample and an imported copy of the paper's own sets are read by the same `load_testbed`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..lots import lot
from .errors import TestBedError, first_line
from .images import safe_parts

EMBEDDED = Path(__file__).parent / "embedded"
PAPER_PARTS = ("known", "okvqa", "movies")  # the order in which the paper's figures show them
TABLE = "items.parquet"

_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
COLUMNS = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("part", _TEXT, nullable=False),
        pa.field("question", _TEXT, nullable=False),
        pa.field("image", _TEXT),
        pa.field("visual_constraint", _TEXT, nullable=False),
        pa.field("visual_replacement", _TEXT, nullable=False),
        pa.field("text_constraint", _TEXT),
        pa.field("text_replacement", _TEXT),
        pa.field("answers", _TEXTS, nullable=False),
        pa.field("paraphrases", _TEXTS, nullable=False),
        pa.field("entity", _TEXT, nullable=False),
        pa.field("relation", _TEXT, nullable=False),
        pa.field("split", _TEXT, nullable=False),
        pa.field("style", _TEXT, nullable=False),
        pa.field("held_out_style", pa.bool_(), nullable=False),
    ]
)
OPTIONAL_COLUMNS = pa.schema([pa.field("annotations", _TEXTS)])  # a table may lack them
N_ANNOTATORS = 10  # of a question of VQA and OK-VQA


@dataclass(frozen=True)
class Item:
    """One question. The constraints are contiguous in `question` and in every paraphrase.

    An item may be on its way: its constraint not marked yet, or no replacement chosen. It is kept, and the experiments
    that need what is missing leave it out with that reason.
    """

    id: str
    part: str  # "known" | "okvqa" | "movies", or a name of the user's own
    question: str
    image: Path | None  # absolute once loaded, `images/...` in the table, None for a text-only question
    visual_constraint: str = ""  # "this country"; "" is not marked yet
    visual_replacement: str = ""  # "Sri Lanka": fluent, and makes the image unnecessary; "" is not chosen yet
    text_constraint: str | None = None
    text_replacement: str | None = None  # None beside a text constraint is not chosen yet
    answers: tuple[str, ...] = ()  # accepted answers, the canonical one first
    paraphrases: tuple[str, ...] = ()
    entity: str = ""  # what the image shows
    relation: str = ""
    split: str = ""  # how an embedded model met the fact: "trained" | "text_only" | "never"; "" elsewhere
    style: str = ""  # how the picture is drawn
    held_out_style: bool = False
    annotations: tuple[str, ...] = ()  # the ten answers of annotators, where a source has them (OK-VQA)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise TestBedError(f"Item {self.id!r}: {problem}.")

    @property
    def constraints(self) -> str:
        """ "single" (visual constraint only) or "multi" (a text constraint too), as the paper calls them."""
        return "single" if self.text_constraint is None else "multi"

    def with_constraints(self, visual_constraint: str, text_constraint: str | None) -> Item:
        """The same with other constraints: without paraphrases that lack them, and without a replacement for none."""
        phrases = [phrase.casefold() for phrase in (visual_constraint, text_constraint) if phrase]
        return replace(
            self, visual_constraint=visual_constraint, text_constraint=text_constraint,
            visual_replacement=self.visual_replacement if visual_constraint else "",
            text_replacement=self.text_replacement if text_constraint else None,
            paraphrases=tuple(text for text in self.paraphrases if all(p in text.casefold() for p in phrases)),
        )

    def content(self) -> dict:
        """What of it determines a result, as JSON: the question and its phrases, the picture by its bytes."""
        names = ("question", "visual_constraint", "visual_replacement", "text_constraint", "text_replacement")
        try:
            image = None if self.image is None else hashlib.sha256(self.image.read_bytes()).hexdigest()
        except OSError:
            image = "unreadable"
        content = {name: getattr(self, name) for name in names} | {"answers": list(self.answers), "image": image}
        # Only where there are some, so that results of items without them keep their names.
        return content | ({"annotations": list(self.annotations)} if self.annotations else {})


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
        """The parts it has, the paper's three first and in the paper's order."""
        found = {item.part for item in self.items}
        return tuple(p for p in PAPER_PARTS if p in found) + tuple(sorted(found - set(PAPER_PARTS)))

    def select(
        self,
        part: str | Iterable[str] | None = None,
        constraints: str | None = None,
        split: str | None = None,
        limit: int = 0,
        seed: int = 0,
    ) -> TestBed:
        """The items that match, part by part, at most `limit` of each part (0 = all).

        The order within a part is a shuffle by `seed` and the item's id alone, so a smaller limit
        is a prefix of a larger one and a question keeps its place when others are added.
        """
        wanted = self.parts if part is None else (part,) if isinstance(part, str) else tuple(part)
        for name in wanted:
            if name not in self.parts:
                raise TestBedError(
                    f"Test bed {self.name!r} has no part {name!r}: choose from {', '.join(self.parts)}."
                )
        if constraints not in (None, "single", "multi"):
            raise TestBedError(f"constraints must be 'single' or 'multi', not {constraints!r}.")
        chosen: list[Item] = []
        for name in wanted:
            matching = [
                item
                for item in self.items
                if item.part == name
                and constraints in (None, item.constraints)
                and split in (None, item.split)
            ]
            matching.sort(key=lambda item: lot(seed, item.id))
            chosen += matching[:limit] if limit else matching
        return replace(self, items=tuple(chosen))


def load_testbed(name: str | Path = "embedded") -> TestBed:
    """Read the embedded sample (`"embedded"`) or a directory in the test bed's format.

    Images are not opened here: one that is missing or unreadable costs its own question only.
    Raises `TestBedError` for a directory that is not there and for every malformed table or row.
    """
    directory = EMBEDDED if str(name) == "embedded" else Path(name).expanduser()
    path = directory / TABLE
    if not path.is_file():
        raise TestBedError(
            f"Unknown test bed {str(name)!r}: use 'embedded' or a directory that holds {TABLE} and images/."
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise TestBedError(f"{path} is not a readable parquet table ({first_line(error)}).") from error
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing:
        raise TestBedError(f"{path} lacks the column(s) {', '.join(missing)}: see testbed.Item.")
    try:
        schema = _with_optional(name for name in OPTIONAL_COLUMNS.names if name in table.column_names)
        rows = table.select(schema.names).cast(schema).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise TestBedError(f"{path} has a column of the wrong type ({first_line(error)}).") from error
    items = tuple(_item(row, directory.resolve()) for row in rows)
    _check_ids(items, path)
    return TestBed(str(name), directory.resolve(), items)


def save_testbed(items: Iterable[Item], directory: str | Path, card: str | None = None) -> Path:
    """Write `items.parquet` (and the dataset card, if given) into `directory`; returns the table's path.

    Images are not copied: each must already lie in the directory, or be a path relative to it. An optional column is
    written only if an item has something in it.
    """
    directory = Path(directory).resolve()
    items = tuple(items)
    _check_ids(items, directory / TABLE)
    directory.mkdir(parents=True, exist_ok=True)
    schema = _with_optional(name for name in OPTIONAL_COLUMNS.names if any(getattr(item, name) for item in items))
    rows = [{name: getattr(item, name) for name in schema.names} for item in items]
    for row in rows:
        row["image"] = _relative(row["image"], directory, row["id"])
    table = pa.Table.from_pylist(rows, schema=schema)
    in_one_step(directory / TABLE, lambda path: pq.write_table(table, path, compression="zstd"))
    if card is not None:
        in_one_step(directory / "README.md", lambda path: path.write_text(card, encoding="utf-8"))
    return directory / TABLE


def in_one_step(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there, so that it is either as before or whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _with_optional(names: Iterable[str]) -> pa.Schema:
    return pa.schema([*COLUMNS, *map(OPTIONAL_COLUMNS.field, names)])


def _item(row: dict, directory: Path) -> Item:
    image = row.pop("image")
    for name in ("answers", "paraphrases", "annotations"):
        row[name] = tuple(row.get(name) or ())
    try:
        return Item(**row, image=None if image is None else directory.joinpath(*safe_parts(image)))
    except TestBedError as error:
        if "leads out" in str(error):
            raise TestBedError(f"Item {row['id']!r}: {error}: name one below images/.") from error
        raise


def _problem(item: Item) -> str:
    """What is wrong with an item, as the end of a sentence; empty when nothing is."""
    if not item.id or not item.part:
        return "id and part must not be empty"
    for phrase, needed in (("text_replacement", "text_constraint"), ("visual_replacement", "visual_constraint")):
        if getattr(item, phrase) and not getattr(item, needed):
            return f"{phrase} replaces {needed}, which is missing"
    if item.text_constraint == "" or item.text_replacement == "":
        return "text_constraint and text_replacement must be None where there is none, not empty"
    if item.text_constraint and not item.visual_constraint:
        return "text_constraint needs a visual_constraint beside it"
    if not item.answers or not all(item.answers):
        return "it needs at least one answer, and no answer may be empty"
    if len(item.annotations) not in (0, N_ANNOTATORS) or None in item.annotations:
        return (
            f"annotations must be {N_ANNOTATORS} answers, none of them missing, or () (then `answers` decide what is "
            f"right), not {len(item.annotations)}"
        )
    for constraint in filter(None, (item.visual_constraint, item.text_constraint)):
        for question in (item.question, *item.paraphrases):
            if constraint.casefold() not in question.casefold():
                return f"the constraint {constraint!r} is not a contiguous part of the question {question!r}"
    return ""


def _check_ids(items: tuple[Item, ...], path: Path) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise TestBedError(f"{path} has the id {item.id!r} twice: ids must be unique.")
        seen.add(item.id)


def _relative(image: Path | None, directory: Path, item_id: str) -> str | None:
    if image is None:
        return None
    image = Path(image)
    if image.is_absolute():
        image = image.resolve()
        if not image.is_relative_to(directory):
            raise TestBedError(f"Item {item_id!r}: its image {str(image)!r} must lie in {str(directory)!r}.")
        image = image.relative_to(directory)
    return "/".join(safe_parts(image.as_posix()))

