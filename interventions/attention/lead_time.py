"""How much earlier than the confidence the contributions are known (paper, section 4.4)."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from ..engine.forward import greedy_answer, in_session
from ..engine.runs import clean_request, own_answer, scored_part
from ..environment import device_of
from ..models.model import VisionLanguageModel
from ..statistics import Number, bootstrap_interval
from ..studies.conditions import Conditions, clean_prompt
from ..studies.loop import DEFAULT_RUN, QuestionResult, RunOptions, question_loop
from ..testbed import Item
from .contributions import attention_contributions

REPEATS = 3  # the fastest counts: other work on the machine can only slow a run down


def lead_time(
    model: VisionLanguageModel, items: Iterable[Item], layers: tuple[int, int] | None, *, limit: int = 10,
    protocol: str = "paper", run: RunOptions = DEFAULT_RUN,
) -> dict:
    """Time the forward that ends at the last of `layers` against the whole forward.

    Both start from the image and the question, and both are one request. The first returns the contribution
    constraint -> last of layers first to last, the second the first visible token of the answer. They alternate, one
    question at a time; on a server the network is part of both.

    Args:
        items: the questions; the first `limit` that can be asked are timed.
        layers: (first, last), or None if no layers could be chosen; then nothing is timed.
        run: where tables are stored and whether the model runs remotely. Stored times of the same kind of machine are
            not measured again.

    Returns:
        layers_needed, n_layers and time_ratio, a `Number`: the mean over questions of early / whole seconds.
    """
    ratios = []
    remote = model.runs_on(run.remote)
    if layers:
        key = {
            "table": "lead_time", "version": 2, "layers": list(layers), "protocol": protocol, "remote": remote,
            "repeats": REPEATS, "machine": [device_of(model), _hardware(model), torch.get_num_threads()],
        }

        def limit_reached(result: QuestionResult) -> bool:
            if not result.reason:
                ratios.append(result.table.loc[0, "early"] / result.table.loc[0, "whole"])
            return len(ratios) == limit

        question_loop(
            model, items, partial(_time, model, layers, protocol, remote, []), key=key, purpose=("time", "timed"),
            run=RunOptions(run.results_dir, label="lead time"), allow_none=True, stop_when=limit_reached,
        )
    value, low, high = bootstrap_interval(ratios)
    return {
        "layers_needed": layers[1] + 1 if layers else math.nan, "n_layers": model.n_layers,
        "time_ratio": Number(float(value), float(low), float(high), n=len(ratios)),
    }


def _time(
    model: VisionLanguageModel, layers: tuple[int, int], protocol: str, remote: bool | str, warmed_up: list, item: Item
) -> pd.DataFrame:
    """Return the table stored for one question: the fastest seconds of each forward.

    warmed_up: empty before the first question.
    """
    prompt = clean_prompt(model, item, Conditions(protocol))
    forced, _ = scored_part(own_answer(model, prompt, remote=remote).ids, model.blank_ids, sequence=False)
    request = clean_request(model, prompt, 0) | {
        "input_ids": prompt.input_ids[None], "max_answer_tokens": len(forced) + 1,
    }

    def early() -> None:
        attention_contributions(
            model, prompt, queries=prompt.last, keys=prompt.constraint[-1], layers=range(layers[0], layers[1] + 1),
            remote=remote,
        )

    def whole() -> None:
        in_session(model.traced, greedy_answer, request, remote)

    if not warmed_up:
        early()
        whole()
        warmed_up.append(True)
    first, second = zip(*((_seconds(model, early), _seconds(model, whole)) for _ in range(REPEATS)), strict=True)
    return pd.DataFrame([{"early": min(first), "whole": min(second), "reason": ""}])


def _hardware(model: VisionLanguageModel) -> str:
    """Return the name of the processor or GPU: times of one machine do not hold for another."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not on Linux
        return platform.processor() or platform.node()


def lead_text(lead: dict) -> str:
    """Return the result of `lead_time` as a sentence."""
    ratio = lead["time_ratio"]
    if math.isnan(lead["layers_needed"]):
        return "No layers could be chosen, so no early end was timed."
    if not ratio.n:
        return "No question could be timed."
    return (
        f"The contribution is known after {lead['layers_needed']} of {lead['n_layers']} layers, in {ratio} of the time "
        f"that the confidence takes (n = {ratio.n} questions)."
    )


def _seconds(model: VisionLanguageModel, run: Callable[[], None]) -> float:
    _wait_for(model)
    start = time.perf_counter()
    run()
    _wait_for(model)
    return time.perf_counter() - start


def _wait_for(model: VisionLanguageModel) -> None:
    """A GPU runs behind the program that calls it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
