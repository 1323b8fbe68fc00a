"""How others trace a question, each in the cheapest form that its users could write.

A way has two steps: `load(directory)` once a model, and `ask(loaded, task)` once a question. The latter returns
restore(batch) -> P_restored of each position. A batch (kind, positions, start, stop) is one forward with a row a
position, in which the clean output of the kind's module is put back in layers start <= l < stop.

All but the authors' protocol get what the language model reads, so that the image is encoded once a question, and
compute the last token's logits only. Tools are imported where they are used: the plain environment has neither
pyvene nor TransformerLens (`make bench-others` sets up one that does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from nnsight import NNsight
from transformers import AutoModelForImageTextToText, DynamicCache, PreTrainedModel

from interventions.tracing.causal_trace import KINDS

from . import baselines
from .baselines import MODULES
from .subjects import Subject

Batch = tuple[str, tuple[int, ...], int, int]
Restore = Callable[[Batch], list[float]]


def load_checkpoint(directory: Path) -> PreTrainedModel:
    """As Hugging Face loads it: nnsight has not touched it."""
    return AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)


@dataclass(frozen=True)
class Task:
    """A question as the user of another tool has it.

    encoder: a copy of the model that no tool changes, for the embeddings.
    """

    subject: Subject
    encoder: PreTrainedModel = field(repr=False)

    @classmethod
    def save(cls, subject: Subject, directory: Path) -> Task:
        """Writes the checkpoint that `load` is given, too."""
        subject.model.module.save_pretrained(directory)
        subject.model.processor.save_pretrained(directory)
        return cls(subject, load_checkpoint(directory))

    def embeddings(self) -> list[torch.Tensor]:
        """What the language model reads of the clean and of the corrupted prompt, [1, T, d] each."""
        return baselines.embeddings(self.encoder, self.subject.prompt, self.subject.corrupted)

    @property
    def language_model(self) -> str:
        return self.subject.model.family.language_model

    @property
    def everywhere(self) -> list[tuple[int, str]]:
        """(layer, kind) in the order in which a model runs them."""
        return [(layer, kind) for layer in range(self.subject.model.n_layers) for kind in reversed(KINDS)]


@dataclass(frozen=True)
class Way:
    """load and ask as above; batched: whether a forward takes several rows; package: the tool on PyPI."""

    ask: Callable[..., Restore]
    load: Callable[[Path], object] = load_checkpoint
    batched: bool = True
    package: str | None = None

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("transformers", self.package) if name}


def hooks(module, task: Task, first: int = 0) -> Restore:
    """PyTorch hooks on forwards of the whole sequence.

    first: where forwards begin instead, behind the keys and values of what stands before.
    """
    clean_hidden, corrupted_hidden = task.embeddings()
    layers = module.get_submodule(task.language_model).layers
    prefix = None
    if first:
        with torch.no_grad():
            prefix = module(inputs_embeds=clean_hidden[:, :first], logits_to_keep=1).past_key_values
    clean, reads = {}, {}
    for key in task.everywhere:
        reads[key] = lambda output, key=key: clean.update({key: output[0].clone()})

    def run(hidden, rows: int, on_output: dict):
        """A forward of its own copy of the prefix, which it makes longer."""
        inputs = {"inputs_embeds": hidden[:, first:].expand(rows, -1, -1)}
        cache = prefix and DynamicCache(
            [tuple(part.expand(rows, -1, -1, -1) for part in kept[:2]) for kept in prefix]
        )
        return baselines.forward(module, layers, inputs, on_output, cache)

    answer = run(clean_hidden, 1, reads)[0].argmax()

    def restore(batch: Batch) -> list[float]:
        kind, positions, start, stop = batch
        rows, places = torch.arange(len(positions)), torch.tensor(positions) - first

        def write(output, layer):
            output[rows, places] = clean[layer, kind][places]

        writes = {(layer, kind): lambda output, layer=layer: write(output, layer) for layer in range(start, stop)}
        return run(corrupted_hidden, len(positions), writes)[:, answer].tolist()

    return restore


def hooks_cached(module, task: Task) -> Restore:
    """PyTorch hooks on forwards from the first corrupted token on: keys and values before it are kept."""
    return hooks(module, task, task.subject.corrupted.first_corrupted)


@torch.no_grad()
def nnsight(lm, task: Task) -> Restore:
    """One nnsight trace a batch."""
    clean_hidden, corrupted_hidden = task.embeddings()
    last = torch.tensor([task.subject.prompt.last])
    layers, everywhere = lm.get(task.language_model).layers, task.everywhere
    with lm.trace(inputs_embeds=clean_hidden, logits_to_keep=last):
        clean = {}
        for layer, kind in everywhere:
            if kind == "mlp":
                clean[layer, kind] = layers[layer].mlp.output[0].clone()
            else:
                clean[layer, kind] = layers[layer].self_attn.output[0][0].clone()
        answer = lm.output.logits[0, -1].argmax().save()
        clean.save()

    @torch.no_grad()
    def restore(batch: Batch) -> list[float]:
        kind, positions, start, stop = batch
        rows, places = torch.arange(len(positions)), list(positions)
        with lm.trace(inputs_embeds=corrupted_hidden.expand(len(rows), -1, -1), logits_to_keep=last):
            for layer in range(start, stop):
                if kind == "mlp":
                    layers[layer].mlp.output[rows, places] = clean[layer, kind][places]
                else:
                    layers[layer].self_attn.output[0][rows, places] = clean[layer, kind][places]
            found = lm.output.logits[:, -1].softmax(-1)[:, answer].save()
        return found.tolist()

    return restore


def authors(_, task: Task) -> Restore:
    """The released scripts' protocol: a forward of three rows, image encoder included, for each position."""
    restore = baselines.authors(task.subject)
    return lambda batch: [restore((batch[0], position, *batch[2:])) for position in batch[1]]


@torch.no_grad()
def pyvene(module, task: Task) -> Restore:
    """An IntervenableModel a window, fed with activations that were collected once."""
    import pyvene as pv

    clean_hidden, corrupted_hidden = task.embeddings()
    last = torch.tensor([task.subject.prompt.last])

    def intervenable(places, intervention):
        components = [f"{task.language_model}.layers[{layer}].{MODULES[kind]}.output" for layer, kind in places]
        return pv.IntervenableModel(
            pv.IntervenableConfig(
                [{"component": component, "unit": "pos", "intervention_type": intervention}
                 for component in components]
            ),
            module,
        )

    everything = [[list(range(clean_hidden.shape[1]))]] * len(task.everywhere)
    (_, collected), output = intervenable(task.everywhere, pv.CollectIntervention)(
        {"inputs_embeds": clean_hidden, "logits_to_keep": last}, unit_locations={"sources->base": (None, everything)}
    )
    clean, answer = dict(zip(task.everywhere, collected, strict=True)), output.logits[0, -1].argmax()

    @torch.no_grad()
    def restore(batch: Batch) -> list[float]:
        kind, positions, start, stop = batch
        places = [(layer, kind) for layer in range(start, stop)]
        model = intervenable(places, pv.VanillaIntervention)
        sources = {  # [rows, 1, d] each
            key: clean[place][0, list(positions)][:, None]
            for key, place in zip(model.sorted_keys, places, strict=True)
        }
        units = [[[position] for position in positions]] * len(places)
        _, output = model(
            {"inputs_embeds": corrupted_hidden.repeat(len(positions), 1, 1), "logits_to_keep": last},
            source_representations=sources, unit_locations={"sources->base": (units, units)},
        )
        return output.logits[:, -1].softmax(-1)[:, answer].tolist()

    return restore


def load_bridge(directory: Path):
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(directory), device="cpu")


@torch.no_grad()
def transformer_lens(bridge, task: Task) -> Restore:
    """`run_with_hooks` of the LLaVA bridge; the clean outputs are those of one `run_with_cache`."""
    clean_hidden, corrupted_hidden = task.embeddings()
    last = torch.tensor([task.subject.prompt.last])
    names = {"mlp": "mlp.hook_out", "attention": "attn.hook_out"}
    wanted = {f"blocks.{layer}.{names[kind]}" for layer, kind in task.everywhere}
    logits, cache = bridge.run_with_cache(clean_hidden, names_filter=wanted.__contains__, logits_to_keep=last)
    answer = logits[0, -1].argmax()

    @torch.no_grad()
    def restore(batch: Batch) -> list[float]:
        kind, positions, start, stop = batch
        rows, places = torch.arange(len(positions)), list(positions)

        def patch(activation, hook):
            activation[rows, places] = cache[hook.name][0, places]
            return activation

        logits = bridge.run_with_hooks(
            corrupted_hidden.expand(len(rows), -1, -1), logits_to_keep=last,
            fwd_hooks=[(f"blocks.{layer}.{names[kind]}", patch) for layer in range(start, stop)],
        )
        return logits[:, -1].softmax(-1)[:, answer].tolist()

    return restore


WAYS = {
    "pyvene": Way(pyvene, package="pyvene"),
    "transformer_lens": Way(transformer_lens, load_bridge, package="transformer-lens"),
    "nnsight": Way(nnsight, lambda directory: NNsight(load_checkpoint(directory)), package="nnsight"),
    "hooks": Way(hooks),
    "hooks_cached": Way(hooks_cached),
    "authors": Way(authors, lambda directory: None, batched=False),
}
