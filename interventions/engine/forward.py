"""The forward that every intervention shares: what it reads and writes, a cached prefix, skipped layers.

An intervention at a token changes nothing before that token and nothing below its layer. So one clean run and
one corrupted run are recorded once a question, and what they share with an intervened run is never computed
again: keys and values of earlier positions come from a cache, layers below the intervention are skipped, and
many interventions travel in one forward (`packing.py`).

Everything here runs where the weights are: these functions are called inside one nnsight session, serialized
by source if that is remote. Hence plain functions, dicts and tuples: no dataclass (its methods have no source
to ship), no generator, no lock. Only small CPU results leave the machine.

A server may run them in a *sandbox*: a process of its own, in which modules have no weights and what a forward reads or
writes crosses as copies. So nothing here looks at a weight or relies on what a forward does to its arguments; both are
read inside traces, where every server serves them.

This module knows nothing of what is intervened on; `restoration.py` is its first user.

Shapes: B rows, T tokens of a prompt, t of a suffix, d hidden size, V vocabulary. Positions index the full
sequence with the image expanded.
"""

import nnsight
import torch
from transformers import DynamicCache

from ..errors import EditError, TraceError


class UnreachedEdit(TraceError, EditError):
    """An intervention whose forward ends before a layer that is edited."""


def in_session(lm, function, request: dict, remote: bool | str = False):
    """`function(lm, request)` in one nnsight session: one remote request, whatever it runs.

    remote: False | True | "local" (as it would travel, but here). Raises `NDIFError`.
    """
    nnsight.register("interventions")  # an installed package does not travel by itself
    job = None
    if remote is True:
        from ..remote.jobs import Job, model_key  # here: it needs the packages of interventions[remote]

        job = Job(model_key(lm))
    with lm.session(backend=job, remote=False if job else remote):
        result = nnsight.save(as_loaded(lm, function, request))
    return job.result()["result"] if job else result


def as_loaded(lm, function, request: dict):
    """`function(lm, request)` in the precision of the weights, and what it computes itself in that of its tensors.

    NDIF runs what it is sent under autocast, where its model is in half precision, which rounds otherwise.
    """
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        return function(lm, request)


class Reads:
    """What a forward reads besides the logits.

    A plain class: a dataclass's methods would travel to a server as bytecode, which another Python cannot run.

    Attributes:
        names: any of "attention" and "mlp" (module outputs [B, t - start, d], a list by layer), "hidden" (the layers'
            inputs and the last one's output, likewise), "keys" (inputs of W_proj [B, t - start, m], likewise),
            "embeddings" (layer 0's input [B, t, d]) and "cache" (the one given, extended).
        start: the position from which outputs are read.
        queries: positions whose attention is read, as "attention_calls": a list, by layer, of (queries [B, heads,
            len(queries), head size], after the rotary embedding, times the scaling; keys and values [B, key heads, all
            tokens, head size]; W_o [d, heads x head size]; `norm_gain` [B, len(queries), d] of a norm between the
            attention and the residual stream, or None).
        embed: with "embeddings", other token ids [1, n] to embed, as "embedded" [1, n, d].
        image_layers: path of a decoder whose first layers add features of the image to the visual tokens, and its
            argument that has them. They are read as "image_added": a list, by layer, of [visual tokens, d].
    """

    def __init__(self, *names, start=0, queries=None, embed=None, image_layers=()):
        self.names, self.start, self.queries, self.embed = names, start, queries, embed
        self.image_layers = image_layers


def run(
    lm, inputs: dict, *, keep, cache=None, skip: int = 0, stop: int | None = None, trim: bool = False, reads=None,
    writes=None,
) -> dict:
    """Run one traced forward: the one place where modules are read, written or skipped.

    Args:
        lm: nnsight's model.
        inputs: the model's own.
        keep: the positions whose logits are wanted.
        cache: a DynamicCache to start from.
        skip: layers below it are not run; `inputs["inputs_embeds"]` is then the input of layer `skip`.
        stop: the forward ends below this layer, and "output" [B, t, d] is returned in place of logits. With
            `reads.queries`, nothing is run behind the last of them.
        trim: run the last layer's MLP, of which nothing else is read, at the positions `keep` only.
        reads: what is read, see `Reads`.
        writes: {(layer, "mlp", "attention" or "hidden"): (rows [m], positions [m], values [m, d])}, written into the
            output of the module or of the whole layer; {(layer, "image"): the same}, added to the output of the layer;
            and {(layer, "mask"): additive mask [B, 1, t, keys]}, which that layer's attention takes.

    Returns:
        {"logits": [B, len(keep), V]} and what was read.

    Raises:
        UnreachedEdit: the forward ends before a layer that is edited.
    """
    reads, writes = reads or Reads(), writes or {}
    names, start, queries, embed = reads.names, reads.start, reads.queries, reads.embed
    refuse_unreached_edits(lm, skip, stop, queries)
    record = {name: [] for name in (*names, "attention_calls")}
    keep = torch.as_tensor(keep)
    last, sandboxed = len(lm.layers) - 1, in_sandbox(lm)
    options = {"past_key_values": cache, "use_cache": "cache" in names, "logits_to_keep": keep}
    with lm.trace(**inputs, **options) as tracer:
        if reads.image_layers:
            path, argument = reads.image_layers
            record["image_added"] = [values.clone() for values in lm.get(path).inputs[1][argument]]
        for index, layer in enumerate(lm.layers):
            if index < skip:
                layer.skip(inputs["inputs_embeds"])
                continue
            if "hidden" in names or (index == 0 and "embeddings" in names):
                # The layer's input, at its first module: its own holds the cache too, and to read that in a sandbox
                # gives the layer a copy to extend.
                hidden = layer.input_layernorm.input
                if "hidden" in names:
                    record["hidden"].append(hidden[:, start:].clone())
                if index == 0 and "embeddings" in names:
                    record["embeddings"] = hidden.clone()
                if index == 0 and embed is not None:
                    record["embedded"] = lm.embed_tokens(embed.to(hidden.device))
            if (index, "mask") in writes:
                positional, named = layer.self_attn.inputs
                mask = writes[index, "mask"].to(named["hidden_states"].device)
                layer.self_attn.inputs = (positional, {**named, "attention_mask": mask})
            if queries is not None:
                positional, named = attention_call(layer.self_attn).inputs
                query = positional[1][:, :, queries]
                # Scaled in float32 at least: half precision would round every query once more.
                scaled = query.to(torch.promote_types(query.dtype, torch.float32)) * named["scaling"]
                weight = weight_of(layer.self_attn.o_proj, query)
                norm = getattr(layer, "attention_norm", None)
                gain = None if norm is None else norm_gain(norm, norm.input[:, queries])
                record["attention_calls"].append((scaled, *positional[2:4], weight, gain))
                if stop == index + 1 and not sandboxed:
                    tracer.stop()
            for kind in ("attention", "mlp"):  # in the order in which a layer computes them
                if kind == "mlp" and "keys" in names:
                    record["keys"].append(layer.mlp.down_proj.input[:, start:].clone())
                trimmed = trim and kind == "mlp" and index == last
                if not trimmed and kind not in names and (index, kind) not in writes:
                    continue
                if trimmed:
                    whole = layer.mlp.input
                    layer.mlp.input = whole[:, keep.to(whole.device)]
                    output = torch.zeros_like(whole)
                    output[:, keep.to(whole.device)] = layer.mlp.output
                else:
                    output = layer.mlp.output if kind == "mlp" else layer.self_attn.output[0]
                if kind in names:
                    record[kind].append(output[:, start:].clone())
                if (index, kind) in writes:
                    rows, positions, values = writes[index, kind]
                    output[rows.to(output.device), positions.to(output.device)] = values.to(output)
                if trimmed:
                    layer.mlp.output = output  # as it is now: what is done to it later may not arrive
            if (index, "image") in writes:
                output = layer.output
                rows, positions, values = writes[index, "image"]
                output[rows.to(output.device), positions.to(output.device)] += values.to(output)
                layer.output = output
            if (index, "hidden") in writes:
                output = layer.output
                rows, positions, values = writes[index, "hidden"]
                output[rows.to(output.device), positions.to(output.device)] = values.to(output)
                layer.output = output
            if stop == index + 1:
                record["output"] = layer.output.clone()
                if not sandboxed:
                    tracer.stop()
                for later in lm.layers[stop:]:  # a sandbox does not survive `stop` if another trace follows
                    later.skip(record["output"])
                break
        if stop is None:
            if "hidden" in names:
                record["hidden"].append(lm.layers[last].output[:, start:].clone())
            record["logits"] = lm.output.logits  # not the head's own: some models scale them
            if "cache" in names:
                record["cache"] = lm.output.past_key_values
    return record


def refuse_unreached_edits(lm, skip: int, stop: int | None, queries) -> None:
    """An edited layer must run up to its MLP: nnsight waits for it, and complains of an order that nobody chose.

    Raises UnreachedEdit.
    """
    end = len(lm.layers) if stop is None else stop - (queries is not None)
    beyond = [layer for layer in getattr(lm, "edited_layers", ()) if not skip <= layer < end]
    if beyond:
        raise UnreachedEdit(
            f"this forward does not reach layer {beyond[0]}, which is edited: give `merged(model)`, which has the "
            "edits in its weights, instead of the edited model."
        )


def attention_call(self_attn):
    """The call in a self-attention module that takes (module, query, key, value, mask), of any implementation."""
    source = self_attn.source
    calls = [name for name in source.names if name.startswith("attention_interface_")]
    if not calls:
        raise ValueError("this model's self-attention calls no attention interface, so its queries cannot be read.")
    return getattr(source, calls[-1])  # the ones before it look the interface up


def weight_of(linear, like: torch.Tensor) -> torch.Tensor:
    """The weight [out, in] of a linear module, inside a trace; like: a tensor of its inputs' type and device.

    Where the module has none here (in a sandbox), from what it does to the unit vectors, made so long that a bias is
    lost in rounding beside a weight: in half precision it would else spoil the weight.
    """
    if not linear.weight.is_floating_point():
        raise ValueError("this model's weights are quantized, so that W_o itself cannot be read.")
    if not linear.weight.is_meta:
        return linear.weight
    long = 2.0**12 if like.dtype == torch.float16 else 2.0**20  # float16 ends at 65504
    units = torch.eye(linear.weight.shape[1], device=like.device, dtype=like.dtype) * long
    outputs = linear(torch.cat([units, torch.zeros_like(units[:1])])).to(torch.promote_types(like.dtype, torch.float32))
    return ((outputs[:-1] - outputs[-1]) / long).T  # the last row is the bias


def norm_gain(norm, read: torch.Tensor) -> torch.Tensor:
    """What an RMS norm multiplies each feature of its input by, inside a trace: norm(read) = read * gain, [B, t, d].

    Held fixed, it makes the norm linear. It is found from what the norm does, which may have no weight here, in float32
    at least.
    """
    read = read.to(torch.promote_types(read.dtype, torch.float32))
    weight = norm(torch.full_like(read[:1, :1], 2.0**20))  # so long that the norm's epsilon is lost in rounding
    weighted = read * weight
    scale = (norm(read) * weighted).sum(-1, keepdim=True) / (weighted**2).sum(-1, keepdim=True)
    return weight * scale.nan_to_num()  # of nothing, nothing


def in_sandbox(lm) -> bool:
    """Whether this code runs in a process without the weights."""
    return next(lm._module.parameters()).is_meta


def extend(cache, stop: int, rows: int = 1) -> DynamicCache:
    """A fresh cache that starts from the first `stop` positions of another, for `rows` rows.

    Fresh because a forward extends the cache it is given; the tensors are shared, nothing is copied here.
    """
    fresh = DynamicCache([(layer.keys[:, :, :0], layer.values[:, :, :0]) for layer in cache.layers])
    for layer, source in zip(fresh.layers, cache.layers, strict=True):
        layer.keys = source.keys[:, :, :stop].expand(rows, -1, -1, -1)  # pyright: ignore[reportAttributeAccessIssue]
        layer.values = source.values[:, :, :stop].expand(rows, -1, -1, -1)  # pyright: ignore[reportAttributeAccessIssue]
    return fresh


def decode(lm, cache, logits, positions, eos_token_ids, limit: int) -> list[int]:
    """Greedy continuation of a cache, given the logits [1, 1, V] behind it, without the end token.

    positions: the table of the prompt, whose tokens the cache holds.
    """
    answer = []
    while len(answer) < limit:
        token = int(logits[0, -1].argmax())
        if token in eos_token_ids:
            break
        answer.append(token)
        if len(answer) < limit:
            where = positions_at(positions, torch.tensor([positions.shape[1] + len(answer) - 1]))
            inputs = {"input_ids": torch.tensor([[token]]), "position_ids": where}
            step = run(lm, inputs, keep=[0], cache=cache, reads=Reads("cache"))
            cache, logits = step["cache"], step["logits"]
    return answer


def greedy_answer(lm, request: dict) -> list[int]:
    """The model's own answer to input_ids [1, T], positions and image_inputs: its tokens without the end."""
    with torch.no_grad():
        ids, positions = request["input_ids"], request["positions"]
        inputs = prompt_inputs(ids, positions, request["image_inputs"])
        found = run(lm, inputs, keep=[ids.shape[1] - 1], cache=DynamicCache(), reads=Reads("cache"))
        limit = request["max_answer_tokens"]
        return decode(lm, found["cache"], found["logits"], positions, request["eos_token_ids"], limit)


def prompt_inputs(input_ids, positions, image_inputs: dict) -> dict:
    """The model's inputs for a whole prompt.

    Args:
        input_ids: [1, n], the prompt and perhaps an answer behind it.
        positions: the prompt's table, see `positions_at`.
        image_inputs: those of its picture, none for a text-only one.
    """
    n = input_ids.shape[1]
    inputs = {"input_ids": input_ids, "position_ids": positions_at(positions, torch.arange(n))} | image_inputs
    return inputs | token_types(image_inputs, n)


def token_types(image_inputs: dict, n: int) -> dict:
    """The input that marks the tokens of the image among n tokens, for a model that has one; what follows is text."""
    if "token_type_ids" not in image_inputs:
        return {}
    marks = image_inputs["token_type_ids"][:, :n]
    return {"token_type_ids": torch.cat([marks, marks.new_zeros(1, n - marks.shape[1])], dim=1)}


def positions_at(positions, where) -> torch.Tensor:
    """The model's `position_ids` for the tokens `where` [t] of a sequence.

    positions: the table [rows, T] of a prompt, one row, or three in a model that counts time, height and width of an
    image (M-RoPE). Tokens behind the prompt count on from its largest position. Returns [1, t] or [rows, 1, t].
    """
    end = positions.shape[1]
    behind = positions.max() + 1 + where - end
    picked = torch.where(where < end, positions[:, where.clamp(max=end - 1)], behind)
    return picked if len(picked) == 1 else picked[:, None]
