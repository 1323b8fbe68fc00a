"""Write the embedded test bed's `items.parquet`: `python -m recipes.mini.items`.

One item for every fact (two for the open question about neighbors, which has few entities), with one of the entity's
pictures: in one of seven items a picture of the held-out style, else a trained style. Everything is chosen by a hash of
the fact, so that the file only changes where the world changes.

The replacement phrase is the name of another entity of the same noun whose answer is known to training and starts with
another token; among those, one with as many tokens as the constraint is preferred, so that positions need no alignment.
"""

import random
import zlib
from collections import Counter
from dataclasses import replace

from interventions.testbed import Item, save_testbed
from interventions.testbed.schema import EMBEDDED

from .route import Questions
from .vocabulary import train_tokenizer
from .world import HELD_OUT_STYLE, HELD_OUT_WORDING, PHOTO, Fact, load_world

PHOTO_SHARE = 0.5  # of the items of an entity that has a photograph
TWICE = {"borders"}

CARD = """---
license: other
task_categories: [visual-question-answering]
language: [en]
---
# The embedded test bed

{n} questions about {entities} entities, each with its constraints marked, in the form of the paper's VQA-Constraints:
`known` (countries by their flags, monuments by photographs), `okvqa` (animals, foods and objects) and `movies` (one
constant constraint and an open answer, as in Multimodal Movies, about neighbouring countries). None of the
paper's own data is in it.

| part | single-constraint | multi-constraint | trained | trained as text only | never trained |
|---|---|---|---|---|---|
{rows}

`items.parquet` has one row a question (the columns are those of `interventions.testbed.Item`); `images/` holds
{pictures} pictures of 96 px, transparent where nothing is drawn, and photographs; `pictures.csv` and `facts.csv` give
author or source and licence of each, `LICENSES/` the terms. The style `{held_out}` is held out from training.

`split` tells how the embedded models met the fact, so it says nothing about any other model. Most pictures are
drawings, and a flag is an unusual picture of a country: results on this test bed are about the tools, not about
vision-language models at large. Facts are as in the sources at the versions named, errors included.

Made by `python -m recipes.mini.sources.collect` (pictures and facts) and `python -m recipes.mini.items`.
"""


def build_items() -> list[Item]:
    world = load_world()
    questions = Questions(world, train_tokenizer(world))
    return [item for fact in world.facts for copy in range(2 if fact.relation in TWICE else 1)
            if (item := _item(world, questions, fact, copy))]


def _item(world, questions: Questions, fact: Fact, copy: int) -> Item | None:
    key = f"{fact.entity}/{fact.relation}" + (f"/{fact.qualifier}" if fact.qualifier else "")
    rng = random.Random(zlib.crc32(f"{key}/{copy}".encode()))
    replacement = _replacement(world, questions, fact, rng)
    if replacement is None:
        return None
    picture = _picture(world, fact, rng, copy)
    entity, part = world.entities[fact.entity], world.part(fact)
    return Item(
        id=f"{part}/{key}/{picture.style}", part=part, question=world.question(fact, _wording(fact)),
        image=picture.file, visual_constraint=world.constraint(fact), visual_replacement=replacement,
        text_constraint=fact.qualifier or None, text_replacement=_text_replacement(world, fact, rng),
        answers=fact.answers,
        paraphrases=tuple(world.question(fact, wording) for wording in range(HELD_OUT_WORDING + 1)
                          if wording != _wording(fact)),
        entity=entity.name, relation=fact.relation, split=fact.split, style=picture.style,
        held_out_style=picture.style == HELD_OUT_STYLE)


def _wording(fact: Fact) -> int:
    """Completion where the wording has one ("The capital of this country is"), as in the paper's Known set."""
    return 0 if fact.relation in ("name", "translate", "neighbour", "borders") else 2


def _picture(world, fact: Fact, rng, copy: int):
    pictures = [world.pictures[i] for i in world.entities[fact.entity].pictures]
    photos = [picture for picture in pictures if picture.style == PHOTO]
    seen = [picture for picture in pictures if picture.style not in (HELD_OUT_STYLE, PHOTO)]
    held_out = [picture for picture in pictures if picture.style == HELD_OUT_STYLE]
    if photos and (not seen or rng.random() < PHOTO_SHARE):
        return photos[0]
    if held_out and copy == 0 and rng.random() < 1 / 7:
        return held_out[0]
    return seen[(rng.randrange(len(seen)) + copy) % len(seen)]


def _replacement(world, questions: Questions, fact: Fact, rng) -> str | None:
    length = len(questions.encode(f" {world.constraint(fact)}"))
    first = questions.encode(f" {fact.answer}")[0]
    others = [world.entities[other.entity].name for other in world.same_relation(fact)
              if other.split != "never" and questions.encode(f" {other.answer}")[0] != first]
    same_length = [name for name in others if len(questions.encode(f" {name}")) == length]
    pool = sorted(same_length or others)
    return rng.choice(pool) if pool else None


def _text_replacement(world, fact: Fact, rng) -> str | None:
    """Another value of the text constraint: preferably one for which this entity has another answer."""
    if not fact.qualifier:
        return None
    own = {other.qualifier for other in world.entities[fact.entity].facts
           if other.relation == fact.relation and other.answer != fact.answer}
    return rng.choice(sorted(own or world.qualifiers(fact.relation) - {fact.qualifier}))


def card(items: list[Item]) -> str:
    """The dataset card, counted from the items."""
    rows = []
    for part in dict.fromkeys(item.part for item in items):
        kinds = Counter(item.constraints for item in items if item.part == part)
        splits = Counter(item.split for item in items if item.part == part)
        counts = [kinds["single"], kinds["multi"], splits["trained"], splits["text_only"], splits["never"]]
        rows.append(f"| `{part}` | " + " | ".join(map(str, counts)) + " |")
    return CARD.format(n=len(items), entities=len({item.entity for item in items}), rows="\n".join(rows),
                       pictures=len(load_world().pictures), held_out=HELD_OUT_STYLE)


def main() -> None:
    items = build_items()
    seen: dict[str, int] = {}
    for i, item in enumerate(items):  # the two copies of an open question may show the same style
        seen[item.id] = seen.get(item.id, 0) + 1
        if seen[item.id] > 1:
            items[i] = replace(item, id=f"{item.id}/{seen[item.id]}")
    save_testbed(items, EMBEDDED, card(items))
    single = sum(item.constraints == "single" for item in items)
    print(f"{len(items)} items: {single} single-constraint, {len(items) - single} multi-constraint, "
          f"{len({item.entity for item in items})} entities")


if __name__ == "__main__":
    main()
