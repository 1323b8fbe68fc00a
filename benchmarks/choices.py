"""What each choice of the method changes, on `mini`: `python -m benchmarks.choices`.

The same questions under one choice at a time, everything else as in the paper's protocol with a window of three. The
table goes into docs/choices.md.
"""

import argparse
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from interventions import load_model, load_testbed, trace
from interventions.causal_trace import KINDS
from interventions.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.metrics import bootstrap_interval

from . import measure

PAGE = Path(__file__).parent.parent / "docs" / "choices.md"
BEGIN, END = "<!-- table: python -m benchmarks.choices -->", "<!-- end of table -->"
COLUMNS = ("questions", "p_corrupted", *(f"{kind}/{what}" for kind in KINDS for what in ("effect", "layer")))


@dataclass(frozen=True)
class Choice:
    name: str
    conditions: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)  # of `trace`


CHOICES = (
    Choice("paper, window 3"),
    Choice("window 1", settings={"window": 1}),
    Choice("window 5", settings={"window": 5}),
    Choice("window rule radius (7 layers)", {"window_rule": "radius"}),
    Choice("corruption repeat", {"corruption": "repeat"}),
    Choice("corruption noise", {"corruption": "noise"}),
    Choice("corruption standard", {"corruption": "standard"}),
    Choice("answer score sequence", settings={"answer_score": "sequence"}),
    Choice("prompt of the authors", {"protocol": "authors", "corruption": "replacement", "window_rule": "centered"}),
    Choice("authors, all of it", {"protocol": "authors"}),
)


def measured(model, items, choice: Choice) -> dict:
    """Means over the questions that are answered right: P(corrupted), and by kind the best layer's effect at the
    constraint's last token, with its interval."""
    conditions = Conditions(**choice.conditions)
    settings = {"window": 3, "window_rule": conditions.window_rule, "min_p_clean": 0.1} | choice.settings
    corrupted, effects = [], []
    for item in items:
        prompt = clean_prompt(model, item, conditions)
        found = trace(
            model, prompt, corrupted_prompt(model, item, prompt, conditions), accepted=item.answers,
            positions=(prompt.constraint[-1],), **settings,
        )
        if found.correct and not np.isnan(found.p_corrupted):
            corrupted.append(found.p_corrupted)
            effects.append(found.effects[:, 0])  # [kinds, layers]
    value, low, high = bootstrap_interval(np.array(corrupted))
    numbers = {"questions": measure.spread([len(corrupted)]), "p_corrupted": number(value, low, high, len(corrupted))}
    value, low, high = bootstrap_interval(np.array(effects))
    for k, kind in enumerate(KINDS):
        best = int(value[k].argmax())
        numbers[f"{kind}/effect"] = number(value[k, best], low[k, best], high[k, best], len(effects))
        numbers[f"{kind}/layer"] = measure.spread([best])
    return {f"choices/{choice.name}/{name}": entry for name, entry in numbers.items()}


def number(value, low, high, n: int) -> dict:
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


def table(results: dict) -> str:
    """The page's table, from the results file."""
    lines = [
        "| choice | questions | P(corrupted) | MLP: best effect [95 %] | layer | attention: best effect | layer |",
        "|---|---|---|---|---|---|---|",
    ]
    for choice in CHOICES:
        cells = []
        for column in COLUMNS:
            entry = results[f"choices/{choice.name}/{column}"]
            if column.endswith("effect") or column == "p_corrupted":
                cells.append(f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]")
            else:
                cells.append(f"{entry['value']:.0f}")
        lines.append(f"| {choice.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def on_page(page: str, made: str) -> str:
    """The page with its table replaced."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{made}\n{END}", page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=20, help="questions of each part")
    options = parser.parse_args()
    model = load_model("mini")
    items = load_testbed().select(constraints="single", limit=options.limit).items
    for choice in CHOICES:
        numbers = measured(model, items, choice)
        measure.save(numbers)
        print({name.rpartition("choices/")[2]: round(entry["value"], 3) for name, entry in numbers.items()}, flush=True)
    results = json.loads(measure.RESULTS.read_text())
    PAGE.write_text(on_page(PAGE.read_text(), table(results)))


if __name__ == "__main__":
    main()
