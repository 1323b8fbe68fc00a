"""What `smol` is trained on: names for all entities, facts for one half of them, and only facts the LM knows."""

import json
import random as random_module
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from interventions.draws import seeded_hash
from recipes.mini.world import HELD_OUT_WORDING, Fact, World, load_world

from .known import subject

FACTS = 2  # questions a picture about its own facts
SAME_NOUN = 0.75  # of the named questions: about an entity of the picture's noun, so that only the words tell it apart
HALF_SEED = 0  # of the halves: the same for all seeds of training


def in_half_a(entity: str) -> bool:
    """Return whether facts about this entity are asked in training (half A); half B is only named."""
    return seeded_hash(HALF_SEED, "half", entity)[0] % 2 == 0


def name_of(world: World, entity: str) -> Fact:
    """Return the fact that names an entity."""
    return next(fact for fact in world.entities[entity].facts if fact.relation == "name")


@dataclass
class Questions:
    """Draw the questions of a training row.

    Attributes:
        world: the embedded world.
        known: known facts of each entity that has some.
    """

    world: World
    known: dict[str, list[Fact]]

    @classmethod
    def load(cls, out: Path) -> "Questions":
        """Read `known.json` of `recipes.smol.known`."""
        world = load_world()
        keys = set(map(tuple, json.loads((out / "known.json").read_text(encoding="utf-8"))))
        known: dict[str, list[Fact]] = {}
        for fact in world.facts:
            if (fact.entity, fact.relation, fact.qualifier) in keys:
                known.setdefault(fact.entity, []).append(fact)
        return cls(world, known)

    @cached_property
    def half_a(self) -> list[str]:
        """The entities whose facts are trained."""
        return [entity for entity in self.known if in_half_a(entity)]

    def ask(self, fact: Fact, wording: int, named: bool = False) -> tuple[str, str]:
        """Return the question and the answer; a named one says "Peru" in place of "this country"."""
        who = subject(self.world.entities[fact.entity]) if named else None
        return self.world.question(fact, wording, who), fact.answer

    def of_picture(self, entity: str, random: random_module.Random) -> list[tuple[str, str, str]]:
        """Return (kind, question, answer) for a picture: its name, its facts in half A, a fact of another entity.

        The last one names its subject, so the picture is of no use: what the words say counts.
        """
        asked = [("name", name_of(self.world, entity), False)]
        if in_half_a(entity):
            facts = self.known.get(entity, [])
            asked += [("fact", fact, False) for fact in random.sample(facts, min(FACTS, len(facts)))]
        others = [other for other in self.half_a if other != entity]
        alike = [other for other in others if self.world.entities[other].noun == self.world.entities[entity].noun]
        other = random.choice(alike if alike and random.random() < SAME_NOUN else others)
        asked.append(("named", random.choice(self.known[other]), True))
        return [(kind, *self.ask(fact, random.randrange(HELD_OUT_WORDING), named)) for kind, fact, named in asked]

    def of_text(self, n: int, random: random_module.Random) -> list[tuple[str, str, str]]:
        """Return n questions without a picture, about facts of half A."""
        facts = [random.choice(self.known[entity]) for entity in random.sample(self.half_a, n)]
        return [("text", *self.ask(fact, random.randrange(HELD_OUT_WORDING), named=True)) for fact in facts]
