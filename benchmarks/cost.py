"""What tracing costs before it is run: `python -m benchmarks.cost_table --model llava-1.5-7b --device a100`.

    seconds = operations / throughput + bytes moved / bandwidth + layers run x overhead

The image encoder, whose matrices are narrower, has a throughput of its own. The counts are those of `workload.py`. The
parts are added, not the largest taken as a roofline would: parts may overlap, so the sum tends to be high, but it is
linear in its coefficients, so that they can be fitted. Those of `cpu` are, by `python -m
benchmarks.rehearsal width`, on the machine that `cost_fit.json` names, and `… whole` has checked them on a whole 7B
model. Those of the GPUs are the vendors' figures times an efficiency that is assumed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoConfig

from interventions.engine.windows import default_method
from interventions.errors import ModelError, TraceError
from interventions.models.model import family_row
from interventions.notebook import closest

from .published import published_config
from .workload import (
    WAYS,
    Architecture,
    Question,
    Work,
    architecture,
    batch_rows,
    kept_bytes,
    packed_tokens,
    question_work,
)

FIT = Path(__file__).parent / "cost_fit.json"
# Of the vendor's peak. On the one GPU that was measured (`benchmarks/gpu.py`), questions took up to twice as long.
ASSUMED = {"arithmetic": 0.4, "bandwidth": 0.7, "seconds_per_layer_call": 5e-4, "base_bytes": 1e9}
# name -> (dense bf16 operations a second, bytes a second, bytes of memory), as the vendor gives them.
GPUS = {
    "a100": (312e12, 2039e9, 80e9),
    "a100-40gb": (312e12, 1555e9, 40e9),
    "h100": (989e12, 3350e9, 80e9),
    "h200": (989e12, 4800e9, 141e9),
    "l40s": (362e12, 864e9, 48e9),
    "rtx4090": (165e12, 1008e9, 24e9),
}
COUNTED = {("llava", f"{encoder}_vision_model") for encoder in ("clip", "siglip")}
CPU = "cpu"
DEVICES = (CPU, *GPUS)


class CostError(ModelError):
    """A cost that cannot be told, in one sentence naming the argument and the fix."""


@dataclass(frozen=True)
class Device:
    """Seconds of an operation (of the image encoder's), a byte moved and a layer run once.

    base_bytes: memory beside the model's and the trace's; memory: all that there is.
    """

    name: str
    seconds_per_flop: float
    seconds_per_image_flop: float
    seconds_per_byte: float
    seconds_per_layer_call: float
    base_bytes: float
    memory: float

    def seconds(self, work: Work) -> float:
        return (
            work.flops * self.seconds_per_flop
            + work.image_flops * self.seconds_per_image_flop
            + work.moved * self.seconds_per_byte
            + work.layer_calls * self.seconds_per_layer_call
        )


@dataclass(frozen=True)
class Estimate:
    """One way of tracing on one device. seconds and peak_bytes are those of one question; work: {stage: Work}."""

    model: str
    device: Device
    way: str
    sites: int
    questions: int
    arch: Architecture
    work: dict[str, Work]
    peak_bytes: float

    @cached_property
    def stages(self) -> dict[str, float]:
        """Seconds by stage."""
        return {stage: self.device.seconds(work) for stage, work in self.work.items()}

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    @property
    def hours(self) -> float:
        """Of all questions."""
        return self.seconds * self.questions / 3600

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.device.memory


def estimate(
    model, device: str | Device, *, questions: int = 1, method: str | None = None, question: Question | None = None,
    max_packed_tokens: int | None = None, dtype: torch.dtype = torch.bfloat16,
) -> Estimate:
    """What tracing `questions` such questions costs.

    model: a name of `published.PUBLISHED`, a directory with a config.json, or a configuration. device: one of
    `DEVICES`, or a `Device`. method: "packed" | "rows" | "plain", or "authors" for the released scripts' protocol; None
    = what `trace` chooses for the dtype. question: tokens and sites of one; max_packed_tokens: as in `trace`.
    Raises CostError, or ModelError for a model that cannot be read or that no row of families.py describes.
    """
    way = method or default_method(dtype)
    if way not in WAYS:
        raise CostError(f"method {way!r} is unknown: {closest(way, WAYS)}")
    question = question or Question()
    if questions < 1 or question.positions < 1 or question.before < 1:
        raise CostError("questions, positions and before must be at least 1: they count questions and tokens.")
    name, config = _named(model)
    family = family_row(config, name)
    if family.is_multimodal and (family.model_type, config.vision_config.model_type) not in COUNTED:
        raise CostError(f"model {name!r} has another image encoder than LLaVA's, whose work is not counted here.")
    device = find_device(device) if isinstance(device, str) else device
    arch, size = architecture(config), dtype.itemsize
    try:
        sites = len(question.sites(arch))
    except TraceError as error:
        raise CostError(str(error)) from None
    free = device.memory - size * arch.parameters
    budget = packed_tokens(arch, arch.visual + question.before + question.positions, free, device.name != CPU, size)
    budget = max_packed_tokens or budget
    work = question_work(arch, question, way, budget, batch_rows(arch, question, budget, free, size), size)
    held = max(stage.held for stage in work.values())
    peak = device.base_bytes + size * arch.parameters + kept_bytes(arch, question, way, size) + held
    return Estimate(name, device, way, sites, questions, arch, work, peak)


def find_device(name: str) -> Device:
    """One of `DEVICES` by its name."""
    if name == CPU:
        fit = read_fit()
        if fit is None:
            raise CostError(
                f"device 'cpu' has not been measured: run `python -m benchmarks.rehearsal width`, which writes {FIT}."
            )
        return Device(CPU, **fit["coefficients"])
    if name not in GPUS:
        raise CostError(f"device {name!r} is unknown: {closest(name, DEVICES)}")
    arithmetic, bandwidth, memory = GPUS[name]
    operation = 1 / (arithmetic * ASSUMED["arithmetic"])
    return Device(
        name, operation, operation, 1 / (bandwidth * ASSUMED["bandwidth"]),
        ASSUMED["seconds_per_layer_call"], ASSUMED["base_bytes"], memory,
    )


def read_fit() -> dict | None:
    """What the rehearsal measured, or None before it has."""
    return json.loads(FIT.read_text()) if FIT.exists() else None


def _named(model) -> tuple[str, object]:
    if not isinstance(model, str):
        return model.model_type, model
    if (Path(model) / "config.json").exists():
        return model, AutoConfig.from_pretrained(model)
    return model, published_config(model)
