"""One way to trace against `trace`: the same model, questions and sites, outputs compared before times are.

Both are timed in alternation, question by question, so that a ratio compares neighbors in time; on one thread and
in processor time, which hardly depends on what else the machine does. Ours runs every site. A site costs the other
way the same wherever it is, so some of its batches are timed, and what a question takes it is what it needs once
(embeddings, clean run) and that time for each of its sites.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from interventions.engine.windows import window_spans
from interventions.tracing.causal_trace import KINDS, CausalTrace

from . import measure
from .subjects import WINDOW, Subject
from .ways import Batch, Task, Way

ROWS = 8  # of a batch, beside single sites and all positions at once
TOLERANCE = 3e-4  # of P_restored: float32 with 2,946 tokens differs by 1e-4 (`trace` by 1e-5) from float64
LEAST_EFFECT = 0.05  # somewhere among the compared outputs: agreement of outputs that nothing changes says nothing


timed = partial(measure.timed, clock=time.process_time)


class Disagreement(ValueError):
    """Outputs differ, or show no effect, so that their times say nothing."""


@dataclass(frozen=True)
class Asked:
    """What is traced of a subject: both kinds at every position, or less."""

    subject: Subject
    positions: tuple[int, ...]
    kinds: tuple[str, ...] = KINDS

    @property
    def spans(self) -> list[tuple[int, int]]:
        return window_spans(WINDOW, "centered", self.subject.model.n_layers)

    @property
    def n_sites(self) -> int:
        return len(self.kinds) * len(self.positions) * len(self.spans)

    def trace(self) -> CausalTrace:
        return self.subject.trace(self.positions, self.kinds)

    def batches(self, traced: CausalTrace, rows: int, seed: int = 0) -> Iterator[Batch]:
        """Without end: first one with the largest effect, then any."""
        draw = random.Random(seed)
        kind, position, layer = np.unravel_index(np.abs(traced.effects).argmax(), traced.effects.shape)
        first = self.positions[position]
        others = [position for position in self.positions if position != first]
        yield self.kinds[kind], (first, *draw.sample(others, rows - 1)), *self.spans[layer]
        while True:
            yield draw.choice(self.kinds), tuple(draw.sample(self.positions, rows)), *draw.choice(self.spans)

    def check(self, traced: CausalTrace, found: dict[Batch, list[float]]) -> float:
        """The largest difference between what the other way found and our trace; raises Disagreement."""
        ours, theirs = [], []
        for (kind, positions, *span), values in found.items():
            rows = [self.positions.index(position) for position in positions]
            ours += traced.restored[self.kinds.index(kind), rows, self.spans.index(tuple(span))].tolist()
            theirs += values
        difference = float(np.abs(np.subtract(ours, theirs)).max())
        if not difference < TOLERANCE:  # NaN, too
            raise Disagreement(
                f"{self.subject.name}: P_restored differs by {difference:.1e} from that of `trace` at some site, "
                f"and {TOLERANCE:.0e} is allowed: times would compare different computations."
            )
        effect = np.abs(np.subtract(ours, traced.p_corrupted)).max()
        if effect < LEAST_EFFECT:
            raise Disagreement(f"{self.subject.name}: the largest effect compared is {effect:.1e}, too small to tell.")
        return difference


def cheapest_rows(asked: Asked, traced: CausalTrace, restore, batched: bool) -> int:
    """How many rows of a batch make a site cheapest, each tried twice: more are tried as long as they help."""
    best, least = 1, float("inf")
    for rows in sorted({1, min(ROWS, len(asked.positions)), len(asked.positions)}) if batched else (1,):
        batch = next(asked.batches(traced, rows))
        seconds = min(timed(restore, batch)[0] for _ in range(2)) / rows
        if seconds > least:
            break
        best, least = rows, seconds
    return best


def compare(questions: list[Asked], way: Way, directory: Path, repeats: int, timed_sites: int) -> dict[str, dict]:
    """{name: spread} of a way; ratios above 1 mean that ours is faster, or needs less memory.

    questions: of one model, asked one after the other; directory: an empty one for the checkpoint; timed_sites: at
    least so many of a question are timed in a repeat.
    """
    asked, task = questions[0], Task.save(questions[0].subject, directory)
    tasks = [task, *(Task(other.subject, task.encoder) for other in questions[1:])]
    loaded = way.load(directory)
    traced, restore = asked.trace(), way.ask(loaded, task)  # warms up
    rows = cheapest_rows(asked, traced, restore, way.batched)
    batch = next(asked.batches(traced, rows))
    differences, seconds = [asked.check(traced, {batch: restore(batch)})], []
    for seed in range(repeats):
        parts = []
        for question, its_task in zip(questions, tasks, strict=True):
            times, difference = timed_once(question, its_task, way, loaded, rows, -(-timed_sites // rows), seed)
            parts.append(times)
            differences.append(difference)
        seconds.append(np.mean(parts, axis=0))
    ours, setup, site, theirs = np.transpose(seconds)
    n_sites = float(np.mean([question.n_sites for question in questions]))
    ours_bytes = measure.peak_bytes(asked.trace)
    their_bytes = measure.peak_bytes(lambda: way.ask(loaded, task)(batch))
    return {
        name: measure.spread(np.atleast_1d(values).tolist())
        for name, values in {
            "ratio": theirs / ours, "ms_per_site": 1000 * site, "setup_ms": 1000 * setup,
            "ours_ms_per_site": 1000 * ours / n_sites, "sites": n_sites, "rows": rows,
            "max_abs_diff": max(differences), "bytes": their_bytes, "ours_bytes": ours_bytes,
            "memory_ratio": their_bytes / ours_bytes,
        }.items()
    }


def timed_once(asked: Asked, task: Task, way: Way, loaded, rows: int, n_batches: int, seed: int):
    """((seconds of our trace, what the way needs once, at a site, for all sites), largest difference)."""
    ours, traced = timed(asked.trace)
    setup, restore = timed(way.ask, loaded, task)
    batches = list(itertools.islice(asked.batches(traced, rows, seed), n_batches))
    taken, found = timed(list, map(restore, batches))
    site = taken / (rows * n_batches)
    difference = asked.check(traced, dict(zip(batches, found, strict=True)))
    return (ours, setup, site, setup + site * asked.n_sites), difference
