"""Test beds from the original sources, for those who do not have the authors' files: OK-VQA, Movies, Known, and the
landmark questions of Encyclopedic-VQA, the paper's long-tailed editing set (appendix I)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from pathlib import Path

import pandas as pd

from ...draws import seeded_hash
from ...errors import TestBedError
from ...progress import Progress
from ..images import ENDINGS, ImageFolder, find_in
from ..phrases import DEMONSTRATIVES, phrase_problem, trim, words_of
from ..schema import TestBed
from .files import (
    KNOWN_FACTS,
    KNOWN_RELATIONS,
    by_frequency,
    read_csv,
    read_films,
    read_known,
    read_okvqa,
    read_relations,
)
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
    """OK-VQA's questions with the ten answers of its annotators, in the test bed `out` (a new folder).

    questions, annotations: OpenEnded_mscoco_val2014_questions.json and mscoco_val2014_annotations.json; images: the
    folder val2014, or the one around it. Constraints are not marked in OK-VQA: `annotate` does that.
    Returns as `released.import_released`, and raises `TestBedError` as it does; so do the others of this module.
    """
    folders = [ImageFolder(root) for root in images]
    asked, answers = read_okvqa(questions, annotations)

    def one(new: NewTestBed, row: Row, entry: dict) -> None:
        given = answers.get(entry["question_id"], ())
        if not by_frequency(given):
            raise LeftOut("no answers")
        name = f"COCO_val2014_{entry['image_id']:012d}.jpg"
        image = new.take_image(row, find_in(folders, (name, f"val2014/{name}"))[0], name[:-4])
        new.keep(row, image=image, answers=by_frequency(given), annotations=given)

    with NewTestBed(out) as new:
        source = Path(questions).name
        _rows(new, "okvqa", source, ((entry["question"], entry) for entry in asked), one)
        return _publish(new, "build okvqa", folders, [questions, annotations])


def build_known(
    out: str | Path, *, images: Iterable[str | Path], known: str | Path = KNOWN_FACTS,
    relations: str | Path = KNOWN_RELATIONS, choice: str = "first",
) -> Built:
    """Multimodal Known: ROME's facts, the subject shown instead of named ("The capital of this country is").

    images: folders with one folder a subject, called as the subject or "A photo of <subject>". relations: the question
    and the noun of every relation, ours by default.
    """
    folders = [ImageFolder(root) for root in images]
    facts, by_id = read_known(known), read_relations(relations)

    def one(new: NewTestBed, row: Row, fact: dict) -> None:
        relation = by_id.get(fact["relation_id"])
        if relation is None:
            raise LeftOut(f"unknown relation: {fact['relation_id']}")
        image = _of_entity(new, row, folders, fact["subject"])
        new.keep(
            row, image=image, visual_constraint=relation["visual_constraint"], answers=(fact["attribute"],),
            paraphrases=_paraphrases(relation), entity=fact["subject"], relation=fact["relation_id"],
        )

    with NewTestBed(out, choice) as new:
        asked = ((by_id.get(fact["relation_id"], {}).get("question", fact["prompt"]), fact) for fact in facts)
        _rows(new, "known", Path(known).name, asked, one)
        return _publish(new, "build known", folders, [known, relations], choice=choice)


def build_movies(
    films: str | Path, out: str | Path, *, images: Iterable[str | Path], years: str | Path | None = None,
    multi: int = MULTI_MOVIES, seed: int = 0, choice: str = "first",
) -> Built:
    """Multimodal Movies: one question a director of `movies.pkl`, and with `years` up to `multi` about one year each.

    images: folders with one folder a director, called as the director or "A photo of <director>". Films with several
    directors count for each. years: CSV with movie_name, year and, where films share a name, director_name. Which
    questions with a year are taken is drawn by `seed`, among directors with an image. Any film is a right answer.
    """
    if multi < 0:
        raise TestBedError(f"multi must be 0 or more, not {multi}: it is the most questions with a year.")
    folders = [ImageFolder(root) for root in images]
    of_director: dict[str, list] = {}
    for film in read_films(films, years):  # the most popular first
        for director in film.directors:
            of_director.setdefault(director, []).append(film)

    def one(new: NewTestBed, row: Row, asked: tuple) -> None:
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
        _rows(new, "movies", source, ((MOVIES["single"][0], (director, None)) for director in of_director), one)
        shown = {row.number for row in new.rows if row.status != "left out"}
        drawn = [
            (director, year) for number, director in enumerate(of_director, start=1) if number in shown
            for year in sorted({film.year for film in of_director[director]} - {None})
        ]
        drawn = sorted(drawn, key=lambda pair: seeded_hash(seed, *pair))[:multi]
        asked = ((MOVIES["multi"][0].format(year=pair[1]), pair) for pair in drawn)
        _rows(new, "movies", f"{source}, with years", asked, one)
        given = [films] if years is None else [films, years]
        return _publish(new, "build movies", folders, given, choice=choice, multi=multi, seed=seed)


def build_encyclopedic(csv: str | Path, out: str | Path, *, images: Iterable[str | Path]) -> Built:
    """Landmark questions of Encyclopedic-VQA, as facts to insert (split "never": no model is likely to have met them).

    images: folders of Google Landmarks v2 (`train/a/b/c/<id>.jpg`, or below one of its splits); a picture that was
    not downloaded is passed over for the next that the question names. Questions of two hops, and with answers that
    are lists, are left out. The constraint is where `question` and `question_original` differ, if that is a
    demonstrative phrase; else it is left for `annotate`.
    """
    folders = [ImageFolder(root) for root in images]

    def one(new: NewTestBed, row: Row, entry: dict) -> None:
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
        rows = ((entry["question"], entry) for entry in read_csv(csv, _EVQA))
        _rows(new, "encyclopedic", Path(csv).name, rows, one)
        return _publish(new, "build encyclopedic", folders, [csv])


def changed_phrase(question: str, original: str) -> str:
    """The demonstrative phrase that stands in `question` where `original` has a name; empty if there is none."""
    words, others = question.split(), original.split()
    changes = [op for op in SequenceMatcher(None, words, others, autojunk=False).get_opcodes() if op[0] != "equal"]
    if len(changes) != 1:
        return ""
    _, begin, end, *_ = changes[0]
    phrase = trim(" ".join(words[begin:end]))[0]
    points = phrase and words_of(phrase)[0] in DEMONSTRATIVES
    return phrase if points and not phrase_problem(question, phrase) else ""


def _of_entity(new: NewTestBed, row: Row, folders: list[ImageFolder], entity: str) -> Path:
    name = entity.replace("/", "_")  # as no folder can be called
    names = (name, f"A photo of {name}", *(name + ending for ending in ENDINGS))
    return new.take_image(row, find_in(folders, names)[0], entity)


def _landmark_names(name: str) -> tuple[str, ...]:
    path = f"{name[0]}/{name[1]}/{name[2]}/{name}.jpg"
    return tuple(f"{split}{path}" for split in ("", "train/", "index/", "test/"))


def _paraphrases(relation: dict) -> tuple[str, ...]:
    """Other wordings of a relation's question: its commonest templates that are sentences, about the same phrase."""
    noun = relation["visual_constraint"]
    noun = noun[0].lower() + noun[1:]
    templates = [template for template, _ in relation["templates"] if "{}," not in template and template[-1] != ","]
    texts = [template.replace("{}", noun) for template in templates]
    texts = [text[0].upper() + text[1:] for text in texts]
    return tuple(text for text in texts if text != relation["question"])[:_PARAPHRASES]


def _rows(
    new: NewTestBed, part: str, source: str, asked: Iterable[tuple[str, object]],
    one: Callable[[NewTestBed, Row, object], None],
) -> None:
    """`one` for every (question, entry), whose row it keeps or, by raising LeftOut, leaves out."""
    asked, before = list(asked), sum(row.part == part for row in new.rows)
    progress = Progress(len(asked), source)
    for number, (question, entry) in enumerate(asked, start=1):
        row = new.row(source, before + number, part, " ".join(question.split()))
        try:
            one(new, row, entry)
        except LeftOut as error:
            new.leave_out(row, str(error))
        progress.step(f"{len(new.items)} used")


def _publish(new: NewTestBed, command: str, folders: list[ImageFolder], given: Iterable, **settings) -> Built:
    return *new.publish(command, settings=settings, inputs=map(Path, given)), folders
