"""Tracing against what people use now: `python -m benchmarks.others`, `make bench-others`.

pyvene, TransformerLens's LLaVA bridge, nnsight, PyTorch hooks and the authors' protocol (`ways.py`) against `trace`,
on the same model, question and sites, each in a process of its own. Outputs are compared before times are
(`compare.py`): a way that disagrees has no time. What a tool cannot do (`probes.py`) is kept in its own words.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import transformers

from . import measure, probes
from .compare import Asked, compare
from .subjects import load_subject
from .ways import WAYS

SUBJECTS = ("llava_shape", "mini")
TIMED_SITES = 16  # at least, a repeat


def one(name: str, way_name: str, repeats: int) -> None:
    """Compares one way on one subject, prints a line and saves the numbers."""
    subject, way = load_subject(name), WAYS[way_name]
    with tempfile.TemporaryDirectory() as directory:
        found = compare([Asked(subject, subject.positions)], way, Path(directory), repeats, TIMED_SITES)
        for probe, refusal in probes.refusals(way_name, subject, Path(directory)).items():
            found[f"refuses/{probe}"] = refusal
    ratio, site, ours = found["ratio"], found["ms_per_site"], found["ours_ms_per_site"]
    print(
        f"{name:12} {way_name:17}{site['value']:9.2f} ms a site, {found['rows']['value']:2} rows a forward; ours "
        f"{ours['value']:6.2f} ms and {ratio['value']:.1f} times faster ({ratio['low']:.1f} - {ratio['high']:.1f}), "
        f"difference {found['max_abs_diff']['value']:.0e}",
        flush=True,
    )
    measure.save(
        {f"others/{name}/{way_name}/{key}": number for key, number in found.items()}, versions=way.versions()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", default=SUBJECTS, help=f"of {', '.join(SUBJECTS)}; default: all")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="measure anew what this commit has measured")
    parser.add_argument("--here", action="store_true", help="in this process (else: one each, what is there is kept)")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # see compare.py
    pairs = [(name, way) for name in options.subjects for way in options.ways]
    if options.here:
        for name, way in pairs:
            one(name, way, options.repeats)
    else:
        repeats = ["--repeats", str(options.repeats)]
        jobs = {
            f"others/{name}/{way}/ratio": ["benchmarks.others", name, "--ways", way, *repeats, "--here"]
            for name, way in pairs
        }
        measure.run_missing(jobs, options.again)


if __name__ == "__main__":
    main()
