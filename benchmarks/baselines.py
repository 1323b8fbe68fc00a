"""How others trace: one whole forward a site. Each function returns restore(site) -> P_restored.

A site is (kind, position, start, stop): in layers start <= l < stop the clean output of the kind's module is
put back at the position. Clean and corrupted prompt have equal lengths here. What is needed once a question
is left out of the timing, and only the last token's logits are computed, which spares the authors' protocol
most of its output head.
"""

from collections.abc import Callable

import torch

from interventions.causal_trace import KINDS

from .subjects import Subject

Site = tuple[str, int, int, int]


def hooks(subject: Subject) -> Callable[[Site], float]:
    """PyTorch hooks on the corrupted prompt's embeddings: the image is encoded once a question."""
    clean_inputs, corrupted_inputs = (
        {"inputs_embeds": _embeddings(subject, ids)}
        for ids in (subject.prompt.input_ids, subject.corrupted.input_ids)
    )
    clean = {}  # (layer, kind) -> output [1, T, d]
    everywhere = [(layer, kind) for layer in range(subject.model.n_layers) for kind in KINDS]
    reads = {key: lambda output, key=key: clean.update({key: output.clone()}) for key in everywhere}
    answer = _forward(subject, clean_inputs, reads)[0].argmax()

    def restore(site: Site) -> float:
        kind, position, start, stop = site

        def write(output, layer):
            output[0, position] = clean[layer, kind][0, position]

        writes = {
            (layer, kind): lambda output, layer=layer: write(output, layer) for layer in range(start, stop)
        }
        return float(_forward(subject, corrupted_inputs, writes)[0, answer])

    return restore


def authors(subject: Subject) -> Callable[[Site], float]:
    """The released scripts' protocol: clean, corrupted, restored row in every forward, with image encoder."""
    corrupted = subject.corrupted.input_ids
    inputs = {
        "input_ids": torch.stack([subject.prompt.input_ids, corrupted, corrupted]),
        "pixel_values": subject.prompt.image_inputs["pixel_values"].expand(3, -1, -1, -1),
    }

    def restore(site: Site) -> float:
        kind, position, start, stop = site

        def write(output):
            output[2, position] = output[0, position]

        probabilities = _forward(subject, inputs, {(layer, kind): write for layer in range(start, stop)})
        return float(probabilities[2, probabilities[0].argmax()])

    return restore


@torch.no_grad()
def _forward(subject: Subject, inputs: dict, on_output: dict) -> torch.Tensor:
    """Next-token probabilities [B, V]. on_output: {(layer, kind): function of its output [B, T, d]}."""
    handles = []
    for (layer, kind), function in on_output.items():
        module = (
            subject.decoder.layers[layer].mlp if kind == "mlp" else subject.decoder.layers[layer].self_attn
        )

        def hook(module, args, output, function=function):
            function(output[0] if isinstance(output, tuple) else output)

        handles.append(module.register_forward_hook(hook))
    try:
        # As a list of positions: a number would slice, and bfloat16 on a CPU copies the whole head to read a slice.
        last = torch.tensor([next(iter(inputs.values())).shape[1] - 1])
        inputs = {name: value.to(subject.model.device) for name, value in inputs.items()}
        return subject.model.module(**inputs, logits_to_keep=last).logits[:, -1].softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def _embeddings(subject: Subject, input_ids: torch.Tensor) -> torch.Tensor:
    """What the language model reads, [1, T, d]: token embeddings with the image's features in place."""
    seen = {}
    handle = subject.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    try:
        _forward(subject, {"input_ids": input_ids[None], **subject.prompt.image_inputs}, {})
    finally:
        handle.remove()
    return seen["inputs_embeds"]
