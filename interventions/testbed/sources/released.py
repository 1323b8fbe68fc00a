"""Import the authors' released annotations of VQA-Constraints.

Their three CSVs have question, visual constraint and image, and known defects, which are repaired. Answers are joined
from the sources. The test bed's `rows.csv` accounts for every row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import pandas as pd

from ...errors import TestBedError
from ...text import quoted
from ..images import ImageFolder, find_in
from ..phrases import noun_phrase_problem
from ..schema import TestBed
from .files import KNOWN_FACTS, Film, by_frequency, read_csv, read_films, read_known, read_okvqa, split_credits
from .new_testbed import LeftOut, NewTestBed, Row
from .repairs import repair_constraint

FILES = {"known": "multimodal_known.csv", "okvqa": "okvqa.csv", "movies": "multimodal_movies.csv"}
_COLUMNS = {"known": ("subject",), "okvqa": (), "movies": ("director",)}


@dataclass(frozen=True)
class Joined:
    """The fields of a row that come from the sources."""

    answers: tuple[str, ...]
    entity: str = ""
    relation: str = ""
    template: str = ""  # of the fact behind the question
    annotations: tuple[str, ...] = ()


def import_released(
    directory: str | Path, out: str | Path, *, images: Iterable[str | Path], known: str | Path = KNOWN_FACTS,
    films: str | Path | None = None, okvqa_questions: str | Path | None = None,
    okvqa_annotations: str | Path | None = None, choice: str = "first",
) -> tuple[TestBed, pd.DataFrame, list[ImageFolder]]:
    """Make a test bed from the released CSVs, those of the three that exist.

    Rows of a part whose answers come from a missing file are left out with that reason.

    Args:
        directory: the folder of the CSVs.
        images: folders with the pictures that `image_url` names, in the order of the search.
        known: ROME's `known_1000.json`.
        films: `movies.pkl`.
        okvqa_questions: OK-VQA's JSON file of questions of val2014.
        okvqa_annotations: OK-VQA's JSON file of annotations of val2014.
        choice: which of several readable pictures: "first" (lowest number) or "largest" (most pixels).

    Returns:
        The test bed, a table of all rows (columns of `new_testbed.Row`), and the image folders, which know the
        folders that no row names.

    Raises:
        TestBedError: a file is not in the released format, or no row can be used. Nothing is written.
    """
    directory, folders = Path(directory).expanduser(), [ImageFolder(root) for root in images]
    found = {part: directory / name for part, name in FILES.items() if (directory / name).is_file()}
    if not found:
        raise TestBedError(f"directory: {quoted(Path(directory))} holds none of {', '.join(FILES.values())}.")
    if (okvqa_questions is None) != (okvqa_annotations is None):
        raise TestBedError("okvqa_questions and okvqa_annotations belong together: give both files, or none.")
    joins = {
        "known": lambda: _join_known(known),
        "movies": lambda: _not_given("--films") if films is None else _join_films(films),
        "okvqa": lambda: _not_given("--okvqa-questions and --okvqa-annotations") if okvqa_questions is None
        else _join_okvqa(okvqa_questions, okvqa_annotations),  # pyright: ignore[reportArgumentType]
    }
    joined = {"known": [known], "movies": [films], "okvqa": [okvqa_questions, okvqa_annotations]}
    given = [path for part in found for path in joined[part] if path is not None]
    with NewTestBed(out, choice) as new:
        for part, path in found.items():
            rows = read_csv(path, ("question", "main_entity", "image_url", *_COLUMNS[part]))
            _import_part(new, part, path.name, rows, joins[part](), folders)
        settings = {"choice": choice, "parts": ", ".join(found)}
        testbed, frame = new.publish(
            "import-released", settings=settings, inputs=map(Path, [*found.values(), *given]))
    return testbed, frame, folders


def _import_part(new: NewTestBed, part: str, source: str, entries: list[dict], join: Callable, folders: list) -> None:
    seen: dict[tuple, int] = {}

    def add(row: Row, entry: dict) -> None:
        key = entry["question"], entry["image_url"]
        if key in seen:
            raise LeftOut(f"the same as an earlier row: {seen[key]}")
        _import_row(new, row, entry, join, folders)
        seen[key] = row.number

    new.add_rows(part, source, ((entry["question"], entry) for entry in entries), add)


def _import_row(new: NewTestBed, row: Row, released: dict, join: Callable, folders: list[ImageFolder]) -> None:
    if not row.question:
        raise LeftOut("no question")
    candidates, spelled_otherwise = _candidates(released["image_url"], folders)
    joined = join(released, row)
    constraint, repairs = repair_constraint(row.question, released["main_entity"], joined.template)
    row.repairs += repairs
    doubt = noun_phrase_problem(row.question, constraint)
    if doubt:
        row.notes.append(f"doubtful constraint: {doubt}")
    if not candidates:
        raise LeftOut(f"no image: {released['image_url']}")
    if spelled_otherwise:
        row.repairs.append("image name spelled in another way")
    image = new.take_image(row, candidates, joined.entity or candidates[0].stem)
    new.keep(
        row, image=image, visual_constraint=constraint, answers=joined.answers, entity=joined.entity,
        relation=joined.relation, annotations=joined.annotations,
    )


def _candidates(name: str, folders: list[ImageFolder]) -> tuple[list[Path], bool]:
    """The pictures that a row names, and whether the folder spells their name in another way."""
    if not name:
        raise LeftOut("no image: the row names none")
    try:
        return find_in(folders, [name])
    except TestBedError as error:
        raise LeftOut(f"unsafe image name: {error}") from error


def _not_given(options: str) -> Callable:
    def join(released: dict, row: Row) -> Joined:
        raise LeftOut(f"no answers without {options}")

    return join


def _join_known(path: str | Path) -> Callable:
    """Join facts by subject; of several, the one whose template fits the question, then the first unused one."""
    facts: dict[str, list[dict]] = {}
    for fact in read_known(path):
        facts.setdefault(fact["subject"].casefold(), []).append(fact)
    used: set[int] = set()

    def join(released: dict, row: Row) -> Joined:
        own = facts.get(released["subject"].casefold())
        if not own:
            raise LeftOut(f"no fact about the subject: {released['subject']!r}")
        fact = min(own, key=lambda fact: (not _fits(fact["template"], row.question), id(fact) in used))
        used.add(id(fact))
        if len(own) > 1:
            row.notes.append(f"{len(own)} facts about the subject, that with the answer {fact['attribute']!r} taken")
        return Joined((fact["attribute"],), fact["subject"], fact["relation_id"], fact["template"])

    return join


def _fits(template: str, question: str) -> bool:
    """Whether the question has all the words around a template's subject."""
    return all(piece.strip(" ,").casefold() in question.casefold() for piece in template.split("{}"))


def _join_films(path: str | Path) -> Callable:
    films: dict[str, list[Film]] = {}
    for film in read_films(path):  # the most popular first
        for director in film.directors:
            films.setdefault(director.casefold(), []).append(film)

    def join(released: dict, row: Row) -> Joined:
        # The films of a joint credit are those made together.
        names = [name.casefold() for name in split_credits(released["director"])]
        made = films.get(names[0], []) if names else []
        answers = [film.name for film in made if set(names) <= {name.casefold() for name in film.directors}]
        if not answers:
            raise LeftOut(f"no film of the director: {released['director']!r}")
        return Joined(tuple(dict.fromkeys(answers)), released["director"], "director")

    return join


def _join_okvqa(questions: str | Path, annotations: str | Path) -> Callable:
    asked, answers = read_okvqa(questions, annotations)
    by_text = {(entry["image_id"], _plain(entry["question"])): entry["question_id"] for entry in asked}
    by_image: dict[int | None, list[dict]] = {}
    for entry in asked:
        by_image.setdefault(entry["image_id"], []).append(entry)

    def join(released: dict, row: Row) -> Joined:
        number = re.search(r"(\d+)\.\w+$", released["image_url"])
        image = int(number[1]) if number else None
        found = by_text.get((image, _plain(row.question)))
        if found is None:
            alike = [entry for entry in by_image.get(image, ()) if _alike(entry["question"], row.question)]
            if len(alike) == 1:
                found = alike[0]["question_id"]
                row.repairs.append("answers of the image's question that is worded alike")
        if found is None:
            raise LeftOut("not among OK-VQA's questions")
        if not by_frequency(answers.get(found, ())):
            raise LeftOut("no answers in OK-VQA's annotations")
        return Joined(by_frequency(answers[found]), annotations=answers[found])

    return join


def _alike(question: str, other: str) -> bool:
    """Whether most words are the same, in order, so that a word may be mistyped or missing."""
    return SequenceMatcher(None, _plain(question).split(), _plain(other).split()).ratio() > 0.7


def _plain(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.casefold()))
