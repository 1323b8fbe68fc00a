"""Tracing at the size of the paper's models, with random weights: `python -m benchmarks.rehearsal meta|width|whole`.

    meta   every model of `params/models` without weights: module paths, shapes, parameters, visual tokens
    width  full width and few layers: forwards and whole traces of one question are measured, each kind of run in a
           process of its own, and the cost model of `benchmarks.cost` is fitted on them (`width.py`); with --save
           instead: a checkpoint of that size for the notebooks (`real_size.py`)
    whole  the whole of LLaVA-1.5-7B: one question traced end to end, beside what the cost model predicts
           (`whole.py`)

Random weights answer with some token of tiny probability, and effects mean nothing: this measures time and memory.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from interventions.models.families import IMAGE, family_of
from interventions.models.model import VisionLanguageModel

from .cost import FIT
from .processors import PROMPT, processor_for
from .published import PUBLISHED, published_config, skeleton
from .real_size import save_checkpoint
from .whole import RESULT, whole
from .width import BY_TOKENS, run_job, width

SIDE = 448  # pixels of the square picture whose visual tokens are counted


def meta_row(name: str) -> dict:
    """A published model without weights, wrapped as every other: its paths are resolved, its visual tokens counted.

    Raises ModelError where a module or the number of visual tokens is not as families.py says.
    """
    config = published_config(name)
    processor, family = processor_for(config), family_of(config)
    prompt = None if family.prompt else PROMPT.replace(IMAGE, IMAGE * family.is_multimodal)
    model = VisionLanguageModel.from_module(skeleton(config), processor, name=name, prompt=prompt)
    shapes = {
        path: {tuple(layer.get(path)._module.weight.shape) for layer in model.layers}
        for path in ("mlp.down_proj", "self_attn.o_proj")
    }
    return {
        "model": name,
        "family": family.name,
        "layers": model.n_layers,
        "W_proj": shapes["mlp.down_proj"],
        "W_o": shapes["self_attn.o_proj"],
        "visual tokens": visual_tokens(model, SIDE),
        "parameters": sum(weight.numel() for weight in model.module.parameters()),
    }


def visual_tokens(model: VisionLanguageModel, side: int) -> int:
    """How many visual tokens the model makes of a square picture; 0 if it is text-only."""
    if not model.is_multimodal:
        return 0
    text = model.read_image(Image.new("RGB", (side, side)))[1]
    return model.tokenize(model.image_token, text)[0].count(model.image_token_id)


def meta() -> None:
    rows = [meta_row(name) for name in PUBLISHED]
    for row in rows:
        for name in ("W_proj", "W_o"):
            row[name] = ", ".join(" x ".join(map(str, shape)) for shape in row[name])
        row["parameters"] = f"{row['parameters']:,}"
    widths = {name: max(len(str(row[name])) for row in [*rows, {name: name}]) for name in rows[0]}
    for row in [dict(zip(widths, widths, strict=True)), *rows]:
        print("  ".join(str(row[name]).ljust(width) for name, width in widths.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("meta", help="paths, shapes and parameters of every published model")
    command = commands.add_parser("width", help="measure few layers of full width, and fit the cost model")
    command.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    command.add_argument("--tokens", type=int, nargs="+", default=list(BY_TOKENS), choices=list(BY_TOKENS))
    command.add_argument("--repeats", type=int, default=3)
    # A name of its own: nnsight gives every object a method `save`, which argparse would take for a value.
    command.add_argument(
        "--save", dest="directory", metavar="DIR", help="write a checkpoint there instead, of the first of tokens"
    )
    whole_command = commands.add_parser("whole", help="trace one question on the whole of LLaVA-1.5-7B")
    whole_command.add_argument("--layers", type=int, default=0, help="fewer, to try it out (0: all)")
    for sub, where in ((command, FIT), (whole_command, RESULT)):
        sub.add_argument("--shrink", type=int, default=1, help="divides the width, to try it out")
        sub.add_argument("--out", type=Path, help=f"file of the result (default: {where.name}; none for a trial)")
    command = commands.add_parser("job", help="one measurement of width, in a process of its own")
    command.add_argument("job", type=json.loads)
    options = parser.parse_args()
    if options.command == "meta":
        meta()
    elif options.command == "job":
        print(json.dumps([asdict(measurement) for measurement in run_job(options.job)]))
    elif options.command == "whole":
        whole(options.layers, options.shrink, options.out)
    elif options.directory:
        name = BY_TOKENS[options.tokens[0]]
        ids = save_checkpoint(options.directory, name, max(options.layers), options.shrink)
        print(f"{options.directory}: {name}, {max(options.layers)} layers; it answers right {', '.join(ids)}")
    else:
        out = options.out or (FIT if options.shrink == 1 else None)
        width(options.layers, options.tokens, options.shrink, options.repeats, out)


if __name__ == "__main__":
    main()
