"""Full width, few layers: what forwards and traces take there, for `python -m benchmarks.rehearsal width`.

The time of a layer does not depend on how many there are, so a few layers of the real width are measured at many
token counts, and the cost model fitted on them is carried over to the whole depth.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from interventions.engine.packing import CPU_PACKED_TOKENS
from interventions.engine.windows import Execution
from interventions.tracing.causal_trace import Scoring, trace

from . import baselines, fitting, measure
from .cost import CPU, Device, Estimate, estimate
from .fitting import Measurement
from .real_size import real_size_subject
from .subjects import WINDOW, Subject
from .workload import Question, Work, forward_work

BY_TOKENS = {576: "llava-1.5-7b", 729: "bunny-phi-2"}  # visual tokens -> whose width
FORWARDS = (1, 25, 100, 300, 600)  # tokens
BUDGETS = (150, 600)  # packed tokens of a forward, beside the package's own
ANSWER_FORWARDS = 4  # behind the clean run; random weights do not end an answer, so their number is set here
COUNTS_ONLY = Device(CPU, 0, 0, 0, 0, 0, memory=1e15)  # computes for nothing, and has room for everything


def question_of(subject: Subject) -> Question:
    """What the cost model is told of a subject's question."""
    first, n_tokens = subject.corrupted.first_corrupted, len(subject.prompt)
    if len(subject.corrupted.input_ids) != n_tokens:
        raise ValueError("the cost model counts a corrupted prompt that is as long as the clean one")
    return Question(
        before=first - len(subject.prompt.visual), positions=n_tokens - first,
        window=min(WINDOW, subject.model.n_layers), answer_tokens=ANSWER_FORWARDS,
    )


def counted(subject: Subject, method: str, budget: int) -> Estimate:
    """Work and memory of tracing a subject, at no cost."""
    question = question_of(subject)
    return estimate(subject.model.config, COUNTS_ONLY, method=method, question=question, max_packed_tokens=budget)


def trace_subject(subject: Subject, method: str, budget: int, positions=None):
    """The trace that is measured."""
    result = trace(
        subject.model, subject.prompt, subject.corrupted, window=min(WINDOW, subject.model.n_layers),
        positions=positions,
        scoring=Scoring(max_answer_tokens=ANSWER_FORWARDS + 1),
        execution=Execution(method=method, max_packed_tokens=budget),
    )
    if len(result.answer_ids) != ANSWER_FORWARDS + 1:
        raise ValueError("the model ended its answer, so fewer tokens were run than are counted")
    return result


def run_job(job: dict) -> list[Measurement]:
    """Measurements of one child process. job: model, layers, shrink, kind ("forwards" | a method), budget, repeats."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # all cores that it may use
    subject = real_size_subject(job["model"], job["layers"], job["shrink"])
    what = f"{job['model']}, {job['layers']} layers, {job['kind']}"
    if job["kind"] == "forwards":
        return measure_forwards(subject, what, job["repeats"])
    method, budget = job["kind"], job["budget"]
    trace_subject(subject, method, budget, positions=[subject.prompt.last])  # warm-up
    seconds = [measure.timed(trace_subject, subject, method, budget)[0] for _ in range(job["repeats"])]
    cost = counted(subject, method, budget)
    work = sum(cost.work.values(), Work())
    return [Measurement(f"{what}, budget {budget}", statistics.median(seconds), work, peak_rss(), cost.peak_bytes)]


@torch.no_grad()
def measure_forwards(subject: Subject, what: str, repeats: int) -> list[Measurement]:
    """Forwards of several lengths without an image, of the prompt with its image, and one of the authors' protocol."""
    module, end = subject.model.module, len(subject.prompt)
    arch = counted(subject, "rows", CPU_PACKED_TOKENS).arch
    prompt = {"input_ids": subject.prompt.input_ids[None], **subject.prompt.image_inputs}
    runs = {
        f"{n} tokens": (
            lambda n=n: module(input_ids=torch.full((1, n), 5), logits_to_keep=torch.tensor([n - 1])),
            forward_work(arch, n, n, head=1),
        )
        for n in FORWARDS
    }
    runs["prompt with image"] = (
        lambda: module(**prompt, logits_to_keep=torch.tensor([end - 1])),
        forward_work(arch, end, end, head=1, images=1),
    )
    authors, site = baselines.authors(subject), ("mlp", subject.prompt.last, 0, 1)
    runs["authors"] = (
        lambda: authors(site), forward_work(arch, end, end, rows=3, head=3, images=3)
    )
    found = []
    for name, (run, work) in runs.items():
        run()  # warm-up
        seconds = statistics.median(measure.timed(run)[0] for _ in range(repeats))
        found.append(Measurement(f"{what}: {name}", seconds, work))
    return found


def peak_rss() -> float:
    """The most bytes that this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def width_jobs(layers, tokens, shrink: int, repeats: int) -> list[dict]:
    """What is measured: forwards and both methods for each depth, other packing budgets for the deepest."""
    jobs = []
    for model in (BY_TOKENS[n] for n in tokens):
        for n in layers:
            kinds = [("forwards", 0), ("packed", CPU_PACKED_TOKENS), ("rows", CPU_PACKED_TOKENS)]
            kinds += [("packed", budget) for budget in BUDGETS] if n == max(layers) else []
            jobs += [dict(model=model, layers=n, shrink=shrink, kind=kind, budget=budget, repeats=repeats)
                     for kind, budget in kinds]
    return jobs


def width(layers, tokens, shrink: int, repeats: int, out: Path | None) -> dict:
    """Runs the jobs one after the other, prints each, fits the cost model and writes it."""
    measurements = []
    for job in width_jobs(layers, tokens, shrink, repeats):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.rehearsal", "job", json.dumps(job)], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        for row in json.loads(done.stdout.splitlines()[-1]):
            measurements.append(Measurement(**row | {"work": Work(**row["work"])}))
            print(f"{row['seconds']:9.3f} s  {row['what']}", flush=True)
    fitted = fitting.fit(measurements, memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for row in fitted["measurements"]:
        print(f"{row['predicted'] / row['seconds'] - 1:+7.0%}  {row['what']}")
    print(f"coefficients {fitted['coefficients']}\nmedian error {fitted['median_error']:.1%}, "
          f"largest {fitted['largest_error']:.1%}")
    if out:
        fitting.write_fit(fitted, out)
        print(f"written to {out}")
    return fitted
