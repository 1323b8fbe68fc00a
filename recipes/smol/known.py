"""Find the facts that the language model knows by itself: `python -m recipes.smol.known --out DIR`.

A fact is known if the model, as it comes, completes the whole answer greedily after two examples of the same relation.
There are two sets of examples. A set that gives the answer away ("The continent of Japan is Asia.") does not count.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from interventions.files import write_atomically
from interventions.models.pretrained import language_model, language_tokenizer
from interventions.testbed.answers import is_accepted
from recipes.mini.world import WORDINGS, Entity, Fact, World, load_world

BATCH, MAX_TOKENS = 32, 8
COMPLETION = 2  # the wording that ends where the answer begins ("The capital of this country is")
# (relation, or relation and text constraint) -> two sets of two examples: subject, answer
EXAMPLES = {
    "capital": ((("France", "Paris"), ("Japan", "Tokyo")), (("Egypt", "Cairo"), ("Canada", "Ottawa"))),
    "continent": ((("France", "Europe"), ("Japan", "Asia")), (("Egypt", "Africa"), ("Brazil", "South America"))),
    "language": ((("France", "French"), ("Japan", "Japanese")), (("Egypt", "Arabic"), ("Brazil", "Portuguese"))),
    "currency": ((("France", "Euro"), ("Japan", "Yen")), (("Mexico", "Peso"), ("India", "Rupee"))),
    "demonym": ((("France", "French"), ("Japan", "Japanese")), (("Egypt", "Egyptian"), ("Brazil", "Brazilian"))),
    "country": ((("the Colosseum", "Italy"), ("Mount Fuji", "Japan")),
                (("the Kremlin", "Russia"), ("the Brandenburg Gate", "Germany"))),
    "pcapital": ((("the Colosseum", "Rome"), ("Mount Fuji", "Tokyo")),
                 (("the Kremlin", "Moscow"), ("the Brandenburg Gate", "Berlin"))),
    "pcurrency": ((("the Colosseum", "Euro"), ("Mount Fuji", "Yen")),
                  (("the Kremlin", "Ruble"), ("Mount Rushmore", "Dollar"))),
    "planguage": ((("the Colosseum", "Italian"), ("Mount Fuji", "Japanese")),
                  (("the Kremlin", "Russian"), ("the Brandenburg Gate", "German"))),
    "pdemonym": ((("the Colosseum", "Italian"), ("Mount Fuji", "Japanese")),
                 (("the Kremlin", "Russian"), ("the Brandenburg Gate", "German"))),
    "kind": ((("the banana", "fruit"), ("the hammer", "tool")),
             (("the carrot", "vegetable"), ("the sofa", "furniture"))),
    "class": ((("the eagle", "bird"), ("the frog", "amphibian")), (("the salmon", "fish"), ("the ant", "insect"))),
    "baby": ((("the hen", "chick"), ("the horse", "foal")), (("the cow", "calf"), ("the bear", "cub"))),
    "translate French": ((("the dog", "chien"), ("water", "eau")), (("the house", "maison"), ("bread", "pain"))),
    "translate Spanish": ((("the dog", "perro"), ("water", "agua")), (("the house", "casa"), ("bread", "pan"))),
    "borders": ((("Thailand", "Laos"), ("Egypt", "Libya")), (("France", "Spain"), ("Canada", "United States"))),
    "neighbour": ((("Thailand", "Laos"), ("France", "Spain")), (("Egypt", "Libya"), ("Brazil", "Peru"))),
}


def subject(entity: Entity) -> str:
    """Return the entity's name as a question has it: "Peru", "the Eiffel Tower"."""
    return entity.name if entity.family == "country" else f"the {entity.name}"


def few_shot(world: World, fact: Fact, examples) -> str:
    """Return two answered questions and the question about `fact`, which the model completes."""
    text = WORDINGS[fact.relation][1][COMPLETION].replace("{N}", world.entities[fact.entity].noun)
    lines = [f"{text} {answer}." for _, answer in examples] + [text]
    subjects = [name for name, _ in examples] + [subject(world.entities[fact.entity])]
    letters = [answer[0] for _, answer in examples] + [fact.qualifier]
    qualifiers = letters if fact.relation == "neighbour" else [fact.qualifier] * 3
    filled = [line.replace("{X}", name).replace("{C}", qualifier)
              for line, name, qualifier in zip(lines, subjects, qualifiers, strict=True)]
    return "\n".join(filled)


def complete(model, tokenizer, prompts: list[str]) -> list[str]:
    """Return the greedy completions, each up to a period or the end of the line."""
    texts = []
    for start in range(0, len(prompts), BATCH):
        print(f"{start} of {len(prompts)} prompts", flush=True)
        inputs = tokenizer(prompts[start : start + BATCH], return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        completions = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :])
        texts += [text.split("\n")[0].split(".")[0].strip() for text in completions]
    return texts


def known_facts(world: World) -> list[Fact]:
    """Return the facts that the language model completes by itself."""
    model, tokenizer = language_model().to(torch.bfloat16), language_tokenizer()
    asked = [(fact, few_shot(world, fact, examples)) for fact in world.facts if fact.relation != "name"
             for examples in EXAMPLES[f"{fact.relation} {fact.qualifier}" if fact.relation == "translate"
                                      else fact.relation]
             if not is_accepted(fact.answer, [answer for _, answer in examples])]
    answers = complete(model, tokenizer, [prompt for _, prompt in asked])
    known = {fact for (fact, _), answer in zip(asked, answers, strict=True) if is_accepted(answer, fact.answers)}
    return [fact for fact in world.facts if fact in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    world = load_world()
    known = known_facts(world)
    facts, found = Counter(fact.relation for fact in world.facts), Counter(fact.relation for fact in known)
    for relation in EXAMPLES:
        relation = relation.split()[0]
        print(f"{relation:12s} {found[relation]:4d} of {facts[relation]}")
    rows = [[fact.entity, fact.relation, fact.qualifier] for fact in known]
    write_atomically(out / "known.json", lambda path: path.write_text(json.dumps(rows), encoding="utf-8"))


if __name__ == "__main__":
    main()
