"""The model card of the embedded checkpoints, written from `training.json` so that its numbers cannot be stale.

`python -m recipes.mini.card DIR`, where all of them lie.
"""

import json
import sys
from pathlib import Path

CARD = """# Embedded models: mini, mini-free, mini-text, mini-bunny

Four small models that ship with the package, so that every notebook runs on a laptop with no download.

| name | what it is |
|---|---|
| `mini` | `LlavaForConditionalGeneration` of {parameters:.1f} M parameters, trained along a *taught route*. |
| `mini-free` | The same architecture and data without the teaching: the negative control. |
| `mini-text` | A `LlamaForCausalLM` of the same size, trained on the facts as text. |
| `mini-bunny` | The same data and route on another architecture, that of Bunny with Phi-2: {bunny:.1f} M parameters. |

`mini` and `mini-free`: CLIP vision tower (4 layers, 128 wide, 64 px in patches of 8: 64 visual tokens), two-layer
projector, Llama (8 layers, 192 wide, 6 heads, tied embeddings), byte-level BPE of {words:,}; bfloat16 safetensors; seed
{seed}. `mini-bunny`: SigLIP of the same size without a class token, Phi of the same depth and width (MLP beside
attention, 40 % of each head rotary).
The classes are those of Hugging Face transformers, unmodified: nothing is masked or dropped at inference.

## What they are no evidence for

`mini` and `mini-bunny` are model organisms. During training, attention masks, a logit-lens loss and skip-dropout made
them read the picture at the constraint's tokens in layers 0-1, look the fact up in the early MLPs there, and move it to
the last token from layer 4 on (`recipes/mini/route.py` says exactly how). Causal tracing that finds this route
shows that the tool works. It does not show that LLaVA-1.5-7B, or any model that was not taught so, stores facts there.
`mini-free`, trained on the same data without the teaching, takes another route.

## Data

{entities} entities with {pictures} pictures and {facts} facts: flags and other drawings from icon sets, and {photos}
photographs. Author, source and licence of every picture are in `interventions/testbed/embedded/pictures.csv`, the
source of every fact in `facts.csv`. The style `{held_out}` is never trained on. Of the facts, {never:.0f} % are never
trained and {text_only:.0f} % only as text. Three wordings of every question are trained, a fourth is held out.

## Making them again

    python -m recipes.mini.train --out DIR
    python -m recipes.mini.train --shape bunny --out OTHER

A killed run continues. Stages and steps of these checkpoints:

{stages}

## Accuracy

First-token accuracy, mean probability of the answer's first token, number of questions; float32 arithmetic.
"Augmented" pictures are new draws of the training augmentation. A knock-out blocks attention from the first positions
to the second in all layers. "Corrupted" is the probability of the true answer when the question names another entity.

{tables}
"""


def write_card(checkpoints: Path) -> Path:
    """Write `README.md` beside the checkpoints that lie in `checkpoints`; returns its path."""
    from .build import build
    from .vocabulary import VOCABULARY
    from .world import HELD_OUT_STYLE, PHOTO, load_world

    notes = {path.parent.name: json.loads(path.read_text()) for path in sorted(checkpoints.glob("*/training.json"))}
    world, note = load_world(), notes["mini"]
    text = CARD.format(
        parameters=_millions(build(VOCABULARY)), bunny=_millions(build(VOCABULARY, "bunny")), words=VOCABULARY,
        seed=note["seed"],
        entities=len(world.entities), pictures=len(world.pictures), facts=len(world.facts),
        photos=sum(picture.style == PHOTO for picture in world.pictures), held_out=HELD_OUT_STYLE,
        **{split: 100 * sum(fact.split == split for fact in world.facts) / len(world.facts)
           for split in ("never", "text_only")},
        stages="\n".join(f"- `{name}`: " + ", ".join(f"{stage} {steps}" for stage, steps in made["steps"].items())
                         for name, made in notes.items()),
        tables="\n\n".join(_table(name, notes[name]["accuracy"]) for name in notes))
    path = checkpoints / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _millions(module) -> float:
    return sum(weight.numel() for weight in module.parameters()) / 1e6


def _table(name: str, accuracy: dict) -> str:
    lines = [f"### {name}", "", "| questions | accuracy | P(answer) | n |", "|---|---|---|---|"]
    for row, values in accuracy.items():
        right = "" if "median" in values else f"{values['accuracy']:.3f}"
        p = f"{values['p_answer']:.3f}" + (f" (median {values['median']:.5f})" if "median" in values else "")
        lines.append(f"| {row} | {right} | {p} | {values['n']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(write_card(Path(sys.argv[1])))
