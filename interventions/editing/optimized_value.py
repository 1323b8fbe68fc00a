"""MultEdit's value (paper, section 5): what W_proj should have put out for the model to say O*.

Found by gradient descent on W_proj's output at one token, the constraint's last, alone; no weight is touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from ..engine.forward import extend, in_sandbox, in_session, prompt_inputs, run
from ..engine.runs import clean_request, scored_part
from ..errors import DivergedError, EditError, NoGradientError
from ..prompts.prompt import Prompt, answer_tokens

SANDBOXED = (
    "{where} runs this key's code in a sandbox, which has no gradients to find a value with: use a key that it trusts "
    "or a server of your own, or make the edit where the model is (remote=False) and apply it there."
)
NO_GRADIENTS_HERE = "they are switched off, as in torch.inference_mode: make the edit outside of it."
NO_GRADIENTS_THERE = (
    "its server switches them off or drops them: make the edit where the model is (remote=False) and apply it there."
)


@dataclass(frozen=True)
class OptimizedValue:
    """z* of one fact: key k [m] and value z* [d] of W_proj in `layer` at `position`, float32.

    start: the value as it was; losses: -log P(O*) before each step and at the end; p_start, p_target: P(O*) at both.
    """

    layer: int
    position: int
    target: str
    target_ids: tuple[int, ...]
    key: torch.Tensor = field(repr=False)
    value: torch.Tensor = field(repr=False)
    start: torch.Tensor = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    p_start: float
    p_target: float

    @property
    def steps(self) -> int:
        return len(self.losses) - 1


@dataclass(frozen=True)
class Optimizer:
    """How a value is found. `OPTIMIZERS["authors"]` has what the released script does beyond the paper.

    steps: at most; stop: P(O*) at which it ends; weight_decay: of ||z - z0|| / ||z0||^2 in the loss; clamp: the largest
    ||z - z0|| / ||z0|| (0: any); first_token: only the target's first token with a visible character counts, behind the
    blank ones before it; else all of them together.
    """

    learning_rate: float = 0.1
    steps: int = 100
    stop: float = 0.99
    weight_decay: float = 0.0
    clamp: float = 0.0
    first_token: bool = False

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.steps >= 1 and 0 < self.stop <= 1):
            raise EditError(
                f"learning_rate must be above 0, steps at least 1 and stop above 0 and at most 1, not "
                f"{self.learning_rate}, {self.steps} and {self.stop}."
            )
        if not (self.weight_decay >= 0 and self.clamp >= 0):
            raise EditError(
                f"weight_decay and clamp must be 0 (none) or above, not {self.weight_decay} and {self.clamp}."
            )


OPTIMIZERS = {  # by protocol
    "paper": Optimizer(),
    "authors": Optimizer(steps=10, stop=1.0, weight_decay=0.001, clamp=0.0001, first_token=True),
}


def optimize_value(
    model, prompt: Prompt, target: str, *, layer: int, position: int | None = None,
    optimizer: Optimizer = OPTIMIZERS["paper"], remote: bool | str | None = None,
) -> OptimizedValue:
    """The value at W_proj's output that makes the model say `target` (Adam on -log P(O*)), in one request.

    position: None = the visual constraint's last token. remote: None = as the model was loaded.
    The forward starts at the edited token and layer (on an edited model, at the first layer that is edited): what is
    before comes from the clean run. Raises NoGradientError when the gradient is 0 (in the last layer of a model, whose
    output no later token reads), DivergedError for a learning rate that is too high, and plain EditError where there
    are no gradients at all: for quantised weights on a CPU, where they are switched off, and for a server that drops
    them. EditError too for a server that runs this code in a sandbox.
    """
    if not 0 <= layer < model.n_layers:
        raise EditError(f"layer must be one of the model's 0 to {model.n_layers - 1}, not {layer}.")
    if model.quantization and model.device.type == "cpu":  # autograd would go around what the kernels compute
        raise EditError(
            f"model {model.name!r} has {model.quantization} weights, of which a CPU gives no gradients: load it with "
            "dtype='bfloat16'."
        )
    position = prompt.constraint[-1] if position is None else position
    if not 0 <= position < len(prompt):
        raise EditError(f"position must be one of the prompt's 0 to {len(prompt) - 1}, not {position}.")
    target_ids = answer_tokens(model, prompt, target, "target", EditError)
    forced, target_ids = scored_part(target_ids, model.blank_ids, sequence=not optimizer.first_token)
    request = clean_request(model, prompt, position) | {
        "layer": layer, "forced_ids": forced, "target_ids": target_ids, "learning_rate": optimizer.learning_rate,
        "steps": optimizer.steps, "stop": optimizer.stop, "weight_decay": optimizer.weight_decay,
        "clamp": optimizer.clamp,
    }
    remote = model.runs_on(remote)
    found = in_session(model.traced, optimize, request, remote)
    if found["sandboxed"]:
        raise EditError(SANDBOXED.format(where=model.server.host if model.server else "The server"))
    if not found["gradients"]:
        why = NO_GRADIENTS_THERE if remote is True else NO_GRADIENTS_HERE
        raise EditError(f"model {model.name!r} gives no gradients here: {why}")
    if not all(map(math.isfinite, found["losses"])):
        raise DivergedError(
            f"learning_rate {optimizer.learning_rate} diverges after {len(found['losses']) - 1} steps: use a lower one."
        )
    if found["value"] is None:
        raise NoGradientError(
            f"layer {layer} gives no gradient to the value at position {position}: choose a layer whose output a later "
            "token reads."
        )
    return OptimizedValue(
        layer=layer, position=position, target=target, target_ids=tuple(target_ids), key=found["key"],
        value=found["value"], start=found["start"], losses=tuple(found["losses"]), p_start=found["p"][0],
        p_target=found["p"][-1],
    )


def optimize(lm, request: dict) -> dict:
    """{"sandboxed", "gradients" (whether there are any), "key", "value" (None: its gradient is 0), "start" (CPU
    tensors), "losses", "p"}; runs where the weights are, and not in a sandbox: what it reads there has no history to
    differentiate."""
    if in_sandbox(lm):
        return {"sandboxed": True}
    first, layer, target = request["first"], request["layer"], torch.tensor(request["target_ids"])
    fed = torch.tensor([[*request["forced_ids"], *request["target_ids"]][:-1]], dtype=torch.long)
    skip = min(layer, *getattr(lm, "edited_layers", (layer,)))  # edits in force before it have to be run
    ids = torch.cat([request["clean_ids"], fed], dim=1)
    keep = torch.arange(ids.shape[1] - len(target), ids.shape[1])
    with torch.no_grad():
        clean = run(
            lm, prompt_inputs(ids, request["image_inputs"]), keep=keep, cache=DynamicCache(),
            reads=("hidden", "keys", "mlp", "cache"), start=first,
        )
    start = clean["mlp"][layer][0, 0].float()
    value = start.clone().requires_grad_()
    adam = torch.optim.Adam([value], lr=request["learning_rate"])
    inputs = {"inputs_embeds": clean["hidden"][skip], "position_ids": torch.arange(first, ids.shape[1])[None]}
    at_token = torch.tensor([0])
    losses, probabilities = [], []
    for step in range(request["steps"] + 1):
        writes = {(layer, "mlp"): (at_token, at_token, value[None])}
        last = step == request["steps"]
        with torch.set_grad_enabled(not last):
            logits = run(
                lm, inputs, keep=keep - first, cache=extend(clean["cache"], first), skip=skip, writes=writes
            )["logits"]
            log_p = logits[0].float().log_softmax(-1)
            loss = -log_p[torch.arange(len(target)), target.to(log_p.device)].sum()
        losses.append(loss.item())
        probabilities.append(float((-loss.detach()).exp()))
        if last or probabilities[-1] >= request["stop"] or not loss.isfinite():
            break
        if not loss.requires_grad:  # where gradients are off for good
            return {"sandboxed": False, "gradients": False}
        if request["weight_decay"]:
            change = (value - start).norm() if step else 0.0  # the norm has no gradient at 0
            loss = loss + request["weight_decay"] * change / start.norm() ** 2
        adam.zero_grad()
        loss.backward(inputs=[value])  # a server's weights may ask for gradients, and would keep them
        if value.grad is None:  # some servers drop it without a word
            return {"sandboxed": False, "gradients": False}
        if not step and not value.grad.any():
            return {"sandboxed": False, "gradients": True, "value": None, "losses": losses}
        adam.step()
        if request["clamp"]:
            with torch.no_grad():
                change, most = value - start, request["clamp"] * start.norm()
                value.copy_(start + change * min(1.0, float(most / change.norm())))
    return {
        "sandboxed": False, "gradients": True, "key": clean["keys"][layer][0, 0].float().cpu(),
        "value": value.detach().cpu(), "start": start.cpu(), "losses": losses, "p": probabilities,
    }


def read_values(model, prompt: Prompt, layer: int, until: int, remote: bool | str | None = None) -> dict:
    """At the constraint's last token: W_proj's input "key" [m] in `layer`, and the "output" [d] of layer `until`;
    float32 CPU tensors, one request."""
    request = clean_request(model, prompt, prompt.constraint[-1]) | {"layer": layer, "until": until}
    return in_session(model.traced, read_at_token, request, model.runs_on(remote))


def read_at_token(lm, request: dict) -> dict:
    """What `read_values` returns; runs where the weights are."""
    with torch.no_grad():
        found = run(
            lm, prompt_inputs(request["clean_ids"], request["image_inputs"]), keep=[request["clean_ids"].shape[1] - 1],
            reads=("keys",), start=request["first"], stop=request["until"] + 1,
        )
    tensors = {"key": found["keys"][request["layer"]][0, 0], "output": found["output"][0, request["first"]]}
    return {name: tensor.float().cpu() for name, tensor in tensors.items()}
