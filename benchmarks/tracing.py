"""Causal tracing of one question against other ways to do it: `python -m benchmarks.tracing`, `make bench`.

Everything is measured in one process, alternating, so that a ratio compares neighbors in time:

    packed    this package: every site of the question, both kinds, clean and corrupted run included
    floor     the arithmetic that these need at least (`measure.necessary_flops`), at the rate at which this
              process multiplies the decoder's own matrices
    naive     one nnsight trace a site (`method="plain"`), image encoder included
    hooks     one forward with PyTorch hooks a site, the image encoded once
    authors   one forward of three rows a site (clean, corrupted, restored), image encoder included

The slow ways cost the same for every site, so they are timed on a random part of the sites, and their
probabilities there are compared with the packed ones of the same repeat. Memory is the peak of the tensors
that a trace allocates.
"""

import argparse
import random

import numpy as np

from interventions.engine.windows import window_spans
from interventions.tracing.causal_trace import KINDS

from . import measure
from .subjects import WINDOW, load_subject
from .ways import WAYS, Task

SUBJECTS = ("llava_shape", "mini")
TIMED_SITES = 16  # at least, of a slow way


def measure_speed(subject, repeats: int) -> tuple[dict, dict]:
    """({way: list of seconds a site}, facts) over the repeats."""
    spans = window_spans(WINDOW, "centered", subject.model.n_layers)
    sites = [(kind, position, *span) for kind in KINDS for position in subject.positions for span in spans]
    n_positions = -(-TIMED_SITES // (len(KINDS) * len(spans)))
    work = measure.necessary_flops(subject, sites)
    module = subject.model.module
    ways = {way: WAYS[way].ask(module, Task(subject, encoder=module)) for way in ("hooks", "authors")}
    subject.trace(subject.positions)  # warm-up
    seconds = {way: [] for way in ("packed", "floor", "naive", *ways)}
    differences = []
    for repeat in range(repeats):
        draw = random.Random(repeat)
        elapsed, packed = measure.timed(subject.trace, subject.positions)
        seconds["packed"].append(elapsed / len(sites))
        seconds["floor"].append(work / measure.matmul_rate(subject) / len(sites))
        restored = dict(zip(sites, packed.restored.ravel(), strict=True))

        positions = draw.sample(subject.positions, n_positions)
        elapsed, plain = measure.timed(subject.trace, positions, KINDS, "plain")
        # The clean and the corrupted run are two more whole forwards in it.
        seconds["naive"].append(elapsed / (plain.restored.size + 2))
        rows = [subject.positions.index(position) for position in plain.positions]
        differences.append(np.abs(plain.restored - packed.restored[:, rows]).max())

        chosen = draw.sample(sites, TIMED_SITES)
        batches = [(kind, (position,), *span) for kind, position, *span in chosen]  # a forward each
        for way, restore in ways.items():
            elapsed, found = measure.timed(list, map(restore, batches))
            seconds[way].append(elapsed / len(chosen))
            differences.append(max(abs(p - restored[site]) for (p,), site in zip(found, chosen, strict=True)))
    facts = {
        "n_sites": len(sites),
        "p_clean": packed.p_clean,
        "p_corrupted": packed.p_corrupted,
        "largest_effect": float(packed.effects.max()),
        "max_abs_diff": float(max(differences)),
    }
    return seconds, facts


def measure_memory(subject) -> dict:
    """{"1x" | "4x": peak bytes}. 4x: an even number of positions, both kinds; 1x: every other one, MLPs."""
    positions = subject.positions[-(len(subject.positions) // 2 * 2) :]
    sizes = {"1x": (positions[::2], ("mlp",)), "4x": (positions, KINDS)}
    return {
        size: measure.peak_bytes(lambda chosen=chosen: subject.trace(*chosen))
        for size, chosen in sizes.items()
    }


def report(subject, repeats: int) -> dict:
    """Prints a subject's table; returns its numbers by name."""
    seconds, facts = measure_speed(subject, repeats)
    memory = measure_memory(subject)
    ratios = {
        way: measure.spread(other / packed for other, packed in zip(values, seconds["packed"], strict=True))
        for way, values in seconds.items()
        if way not in ("packed", "floor")
    }
    ratios["floor"] = measure.spread(
        packed / floor for packed, floor in zip(seconds["packed"], seconds["floor"], strict=True)
    )
    model = subject.model
    print(
        f"\n{subject.name}: {' + '.join(map(str, subject.layout))} tokens, hidden {model.hidden_size}, "
        f"{model.n_layers} layers; window {WINDOW}, {facts['n_sites']} sites = "
        f"{len(subject.positions)} positions x {model.n_layers} layers x {' and '.join(KINDS)}"
    )
    print(
        f"P_clean {facts['p_clean']:.3f}, P_corrupted {facts['p_corrupted']:.3f}, "
        f"largest effect {facts['largest_effect']:.3f}; median (low - high) of {repeats} repeats"
    )
    print(f"  {'':8} {'ms a site':>26}   against packed")
    for way, values in seconds.items():
        ms = measure.spread(1000 * value for value in values)
        text = f"  {way:8} {ms['value']:8.2f} ({ms['low']:.2f} - {ms['high']:.2f})".ljust(37)
        if way in ratios:
            ratio = ratios[way]
            what = "packed takes {:.2f} times it" if way == "floor" else "packed is {:.1f} times faster"
            text += f"   {what.format(ratio['value'])} ({ratio['low']:.2f} - {ratio['high']:.2f})"
        print(text)
    growth = memory["4x"] / memory["1x"]
    print(f"  largest difference of probabilities on the timed outputs: {facts['max_abs_diff']:.1e}")
    print(
        f"  peak memory of a trace beyond the weights: {memory['1x'] / 2**20:.0f} MiB; "
        f"with 4 times the sites {memory['4x'] / 2**20:.0f} MiB ({growth:.2f} times)",
        flush=True,
    )
    numbers = {f"ratio_{way}": ratio for way, ratio in ratios.items()}
    numbers["ms_per_site"] = measure.spread(1000 * value for value in seconds["packed"])
    numbers["max_abs_diff"] = measure.spread([facts["max_abs_diff"]])
    numbers["memory_ratio_4x_sites"] = measure.spread([growth])
    return {f"tracing/{subject.name}/{name}": number for name, number in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "subjects", nargs="*", default=SUBJECTS, help=f"of {', '.join(SUBJECTS)}; default: all"
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for name in options.subjects:
        measure.save(report(load_subject(name), options.repeats))
    print(f"\n{measure.machine()}\nwritten to {measure.RESULTS}")


if __name__ == "__main__":
    main()
