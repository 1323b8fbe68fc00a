"""What MultEdit costs: `python -m benchmarks.editing`, `make bench`.

Two comparisons, each with the way it is usually done:

    closed form   Eq. 7 for one fact in a layer of LLaVA-1.5-7B's size, float32, new weights included, against the
                  explicit inverse of the m x m matrix, as in the released scripts
    value         a step of `optimize_value`, against a PyTorch hook and Adam on whole forwards, image encoder included:
                  as a model is called by default, which computes the logits of all tokens, and with those of the
                  answer alone ("few logits"); and the whole optimization, clean run included, against as many steps
"""

import argparse
from dataclasses import replace

import torch

from interventions.editing.closed_form import LAMBDA, closed_form_update
from interventions.editing.optimized_value import OPTIMIZERS, Optimizer, optimize_value
from interventions.engine.forward import prompt_inputs
from interventions.prompts.prompt import answer_tokens

from . import measure
from .subjects import QUESTION, load_subject

LAYER = 2  # the paper's
TARGET = QUESTION.split()[-3]  # a word of one token


def explicit_inverse(weight, key, value, lam: float = LAMBDA) -> torch.Tensor:
    """W* [d, m] of Eq. 7 as it is written: weight W' [d, m], key [m], value [d]."""
    identity = torch.eye(len(key), dtype=key.dtype)
    return (lam * weight + torch.outer(value, key)) @ torch.inverse(lam * identity + torch.outer(key, key))


def rank_one(weight, key, value, lam: float = LAMBDA) -> torch.Tensor:
    """The same weights by the update of rank one."""
    a, b = closed_form_update(weight, key[None], value[None], lam)
    return torch.addmm(weight, a, b)


def value_by_hooks(
    model, prompt, target_ids, layer: int, position: int, optimizer: Optimizer, all_logits: bool = False
):
    """(losses, value [d]) of `steps` steps of Adam on a change of W_proj's output, by a hook on whole forwards.

    As the released script has it: weight decay and clamp act on the change; nothing is reused between steps.
    """
    decoder = model.module.get_submodule(model.family.language_model)
    module = decoder.layers[layer].mlp.get_submodule(model.family.w_proj)
    ids = torch.cat([prompt.input_ids, torch.tensor(target_ids[:-1], dtype=torch.long)])[None]
    inputs, n = prompt_inputs(ids, prompt.position_ids, prompt.image_inputs), len(target_ids)
    change, start = torch.zeros(model.hidden_size, requires_grad=True), None
    adam = torch.optim.Adam([change], lr=optimizer.learning_rate)

    def write(module, args, output):
        nonlocal start
        if start is None:
            start = output[0, position].detach().float().clone()
        output = output.clone()
        output[0, position] = (start + change).to(output)
        return output

    losses = []
    handle = module.register_forward_hook(write)
    for step in range(optimizer.steps + 1):
        logits = model.module(**inputs, logits_to_keep=0 if all_logits else n).logits[0, -n:].float()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(target_ids), reduction="sum")
        losses.append(loss.item())
        if step == optimizer.steps:
            break
        adam.zero_grad()
        (loss + optimizer.weight_decay * change.norm() / start.norm() ** 2).backward()
        adam.step()
        most = optimizer.clamp * start.norm()
        if optimizer.clamp and change.norm() > most:
            with torch.no_grad():
                change.mul_(most / change.norm())
    handle.remove()
    return losses, (start + change).detach()


def closed_form(d: int, m: int, repeats: int) -> dict:
    """Prints and returns what the rank-one update saves in a layer of m -> d; the inverse is computed once."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(d, m, generator=generator) / m**0.5
    key, value = 0.1 * torch.randn(m, generator=generator), torch.randn(d, generator=generator)
    rank_one(weight, key, value)  # warms up
    ours = [measure.timed(rank_one, weight, key, value) for _ in range(repeats)]
    slow, inverse = measure.timed(explicit_inverse, weight, key, value)
    rank_one(weight, key, value)  # and again, after all that memory
    ours += [measure.timed(rank_one, weight, key, value) for _ in range(repeats)]
    exact = torch.outer((value.double() - weight.double() @ key.double()) / (LAMBDA + key.double() @ key.double()), key)
    errors = [float((found - weight - exact).abs().max() / exact.abs().max()) for found in (ours[-1][1], inverse)]
    ratio = measure.spread(slow / seconds for seconds, _ in ours)
    print(
        f"\nclosed form, {m} -> {d}, float32: explicit inverse {slow:.2f} s, rank one "
        f"{measure.spread(seconds for seconds, _ in ours)['value']:.3f} s: {ratio['value']:.0f} times faster "
        f"({ratio['low']:.0f} - {ratio['high']:.0f}); off from float64 by {errors[0]:.1e} of the largest change, the "
        f"inverse by {errors[1]:.1e}", flush=True,
    )
    return {
        "edit/ratio_explicit_inverse": ratio, "edit/rank_one_error": measure.spread(errors[:1]),
        "edit/explicit_inverse_error": measure.spread(errors[1:]),
    }


def value(subject, repeats: int, steps: int = 10) -> dict:
    """Prints and returns what a step of `optimize_value` saves; whole forwards and ours alternate."""
    model, prompt = subject.model, subject.prompt
    asked = model, prompt, answer_tokens(model, prompt, TARGET)[:1], LAYER, prompt.constraint[-1]
    few, many = (replace(OPTIMIZERS["paper"], steps=n, stop=1.0, first_token=True) for n in (1, 1 + steps))
    ways = {
        "ours": lambda optimizer: optimize_value(model, prompt, TARGET, layer=LAYER, optimizer=optimizer).losses,
        "hooks": lambda optimizer: value_by_hooks(*asked, optimizer, all_logits=True)[0],
        "few logits": lambda optimizer: value_by_hooks(*asked, optimizer)[0],
    }
    step, whole, difference = {way: [] for way in ways}, {way: [] for way in ways}, 0.0
    for repeat in range(repeats + 1):  # the first one warms up
        losses = {}
        for way, function in ways.items():
            short, _ = measure.timed(function, few)
            long, losses[way] = measure.timed(function, many)
            if repeat:
                step[way].append((long - short) / steps)
                whole[way].append(long)
        found = losses["ours"]
        apart = [abs(a - b) for way in ways for a, b in zip(losses[way], found, strict=True)]
        difference = max(difference, *apart)
    print(
        f"\n{subject.name}: {len(prompt)} tokens, layer {LAYER} of {model.n_layers}, -log P from {found[0]:.3f} "
        f"to {found[-1]:.3f} in {many.steps} steps; largest difference {difference:.1e}; {repeats} repeats"
    )
    numbers = {}
    for way, name, seconds in (
        ("hooks", "value_step", step), ("few logits", "value_step_few_logits", step), ("hooks", "value_whole", whole),
    ):
        numbers[f"edit/ratio_{name}"] = ratio = measure.spread(
            slow / fast for slow, fast in zip(seconds[way], seconds["ours"], strict=True)
        )
        ms = [1000 * measure.spread(seconds[one])["value"] for one in (way, "ours")]
        print(
            f"  {name:21} {way:10} {ms[0]:8.1f} ms   ours {ms[1]:7.1f} ms   {ratio['value']:5.1f} times faster "
            f"({ratio['low']:.1f} - {ratio['high']:.1f})", flush=True,
        )
    return numbers | {"edit/max_abs_diff": measure.spread([difference])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measure.save(value(load_subject("llava_shape"), options.repeats))
    measure.save(closed_form(4096, 11008, options.repeats))


if __name__ == "__main__":
    main()
