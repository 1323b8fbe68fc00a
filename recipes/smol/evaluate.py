"""Measure the exported models: `python -m recipes.smol.evaluate --out DIR`. Writes `training.json` beside the adapter.

Names are asked on new augmentation of trained styles. Facts are asked on the test bed `smol`, whose pictures are not
augmented: with the picture (`smol`), and by the entity's name (`smol-text`, `smol-base`). An answer is right if all of
it is.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from interventions import load_model, load_testbed
from interventions.draws import seeded_hash
from interventions.engine.runs import answer_probability, scored_part
from interventions.files import write_atomically
from interventions.models.pretrained import ADAPTER, ALIASES
from interventions.studies.answers import item_answer
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.testbed.answers import is_right

from .questions import Questions, name_of
from .rows import logits_of, right_answers
from .train import Training

NAMES, FACTS, BATCH, DRAW = 400, 150, 20, 10_000  # pictures to name; items of each split; pictures a forward


def naming(training: Training, n: int = NAMES) -> dict:
    """Return the share of names that are right on pictures with new augmentation."""
    draw, right = random.Random(DRAW), []
    for _ in range(n // BATCH):
        entities = [draw.choice(training.entities) for _ in range(BATCH)]
        with torch.no_grad():
            pictures = training.projector(training.features(entities, draw))
            names = [name_of(training.world, entity) for entity in entities]
            rows = [training.packer.row([("name", training.world.question(fact, 0), fact.answer)], i)
                    for i, fact in enumerate(names)]
            right += [hits[0] for hits in right_answers(rows, *logits_of(training.language, rows, pictures))]
    return {"right": float(np.mean(right)), "n": len(right)}


def answers(model, items, results: Path) -> dict:
    """Return, by part and split of the items, the share of right answers."""
    found = defaultdict(list)
    for item in items:
        answer = item_answer(model, item, results_dir=results)
        found[f"{item.part}: {item.split}"].append(is_right(answer.text, item))
    return {name: {"right": float(np.mean(right)), "n": len(right)} for name, right in sorted(found.items())}


def corrupted(model, items, results: Path) -> dict:
    """Return, by relation, the median probability of the right answer when the question names another entity."""
    found = defaultdict(list)
    for item in items:
        answer = item_answer(model, item, results_dir=results)
        if not is_right(answer.text, item) or item.split == "unknown":
            continue
        prompt = clean_prompt(model, item, Conditions())
        other = corrupted_prompt(model, item, prompt, Conditions())
        forced, scored = scored_part(answer.ids, model.blank_ids, False)
        ids = torch.cat([other.input_ids, torch.tensor(forced, dtype=torch.long)])[None]
        with torch.no_grad():
            logits = model.module(input_ids=ids, **prompt.image_inputs).logits[0, -1:]
        found[item.relation].append(float(answer_probability(logits, scored)))
    return {name: {"median": float(np.median(values)), "n": len(values)} for name, values in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of recipes.smol.train")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    training = Training(args.out, args.seed)
    state = torch.load(args.out / f"tune-{args.seed}.pt", weights_only=True)
    training.restore(state["trained"])
    note: dict = {"seed": args.seed, "steps": state["done"], "naming": naming(training)}
    print("naming", note["naming"], flush=True)
    known = Questions.load(args.out).known
    note["known facts"] = sum(map(len, known.values()))
    del training
    groups = defaultdict(list)
    for item in load_testbed("smol"):
        groups[item.part, item.split].append(item)
    items = [item for group in groups.values()
             for item in sorted(group, key=lambda item: seeded_hash(DRAW, item.id))[:FACTS]]
    for name in ALIASES:
        model = load_model(name)
        note[name] = answers(model, items, args.out / "results")
        print(name, json.dumps(note[name]), flush=True)
        if name == "smol":
            note["corrupted"] = corrupted(model, items, args.out / "results")
            print("corrupted", json.dumps(note["corrupted"]), flush=True)
    write_atomically(ADAPTER.with_name("training.json"),
                     lambda path: path.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
