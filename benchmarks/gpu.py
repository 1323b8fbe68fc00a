"""What a question of the paper's size takes on a GPU, and whether a GPU gives the numbers of a CPU.

    python -m benchmarks.gpu [--out FILE]

LLaVA-1.5-7B in bfloat16 with random weights and the question of `benchmarks.rehearsal whole`: seconds of a trace in
both modes, by packed tokens a forward; of contributions and knock-outs; of a forward of the authors' protocol. And
`mini` in float32, on both devices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from interventions import attention_contributions, attention_knockout, load_model, load_testbed, trace
from interventions.engine.windows import Execution
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt

from . import baselines, measure
from .real_size import real_size_subject
from .whole import MODEL
from .width import trace_subject

PACKED_TOKENS = (512, 1024, 2048, 4096, 8192)
REPEATS, QUESTIONS = 3, 8


def repeated(function: Callable, repeats: int = REPEATS) -> dict:
    """Spread of seconds after a first run that is not counted; all functions end with a result on the CPU."""
    function()
    return measure.spread(measure.timed(function)[0] for _ in range(repeats))


def real_size() -> dict[str, dict]:
    subject = real_size_subject(MODEL, device="cuda")
    numbers = {}
    for method, tokens in (("rows", None), ("packed", None), *(("packed", n) for n in PACKED_TOKENS)):
        torch.cuda.reset_peak_memory_stats()
        name = f"gpu/{MODEL}/{method}{'' if tokens is None else f'_{tokens}'}"
        numbers[f"{name}/seconds"] = repeated(lambda m=method, t=tokens: trace_subject(subject, m, t))
        numbers[f"{name}/bytes"] = measure.spread([torch.cuda.max_memory_allocated()])
    for name, function in (("contributions", attention_contributions), ("knockout", attention_knockout)):
        run = repeated(lambda function=function: function(subject.model, subject.prompt))
        numbers[f"gpu/{MODEL}/{name}/seconds"] = run
    authors, site = baselines.authors(subject), ("mlp", subject.prompt.last, 0, 1)
    numbers[f"gpu/{MODEL}/authors_forward/seconds"] = repeated(lambda: authors(site))
    return numbers


def difference() -> float:
    """The largest difference of P_restored between `mini` on the GPU and on the CPU, in both modes."""
    cpu, gpu = (load_model("mini", device_map=device) for device in ("cpu", "cuda"))
    largest = 0.0
    for item in load_testbed("embedded").select(["known"], constraints="single", limit=QUESTIONS):
        prompt = clean_prompt(cpu, item, Conditions())
        corrupted = corrupted_prompt(cpu, item, prompt, Conditions())
        for method in ("rows", "packed"):
            execution = Execution(method=method)
            one, other = (trace(model, prompt, corrupted, execution=execution).restored for model in (cpu, gpu))
            largest = max(largest, float(np.nanmax(np.abs(one - other))))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    path = parser.parse_args().out
    numbers = {"gpu/mini/float32/max_abs_diff": measure.spread([difference()])} | real_size()
    for name, number in numbers.items():
        print(f"{name:55}{number['value']:12.4g}")
    measure.save(numbers, path, torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
