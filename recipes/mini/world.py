"""The embedded world: entities with pictures and sourced facts, and the questions asked about them.

Everything is read from two tables that ship with the test bed (`facts.csv`, `pictures.csv`, made by
`recipes.mini.sources.collect`), so that the model's training data and the test bed can never disagree.

A fact is split once, by a hash of its name, into one of
  trained    asked with the picture and with the name,
  text_only  asked only with the name (never with a picture): 12 %,
  never      never asked at all: 8 %,
which feeds editing and failure prediction later. Every relation has four wordings: three are trained, the last one is
held out as a paraphrase. Where the relation's words come before the constraint ("The capital of this country is"),
as in ROME's Known set, the answer can be looked up at the constraint itself; `lens_wordings` names those.
"""

import csv
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache, cached_property

from interventions.testbed.schema import EMBEDDED

HELD_OUT_STYLE = "twemoji"
PHOTO = "photo"
HELD_OUT_WORDING = 3

# relation -> (part of the test bed, four wordings: {X} the visual constraint, {C} the text constraint, {N} the noun)
WORDINGS: dict[str, tuple[str, tuple[str, str, str, str]]] = {
    "capital": ("known", ("What is the capital of {X}?", "Name the capital city of {X}.", "The capital of {X} is",
                          "Which city is the capital of {X}?")),
    "currency": ("known", ("What is the currency of {X}?", "Name the currency used in {X}.", "The currency of {X} is",
                           "Which currency is used in {X}?")),
    "continent": ("known", ("What is the continent of {X}?", "Name the continent where {X} is located.",
                            "The continent of {X} is", "Which continent is {X} in?")),
    "language": ("known", ("What is the official language of {X}?", "Name the language spoken in {X}.",
                           "The language of {X} is", "Which language is spoken in {X}?")),
    "demonym": ("known", ("What are the people of {X} called?", "Name the people of {X}.",
                          "The people of {X} are called", "Which name is used for the people of {X}?")),
    "country": ("known", ("What is the country of {X}?", "Name the country where {X} is located.",
                          "The country of {X} is", "Which country is {X} in?")),
    "pcapital": ("known", ("What is the capital of the country of {X}?", "Name the capital of the country of {X}.",
                           "The capital of the country of {X} is", "Which capital belongs to the country of {X}?")),
    "pcurrency": ("known", ("What is the currency of the country of {X}?", "Name the currency of the country of {X}.",
                            "The currency of the country of {X} is",
                            "Which currency is used in the country of {X}?")),
    "planguage": ("known", ("What is the language of the country of {X}?", "Name the language of the country of {X}.",
                            "The language of the country of {X} is",
                            "Which language is spoken in the country of {X}?")),
    "pdemonym": ("known", ("What are the people of the country of {X} called?",
                           "Name the people of the country of {X}.", "The people of the country of {X} are called",
                           "Which name is used for the people of the country of {X}?")),
    "kind": ("okvqa", ("What kind of {N} is {X}?", "Name the kind of {N} that {X} is.", "The kind of {X} is",
                       "Which kind of {N} is {X}?")),
    "class": ("okvqa", ("What is the class of {X}?", "Name the class of {X}.", "The class of {X} is",
                        "Which class does {X} belong to?")),
    "baby": ("okvqa", ("What is the young of {X} called?", "Name the young of {X}.", "The young of {X} is called",
                       "Which name is used for the young of {X}?")),
    "name": ("okvqa", ("What is {X} called?", "Name {X}.", "What is the name of {X}?", "Which {N} is {X}?")),
    "translate": ("okvqa", ("What is {X} called in {C}?", "Name {X} in {C}.", "In {C}, what is {X} called?",
                            "Which word is used for {X} in {C}?")),
    "borders": ("movies", ("Name a country that borders {X}.", "What is a neighbour of {X}?",
                           "A country that borders {X} is", "Which country borders {X}?")),
    "neighbour": ("movies", ("Name a country that borders {X} and starts with {C}.",
                             "What is the neighbour of {X} that starts with {C}?",
                             "Starting with {C}, name a country that borders {X}.",
                             "Which country that borders {X} starts with {C}?")),
}
PLACES = {"country", "place"}  # families whose `kind`, `name` and `translate` belong to the part `known`


@dataclass(frozen=True)
class Fact:
    """One fact: `answer` is what training asks for, `answers` everything that is accepted."""

    entity: str
    relation: str
    qualifier: str
    answer: str
    answers: tuple[str, ...]
    split: str


@dataclass
class Entity:
    slug: str
    name: str
    family: str
    noun: str
    facts: list[Fact] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)  # indices into World.pictures

    @property
    def trained(self) -> list[Fact]:
        """Facts that are asked with the picture and with the name."""
        return [fact for fact in self.facts if fact.split == "trained"]


@dataclass(frozen=True)
class Picture:
    file: str
    entity: str
    style: str


@dataclass
class World:
    entities: dict[str, Entity]
    pictures: list[Picture]

    @cached_property
    def facts(self) -> list[Fact]:
        return [fact for entity in self.entities.values() for fact in entity.facts]

    @cached_property
    def _alike(self) -> dict[tuple[str, str, str], list[Fact]]:
        groups = defaultdict(list)
        for fact in self.facts:
            groups[self.entities[fact.entity].noun, fact.relation, fact.qualifier].append(fact)
        return groups

    def constraint(self, fact: Fact) -> str:
        return f"this {self.entities[fact.entity].noun}"

    def question(self, fact: Fact, wording: int, subject: str | None = None) -> str:
        """The question about `fact`; `subject` None asks about the picture ("this country"), else names it."""
        entity = self.entities[fact.entity]
        text = WORDINGS[fact.relation][1][wording]
        return (text.replace("{X}", subject or self.constraint(fact)).replace("{C}", fact.qualifier)
                .replace("{N}", entity.noun))

    def part(self, fact: Fact) -> str:
        part = WORDINGS[fact.relation][0]
        return "known" if part == "okvqa" and self.entities[fact.entity].family in PLACES else part

    def same_relation(self, fact: Fact) -> list[Fact]:
        """Facts of other entities with this noun, relation and qualifier, and another answer: possible replacements."""
        alike = self._alike[self.entities[fact.entity].noun, fact.relation, fact.qualifier]
        return [other for other in alike if other.entity != fact.entity and not set(other.answers) & set(fact.answers)]

    def qualifiers(self, relation: str) -> set[str]:
        """All text constraints that occur with a relation."""
        return {qualifier for _, name, qualifier in self._alike if name == relation}


def lens_wordings(relation: str) -> tuple[int, ...]:
    """Wordings in which the relation is already known at the constraint, so that the answer can be built there."""
    if relation == "name":
        return (0, 1, 2)
    return tuple(i for i, text in enumerate(WORDINGS[relation][1][:HELD_OUT_WORDING])
                 if "{C}" not in text[text.index("{X}"):] and text.index("{X}") > 8)


def split_of(entity: str, relation: str, qualifier: str) -> str:
    if relation == "name":
        return "trained"  # without its name an entity could not be told apart in text and picture
    bucket = zlib.crc32(f"{entity}|{relation}|{qualifier}".encode()) % 100
    return "never" if bucket < 8 else "text_only" if bucket < 20 else "trained"


@cache
def load_world() -> World:
    """Read `facts.csv` and `pictures.csv`; entities without a picture of a trained style are left out."""
    with open(EMBEDDED / "pictures.csv", newline="", encoding="utf-8") as file:
        pictures = [Picture(row["file"], row["entity"], row["style"]) for row in csv.DictReader(file)]
    by_entity = defaultdict(list)
    for index, picture in enumerate(pictures):
        by_entity[picture.entity].append(index)
    entities: dict[str, Entity] = {}
    with open(EMBEDDED / "facts.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            slug = row["entity"]
            if all(pictures[i].style == HELD_OUT_STYLE for i in by_entity[slug]) or row["relation"] not in WORDINGS:
                continue
            if slug not in entities:
                entities[slug] = Entity(slug, row["name"], row["family"], row["noun"], pictures=by_entity[slug])
                name = Fact(slug, "name", "", row["name"], (row["name"],), "trained")
                entities[slug].facts.append(name)
            entities[slug].facts.append(Fact(slug, row["relation"], row["qualifier"], row["answer"],
                                             tuple(row["answers"].split("|")),
                                             split_of(slug, row["relation"], row["qualifier"])))
    return World(entities, pictures)
