"""The coefficients of `benchmarks.cost` from measurements: `python -m benchmarks.rehearsal width` calls this."""

from __future__ import annotations

import datetime
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from . import measure
from .cost import FIT
from .workload import Work

COEFFICIENTS = ("seconds_per_flop", "seconds_per_image_flop", "seconds_per_byte", "seconds_per_layer_call")


@dataclass(frozen=True)
class Measurement:
    """What one run took. peak_bytes: of its process, None where several runs shared one; counted_bytes: what weights,
    caches and buffers make of it by `benchmarks.workload`."""

    what: str
    seconds: float
    work: Work
    peak_bytes: float | None = None
    counted_bytes: float | None = None

    @property
    def counts(self) -> tuple[float, ...]:
        """What the coefficients are multiplied with, in their order."""
        return self.work.flops, self.work.image_flops, self.work.moved, self.work.layer_calls


def fit(measurements: list[Measurement], memory: float) -> dict:
    """The content of `cost_fit.json`: coefficients, measurements beside what they predict, machine and date.

    Least squares of *relative* errors, so that a forward of 1 s counts as much as a trace of 1 min, with coefficients
    that are not negative. Memory beside the counted is the largest that was found: a prediction that is too small
    would end a run.
    """
    counts = np.array([m.counts for m in measurements])
    seconds = np.array([m.seconds for m in measurements])
    scale = np.maximum(counts.max(0), 1)  # for nnls: the columns differ by 15 orders of magnitude
    found, _ = nnls(counts / scale / seconds[:, None], np.ones(len(seconds)))
    predicted = counts @ (found / scale)
    errors = predicted / seconds - 1
    beside = [m.peak_bytes - m.counted_bytes for m in measurements if m.peak_bytes is not None]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": measure.machine(),
        "coefficients": dict(zip(COEFFICIENTS, (found / scale).tolist(), strict=True))
        | {"base_bytes": max(0.0, *beside) if beside else 0.0, "memory": memory},
        "median_error": statistics.median(abs(errors).tolist()),
        "largest_error": float(abs(errors).max()),
        "measurements": [
            {"what": m.what, "seconds": m.seconds, "predicted": float(p), "counts": list(m.counts)}
            | ({} if m.peak_bytes is None else {"peak_bytes": m.peak_bytes, "counted_bytes": m.counted_bytes})
            for m, p in zip(measurements, predicted, strict=True)
        ],
    }


def write_fit(fitted: dict, path: Path = FIT) -> None:
    """Replaces the fit. A check of an older one is dropped with it: it says nothing of the new coefficients."""
    path.write_text(json.dumps(fitted, indent=1) + "\n")


def write_check(check: dict, path: Path = FIT) -> None:
    """Puts the check on a whole model (model, seconds, bytes, and what was predicted of both) beside the fit."""
    write_fit(json.loads(path.read_text()) | {"check": check}, path)
