"""Where phrases come from that can stand in the place of a constraint: the test bed itself, and names of each kind.

A replacement of the visual constraint must be of the same kind ("Taj Mahal" for "this building"), so that the question
still makes sense, and must not lead to the same answer. Of a text constraint, a year becomes another year, a number
another number, a single letter another letter, and a word another one of its kind.

What English asks for is kept where rules can: the article, singular and plural, a capital at the beginning. A bare
"this" has no noun: it takes names of what the question asks for ("What sport is this?"), which may become as odd as
"What sport is tennis?", and otherwise names of things. "Where is this?", "it" and "they" are not handled, nor does a
verb follow where a plural noun becomes the name of one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from ..lots import lot
from ..metrics import normalize_vqa_answer
from ..tokens import find_phrase, normalise
from .phrases import PRONOUNS, head_noun, words_of
from .schema import Item

KINDS = Path(__file__).with_name("entity_kinds.yaml")
SOURCES = {
    "entity": "what another item of the same part, relation and kind shows; of a text constraint, that of another "
              "question about the same entity",
    "constraint": "the text constraint of another question of the same part and relation",
    "kind": "a name of the kind that the constraint belongs to",
    "asked": "a name of the kind that the question asks for, in the place of a bare 'this'",
    "form": "another year, number or letter",
    "replacement": "the replacement of another item with a constraint of the same kind",
    "relation": "what another item of the same part and relation shows, of whatever kind: only where nothing else is",
}

_BARE_MANY = ("these", "those", "they", "them")
_ASKED = re.compile(r"\b(?:what|which)\s+(.+?)\s+(?:is|are|was|were)\s+$", re.IGNORECASE)
_WHERE_IS = re.compile(r"^(?:where|when)\s+(?:is|are|was|were)\s+$", re.IGNORECASE)
_FORMS = {"year": re.compile(r"\b(?:1[5-9]|20)\d\d\b"), "number": re.compile(r"\b\d{1,9}\b"),
          "letter": re.compile(r"\b[A-Z]\b")}
_FAR, _LAST_YEAR = 30, 2024  # how far another number or year may be; the latest year that names films, wars and cups
_LETTERS = "ABCDEFGHIKLMNOPRSTUV"  # those with which many names begin


class Candidate(NamedTuple):
    """A phrase as it would stand in the question; source: one of SOURCES."""

    phrase: str
    source: str


class Kind(NamedTuple):
    """A kind of `entity_kinds.yaml`, or a noun that is in none; many: whether it is named in the plural."""

    name: str
    many: bool

    @property
    def names(self) -> list[str]:
        return kinds().get(self.name, {}).get("plural" if self.many else "names", [])


class Candidates:
    """What the items of a test bed can be given. key: a hash of all that decides it."""

    def __init__(self, testbed: Iterable[Item]) -> None:
        # Dictionaries without values, for they keep the order of the items, as sets do not.
        self._shown = defaultdict(dict)  # (part, relation, kind, or None for any) -> entities
        self._texts = defaultdict(dict)  # (part, relation, form, entity, or None for any) -> text constraints
        self._replacements = defaultdict(dict)  # what tells of which kind they are -> phrases
        self._answers = defaultdict(set)  # (part, relation, entity[, text constraint]) -> answers
        told = []
        for item in testbed:
            told.append([str(value) for name, value in vars(item).items() if name != "image"])
            if item.visual_constraint:
                self._add(item)
        self.key = hashlib.sha256(KINDS.read_bytes() + json.dumps(told).encode()).hexdigest()[:32]

    def of(self, item: Item, role: str, *, seed: int = 0, most: int = 32) -> list[Candidate]:
        """At most so many candidates for the constraint `role` ("visual" or "text"), in the order of SOURCES; within a
        source, seed, item and phrase alone decide.

        None contains, or is part of, an answer, the entity or a constraint; and none shares an answer with the item,
        where the test bed tells that.
        """
        capital = getattr(item, f"{role}_constraint")[0].isupper()
        found: dict[str, str] = {}
        for source, phrases in self._sources(item, role):
            if source == "relation" and found:
                break
            for phrase in sorted(phrases, key=lambda phrase: lot(seed, item.id, phrase)):
                if len(found) == most:
                    break
                if self._fits(item, role, phrase):
                    found.setdefault(phrase[0].upper() + phrase[1:] if capital else phrase, source)
        return [Candidate(*pair) for pair in found.items()]

    def why_none(self, item: Item, role: str) -> str:
        """The reason to give for an item of which no candidate could be used."""
        visual = role == "visual"
        kind = visual_kind(item.question, item.visual_constraint)[0] if visual else text_form(item.text_constraint)
        constraint = getattr(item, f"{role}_constraint")
        if kind is None or kind[0] not in _FORMS.keys() | kinds().keys():
            return f"unknown kind: {constraint!r} is of none in {KINDS.name}, and nothing in the test bed fits"
        return f"no candidate fits: all for {constraint!r} share an answer or a word with the item, or are refused"

    def _add(self, item: Item) -> None:
        group, answers = (item.part, item.relation), {compared(answer) for answer in item.answers}
        kind, _ = visual_kind(item.question, item.visual_constraint)
        if item.entity:
            for key in (kind, None):
                self._shown[*group, key][item.entity] = None
            self._answers[*group, compared(item.entity)] |= answers
        if item.visual_replacement:
            self._replacements[kind, item.visual_constraint[0].isupper()][item.visual_replacement] = None
        if item.text_constraint:
            form = text_form(item.text_constraint)
            for entity in (item.entity, None):
                self._texts[*group, form, entity][item.text_constraint] = None
            self._answers[*group, compared(item.entity), compared(item.text_constraint)] |= answers
            if item.text_replacement:
                capital = item.text_constraint[0].isupper()
                self._replacements[*group, form, capital][item.text_replacement] = None

    def _sources(self, item: Item, role: str) -> Iterator[tuple[str, Iterable[str]]]:
        group, capital = (item.part, item.relation), getattr(item, f"{role}_constraint")[0].isupper()
        if role == "text":
            form = text_form(item.text_constraint)
            if item.entity:
                yield "entity", self._texts.get((*group, form, item.entity), ())
            yield "constraint", self._texts.get((*group, form, None), ())
            yield "kind", form.names if isinstance(form, Kind) else ()
            yield "form", other_forms(item.text_constraint)
            yield "replacement", self._replacements.get((*group, form, capital), ())
            return
        kind, source = visual_kind(item.question, item.visual_constraint)
        if kind:
            yield "entity", self._shown.get((*group, kind), ())
            yield source, kind.names
            yield "replacement", self._replacements.get((kind, capital), ())
        if item.relation:
            yield "relation", self._shown.get((*group, None), ())

    def _fits(self, item: Item, role: str, phrase: str) -> bool:
        words, group = compared(phrase), (item.part, item.relation)
        if gives_away(phrase, item) or _overlap(words, (item.visual_constraint, item.text_constraint or "")):
            return False
        if role == "text" and not item.entity:
            return True  # the same words about another picture tell nothing
        key = (*group, words) if role == "visual" else (*group, compared(item.entity), words)
        return not self._answers.get(key, set()) & {compared(answer) for answer in item.answers}


@cache
def kinds() -> dict[str, dict[str, list[str]]]:
    """`entity_kinds.yaml`: kind -> one, many, names, and plural where it has them."""
    return yaml.safe_load(KINDS.read_text(encoding="utf-8"))


def kind_of(phrase: str) -> Kind | None:
    """The kind of what a phrase is about: by its noun ("this tall building"), or because it is a name of a kind ("these
    zebras"). Of "this video game" the longer noun tells, not "game". None if the table has none."""
    words, head = [re.sub(r"['’]s?$", "", word) for word in words_of(phrase)], head_noun(phrase)
    many = bool({"these", "those"} & set(words))  # "these sheep"
    if head:  # only a bare "this" is a word of the table
        words = [word for word in words if word not in PRONOUNS]
    end = words.index(head) + 1 if head in words else len(words)
    spans = [(begin, end) for begin in range(end)]  # those that end in the noun, and if that is in no kind, all
    spans += [(begin, stop) for begin in range(len(words)) for stop in range(len(words), begin, -1)]
    kind = next(filter(None, (_nouns().get(" ".join(words[begin:stop])) for begin, stop in spans)), None)
    return kind and Kind(kind.name, many or kind.many)


def visual_kind(question: str, constraint: str) -> tuple[Kind | None, str]:
    """The kind of a visual constraint, and where that is from: its own noun ("kind"), or, if it is a bare "this", what
    the question asks for ("asked"). A noun that is in no kind is one by itself. None: nothing is known."""
    noun = head_noun(constraint)
    if noun:
        return kind_of(constraint) or Kind(noun, False), "kind"
    question = normalise(question)
    begin, end = find_phrase(question, constraint, "visual_constraint", last=False)
    asked = _ASKED.search(question[:begin])
    kind = asked and kind_of(asked[1])
    if kind:
        return Kind(kind.name, constraint.lower() in _BARE_MANY), "asked"
    names_itself = asked and not words_of(question[end:])  # "What time of day is this?"
    return (None if names_itself or _WHERE_IS.search(question[:begin]) else kind_of(constraint)), "kind"


def text_form(constraint: str) -> Kind | tuple[str, str]:
    """What varies in a text constraint ("year", "number", "letter") and the words around it ("in {}"); the kind of one
    that is a name ("French"); ("", "") for all others."""
    for form, pattern in _FORMS.items():
        if pattern.search(constraint):
            return form, pattern.sub("{}", constraint, count=1)
    return _names().get(_without_article(constraint), ("", ""))


def other_forms(constraint: str) -> list[str]:
    """The constraint with another year, number (of as many digits) or capital letter; none if it has none of these."""
    form, around = text_form(constraint)
    if form not in _FORMS:
        return []
    now = _FORMS[form].search(constraint)[0]
    others = _LETTERS
    if form != "letter":
        last = max(_LAST_YEAR, int(now)) if form == "year" else int(now) + _FAR
        others = map(str, range(max(1, int(now) - _FAR), min(last, int(now) + _FAR) + 1))
    return [around.replace("{}", other) for other in others if other != now and len(other) == len(now)]


def compared(text: str) -> tuple[str, ...]:
    """The words of a phrase as they are compared: as by VQA accuracy, and "zebras" like "a zebra"."""
    words = normalize_vqa_answer(text) or text.strip().lower()  # the letter A is no article
    return tuple(word.removesuffix("s") for word in words.split())


def gives_away(phrase: str, item: Item) -> bool:
    """Does a phrase contain an answer of the item or what its image shows, or is it a part of them?"""
    return _overlap(compared(phrase), (item.entity, *item.answers, *item.annotations))


def _overlap(words: tuple[str, ...], phrases: Iterable[str]) -> bool:
    """Whether the words stand in one of the phrases, or it in them."""
    others = (compared(phrase) for phrase in phrases if phrase)
    return any(_within(other, words) or _within(words, other) for other in others)


def _within(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether the words stand in the others one after the other."""
    return any(others[i : i + len(words)] == words for i in range(len(others) - len(words) + 1))


def _without_article(phrase: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", phrase.lower())


@cache
def _names() -> dict[str, Kind]:
    """The names of all kinds, in lower case and without article; of one that is in several, the first."""
    return {
        _without_article(name): Kind(kind, column == "plural") for kind, entry in reversed(kinds().items())
        for column in ("plural", "names") for name in entry.get(column, ())
    }


@cache
def _nouns() -> dict[str, Kind]:
    """What a visual constraint may be about: the nouns of all kinds, and names that are common nouns ("a zebra",
    "sushi", not "Time")."""
    names = (name for entry in kinds().values() for name in (*entry["names"], *entry.get("plural", ())))
    common = map(_without_article, (name for name in names if name[0].islower() and not name.startswith("the ")))
    return {name: _names()[name] for name in common} | {
        noun: Kind(kind, column == "many") for kind, entry in kinds().items()
        for column in ("one", "many") for noun in entry[column]
    }
