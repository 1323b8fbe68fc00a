"""MultEdit's value (paper, section 5): the output of W_proj that makes the model say O*.

Gradient descent changes W_proj's output at one token, the constraint's last. No weight is touched.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from transformers import DynamicCache

from ..engine.forward import Reads, extend, in_sandbox, in_session, positions_at, prompt_inputs, run
from ..engine.runs import clean_request, image_writes, scored_part
from ..errors import DivergedError, EditError, NoGradientError
from ..prompts.prompt import Prompt, answer_tokens

SANDBOXED = (
    "{where} runs this key's code in a sandbox, which has no gradients to find a value with: use a key that it trusts "
    "or a server of your own, or make the edit where the model is (remote=False) and apply it there."
)
NO_GRADIENTS_HERE = "they are switched off, as in torch.inference_mode: make the edit outside it."
NO_GRADIENTS_THERE = (
    "its server switches them off or drops them: make the edit where the model is (remote=False) and apply it there."
)


@dataclass(frozen=True)
class OptimizedValue:
    """The value z* of one fact. Tensors are float32 on the CPU.

    Attributes:
        layer, position: where W_proj's output is replaced.
        target, target_ids: O* and its scored tokens.
        key: k [m], the input of W_proj.
        value: z* [d], the optimized output.
        start: [d], the output before.
        losses: -log P(O*) before each step and at the end.
        p_start, p_target: P(O*) before and at the end.
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
    """Settings of `optimize_value`. `OPTIMIZERS["authors"]` does what the released script does beyond the paper.

    Attributes:
        learning_rate: of Adam.
        steps: the most steps.
        stop: P(O*) at which the search ends.
        weight_decay: factor of ||z - z0|| / ||z0||^2 in the loss.
        clamp: the largest ||z - z0|| / ||z0|| (0: no bound).
        first_token: score only the target's first token with a visible character, after any blank ones, instead of all
            its tokens.
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
    """Find the value of W_proj that makes the model say `target`, by Adam on -log P(O*), in one request.

    The forward passes start at the edited token and layer (on an edited model, at the first edited layer); what comes
    before is taken from the clean run.

    Args:
        target: O*, the wanted answer.
        layer: the layer whose W_proj output is replaced.
        position: the token; None = the visual constraint's last.
        remote: None = as the model was loaded.

    Raises:
        NoGradientError: the gradient is 0, as in a model's last layer, whose output no later token reads.
        DivergedError: the learning rate is too high.
        EditError: an argument is wrong, or there are no gradients: for quantized weights on a CPU, where gradients are
            switched off, and on a server that drops them or runs this code in a sandbox.
    """
    if not 0 <= layer < model.n_layers:
        raise EditError(f"layer must be one of the model's 0 to {model.n_layers - 1}, not {layer}.")
    if model.quantization and model.device.type == "cpu":  # autograd does not see what the kernels compute
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
        "layer": layer, "forced_ids": forced, "target_ids": target_ids, **asdict(optimizer),
    }
    remote = model.runs_on(remote)
    result = in_session(model.traced, optimize, request, remote)  # pyright: ignore[reportArgumentType]
    if result["sandboxed"]:
        raise EditError(SANDBOXED.format(where=model.server.host if model.server else "The server"))
    if not result["gradients"]:
        why = NO_GRADIENTS_THERE if remote is True else NO_GRADIENTS_HERE
        raise EditError(f"model {model.name!r} gives no gradients here: {why}")
    if not all(map(math.isfinite, result["losses"])):
        raise DivergedError(
            f"learning_rate {optimizer.learning_rate} diverges after {len(result['losses']) - 1} steps: use a "
            "lower one."
        )
    if result["value"] is None:
        raise NoGradientError(
            f"layer {layer} gives no gradient to the value at position {position}: choose a layer whose output a later "
            "token reads."
        )
    return OptimizedValue(
        layer=layer, position=position, target=target, target_ids=tuple(target_ids), key=result["key"],
        value=result["value"], start=result["start"], losses=tuple(result["losses"]), p_start=result["p"][0],
        p_target=result["p"][-1],
    )


def optimize(lm, request: dict) -> dict:
    """Run `optimize_value` where the weights are. In a sandbox it stops: tensors have no gradients there.

    Returns {"sandboxed", "gradients" (whether there are any), "key", "value" (None: its gradient is 0), "start" (CPU
    tensors), "losses", "p"}.
    """
    if in_sandbox(lm):
        return {"sandboxed": True}
    first, layer, target = request["first"], request["layer"], torch.tensor(request["target_ids"])
    fed = torch.tensor([[*request["forced_ids"], *request["target_ids"]][:-1]], dtype=torch.long)
    skip = min(layer, *getattr(lm, "edited_layers", (layer,)))  # edits in earlier layers have to run
    ids = torch.cat([request["clean_ids"], fed], dim=1)
    keep = torch.arange(ids.shape[1] - len(target), ids.shape[1])
    with torch.no_grad():
        clean = run(
            lm, prompt_inputs(ids, request["positions"], request["image_inputs"]), keep=keep, cache=DynamicCache(),
            reads=Reads("hidden", "keys", "mlp", "cache", start=first, image_layers=request["image_layers"]),
        )
    start = clean["mlp"][layer][0, 0].float()
    value = start.clone().requires_grad_()
    adam = torch.optim.Adam([value], lr=request["learning_rate"])
    where = torch.arange(first, ids.shape[1])
    inputs = {"inputs_embeds": clean["hidden"][skip], "position_ids": positions_at(request["positions"], where)}
    always = image_writes(request, clean, ids, where, skip)
    at_token = torch.tensor([0])
    losses, probabilities = [], []
    for step in range(request["steps"] + 1):
        writes = always | {(layer, "mlp"): (at_token, at_token, value[None])}
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
        if value.grad is None:  # some servers drop it silently
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
    """Read, at the constraint's last token, W_proj's input "key" [m] in `layer` and the "output" [d] of layer `until`.

    One request; float32 tensors on the CPU.
    """
    request = clean_request(model, prompt, prompt.constraint[-1]) | {"layer": layer, "until": until}
    return in_session(model.traced, read_at_token, request, model.runs_on(remote))


def read_at_token(lm, request: dict) -> dict:
    """Run `read_values` where the weights are."""
    with torch.no_grad():
        result = run(
            lm, prompt_inputs(request["clean_ids"], request["positions"], request["image_inputs"]),
            keep=[request["clean_ids"].shape[1] - 1],
            reads=Reads("keys", start=request["first"]), stop=request["until"] + 1,
        )
    tensors = {"key": result["keys"][request["layer"]][0, 0], "output": result["output"][0, request["first"]]}
    return {name: tensor.float().cpu() for name, tensor in tensors.items()}
