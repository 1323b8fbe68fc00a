"""What others do at a site: forwards with PyTorch hooks, and the authors' protocol.

A site is (kind, position, start, stop): in layers start <= l < stop the clean output of the kind's module is
put back at the position. Clean and corrupted prompt have equal lengths here. Only the last token's logits are
computed, which spares the authors' protocol most of its output head.
"""

from collections.abc import Callable

import torch
from transformers import Cache

from interventions.prompts.corruption import CorruptedPrompt
from interventions.prompts.prompt import Prompt

from .subjects import Subject

Site = tuple[str, int, int, int]
MODULES = {"mlp": "mlp", "attention": "self_attn"}  # kind -> its name in a decoder layer


def authors(subject: Subject) -> Callable[[Site], float]:
    """The released scripts' protocol: clean, corrupted, restored row in every forward, with image encoder.

    Returns restore(site) -> P_restored.
    """
    corrupted = subject.corrupted.input_ids
    inputs = {
        "input_ids": torch.stack([subject.prompt.input_ids, corrupted, corrupted]),
        "pixel_values": subject.prompt.image_inputs["pixel_values"].expand(3, -1, -1, -1),
    }

    def restore(site: Site) -> float:
        kind, position, start, stop = site

        def write(output):
            output[2, position] = output[0, position]

        writes = {(layer, kind): write for layer in range(start, stop)}
        probabilities = forward(subject.model.module, subject.decoder.layers, inputs, writes)
        return float(probabilities[2, probabilities[0].argmax()])

    return restore


@torch.no_grad()
def forward(module, layers, inputs: dict, on_output: dict, cache: Cache | None = None) -> torch.Tensor:
    """Next-token probabilities [B, V].

    inputs: tensors of B rows and the same number of tokens; on_output: {(layer, kind): function of its output
    [B, T, d]}; cache: keys and values of what stands before.
    """
    handles = []
    for (layer, kind), function in on_output.items():

        def hook(module, args, output, function=function):
            function(output[0] if isinstance(output, tuple) else output)

        handles.append(layers[layer].get_submodule(MODULES[kind]).register_forward_hook(hook))
    try:
        # As a list of positions: a number would slice, and bfloat16 on a CPU copies the whole head to read a slice.
        last = torch.tensor([next(iter(inputs.values())).shape[1] - 1])
        inputs = {name: value.to(module.device) for name, value in inputs.items()}
        return module(**inputs, past_key_values=cache, logits_to_keep=last).logits[:, -1].softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def embeddings(module, clean: Prompt, corrupted: CorruptedPrompt) -> list[torch.Tensor]:
    """What the language model reads of both prompts, [1, T, d] each; the image is encoded once."""
    device, embed = module.device, module.get_input_embeddings()
    pixels = clean.image_inputs["pixel_values"].to(device)
    features = torch.cat(module.get_image_features(pixel_values=pixels).pooler_output)
    hidden = [embed(prompt.input_ids.to(device)) for prompt in (clean, corrupted)]
    for states in hidden:  # the image stands before what is corrupted
        states[list(clean.visual)] = features
    return [states[None] for states in hidden]
