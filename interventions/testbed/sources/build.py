"""Build test beds from the original sources, without the authors' files: OK-VQA, Movies, Known, and the landmark
questions of Encyclopedic-VQA, the paper's long-tailed editing set (appendix I)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path

import pandas as pd

from ...draws import seeded_hash
from ...errors import TestBedError
from ..images import ENDINGS, ImageFolder, find_in
from ..phrases import DEMONSTRATIVES, phrase_problem, trim, words_of
from ..schema import TestBed
from . import files
from .new_testbed import LeftOut, NewTestBed, Row

Built = tuple[TestBed, pd.DataFrame, list[ImageFolder]]
MULTI_MOVIES = 500  # questions with a year in the paper
MOVIES = {  # question, paraphrases
    "single": ("Name a movie directed by this director",
               ("Which movie was directed by this director", "Name a film made by this director")),
    "multi": ("Name a movie directed by this director in year {year}",
              ("Which movie was directed by this director in year {year}",
               "Name a film made by this director in year {year}")),
}
_EVQA = ("question", "answer", "dataset_image_ids", "dataset_name", "question_type", "wikipedia_title")
_EVQA_TYPES = ("templated", "automatic")  # about the landmark itself, with one answer
_PARAPHRASES = 3


def build_okvqa(
    questions: str | Path, annotations: str | Path, out: str | Path, *, images: Iterable[str | Path]
) -> Built:
    """Build OK-VQA: its questions with the answers of ten annotators. `annotate` marks the constraints.

    Args:
        questions: OpenEnded_mscoco_val2014_questions.json.
        annotations: mscoco_val2014_annotations.json.
        images: the folder val2014, or its parent.
    """
    folders = [ImageFolder(root) for root in images]
    asked, answers = files.read_okvqa(questions, annotations)

    def add(row: Row, entry: dict) -> None:
        given = answers.get(entry["question_id"], ())
        if not files.by_frequency(given):
            raise LeftOut("no answers")
        name = f"COCO_val2014_{entry['image_id']:012d}.jpg"
        image = new.take_image(row, find_in(folders, (name, f"val2014/{name}"))[0], name[:-4])
        new.keep(row, image=image, answers=files.by_frequency(given), annotations=given)

    with NewTestBed(out) as new:
        source = Path(questions).name
        new.add_rows("okvqa", source, ((_one_line(entry["question"]), entry) for entry in asked), add)
        return _publish(new, "build okvqa", folders, [questions, annotations])


def build_known(
    out: str | Path, *, images: Iterable[str | Path], known: str | Path = files.KNOWN_FACTS,
    relations: str | Path = files.KNOWN_RELATIONS, choice: str = "first",
) -> Built:
    """Build Multimodal Known: ROME's facts, with the subject shown instead of named ("The capital of this country is").

    Args:
        images: folders with one folder for each subject, named as the subject or "A photo of <subject>".
        known: ROME's `known_1000.json`.
        relations: the question and the noun of every relation.
        choice: see `NewTestBed`.
    """
    folders = [ImageFolder(root) for root in images]
    facts, by_id = files.read_known(known), files.read_relations(relations)

    def add(row: Row, fact: dict) -> None:
        relation = by_id.get(fact["relation_id"])
        if relation is None:
            raise LeftOut(f"unknown relation: {fact['relation_id']}")
        image = _of_entity(new, row, folders, fact["subject"])
        new.keep(
            row, image=image, visual_constraint=relation["visual_constraint"], answers=(fact["attribute"],),
            paraphrases=_paraphrases(relation), entity=fact["subject"], relation=fact["relation_id"],
        )

    with NewTestBed(out, choice) as new:
        questions = (by_id.get(fact["relation_id"], {}).get("question", fact["prompt"]) for fact in facts)
        new.add_rows("known", Path(known).name, zip(map(_one_line, questions), facts, strict=True), add)
        return _publish(new, "build known", folders, [known, relations], choice=choice)


def build_movies(
    films: str | Path, out: str | Path, *, images: Iterable[str | Path], years: str | Path | None = None,
    multi: int = MULTI_MOVIES, seed: int = 0, choice: str = "first",
) -> Built:
    """Build Multimodal Movies: a question for each director, and with `years` up to `multi` questions about a year.

    A film with several directors counts for each. Any film of the director (and year) is a right answer.

    Args:
        films: `movies.pkl`.
        images: folders with one folder for each director, named as the director or "A photo of <director>".
        years: CSV with movie_name, year and, where films share a name, director_name.
        multi: the largest number of questions about a year.
        seed: decides which of these are taken, among directors with an image.
        choice: see `NewTestBed`.
    """
    if multi < 0:
        raise TestBedError(f"multi must be 0 or more, not {multi}.")
    folders = [ImageFolder(root) for root in images]
    of_director: dict[str, list] = {}
    for film in files.read_films(films, years):  # the most popular first
        for director in film.directors:
            of_director.setdefault(director, []).append(film)

    def add(row: Row, asked: tuple) -> None:
        director, year = asked
        image = _of_entity(new, row, folders, director)
        kind = "single" if year is None else "multi"
        new.keep(
            row, image=image, visual_constraint="this director", text_constraint=None if year is None else str(year),
            answers=tuple(dict.fromkeys(film.name for film in of_director[director] if year in (None, film.year))),
            paraphrases=tuple(text.format(year=year) for text in MOVIES[kind][1]), entity=director,
            relation="director" if year is None else "director, year",
        )

    with NewTestBed(out, choice) as new:
        source = Path(films).name
        single = ((MOVIES["single"][0], (director, None)) for director in of_director)
        new.add_rows("movies", source, single, add)
        shown = {row.number for row in new.rows if row.status != "left out"}
        drawn = [
            (director, year) for number, director in enumerate(of_director, start=1) if number in shown
            for year in sorted({film.year for film in of_director[director]} - {None})
        ]
        drawn = sorted(drawn, key=lambda pair: seeded_hash(seed, *pair))[:multi]
        asked = ((MOVIES["multi"][0].format(year=pair[1]), pair) for pair in drawn)
        new.add_rows("movies", f"{source}, with years", asked, add)
        given = [films] if years is None else [films, years]
        return _publish(new, "build movies", folders, given, choice=choice, multi=multi, seed=seed)


def build_encyclopedic(csv: str | Path, out: str | Path, *, images: Iterable[str | Path]) -> Built:
    """Build the landmark questions of Encyclopedic-VQA: facts to insert (split "never": models hardly know them).

    Questions of two hops and questions with several answers together are left out. The constraint is the demonstrative
    phrase in which `question` differs from `question_original`; without one, `annotate` marks it.

    Args:
        csv: train.csv, val.csv or test.csv.
        images: folders of Google Landmarks v2 (`train/a/b/c/<id>.jpg`, or below one of its splits). A picture that was
            not downloaded is skipped for the next one of the question.
    """
    folders = [ImageFolder(root) for root in images]

    def add(row: Row, entry: dict) -> None:
        if entry["dataset_name"] != "landmarks":
            raise LeftOut("no landmark")
        if entry["question_type"] not in _EVQA_TYPES:
            raise LeftOut(f"not of one step: {entry['question_type']}")
        if "&&" in entry["answer"]:
            raise LeftOut("several answers together")
        answers = tuple(dict.fromkeys(filter(None, map(str.strip, entry["answer"].split("|")))))
        if not answers:
            raise LeftOut("no answers")
        ids = [name for name in entry["dataset_image_ids"].split("|") if re.fullmatch(r"[0-9a-f]{16}", name)]
        found = [path for name in ids for path in find_in(folders, _landmark_names(name))[0]]
        if len(found) < len(ids):
            row.notes.append(f"{len(ids) - len(found)} of {len(ids)} images were not downloaded")
        image = new.take_image(row, found, entry["wikipedia_title"])
        constraint = changed_phrase(row.question, entry.get("question_original", ""))
        new.keep(
            row, image=image, visual_constraint=constraint, answers=answers, entity=entry["wikipedia_title"],
            relation=entry["question_type"], split="never",
        )

    with NewTestBed(out) as new:
        asked = ((_one_line(entry["question"]), entry) for entry in files.read_csv(csv, _EVQA))
        new.add_rows("encyclopedic", Path(csv).name, asked, add)
        return _publish(new, "build encyclopedic", folders, [csv])


def changed_phrase(question: str, original: str) -> str:
    """Return the demonstrative phrase of `question` in the place of a name in `original`, or ""."""
    words, others = question.split(), original.split()
    changes = [op for op in SequenceMatcher(None, words, others, autojunk=False).get_opcodes() if op[0] != "equal"]
    if len(changes) != 1:
        return ""
    _, begin, end, *_ = changes[0]
    phrase = trim(" ".join(words[begin:end]))[0]
    points = phrase and words_of(phrase)[0] in DEMONSTRATIVES
    return phrase if points and not phrase_problem(question, phrase) else ""


def _of_entity(new: NewTestBed, row: Row, folders: list[ImageFolder], entity: str) -> Path:
    name = entity.replace("/", "_")  # no folder name has a slash
    names = (name, f"A photo of {name}", *(name + ending for ending in ENDINGS))
    return new.take_image(row, find_in(folders, names)[0], entity)


def _landmark_names(name: str) -> tuple[str, ...]:
    path = f"{name[0]}/{name[1]}/{name[2]}/{name}.jpg"
    return tuple(f"{split}{path}" for split in ("", "train/", "index/", "test/"))


def _paraphrases(relation: dict) -> tuple[str, ...]:
    """Other wordings of a relation's question: its most frequent templates that are sentences."""
    noun = relation["visual_constraint"]
    noun = noun[0].lower() + noun[1:]
    templates = [template for template, _ in relation["templates"] if "{}," not in template and template[-1] != ","]
    texts = [template.replace("{}", noun) for template in templates]
    texts = [text[0].upper() + text[1:] for text in texts]
    return tuple(text for text in texts if text != relation["question"])[:_PARAPHRASES]


def _one_line(question: str) -> str:
    return " ".join(question.split())


def _publish(new: NewTestBed, command: str, folders: list[ImageFolder], given: Iterable, **settings) -> Built:
    return *new.publish(command, settings=settings, inputs=map(Path, given)), folders
