"""Standard causal tracing (Figure 7) by the fast path and by one trace a site: `python -m benchmarks.standard`.

Noise on the visual tokens changes the whole prefix, so nothing of the image's keys and values is shared between the
clean run and the restored ones, and every draw of noise is a corrupted run of its own. What is still shared is each
draw's corrupted run (its keys, values and hidden states), the layers below a site, and packing.
"""

import argparse
import random

import numpy as np

from interventions.engine.windows import Execution
from interventions.prompts.corruption import noise
from interventions.tracing.causal_trace import KINDS, Scoring, trace

from . import measure
from .subjects import WINDOW, load_subject

SAMPLES = 2
TIMED_POSITIONS = 2  # of the plain way; times do not depend on which


def trace_noise(subject, corrupted, positions, method: str = "packed"):
    """The trace that is measured; the answer is the clean run's top token."""
    return trace(
        subject.model, subject.prompt, corrupted, window=WINDOW, positions=positions,
        scoring=Scoring(max_answer_tokens=1), execution=Execution(method=method),
    )


def report(subject, repeats: int) -> dict:
    """Prints a subject's line; returns its numbers by name."""
    corrupted = noise(subject.model, subject.prompt, ("visual", "constraint"), samples=SAMPLES)
    positions = tuple(range(subject.prompt.visual[-1], len(subject.prompt)))
    trace_noise(subject, corrupted, positions[-2:])  # warm-up
    ratios, differences, largest = [], [], 0.0
    for repeat in range(repeats):
        seconds, packed = measure.timed(trace_noise, subject, corrupted, positions)
        chosen = sorted(random.Random(repeat).sample(positions, TIMED_POSITIONS))
        elapsed, plain = measure.timed(trace_noise, subject, corrupted, chosen, "plain")
        forwards = plain.restored.size * SAMPLES + SAMPLES + 1
        ratios.append(elapsed / forwards / (seconds / (packed.restored.size * SAMPLES)))
        rows = [positions.index(position) for position in chosen]
        differences.append(np.abs(plain.restored - packed.restored[:, rows]).max())
        largest = max(largest, float(packed.effects.max()))
    numbers = {"ratio_naive": measure.spread(ratios), "max_abs_diff": measure.spread([float(max(differences))])}
    ratio = numbers["ratio_naive"]
    print(
        f"{subject.name}: {len(positions)} positions x {subject.model.n_layers} layers x {' and '.join(KINDS)}, "
        f"{SAMPLES} draws of noise on visual tokens and constraint; largest effect {largest:.3f}\n"
        f"  packed is {ratio['value']:.1f} times faster than one trace a site "
        f"({ratio['low']:.1f} - {ratio['high']:.1f}), largest difference {max(differences):.1e}",
        flush=True,
    )
    return {f"standard/{subject.name}/{name}": number for name, number in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", default=("llava_shape", "mini"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.subjects:
        measure.save(report(load_subject(name), options.repeats))


if __name__ == "__main__":
    main()
