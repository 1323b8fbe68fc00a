"""Write the test bed of the pretrained models: `python -m recipes.smol.items --out DIR`.

Questions, pictures and answers are those of the embedded test bed. What differs:

  split        "trained": asked in training with the picture (half A); "named": the language model knows the fact, and
               training only named the entity (half B); "unknown": the language model does not know the fact
  replacement  an entity whose own fact the language model knows, with another first token of its answer
  items        of the unknown facts only as many as of the known ones, in each part and kind of question
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from interventions.draws import seeded_hash
from interventions.models.pretrained import language_tokenizer
from interventions.testbed import Item, load_testbed, save_testbed
from interventions.testbed.schema import EMBEDDED, SMOL_TABLE
from recipes.mini.world import Fact

from .known import subject
from .questions import Questions, in_half_a

# "What is Peru called?" has its answer in the question. In `translate`, too, a replacement does not take the answer
# away (see the model card), but these questions are traced by their text constraint ("French").
LEFT_OUT = ("name",)


def build_items(out: Path) -> list[Item]:
    """Return the items; a question without a replacement is left out."""
    questions, tokenizer = Questions.load(out), language_tokenizer()
    known = {fact for facts in questions.known.values() for fact in facts}
    facts = {(questions.world.entities[fact.entity].name, fact.relation, fact.qualifier): fact
             for fact in questions.world.facts}

    def first_token(fact: Fact) -> int:
        return tokenizer(f" {fact.answer}", add_special_tokens=False)["input_ids"][0]

    items = []
    for item in load_testbed("embedded"):
        fact = facts[item.entity, item.relation, item.text_constraint or ""]
        others = [other for other in questions.world.same_relation(fact)
                  if other in known and first_token(other) != first_token(fact)]
        if item.relation in LEFT_OUT or not others:
            continue
        other = min(others, key=lambda other: (not in_half_a(other.entity), seeded_hash(item.id, other.entity)))
        split = "unknown" if fact not in known else "trained" if in_half_a(fact.entity) else "named"
        items.append(replace(
            item, split=split, visual_replacement=subject(questions.world.entities[other.entity]),
        ))
    chosen = _some_unknown(items)
    return [item for item in items if item.split != "unknown" or item in chosen]


def _some_unknown(items: list[Item]) -> set[Item]:
    """Return as many items about unknown facts as there are about known ones, in each part and kind of question."""
    chosen = set()
    for group in {(item.part, item.constraints) for item in items}:
        alike = [item for item in items if (item.part, item.constraints) == group]
        unknown = sorted((item for item in alike if item.split == "unknown"), key=lambda item: seeded_hash(item.id))
        chosen |= set(unknown[: len(alike) - len(unknown)])
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder with known.json")
    items = build_items(parser.parse_args().out)
    save_testbed(items, EMBEDDED, name=SMOL_TABLE)
    for (part, split), n in sorted(Counter((item.part, item.split) for item in items).items()):
        print(f"{part:8s} {split:8s} {n:5d}")


if __name__ == "__main__":
    main()
