"""Print what tracing costs, a line a method: `python -m benchmarks.cost_table --model llava-1.5-7b --device a100`."""

from __future__ import annotations

import argparse
import sys

from interventions.errors import InterventionsError

from .cost import ASSUMED, CPU, estimate, read_fit
from .workload import AUTHORS, WAYS, Question


def table(model: str, device: str, *, questions: int, methods: tuple[str, ...] = WAYS, question: Question) -> str:
    """The costs of a model (see `cost.estimate`) on a device by some of `WAYS`, each beside the authors' protocol."""
    chosen = {way: estimate(model, device, questions=questions, method=way, question=question)
              for way in dict.fromkeys((*methods, AUTHORS))}
    slowest = chosen[AUTHORS]
    arch, tokens = slowest.arch, f"{question.positions} tokens from the first corrupted one on"
    visual = f"{arch.visual} visual tokens, " if arch.visual else ""
    lines = [
        f"{model} ({arch.parameters / 1e9:.2f} billion parameters, bfloat16) on {device}",
        f"a question: {visual}{question.before} text tokens before the corruption, {tokens}; "
        f"{slowest.sites:,} sites (window {question.window}, MLP and attention)", "",
        f"{'method':8}{'seconds a question':>20}{'peak memory':>14}{f'hours for {questions:,}':>19}"
        f"{'authors / this':>16}",
    ]
    for way in methods:
        cost = chosen[way]
        if cost.fits:
            lines.append(f"{way:8}{cost.seconds:20,.2f}{cost.peak_bytes / 1e9:11.1f} GB{cost.hours:19,.1f}"
                         f"{slowest.seconds / cost.seconds:16,.0f}")
        else:
            lines.append(f"{way:8}{'does not fit':>20}{cost.peak_bytes / 1e9:11.1f} GB")
    return "\n".join([*lines, "", *_basis(device), "`trace` takes rows in half precision unless method='packed' is "
                      "given. One trace a question is counted: no controls, transplants or loading of the model."])


def _basis(device: str) -> list[str]:
    """What the numbers rest on."""
    fit = read_fit()
    check = (fit or {}).get("check")
    if device == CPU:
        cpu = fit["machine"]
        basis = (f"Fitted on {fit['date']} on {cpu['cpu']}, {cpu['threads']} threads, {cpu['memory_gb']} GB: median "
                  f"error {fit['median_error']:.0%} on its {len(fit['measurements'])} measurements.")
    else:
        basis = (f"Counted: operations and bytes. Assumed, not fitted on a GPU (an H200 took up to twice as long): "
                  f"{ASSUMED['arithmetic']:.0%} of the "
                  f"vendor's peak arithmetic,\n{ASSUMED['bandwidth']:.0%} of its bandwidth, "
                  f"{ASSUMED['seconds_per_layer_call'] * 1000:g} ms a layer and forward, "
                  f"{ASSUMED['base_bytes'] / 1e9:g} GB beside the model.")
    if check is None:
        return [basis, "Not yet checked on a whole 7B model: run `python -m benchmarks.rehearsal whole`."]
    errors = [check[f"predicted_{name}"] / check[name] - 1 for name in ("seconds", "bytes")]
    return [basis, f"Checked on a whole {check['model']} with random weights on a CPU, which was not fitted: predicted "
            f"{check['predicted_seconds']:.0f} s, measured {check['seconds']:.0f} s ({errors[0]:+.0%});\npredicted "
            f"{check['predicted_bytes'] / 1e9:.1f} GB, measured {check['bytes'] / 1e9:.1f} GB ({errors[1]:+.0%})."]


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return the exit code; an error is one sentence on stderr."""
    usual = Question()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a published model by its name, or a folder with a config.json")
    parser.add_argument("--device", required=True, help="cpu, or a GPU such as a100")
    parser.add_argument("--questions", type=int, default=9464, help="9464: all of VQA-Constraints (default)")
    parser.add_argument("--positions", type=int, default=usual.positions, help="tokens from the first corrupted one on")
    parser.add_argument("--window", type=int, default=usual.window, help="restored layers")
    parser.add_argument("--method", help=f"one of {', '.join(WAYS)}; all of them by default")
    options = parser.parse_args(arguments)
    question = Question(positions=options.positions, window=options.window)
    methods = (options.method,) if options.method else WAYS
    try:
        print(table(options.model, options.device, questions=options.questions, methods=methods, question=question))
    except InterventionsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
