"""What attention contributions and knock-outs cost, in plain forwards: `python -m benchmarks.attention`, `make bench`.

Everything is measured in one process, alternating, so that a ratio compares neighbors in time:

    forward    one plain forward of the question by Hugging Face's model, image encoder included, last token's logits
    cached     contributions of four tokens to all that they read, in all layers, behind a clean run that is there
               already (as a study has it): only the tokens from the first of the four on are run again
    whole      the same from nothing: one forward, image encoder included
    eager      the same by the usual way: a forward under eager attention that returns all attention matrices, values
               read by hooks, and the same formula
    knock-out  every flow blocked around every layer, and in all layers: one run each, against as many plain forwards

Memory is the peak of the tensors allocated at 2,000 tokens, beside that of the plain forward; and the operations are
counted that take a tensor of tokens x tokens.
"""

import argparse

import torch

from interventions.attention.contributions import attention_contributions, contributions_from_cache
from interventions.attention.knockout import attention_knockout, flow_edges
from interventions.engine import forward
from interventions.engine.runs import clean_request
from interventions.tracing import restoration

from . import measure
from .subjects import load_subject, long_text

ROWS = 4


@torch.no_grad()
def plain_forward(subject):
    """The logits of the last token."""
    prompt = subject.prompt
    inputs = forward.prompt_inputs(prompt.input_ids[None], prompt.position_ids, prompt.image_inputs)
    return subject.model.module(**inputs, logits_to_keep=1).logits


def queries_of(subject) -> tuple[int, ...]:
    """Four tokens: from the constraint's last to the prompt's last, evenly."""
    first, last = subject.prompt.constraint[-1], subject.prompt.last
    return tuple(first + (last - first) * i // (ROWS - 1) for i in range(ROWS))


def cached(subject):
    """A function that computes contributions behind a clean run made now; returns norms [layers, 4, T]."""
    model, prompt, queries = subject.model, subject.prompt, queries_of(subject)
    request = clean_request(model, prompt, min(queries)) | {
        "queries": queries, "keys": tuple(range(len(prompt))), "layers": tuple(range(model.n_layers)), "also": (),
        "max_answer_tokens": 1,
    }
    with torch.no_grad():
        clean = restoration.clean_run(model.traced, request)
    return lambda: contributions_from_cache(model.traced, request, clean)["norms"]


@torch.no_grad()
def eager(subject):
    """All attention matrices of one forward, then the rows that are wanted; norms [layers, 4, T]."""
    model, prompt, values = subject.model, subject.prompt, []
    way, queries = model.attention, list(queries_of(subject))
    model.module.set_attn_implementation("eager")
    handles = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, output: values.append(output[0]))
        for layer in subject.decoder.layers
    ]
    inputs = forward.prompt_inputs(prompt.input_ids[None], prompt.position_ids, prompt.image_inputs)
    weights = model.module(**inputs, output_attentions=True, logits_to_keep=1).attentions
    for handle in handles:
        handle.remove()
    model.module.set_attn_implementation(way)
    norms = []
    for layer, matrix, value in zip(subject.decoder.layers, weights, values, strict=True):
        heads = matrix.shape[1]
        by_head = layer.self_attn.o_proj.weight.view(-1, heads, layer.self_attn.head_dim).permute(1, 2, 0)
        written = value.view(len(prompt), -1, layer.self_attn.head_dim).transpose(0, 1) @ by_head  # [heads, T, d]
        norms.append(torch.einsum("hmk,hkd->mkd", matrix[0, :, queries], written).norm(dim=-1))
    return torch.stack(norms)


def measure_speed(subject, repeats: int) -> tuple[dict, float]:
    """({way: seconds}, largest difference of norms relative to the largest norm) over the repeats."""
    queries, behind = queries_of(subject), cached(subject)
    n_runs = len(flow_edges(subject.prompt)) * (subject.model.n_layers + 1)
    ways = {
        "forward": lambda: plain_forward(subject),
        "cached": behind,
        "whole": lambda: torch.as_tensor(attention_contributions(subject.model, subject.prompt, queries=queries).norms),
        "eager": lambda: eager(subject),
        "knock-out": lambda: attention_knockout(subject.model, subject.prompt),
    }
    seconds, differences = {way: [] for way in ways}, []
    for repeat in range(repeats + 1):  # the first one warms up
        found = {}
        for way, function in ways.items():
            elapsed, found[way] = measure.timed(function)
            if repeat:
                seconds[way].append(elapsed / (n_runs if way == "knock-out" else 1))
        scale = found["eager"].max()
        differences += [float((found[way] - found["eager"]).abs().max() / scale) for way in ("cached", "whole")]
    return seconds, max(differences)


def report(subject, repeats: int) -> dict:
    """Prints a subject's table; returns its numbers by name."""
    seconds, difference = measure_speed(subject, repeats)
    model = subject.model
    print(
        f"\n{subject.name}: {len(subject.prompt)} tokens, hidden {model.hidden_size}, {model.n_layers} layers; "
        f"{ROWS} query rows, all layers; median (low - high) of {repeats} repeats"
    )
    numbers = {}
    for way, values in seconds.items():
        ratio = measure.spread(value / plain for value, plain in zip(values, seconds["forward"], strict=True))
        ms = measure.spread(1000 * value for value in values)
        low_high = f"({ratio['low']:.3f} - {ratio['high']:.3f})"
        print(f"  {way:10} {ms['value']:8.2f} ms   {ratio['value']:6.3f} forwards {low_high}")
        numbers[way] = ratio
    print(f"  largest difference from eager attention: {difference:.1e} of the largest norm", flush=True)
    name = "attention" if subject.name == "llava_shape" else f"attention/{subject.name}"
    return {
        f"{name}/cost_in_forwards": numbers["cached"], f"{name}/whole_in_forwards": numbers["whole"],
        f"{name}/eager_in_forwards": numbers["eager"], f"{name}/knockout_in_forwards": numbers["knock-out"],
        f"{name}/max_relative_diff": measure.spread([difference]),
    }


def memory(subject) -> dict:
    """Prints and returns what contributions need beside the plain forward, and what eager attention does."""
    ways = {
        "forward": lambda: plain_forward(subject), "eager": lambda: eager(subject),
        "whole": lambda: attention_contributions(subject.model, subject.prompt, queries=queries_of(subject)),
    }
    n = len(subject.prompt)
    peaks = {way: measure.peak_bytes(function) for way, function in ways.items()}
    squares = {way: measure.square_tensors(function, n) for way, function in ways.items()}
    print(f"\n{subject.name}: {n} tokens; peak memory beyond the weights, operations on tensors of tokens x tokens")
    for way in ways:
        print(f"  {way:10} {peaks[way] / 2**20:6.0f} MiB   {squares[way]:4d}", flush=True)
    name = f"attention/{subject.name}"
    return {
        f"{name}/memory_in_forwards": measure.spread([peaks["whole"] / peaks["forward"]]),
        f"{name}/eager_memory_in_forwards": measure.spread([peaks["eager"] / peaks["forward"]]),
        f"{name}/square_tensors": measure.spread([squares["whole"]]),
        f"{name}/eager_square_tensors": measure.spread([squares["eager"]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for name in ("llava_shape", "mini"):
        measure.save(report(load_subject(name), options.repeats))
    measure.save(memory(long_text()))


if __name__ == "__main__":
    main()
