"""The whole of LLaVA-1.5-7B, random weights: one question end to end, for `python -m benchmarks.rehearsal whole`.

It was not fitted, so what it takes is the check of the cost model.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import torch

from interventions.engine import runs
from interventions.engine.packing import CPU_PACKED_TOKENS
from interventions.tracing import restoration

from . import baselines, fitting, measure
from .cost import CPU, FIT, Estimate, estimate, read_fit
from .real_size import real_size_subject
from .width import peak_rss, question_of, trace_subject

MODEL = "llava-1.5-7b"
RESULT = Path(__file__).parent / "rehearsal_whole.json"
RESULTS = ("seconds", "bytes", "predicted_seconds", "predicted_bytes", "authors_hours")  # also in results.json
CHECKED = ("model", "seconds", "bytes", "predicted_seconds", "predicted_bytes")


@contextlib.contextmanager
def timed_stages():
    """Yield the seconds that the parts of a trace take, by the names of their functions."""
    modules = {"clean_run": restoration, "decode": runs, "corrupted_run": restoration, "restore_packed": restoration}
    seconds, originals = {}, {name: getattr(module, name) for name, module in modules.items()}
    for name, module in modules.items():

        def timed(*args, name=name):
            begin = time.perf_counter()
            result = originals[name](*args)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin
            return result

        setattr(module, name, timed)
    try:
        yield seconds
    finally:
        for name, original in originals.items():
            setattr(modules[name], name, original)


def whole(layers: int = 0, shrink: int = 1, out: Path | None = None) -> dict:
    """Traces one question and returns, prints and saves what it took; layers, shrink: smaller, to try it out.

    The result is saved before anything else is measured. A trial is saved only where `out` says, and checks nothing.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # all cores that it may use
    trial = bool(layers) or shrink > 1
    out = out or (None if trial else RESULT)
    built, subject = measure.timed(real_size_subject, MODEL, layers, shrink)
    print(f"{MODEL}, {subject.model.n_layers} layers, random bfloat16 weights, built in {built:.0f} s; "
          f"{' + '.join(map(str, subject.layout))} tokens; peak so far {peak_rss() / 1e9:.1f} GB", flush=True)
    with timed_stages() as stages:
        seconds, traced = measure.timed(trace_subject, subject, "packed", CPU_PACKED_TOKENS)
    result = {
        "model": MODEL, "layers": subject.model.n_layers, "sites": traced.restored.size, "seconds": seconds,
        "stages": _named(stages), "bytes": peak_rss(), "built_seconds": built,
        "p_clean": traced.p_clean, "p_corrupted": traced.p_corrupted, "machine": measure.machine(),
    }
    _save(result, out)
    packed, rows = (_predicted(subject, method) for method in ("packed", "rows"))
    if packed:
        result |= {"predicted_seconds": packed.seconds, "predicted_bytes": packed.peak_bytes,
                   "predicted_stages": packed.stages, "predicted_rows_seconds": rows.seconds}
        _save(result, out)
        if not trial:
            fitting.write_check({key: result[key] for key in CHECKED})
    _show(result)

    authors, site = baselines.authors(subject), ("mlp", subject.prompt.last, 0, 1)
    one, _ = measure.timed(authors, site)
    hours = one * result["sites"] / 3600
    result |= {"authors_forward_seconds": one, "authors_hours": hours}
    _save(result, out)
    if not trial:
        numbers = {name: result[name] for name in RESULTS if name in result}
        measure.save({f"rehearsal/{MODEL}/{name}": measure.spread([value]) for name, value in numbers.items()})
    print(f"the authors' protocol: a forward of three rows took {one:.1f} s, so all sites would take {hours:.1f} h, "
          f"{hours * 3600 / seconds:.0f} times as long")
    return result


def _named(stages: dict[str, float]) -> dict[str, float]:
    """Seconds under the names that the cost model gives to stages."""
    return {
        "clean": stages["clean_run"] - stages["decode"], "answer": stages["decode"],
        "corrupted": stages["corrupted_run"], "sites": stages["restore_packed"],
    }


def _predicted(subject, method: str) -> Estimate | None:
    """What the cost model, if it has been fitted, says of this run."""
    if read_fit() is None:
        return None
    question = question_of(subject)
    return estimate(subject.model.config, CPU, method=method, question=question, max_packed_tokens=CPU_PACKED_TOKENS)


def _save(result: dict, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


def _show(result: dict) -> None:
    guessed = result.get("predicted_stages", {})
    print(f"{result['sites']} sites, window 3, packed: {result['seconds']:.1f} s, peak {result['bytes'] / 1e9:.2f} GB")
    for stage, seconds in result["stages"].items():
        print(f"  {stage:10}{seconds:9.1f} s" + (f"{guessed[stage]:9.1f} s predicted" if guessed else ""))
    print(f"P_clean {result['p_clean']:.1e}, P_corrupted {result['p_corrupted']:.1e}: random, they mean nothing")
    if guessed:
        seconds, memory = (result[f"predicted_{name}"] / result[name] - 1 for name in ("seconds", "bytes"))
        print(f"predicted: {result['predicted_seconds']:.1f} s ({seconds:+.0%}), "
              f"{result['predicted_bytes'] / 1e9:.2f} GB ({memory:+.0%}); method rows (not run): "
              f"{result['predicted_rows_seconds']:.1f} s", flush=True)
    else:
        print(f"no prediction: {FIT.name} is missing, run `python -m benchmarks.rehearsal width` first", flush=True)
