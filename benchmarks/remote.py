"""What a server costs beside this machine: seconds, requests and bytes of a question.

    make ndif && export NDIF_HOST=… NDIF_API_KEY=… && make bench-remote

Both run on the same two cores here, so the ratio is the price of the way there and back (packing, queue, a process
more), not the gain of a larger machine. With the other key of `make ndif`, the same of a server that runs code in a
sandbox.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from interventions import attention_contributions, attention_knockout, edit_facts, load_model, load_testbed, trace
from interventions.editing.edit import apply_edits
from interventions.progress import TRAFFIC
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt

from .measure import save, spread, timed

QUESTIONS, REPEATS = 8, 3


def interventions_of(local, items) -> dict[str, Callable]:
    """Intervention -> function(model, item) -> numbers to compare; prompts are made beforehand, without a request."""
    prompts = {item.id: clean_prompt(local, item, Conditions()) for item in items}
    corrupted = {item.id: corrupted_prompt(local, item, prompts[item.id], Conditions()) for item in items}
    edit = edit_facts(local, [(prompts[items[0].id], "Peso")], layers=[2])

    def edited_answer(model, item):
        edited = apply_edits(model, [edit])
        return np.array([ord(letter) for letter in edited.generate_answer(item.image, item.question)])

    return {
        "trace": lambda model, item: trace(model, prompts[item.id], corrupted[item.id]).restored,
        "contributions": lambda model, item: attention_contributions(model, prompts[item.id]).norms,
        "knockout": lambda model, item: attention_knockout(model, prompts[item.id]).p_blocked,
        "edited answer": edited_answer,
        "value": lambda model, item: edit_facts(model, [(prompts[item.id], "Peso")], layers=[2]).change(2).numpy(),
    }


def per_question(local, remote, items) -> dict[str, dict]:
    """Intervention -> medians over questions of seconds here and there, the ratio, requests, bytes, the difference."""
    rows = {}
    for name, function in interventions_of(local, items).items():
        if name == "value" and remote.server.sandboxed:
            continue
        function(local, items[0]), function(remote, items[0])  # what is only done once
        here, there, ratios, difference, before = [], [], [], 0.0, replace(TRAFFIC)
        for item in items:
            for _ in range(REPEATS):
                seconds, expected = timed(function, local, item)
                away, found = timed(function, remote, item)
                here.append(seconds), there.append(away), ratios.append(away / seconds)
                difference = max(difference, float(np.nanmax(np.abs(found - expected))))
        traffic = TRAFFIC.since(before)
        n = len(items) * REPEATS
        rows[name] = {
            "here": spread(here), "there": spread(there), "ratio": spread(ratios), "difference": difference,
            "requests": traffic.requests / n, "kB up": traffic.bytes_up / n / 1e3,
            "kB down": traffic.bytes_down / n / 1e3,
        }
    return rows


def main() -> None:
    local, remote = load_model("mini"), load_model("mini", remote=True)
    bed = load_testbed("embedded").select(["known"], constraints="single", limit=32)
    items, kind = list(bed)[:QUESTIONS], "sandboxed" if remote.server.sandboxed else "trusted"
    print("\n".join(remote.server.answers))
    print(f"\n{'intervention':16}{'s here':>8}{'s there':>9}{'ratio':>7}{'requests':>10}{'kB up':>8}{'kB down':>9}"
          f"{'difference':>12}")
    numbers = {}
    for name, row in per_question(local, remote, items).items():
        print(f"{name:16}{row['here']['value']:8.3f}{row['there']['value']:9.3f}{row['ratio']['value']:7.1f}"
              f"{row['requests']:10.1f}{row['kB up']:8.1f}{row['kB down']:9.1f}{row['difference']:12.1e}")
        prefix = f"remote/{kind}/{name.replace(' ', '_')}"
        numbers[f"{prefix}/ratio_local"] = row["ratio"]
        for quantity in ("requests", "kB up", "kB down"):
            numbers[f"{prefix}/{quantity.replace(' ', '_')}"] = spread([row[quantity]])
    save(numbers)


if __name__ == "__main__":
    main()
