"""Train the embedded models: `python -m recipes.mini.train --out DIR [--shape bunny] [--seed 0] [--jobs 2]`.

Six stages (defined in `stages`), each a process of its own; those that do not depend on each other run at the same
time, one thread each:

    vision, text -> align
    text -> coreference;  coreference, align -> joint        -> mini
                          text, align        -> joint_free   -> mini-free
                          text                               -> mini-text

With `--shape bunny` (SigLIP and Phi), the same stages without joint_free make mini-bunny.

  vision       the vision tower classifies the entities
  text         a text-only LM on all facts but the never-trained ones; its embeddings stay
  align        tower and projector against the LM's embeddings of the entities' names
  coreference  a new LM on "Peru\\n ... this country" and text, along the taught route (see `route`)
  joint        everything together, along the taught route, from coreference + align
  joint_free   the same data without any teaching, from text + align

A stage saves its state every hundred steps and continues from it when it is started again; every step draws from a
seed of its own, so that an interrupted run and an unbroken one see the same data.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from .build import build, save_pretrained, text_only
from .evaluate import evaluate, print_table
from .stage import STAGES, recipe, steps
from .stages import CLASSES
from .vocabulary import train_tokenizer
from .world import load_world

MODELS = {  # shape -> model -> the stage it comes from
    "llava": {"mini": "joint", "mini-free": "joint_free", "mini-text": "text"}, "bunny": {"mini-bunny": "joint"},
}


def finished(out: Path, stage: str, seed: int, shape: str) -> bool:
    path = out / f"{stage}.pt"
    if not path.exists():
        return False
    state = torch.load(path, weights_only=True)
    return state["done"] == steps(stage, shape) and state["recipe"] == recipe(stage, seed, shape)


def run_stages(out: Path, seed: int, jobs: int, shape: str) -> None:
    """Start every stage whose parents are done, at most `jobs` at a time, each with its share of the cores."""
    threads = str(max(1, torch.get_num_threads() // jobs))
    running: dict[str, subprocess.Popen] = {}
    needed = {stage for final in MODELS[shape].values() for stage in steps_of(final, shape)}
    done = {stage for stage in needed if finished(out, stage, seed, shape)}
    while len(done) < len(needed):
        for stage, (parents, _) in STAGES.items():
            waits = stage in needed and stage not in done and stage not in running
            if waits and len(running) < jobs and done.issuperset(parents):
                running[stage] = subprocess.Popen([sys.executable, "-m", __spec__.name, "--out", str(out), "--seed",
                                                   str(seed), "--shape", shape, "--stage", stage, "--threads",
                                                   threads])
        time.sleep(1)
        for stage, process in list(running.items()):
            if process.poll() is not None:
                del running[stage]
                if process.returncode:
                    for other in running.values():
                        other.terminate()
                    raise SystemExit(f"Stage {stage} failed (exit code {process.returncode}): start again to resume.")
                done.add(stage)


def steps_of(stage: str, shape: str) -> dict[str, int]:
    """The steps of a stage and of all it starts from, first things first."""
    before = {name: n for parent in STAGES[stage][0] for name, n in steps_of(parent, shape).items()}
    return before | {stage: steps(stage, shape)}


def export(out: Path, seed: int, shape: str) -> None:
    """Measure the models and write their checkpoints; the model card of all of them is written by `card`."""
    for name, stage in MODELS[shape].items():
        tokenizer = train_tokenizer(load_world(), shape)
        model = build(len(tokenizer), shape)
        model.load_state_dict(torch.load(out / f"{stage}.pt", weights_only=True)["model"])
        model.to(torch.bfloat16).float()  # measured as it ships
        table = evaluate(model, tokenizer, text=name == "mini-text")
        print_table(name, table)
        note = {"seed": seed, "steps": steps_of(stage, shape), "accuracy": table}
        save_pretrained(text_only(model) if name == "mini-text" else model, tokenizer, out / name, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=MODELS, default="llava")
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time")
    parser.add_argument("--stage", choices=STAGES, help="run one stage only (its parents must be done)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    if args.stage:
        CLASSES[args.stage](args.stage, args.out, args.seed, args.shape).run()
    else:
        run_stages(args.out, args.seed, args.jobs, args.shape)
        export(args.out, args.seed, args.shape)


if __name__ == "__main__":
    main()
