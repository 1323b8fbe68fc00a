"""How tracing grows, ours and the cheapest other ways: `python -m benchmarks.scaling`, part of `make bench-others`.

One thing changes at a time: visual tokens, layers, sites of a question, and questions asked one after the other. The
model is LLaVA's shape on random weights at a sixteenth of LLaVA-1.5's width, the questions are the embedded model's.
Images are square, so 1,152 and 2,880 visual tokens are 34 x 34 and 54 x 54 here. Each setting is a process of its own.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import transformers

from interventions.tracing.causal_trace import KINDS

from . import measure
from .compare import Asked, compare
from .subjects import mini_questions, shaped
from .ways import WAYS

WAYS_THAT_SCALE = ("hooks_cached", "hooks", "nnsight")
HIDDEN, SIDE = 256, 16
VISUAL_TOKENS = (8**2, 16**2, 24**2, 34**2, 54**2)
LAYERS = (8, 16, 32)
SITES = {8: (1, ("mlp",)), 16: (1, KINDS), 64: (4, KINDS), 192: (12, KINDS), 368: (23, KINDS)}  # positions, kinds
QUESTIONS = (1, 4, 8)
SETTINGS = {"visual_tokens": VISUAL_TOKENS, "layers": LAYERS, "sites": tuple(SITES), "questions": QUESTIONS}
TIMED_SITES = 8  # at least, a repeat


def questions_of(axis: str, value: int) -> list[Asked]:
    """What is traced in a setting: every site, unless sites are what changes."""
    if axis == "questions":
        return [Asked(subject, subject.positions) for subject in mini_questions(value)]
    side = round(value**0.5) if axis == "visual_tokens" else SIDE
    subject = shaped("shaped", side, value if axis == "layers" else LAYERS[0], HIDDEN)
    n_positions, kinds = SITES[value] if axis == "sites" else (len(subject.positions), KINDS)
    return [Asked(subject, subject.positions[-n_positions:], kinds)]


def one(axis: str, value: int, repeats: int) -> None:
    """Measures a setting, prints a line a way and saves the numbers."""
    questions = questions_of(axis, value)
    for name in WAYS_THAT_SCALE:
        with tempfile.TemporaryDirectory() as directory:
            found = compare(questions, WAYS[name], Path(directory), repeats, TIMED_SITES)
        ratio, memory = found["ratio"], found["memory_ratio"]["value"]
        print(
            f"{axis:14} {value:5} {name:13}{found['ms_per_site']['value']:9.2f} ms a site; ours "
            f"{found['ours_ms_per_site']['value']:6.2f} ms and {ratio['value']:.1f} times faster "
            f"({ratio['low']:.1f} - {ratio['high']:.1f}) in {1 / memory:.2f} times its memory",
            flush=True,
        )
        numbers = {f"scaling/{axis}/{value}/{name}/{key}": number for key, number in found.items()}
        measure.save(numbers, versions=WAYS[name].versions())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("axes", nargs="*", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}; default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure anew what this commit has measured")
    parser.add_argument("--value", type=int, help="of the one axis, measured in this process")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # see compare.py
    if options.value is not None:
        one(options.axes[0], options.value, options.repeats)
        return
    last = WAYS_THAT_SCALE[-1]
    jobs = {
        f"scaling/{axis}/{value}/{last}/ratio":
            ["benchmarks.scaling", axis, "--value", str(value), "--repeats", str(options.repeats)]
        for axis in options.axes for value in SETTINGS[axis]
    }
    measure.run_missing(jobs, options.again)


if __name__ == "__main__":
    main()
