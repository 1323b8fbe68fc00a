"""Fine-tuning on one fact: the baselines for MultEdit (paper, section 5, Figure 6).

Adam trains all weights of the language layers on -log P(O*) of one question, freely or with every weight kept within
epsilon of its old value (Zhu et al. 2020, "Modifying Memories in Transformer Models"). The weights change in place, for
the length of a `with` block. After it every weight is what it was, bit for bit.
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
    """Settings of `fine_tuned`.

    The default is the best that `benchmarks/edit_settings.py` found for `mini`. `CONSTRAINED_DEFAULT` is the best whose
    bound has an effect (a wider one is like no bound).

    Attributes:
        learning_rate: of Adam.
        steps: the most steps.
        stop: P(O*) at which training ends.
        epsilon: the most that any weight may change (L-infinity, by projection after every step); 0 = no bound.
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
    """The losses, -log P(O*), before each step and at the end, and the seconds of training, without restoring."""

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
    """Fine-tune the model's language layers to answer `prompt` with `target`, inside the `with` block.

    Embeddings, head, final norm, projection layer and image encoder do not change. Inside the block every model that
    shares the weights is changed too, and no result of the model is stored. All weights come back bit for bit, also
    after an exception. Half-precision weights are trained as float32 copies and rounded after every step, which may
    exceed epsilon by the rounding. Training takes four times the memory of the layers in float32 (old weights,
    gradients, two moments of Adam) and nine times in half precision (the same and the copies, in float32).

    Yields a `FineTuned`.

    Raises:
        EditError: the model is on a server, quantized, or has edits in force.
        DivergedError: the learning rate is too high.
    """
    if model.remote is True or model.device.type == "meta":
        raise EditError(f"model {model.name!r} is remote and its weights cannot be trained: load it with remote=False.")
    if model.quantization:
        raise EditError(
            f"model {model.name!r} has {model.quantization} weights, which cannot be trained: load it with "
            "dtype='bfloat16'."
        )
    if model.edits:  # they are in nnsight's view, not in the weights
        raise EditError(f"model {model.name!r} has edits in force that training cannot see: use merged(model).")
    started = time.perf_counter()
    target_ids = answer_tokens(model, prompt, target, "target", EditError)
    weights = list(_decoder_layers(model).parameters())
    before, revision = [weight.detach().clone() for weight in weights], model.revision
    model.revision = "in-memory"  # see `VisionLanguageModel.key`
    try:
        try:
            losses = _train(model, prompt, target_ids, settings or FineTuning(), weights, before)
        finally:
            for weight in weights:
                weight.requires_grad_(False).grad = None
        yield FineTuned(tuple(losses), time.perf_counter() - started)
    finally:
        model.revision = revision
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def _train(
    model, prompt: Prompt, target_ids: list[int], settings: FineTuning, weights: list, before: list
) -> list[float]:  # pyright: ignore[reportReturnType]
    """Train the weights, and return the losses before each step and at the end."""
    inputs = _training_inputs(model, prompt, target_ids)
    keep = torch.arange(len(target_ids)) + len(prompt) - 1  # indices on the CPU fit weights on any device
    trained = [weight if weight.dtype.itemsize >= 4 else weight.detach().float() for weight in weights]
    adam = torch.optim.Adam(trained, lr=settings.learning_rate)
    for weight in weights:
        weight.requires_grad_()
    losses = []
    for step in range(settings.steps + 1):
        last = step == settings.steps
        with torch.set_grad_enabled(not last):
            logits = model.module(**inputs, logits_to_keep=keep, use_cache=False).logits[0]
            log_p = logits.float().log_softmax(-1)
            loss = -log_p[torch.arange(len(target_ids)), torch.tensor(target_ids)].sum()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise DivergedError(f"learning_rate {settings.learning_rate} diverges after {step} steps: use a lower one.")
        if last or np.exp(-losses[-1]) >= settings.stop:
            return losses
        loss.backward()
        with torch.no_grad():
            _step_within(adam, settings.epsilon, trained, weights, before)


def _step_within(adam, epsilon: float, trained: list, weights: list, before: list) -> None:
    """Make one step of Adam, then move every weight back to within epsilon of the old one."""
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
def _training_inputs(model: VisionLanguageModel, prompt: Prompt, target_ids: list[int]) -> dict:
    """The inputs of every step: those of the first language layer, which training does not change.

    A model that adds features of the image in later layers (DeepStack) reads the picture at every step.
    """
    ids = torch.cat([prompt.input_ids, torch.tensor(target_ids[:-1], dtype=torch.long)])[None]
    whole = prompt_inputs(ids, prompt.position_ids, prompt.image_inputs)
    whole = {name: value.to(model.device) for name, value in whole.items()}
    if model.image_layers and prompt.visual:
        return whole
    seen = []
    first = _decoder_layers(model)[0]
    handle = first.register_forward_pre_hook(
        lambda _, args, named: seen.append(args[0] if args else named["hidden_states"]), with_kwargs=True
    )
    try:
        model.module(**whole, logits_to_keep=1, use_cache=False)
    finally:
        handle.remove()
    kept = {name: value for name, value in whole.items() if name in ("position_ids", "token_type_ids")}
    return {"inputs_embeds": seen[0]} | kept


def _decoder_layers(model: VisionLanguageModel) -> torch.nn.ModuleList:
    """The language layers, the Hugging Face modules."""
    return model.module.get_submodule(model.family.language_model).layers  # pyright: ignore[reportReturnType]

