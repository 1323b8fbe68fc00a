"""What every benchmark needs: spread over repeats, arithmetic and its rate, peak memory, the results file."""

import datetime
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.autograd.profiler_util import MEMORY_EVENT_NAME
from torch.profiler import ProfilerActivity, profile

from interventions.engine.packing import CPU_PACKED_TOKENS
from interventions.environment import commit

RESULTS = Path(__file__).parent / "results.json"
CPUINFO = Path("/proc/cpuinfo")  # Linux has it


def timed(function, *args, clock=time.perf_counter):
    """(seconds, what the function returned): outputs are kept so that the timed run itself is checked."""
    start = clock()
    result = function(*args)
    return clock() - start, result


def spread(values) -> dict:
    """Median, lowest and highest of the repeats."""
    values = list(values)
    return {"value": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


# Arithmetic


def necessary_flops(subject, sites) -> float:
    """The least arithmetic for a question's sites, as operations of the modules that must run.

    The unit is a token-module: attention or MLP of one layer on one token, which runs whole or not at all,
    with two operations a weight and, in attention, 4 d for each of the token's keys (scores and mixture; d:
    width of the heads together). A site (kind, k, start, stop) of T tokens and n layers needs

        attention  on tokens k .. T-1 in layers start+1 .. n-1;
        MLP        on tokens k .. T-1 in layers start+1 .. n-2, on token T-1 in layer n-1,
                   and on token k in layer start if attention was restored there;
        neither    where it is restored itself: kind at token k in layers start .. stop-1;
        the head   on token T-1.

    Before k and below `start` nothing changes, in layer `start` only token k does, and of the last MLP only
    the last token is read. To this come one clean run, and the corrupted run from the first corrupted token
    on. The image encoder is left out.
    """
    n_layers, n_tokens = subject.model.n_layers, len(subject.corrupted.input_ids)
    head = 2 * subject.model.module.get_output_embeddings().weight.numel()
    layer = subject.decoder.layers[0]
    mlp = 2 * sum(weight.numel() for weight in _matrices(layer.mlp))
    projections = 2 * sum(weight.numel() for weight in _matrices(layer.self_attn))
    per_key = 4 * subject.model.config.get_text_config().num_attention_heads * layer.self_attn.head_dim

    def run(begin: int, start: int, restored=()) -> float:
        """Of tokens begin .. T-1 in layers start .. n-1, and the head. restored: (kind, layer) at begin."""
        total = head
        for index in range(start, n_layers):
            for token in range(begin, n_tokens):
                given = [kind for kind, layer in restored if layer == index and token == begin]
                if "attention" not in given:
                    total += projections + per_key * (token + 1)
                if "mlp" not in given and (index < n_layers - 1 or token == n_tokens - 1):
                    total += mlp
        return total

    baselines = run(0, 0) + run(subject.corrupted.first_corrupted, 0)
    return baselines + sum(
        run(position, start + 1, {(kind, index) for index in range(start, stop)})
        + mlp * (kind == "attention")
        for kind, position, start, stop in sites
    )


@torch.no_grad()
def matmul_rate(subject, repeats: int = 5) -> float:
    """Operations a second of the decoder's own matrices, one after the other, on a pack of tokens."""
    weights = _matrices(subject.decoder.layers)
    inputs = {
        width: torch.randn(CPU_PACKED_TOKENS, width) for width in {weight.shape[1] for weight in weights}
    }

    def multiply():
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    multiply()
    seconds = statistics.median(timed(multiply)[0] for _ in range(repeats))
    return 2 * CPU_PACKED_TOKENS * sum(weight.numel() for weight in weights) / seconds


def _matrices(module) -> list[torch.Tensor]:
    return [weight for weight in module.parameters() if weight.dim() == 2]


# Memory


def peak_bytes(function) -> int:
    """The most bytes alive at once of the tensors allocated while `function` ran, by torch's own count.

    Resident memory would say less: it depends on what the C library and the kernel keep or take back.
    """
    gc.collect()  # else the end of older tensors would be counted in
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = [
        event for event in profiled.profiler.kineto_results.events() if event.name() == MEMORY_EVENT_NAME
    ]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes))


def square_tensors(function, n: int) -> int:
    """How many tensors with two dimensions of size n operations of any thread took while `function` ran."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        function()
    shapes = [shape for event in profiled.events() for shape in event.input_shapes or () if isinstance(shape, list)]
    return sum(shape.count(n) >= 2 for shape in shapes)


# Results


def machine(device: str = "cpu") -> dict:
    """What the numbers were measured on; device: "cpu", or what a GPU calls itself."""
    told = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    cpu = next(
        (line.split(":")[1].strip() for line in told if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(numbers: dict, path: Path = RESULTS, device: str = "cpu", **more) -> None:
    """Put {name: {"value", "low", "high", "n"}} into the results file, others stay.

    Each gets what it was measured on, when, how busy the machine was (processes that ran or waited, over the last
    minute), and what else is said of all of them, for example versions={package: version}.
    """
    made = {
        "machine": machine(device), "date": datetime.date.today().isoformat(), "commit": commit(),
        "load": round(os.getloadavg()[0], 1), **more,
    }
    kept = load(path)
    kept.update({name: {**number, **made} for name, number in numbers.items()})
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def load(path: Path = RESULTS) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def run_missing(jobs: dict[str, list[str]], again: bool = False) -> None:
    """Run `python -m ARGUMENTS` for each {name of a number that it saves: ARGUMENTS}, each in a process of its own.

    Without `again`, what was measured on this machine and commit is not measured anew, so a run that was ended goes
    on where it was. A job that fails lets the others run, and the command fails at the end.
    """
    failed = []
    for name, arguments in jobs.items():
        kept = load().get(name, {})
        if not again and (kept.get("commit"), kept.get("machine")) == (commit(), machine()):
            print(f"{name}: there already (--again measures it anew)", flush=True)
            continue
        # No tool may ask the Hub: all that is measured is here.
        done = subprocess.run([sys.executable, "-m", *arguments], env=os.environ | {"HF_HUB_OFFLINE": "1"})
        if done.returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
