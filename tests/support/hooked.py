"""PyTorch hooks, one site at a time, whole forwards: the oracle of traces, which shares no code with them."""

from functools import partial

import numpy as np
import torch

from interventions.engine import runs
from interventions.engine.windows import window_spans


class Hooked:
    """A Hugging Face module under forward hooks, without nnsight, caches or packing: the oracle."""

    def __init__(self, model, result):
        self.module = model.module
        self.layers = model.module.get_submodule(model.family.language_model).layers
        self.answer, self.forced = list(result.answer_ids), []
        if result.answer_score != "sequence":  # the first token that can be seen; white space before it is given
            texts = [model.tokenizer.decode([token]) for token in self.answer]
            seen = [any(c.isprintable() and not c.isspace() for c in text) for text in texts]
            n = next((i for i, is_seen in enumerate(seen) if is_seen), len(texts) - 1)
            self.answer, self.forced = self.answer[n : n + 1], self.answer[:n]

    def probability(self, input_ids, image_inputs, hooks=()):
        """P(answer) with {(kind, layer): function of the output tensor} in force."""
        handles = [self.register(key, function) for key, function in dict(hooks).items()]
        given = torch.tensor([*self.forced, *self.answer[:-1]], dtype=torch.long)
        ids = torch.cat([input_ids, given])[None]
        logits = self.module(**own_inputs(self.module, ids, image_inputs)).logits[0, -len(self.answer) :]
        for handle in handles:
            handle.remove()
        return logits.softmax(-1)[range(len(self.answer)), self.answer].prod().item()

    def register(self, key, function):
        kind, layer = key
        if kind == "hidden" and layer + 1 < len(self.layers):  # as it is read: some models add to it in between
            kind, layer = "input", layer + 1
        if kind == "input":
            return self.layers[layer].register_forward_pre_hook(lambda _, args: function(args[0]))
        layer = self.layers[layer]
        module = {"mlp": layer.mlp, "attention": layer.self_attn, "hidden": layer}[kind]
        return module.register_forward_hook(
            lambda _, __, output: function(output[0] if isinstance(output, tuple) else output)
        )


def own_inputs(module, ids, image_inputs):
    """What a Hugging Face module is given for tokens [1, n] and a picture, without positions: those are its own."""
    inputs = {"input_ids": ids, **image_inputs}
    marks = (ids == getattr(module.config, "image_token_id", -1)).long()
    if "token_type_ids" in image_inputs:
        inputs["token_type_ids"] = marks
    if "image_grid_thw" in image_inputs:
        inputs["mm_token_type_ids"] = marks
    return inputs


def put(tensor, position, value):
    tensor[0, position] = value


def add(tensor, noise):
    tensor += noise


@torch.no_grad()
def oracle(model, prompt, corrupted, result, donor=None, sources=None):
    """P_clean, P_corrupted and P_restored as `result` has them, one whole forward a site.

    donor: the prompt whose outputs are restored; sources: position of the prompt -> of the donor, None where there is
    none.
    """
    hooked = Hooked(model, result)
    image, clean = prompt.image_inputs, {}
    keys = [("input", 0), *((kind, layer) for kind in result.kinds for layer in result.layers)]
    keep = {key: lambda tensor, key=key: clean.update({key: tensor.clone()}) for key in keys}
    p_clean = hooked.probability(prompt.input_ids, image, keep)
    embeddings = clean["input", 0]
    if donor is not None:
        hooked.probability(donor.input_ids, donor.image_inputs, keep)
    draws = [{}]
    if corrupted.noise is not None:
        recipe = corrupted.noise
        request = request_for(model, prompt, corrupted, ())
        request |= {"noise": (recipe.positions, recipe.scale, recipe.samples, recipe.seed), "first": 0}
        draws = [
            {
                ("input", 0): partial(
                    add, noise=runs.embedding_noise(request, *[embeddings] * 2, s)
                )
            }
            for s in range(recipe.samples)
        ]
    spans = window_spans(result.window, result.window_rule, model.n_layers)
    p_corrupted = [hooked.probability(corrupted.input_ids, image, noising) for noising in draws]
    restored = np.full((len(draws), *result.restored.shape), np.nan)
    for s, k, i, layer in np.ndindex(restored.shape):
        position = result.positions[i]
        source = position if donor is None else sources[position]
        partner = corrupted.alignment[position]
        if partner is not None and source is not None:
            keys = [(result.kinds[k], j) for j in range(*spans[layer])]
            patch = {key: partial(put, position=partner, value=clean[key][0, source]) for key in keys}
            restored[s, k, i, layer] = hooked.probability(corrupted.input_ids, image, draws[s] | patch)
    return p_clean, np.mean(p_corrupted), restored.mean(0)


@torch.no_grad()
def p_masked(model, prompt, token, targets, sources, layers):
    """P(token) of one whole forward in which `targets` cannot read earlier `sources` in these layers."""
    lowest = torch.finfo(torch.float32).min
    mask = torch.full((len(prompt), len(prompt)), lowest).triu(1)
    if model.family.image_block:
        mask[prompt.visual[0] : prompt.visual[-1] + 1, prompt.visual[0] : prompt.visual[-1] + 1] = 0
    for target in targets:
        for source in sources:
            if source < target:
                mask[target, source] = lowest
    decoder = model.module.get_submodule(model.family.language_model)
    handles = [
        decoder.layers[layer].self_attn.register_forward_pre_hook(
            lambda _, args, named: (args, {**named, "attention_mask": mask[None, None]}), with_kwargs=True
        )
        for layer in layers
    ]
    logits = model.module(**own_inputs(model.module, prompt.input_ids[None], prompt.image_inputs)).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits.softmax(-1)[token].item()


def request_for(model, prompt, corrupted, sites, **changes):
    return {
        "clean_ids": prompt.input_ids[None],
        "positions": prompt.position_ids,
        "corrupted_ids": corrupted.input_ids[None],
        "corrupted_positions": corrupted.position_ids,
        "image_inputs": prompt.image_inputs,
        "image_layers": model.image_layers,
        "image_token_id": model.image_token_id if model.is_multimodal else -1,
        "first": corrupted.first_corrupted,
        "noise": None,
        "kinds": ("mlp", "attention"),
        "sites": sites,
        "donor": None,
        "answer_ids": None,
        "other_answers": [],
        "blank_ids": model.blank_ids,
        "require_top": False,
        "min_p_clean": 0.0,
        "sequence": False,
        "eos_token_ids": (),
        "max_answer_tokens": 1,
        "method": "packed",
        "max_packed_tokens": None,
    } | changes
