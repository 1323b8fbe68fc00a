"""Fine-tuning on one fact, the baselines that MultEdit is compared with (paper, section 5, Figure 6).

All weights of all language layers are trained on -log P(O*) of the one question with Adam, freely or with every weight
kept within epsilon of where it was (Zhu et al. 2020, "Modifying Memories in Transformer Models"). That changes the
weights in place, so it lasts for a `with` block only, behind which every weight is what it was, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from ..engine.forward import prompt_inputs
from ..errors import DivergedError, EditError
from ..models.model import VisionLanguageModel
from ..prompts.prompt import Prompt, answer_tokens


@dataclass(frozen=True)
class FineTuning:
    """How a fact is trained. The default is the best that `benchmarks/edit_settings.py` found for `mini`,
    `CONSTRAINED_DEFAULT` the best whose bound is felt (a wider one is no different from training without a bound).

    learning_rate: Adam's; steps: at most; stop: P(O*) at which it ends; epsilon: the most that any single weight may
    change (L-infinity, by projection after every step), 0 = any change.
    """

    learning_rate: float = 1e-4
    steps: int = 100
    stop: float = 0.99
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.steps >= 1 and 0 < self.stop <= 1 and self.epsilon >= 0):
            raise EditError(
                "learning_rate must be above 0, steps at least 1, stop above 0 and at most 1 and epsilon 0 (no bound) "
                f"or above, not {self.learning_rate}, {self.steps}, {self.stop} and {self.epsilon}."
            )


CONSTRAINED_DEFAULT = FineTuning(1e-4, epsilon=3e-4)


@dataclass(frozen=True)
class FineTuned:
    """What training did. losses: -log P(O*) before each step and at the end; seconds: to train, restoring excluded."""

    losses: tuple[float, ...] = field(repr=False)
    seconds: float

    @property
    def steps(self) -> int:
        return len(self.losses) - 1

    @property
    def p_start(self) -> float:
        return float(np.exp(-self.losses[0]))

    @property
    def p_target(self) -> float:
        """P(O*) after training, of all its tokens together."""
        return float(np.exp(-self.losses[-1]))


@contextmanager
def fine_tuned(
    model: VisionLanguageModel, prompt: Prompt, target: str, *, settings: FineTuning | None = None
) -> Iterator[FineTuned]:
    """Inside the `with` block, the model's language layers are fine-tuned to answer `prompt` with `target`.

    Embeddings, head, final norm, projection layer and image encoder stay. Yields a `FineTuned`. The weights come back
    bit for bit in the end, also after an exception; until then whoever shares them sees the change, and the model's
    results are stored under no name. Half-precision weights are trained as float32 copies and rounded after every step,
    which may exceed epsilon by the rounding. Takes the memory of the layers four times more in float32 (the old
    weights, gradients, two moments of Adam), nine times more in half precision (the same and the copies in float32).
    Raises EditError for a model that is remote or has edits applied, and `DivergedError`.
    """
    check_local(model)
    if model.edits:  # only nnsight's view has them
        raise EditError(f"model {model.name!r} has edits in force that training cannot see: use merged(model).")
    started = time.perf_counter()
    target_ids = answer_tokens(model, prompt, target, "target", EditError)
    weights = list(decoder_layers(model).parameters())
    before, revision = [weight.detach().clone() for weight in weights], model.revision
    model.revision = "in-memory"  # see `VisionLanguageModel.key`
    try:
        try:
            losses = train(model, prompt, target_ids, settings or FineTuning(), weights, before)
        finally:
            for weight in weights:
                weight.requires_grad_(False).grad = None
        yield FineTuned(tuple(losses), time.perf_counter() - started)
    finally:
        model.revision = revision
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def train(
    model, prompt: Prompt, target_ids: list[int], settings: FineTuning, weights: list, before: list
) -> list[float]:
    """The losses before each step and at the end; the weights are left trained."""
    embeddings = layer_inputs(model, prompt, target_ids)
    keep = torch.arange(len(prompt) - 1, embeddings.shape[1])  # indices on the CPU fit weights on any device
    trained = [weight if weight.dtype.itemsize >= 4 else weight.detach().float() for weight in weights]
    adam = torch.optim.Adam(trained, lr=settings.learning_rate)
    for weight in weights:
        weight.requires_grad_()
    losses = []
    for step in range(settings.steps + 1):
        last = step == settings.steps
        with torch.set_grad_enabled(not last):
            logits = model.module(inputs_embeds=embeddings, logits_to_keep=keep, use_cache=False).logits[0]
            log_p = logits.float().log_softmax(-1)
            loss = -log_p[torch.arange(len(target_ids)), torch.tensor(target_ids)].sum()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise DivergedError(f"learning_rate {settings.learning_rate} diverges after {step} steps: use a lower one.")
        if last or np.exp(-losses[-1]) >= settings.stop:
            return losses
        loss.backward()
        with torch.no_grad():
            step_within(adam, settings.epsilon, trained, weights, before)


def step_within(adam, epsilon: float, trained: list, weights: list, before: list) -> None:
    """One step of Adam, then every weight back to within epsilon of the old one."""
    for copy, weight in zip(trained, weights, strict=True):
        if copy is not weight:
            copy.grad, weight.grad = weight.grad.float(), None
    adam.step()
    adam.zero_grad()
    for copy, weight, old in zip(trained, weights, before, strict=True):
        if epsilon:
            old = old.to(copy.dtype)
            copy.clamp_(old - epsilon, old + epsilon)
        if copy is not weight:
            weight.copy_(copy)


@torch.no_grad()
def layer_inputs(model: VisionLanguageModel, prompt: Prompt, target_ids: list[int]) -> torch.Tensor:
    """What the first language layer reads [1, T + targets - 1, d]: no training of the layers changes it."""
    seen = []
    first = decoder_layers(model)[0]
    handle = first.register_forward_pre_hook(
        lambda _, args, named: seen.append(args[0] if args else named["hidden_states"]), with_kwargs=True
    )
    ids = torch.cat([prompt.input_ids, torch.tensor(target_ids[:-1], dtype=torch.long)])[None]
    inputs = {name: value.to(model.device) for name, value in prompt_inputs(ids, prompt.image_inputs).items()}
    try:
        model.module(**inputs, logits_to_keep=1, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def decoder_layers(model: VisionLanguageModel) -> torch.nn.ModuleList:
    """The language layers, the Hugging Face modules."""
    return model.module.get_submodule(model.family.language_model).layers


def check_local(model: VisionLanguageModel) -> None:
    """Raises EditError unless the weights are here."""
    if model.remote is True or model.device.type == "meta":
        raise EditError(f"model {model.name!r} is remote and its weights cannot be trained: load it with remote=False.")
    if model.quantization:
        raise EditError(
            f"model {model.name!r} has {model.quantization} weights, which cannot be trained: load it with "
            "dtype='bfloat16'."
        )
