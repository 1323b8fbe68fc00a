"""Replacement phrases chosen automatically, beside those made by hand: `python -m benchmarks.corruptions`.

The embedded questions have phrases that were made by hand. They are taken away, chosen anew on `mini`, and the same
questions are traced with both: what is left of P(answer), and the largest effect at the corrupted constraint.
"""

import argparse
import tempfile
from dataclasses import replace

import pandas as pd

from interventions import load_model, load_testbed
from interventions.studies.conditions import Conditions
from interventions.studies.loop import RunOptions
from interventions.studies.replacements import choose_corruptions
from interventions.tracing.study import trace_study

from . import measure


def traced(model, items, corrupted: str, folder: str) -> dict[str, pd.DataFrame]:
    """By part: the mean effects of both kinds by layer, and the questions used."""
    study = trace_study(
        model, items, window=3, conditions=Conditions(corrupted=corrupted),
        run=RunOptions(results_dir=folder), only_read=True
    )
    return {part: (study.sites[study.sites["part"] == part], questions[questions["used"]])
            for part, questions in study.questions.groupby("part")}


def numbers(sites: pd.DataFrame, questions: pd.DataFrame) -> dict:
    """Median P(corrupted), and by kind the best layer's mean effect."""
    found = {"p_corrupted": questions["p_corrupted"].median()}
    for kind, rows in sites.groupby("kind", observed=True):
        found[f"{kind} effect"] = rows.groupby("layer")["effect"].mean().max()
    return {name: measure.spread([float(value)]) | {"n": len(questions)} for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=30, help="questions of each part")
    options = parser.parse_args()
    model, testbed = load_model("mini"), load_testbed()
    with tempfile.TemporaryDirectory() as folder:
        for constraints, corrupted in (("single", "visual"), ("multi", "text")):
            by_hand = testbed.select(constraints=constraints, limit=options.limit)
            chosen = choose_corruptions(by_hand, model, overwrite=True, run=RunOptions(folder))
            sets = {"by hand": by_hand.items, "chosen": chosen.items}
            for name, items in sets.items():
                for part, frames in traced(model, items, corrupted, folder).items():
                    found = numbers(*frames)
                    measure.save({f"corruptions/{corrupted}/{part}/{name}/{key}": n for key, n in found.items()})
                    print(f"{corrupted} constraint, {part}, {name}: " + ", ".join(
                        f"{key} {n['value']:.4f}" for key, n in found.items()), flush=True)
            same = [old.visual_replacement == new.visual_replacement and old.text_replacement == new.text_replacement
                    for old, new in zip(*(replace(by_hand, items=items) for items in sets.values()), strict=True)]
            print(f"  the same phrases: {sum(same)} of {len(same)} questions")
            print(chosen.summary().T.to_string(header=False))


if __name__ == "__main__":
    main()
