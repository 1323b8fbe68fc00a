"""Read the files of the sources, with one clear sentence for each way in which a download can be broken.

Formats: the authors' CSVs, OK-VQA's two JSON files, `movies.pkl` (plain lists and dictionaries; nothing in it is run),
a table of films' years, ROME's `known_1000.json`, Encyclopedic-VQA's CSV.
"""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import TestBedError
from ...text import first_line, normalize, quoted
from ..schema import N_ANNOTATORS

KNOWN_FACTS = Path(__file__).with_name("known_1000.json")
KNOWN_RELATIONS = Path(__file__).with_name("known_relations.json")
_MOST_PICKLED = 512 << 20  # bytes


@dataclass(frozen=True)
class Film:
    name: str
    directors: tuple[str, ...]
    popularity: float
    year: int | None = None


def read_csv(path: str | Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV with a header, texts normalized. columns: the required ones."""
    path = _existing(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise TestBedError(f"{path.name} lacks the column(s) {', '.join(missing)}: is it the released file?")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise TestBedError(f"{path.name}, line {reader.line_num}: not as many fields as the header has.")
                rows.append({name: normalize(value) for name, value in row.items()})
    except UnicodeDecodeError as error:
        raise TestBedError(f"{path.name} is not UTF-8 ({first_line(error)}): save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise TestBedError(f"{path.name} is not a readable CSV ({first_line(error)}): download it again.") from error
    if not rows:
        raise TestBedError(f"{path.name} has no rows: download it again.")
    return rows


def read_json(path: str | Path):
    """Return the content of a JSON file."""
    path = _existing(path)
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise TestBedError(f"{path.name} is not readable JSON ({first_line(error)}): download it again.") from error


def read_known(path: str | Path = KNOWN_FACTS) -> list[dict]:
    """Return ROME's facts: subject, attribute, template, prompt and relation_id, each a text."""
    names: dict[str, type] = dict.fromkeys(("subject", "attribute", "template", "prompt", "relation_id"), str)
    return [{name: normalize(fact[name]) for name in names} for fact in _records(path, read_json(path), names)]


def read_relations(path: str | Path = KNOWN_RELATIONS) -> dict[str, dict]:
    """Return, by relation id: question, visual_constraint, default_noun, other_nouns, templates."""
    data = read_json(path)
    names = {"relation_id": str, "question": str, "visual_constraint": str, "default_noun": str, "other_nouns": list,
             "templates": list}
    rows = _records(path, data.get("relations") if isinstance(data, dict) else data, names)
    for row in rows:
        pairs = [pair for pair in row["templates"] if isinstance(pair, list) and len(pair) == 2]
        texts = [text for text, _ in pairs if isinstance(text, str) and text]
        constraint = row["visual_constraint"]
        if len(texts) < len(row["templates"]) or not constraint or constraint not in row["question"]:
            raise TestBedError(
                f"{Path(path).name}, {row['relation_id']}: templates must be pairs of a text and how often it occurs, "
                "and visual_constraint a part of the question."
            )
    return {row["relation_id"]: row for row in rows}


def read_okvqa(questions: str | Path, annotations: str | Path) -> tuple[list[dict], dict[int, tuple[str, ...]]]:
    """Return OK-VQA's questions (question_id, image_id, question), and the ten answers by question_id."""
    asked = _member(questions, "questions", {"question_id": int, "image_id": int, "question": str})
    answers = {}
    for entry in _member(annotations, "annotations", {"question_id": int, "answers": list}):
        texts: list = [answer.get("answer") if isinstance(answer, dict) else None for answer in entry["answers"]]
        if len(texts) != N_ANNOTATORS or not all(isinstance(text, str) for text in texts):
            raise TestBedError(
                f"{Path(annotations).name}: question {entry['question_id']} has no ten answers: is it OK-VQA's file?"
            )
        answers[entry["question_id"]] = tuple(map(normalize, texts))
    return asked, answers


def by_frequency(annotations: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct answers of annotators, the most frequent first, ties in the given order."""
    return tuple(answer for answer, _ in Counter(filter(None, annotations)).most_common())


def read_films(path: str | Path, years: str | Path | None = None) -> list[Film]:
    """Return the films of `movies.pkl`, the most popular first, with joint credits split. years: see `build_movies`."""
    names = {"movie_name": str, "director_name": str}
    rows = _records(path, read_plain_pickle(path), names)
    known = _years(years) if years is not None else {}
    films = []
    for row in rows:
        name, directors = normalize(row["movie_name"]), split_credits(row["director_name"])
        popularity = row.get("popularity")
        popularity = float(popularity) if isinstance(popularity, (int, float)) else 0.0
        year = next((known[key] for key in [*((name, d) for d in directors), (name, "")] if key in known), None)
        if name and directors:
            films.append(Film(name, directors, popularity, year))
    return sorted(films, key=lambda film: (-film.popularity, film.name))


def split_credits(text: str) -> tuple[str, ...]:
    """Return the directors of a joint credit: "Joel Coen, Ethan Coen", "A and B" or "A & B"."""
    pieces = re.split(r"\s*(?:[,;|/&]|\band\b)\s*", normalize(text))
    kept: list[str] = []
    for piece in filter(None, pieces):
        if kept and re.fullmatch(r"(?:Jr|Sr)\.?|I{1,3}|IV", piece):  # "Robert Downey, Sr."
            kept[-1] += f" {piece}"
        else:
            kept.append(piece)
    return tuple(dict.fromkeys(kept))


class _Plain(pickle.Unpickler):
    """Reads lists, dictionaries, texts and numbers, and refuses classes and functions before looking them up."""

    def find_class(self, module, name):
        raise TestBedError(f"wants to run {module}.{name}")

    def persistent_load(self, pid):
        raise TestBedError("refers to objects outside of it")


def read_plain_pickle(path: str | Path):
    """Return the content of a pickle of plain values. One that names a class or a function is refused, not run."""
    path = _existing(path)
    if path.stat().st_size > _MOST_PICKLED:
        raise TestBedError(f"{path.name} has more than {_MOST_PICKLED >> 20} MB: it is not the list of films.")
    try:
        with path.open("rb") as file:
            return _Plain(file).load()
    except TestBedError as error:
        raise TestBedError(f"{path.name} {error}: it is not the list of films, and nothing of it was run.") from error
    except Exception as error:  # a broken pickle may raise nearly anything
        raise TestBedError(f"{path.name} is not a readable pickle ({first_line(error)}): download it again.") from error


def _years(path: str | Path) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for number, row in enumerate(read_csv(path, ("movie_name", "year")), start=1):
        if not re.fullmatch(r"(?:18|19|20)\d\d", row["year"]):
            raise TestBedError(f"{Path(path).name}, row {number}: {row['year']!r} is not a year.")
        for director in split_credits(row.get("director_name", "")) or ("",):
            found[row["movie_name"], director] = int(row["year"])
    return found


def _member(path: str | Path, name: str, types: dict[str, type]) -> list[dict]:
    data = read_json(path)
    if not isinstance(data, dict) or name not in data:
        raise TestBedError(f"{Path(path).name} has no {name!r}: name OK-VQA's {name} file.")
    records = _records(path, data[name], types)
    doubled = [n for n, count in Counter(record["question_id"] for record in records).items() if count > 1]
    if doubled:
        raise TestBedError(f"{Path(path).name} has the question_id {doubled[0]} twice: download it again.")
    return records


def _records(path: str | Path, data, types: dict[str, type]) -> list[dict]:
    """Return `data` if it is a list of dictionaries with fields of these types."""
    name = Path(path).name
    if not isinstance(data, list) or not data:
        raise TestBedError(f"{name} is not a list of records: is it the right file?")
    for number, row in enumerate(data):
        if not isinstance(row, dict):
            raise TestBedError(f"{name}, record {number}: not a record of {', '.join(types)}.")
        for field, kind in types.items():
            value = row.get(field)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TestBedError(f"{name}, record {number}: {field} must be {_NAMES[kind]}, not {repr(value)[:60]}.")
    return data


_NAMES = {str: "a text", int: "a whole number", list: "a list"}


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise TestBedError(f"There is no file {quoted(Path(path))}: download the source first, or name where it is.")
    return path
