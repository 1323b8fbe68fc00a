"""What MultEdit costs: `python -m benchmarks.editing`, `make bench`.

Two comparisons, each with the way it is usually done:

    closed form   Eq. 7 for one fact in a layer of LLaVA-1.5-7B's size, float32, new weights included, against the
                  explicit inverse of the m x m matrix, as in the released scripts
    value         a step of `optimize_value`, against a PyTorch hook and Adam on whole forwards, image encoder included
                  (only the last token's logits are computed, which spares them most of the output head); and the whole
                  optimisation, clean run included, against as many such steps
"""

import argparse
from dataclasses import replace

import torch

from interventions.causal_trace import answer_tokens
from interventions.forward import prompt_inputs
from interventions.multedit import LAMBDA, PROTOCOLS, Optimizer, closed_form_update, optimize_value

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


def value_by_hooks(model, prompt, target_ids, layer: int, position: int, optimizer: Optimizer):
    """(losses, value [d]) of `steps` steps of Adam on a change of W_proj's output, by a hook on whole forwards.

    As the released script has it: weight decay and clamp act on the change; nothing is reused between steps.
    """
    decoder = model.module.get_submodule(model.family.language_model)
    module = decoder.layers[layer].mlp.get_submodule(model.family.w_proj)
    ids = torch.cat([prompt.input_ids, torch.tensor(target_ids[:-1], dtype=torch.long)])[None]
    inputs, last = prompt_inputs(ids, prompt.pixel_values), len(prompt) - 1
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
        logits = model.module(**inputs, logits_to_keep=torch.arange(last, ids.shape[1])).logits[0].float()
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
    slow, expected = measure.timed(explicit_inverse, weight, key, value)
    ours += [measure.timed(rank_one, weight, key, value) for _ in range(repeats)]
    difference = float((ours[-1][1] - expected).abs().max() / (expected - weight).abs().max())
    ratio = measure.spread(slow / seconds for seconds, _ in ours)
    print(
        f"\nclosed form, {m} -> {d}, float32: explicit inverse {slow:.2f} s, rank one "
        f"{measure.spread(seconds for seconds, _ in ours)['value']:.3f} s: {ratio['value']:.0f} times faster "
        f"({ratio['low']:.0f} - {ratio['high']:.0f}); largest difference {difference:.1e} of the largest change",
        flush=True,
    )
    return {
        "edit/ratio_explicit_inverse": ratio, "edit/closed_form_max_relative_diff": measure.spread([difference]),
    }


def value(subject, repeats: int, steps: int = 10) -> dict:
    """Prints and returns what a step of `optimize_value` saves; whole forwards and ours alternate."""
    model, prompt = subject.model, subject.prompt
    position, target = prompt.constraint[-1], answer_tokens(model, prompt, TARGET)[:1]
    few, many = (replace(PROTOCOLS["paper"], steps=n, stop=1.0, first_token=True) for n in (1, 1 + steps))
    seconds, differences = {"ours": [], "hooks": [], "ours, whole": [], "hooks, whole": []}, []
    for repeat in range(repeats + 1):  # the first one warms up
        short, _ = measure.timed(lambda: optimize_value(model, prompt, TARGET, layer=LAYER, optimizer=few))
        long, found = measure.timed(lambda: optimize_value(model, prompt, TARGET, layer=LAYER, optimizer=many))
        slow_short, _ = measure.timed(value_by_hooks, model, prompt, target, LAYER, position, few)
        slow, (losses, _) = measure.timed(value_by_hooks, model, prompt, target, LAYER, position, many)
        if repeat:
            seconds["ours"].append((long - short) / steps)
            seconds["hooks"].append((slow - slow_short) / steps)
            seconds["ours, whole"].append(long)
            seconds["hooks, whole"].append(slow)
        differences += [abs(a - b) for a, b in zip(found.losses, losses, strict=True)]
    print(
        f"\n{subject.name}: {len(prompt)} tokens, layer {LAYER} of {model.n_layers}, -log P from {found.losses[0]:.3f} "
        f"to {found.losses[-1]:.3f} in {many.steps} steps; largest difference {max(differences):.1e}; {repeats} repeats"
    )
    numbers = {}
    for kind, name in (("", "edit/ratio_value_step"), (", whole", "edit/ratio_value_whole")):
        ours, hooks = seconds[f"ours{kind}"], seconds[f"hooks{kind}"]
        numbers[name] = ratio = measure.spread(b / a for a, b in zip(ours, hooks, strict=True))
        print(
            f"  {'a step' if not kind else 'all of it':10} hooks {1000 * measure.spread(hooks)['value']:8.1f} ms   "
            f"ours {1000 * measure.spread(ours)['value']:7.1f} ms   {ratio['value']:5.1f} times faster "
            f"({ratio['low']:.1f} - {ratio['high']:.1f})", flush=True,
        )
    return numbers | {"edit/max_abs_diff": measure.spread([max(differences)])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measure.save(value(load_subject("llava_shape"), options.repeats))
    measure.save(closed_form(4096, 11008, options.repeats))


if __name__ == "__main__":
    main()
