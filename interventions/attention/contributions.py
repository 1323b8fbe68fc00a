"""Attention contributions (paper, section 3.3): how does information travel between tokens?

In the self-attention of layer l, token j adds to token i a vector of the hidden size (Eq. 1):

    a_ij^l = sum_h A_ij^(l,h) (x_j^(l-1) W_v^(l,h)) W_o^(l,h)

A is the softmax of the scaled, rotary-embedded, causally masked scores (Eq. 2); x is the input of the attention block,
after its norm. The sum over all j is the block's output without the bias of W_o. Where a norm stands between the block
and the residual stream (Gemma), a_ij is what reaches the stream: the norm acts on each part, with the scale that it has
for the whole output.

Only the requested rows of A are computed, from the queries, keys and values of the attention call, so sdpa and eager
attention work alike and nothing has the size tokens x tokens. A contribution does not prove that the model uses it: see
`knockout.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
import pandas as pd
import torch

from ..engine.forward import Reads, UnreachedEdit, extend, in_session, positions_at, prompt_inputs, run
from ..engine.runs import check_causal, image_writes, prompt_request
from ..errors import AttentionError, PromptError
from ..prompts.prompt import Prompt, resolve_positions

VISUAL_TO_CONSTRAINT = "visual -> constraint"
VISUAL_TO_LAST = "visual -> last"
CONSTRAINT_TO_LAST = "constraint -> last"
# flow -> (source, target): the paper's two, and the direct one from the image to the last token.
FLOWS = {
    VISUAL_TO_CONSTRAINT: ("visual", "constraint"),
    VISUAL_TO_LAST: ("visual", "last"),
    CONSTRAINT_TO_LAST: ("constraint", "last"),
}
EXTRAS = ("vectors", "head_norms", "weights")
CHUNK = 2**24  # numbers held at a time: 64 MB in float32


@dataclass(frozen=True)
class AttentionContributions:
    """What the tokens `keys` add to the tokens `queries`; float32, 0 where the key comes after the query.

    Attributes:
        layers, queries, keys: the axes; queries and keys are positions in the prompt with its image expanded.
        norms: ||a_ij|| [layers, queries, keys].
        vectors: a_ij [layers, queries, keys, d], on request.
        head_norms: norms of the terms of the sum over heads [layers, heads, queries, keys], on request.
        weights: A [layers, heads, queries, keys], on request.
    """

    layers: tuple[int, ...]
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    norms: np.ndarray = field(repr=False)
    vectors: np.ndarray | None = field(repr=False, default=None)
    head_norms: np.ndarray | None = field(repr=False, default=None)
    weights: np.ndarray | None = field(repr=False, default=None)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per layer, query and key, without keys after the query. Columns layer, query, key, norm."""
        sites = pd.MultiIndex.from_product((self.layers, self.queries, self.keys), names=["layer", "query", "key"])
        frame = pd.DataFrame({"norm": self.norms.ravel()}, sites).reset_index()
        return frame[frame["key"] <= frame["query"]].reset_index(drop=True)


def attention_contributions(
    model, prompt: Prompt, *, queries: str | int | Iterable[str | int] = ("constraint", "last"),
    keys: str | int | Iterable[str | int] | None = None, layers: int | Iterable[int] | None = None,
    also: Iterable[str] = (), remote: bool | str | None = None,
) -> AttentionContributions:
    """Compute the contributions of one prompt in one request (Eq. 1 and 2), in float32 at least.

    Args:
        queries: positions or role names. A role names all tokens of its phrase; the paper's c_constraint is
            `prompt.constraint[-1]`.
        keys: positions or role names. None: all tokens.
        layers: layer indices. None: all. The forward ends at the last of them, so early layers cost less.
        also: "vectors", "head_norms" and "weights" to return beside the norms.
        remote: False, True or "local". None: as the model was loaded.

    Raises:
        AttentionError: an argument cannot be used, or an edited layer is not reached.
        ValueError: the attention of the model cannot be read.
    """
    check_weights(model)
    queries = _positions(prompt, queries, "queries")
    keys = tuple(range(len(prompt))) if keys is None else _positions(prompt, keys, "keys")
    layers = (int(layers),) if isinstance(layers, Integral) else layers
    layers = tuple(range(model.n_layers)) if layers is None else tuple(sorted(set(layers)))  # pyright: ignore[reportArgumentType]
    if not layers or not all(isinstance(layer, Integral) and 0 <= layer < model.n_layers for layer in layers):
        raise AttentionError(f"layers must be among the model's 0 to {model.n_layers - 1}, not {layers}.")
    also = (also,) if isinstance(also, str) else tuple(also)
    for name in also:
        if name not in EXTRAS:
            raise AttentionError(f"also names {name!r}: use {', '.join(map(repr, EXTRAS))}.")
    check_causal(model, prompt, min(queries))
    request = prompt_request(prompt) | {"queries": queries, "keys": keys, "layers": layers, "also": also}
    try:
        found = in_session(model.traced, read_contributions, request, model.runs_on(remote))
    except UnreachedEdit as error:
        raise AttentionError(str(error)) from error
    return AttentionContributions(layers, queries, keys, **{name: value.numpy() for name, value in found.items()})


def check_weights(model) -> None:
    """Raise AttentionError for quantized weights: contributions need W_o itself."""
    if model.quantization:
        raise AttentionError(
            f"model {model.name!r} has {model.quantization} weights, and contributions need W_o itself: load it with "
            "dtype='bfloat16'."
        )


def _positions(prompt: Prompt, positions, name: str) -> tuple[int, ...]:
    try:
        chosen = resolve_positions(prompt, positions)
    except PromptError as error:
        raise AttentionError(str(error).replace("positions", name, 1)) from error
    if not chosen:
        raise AttentionError(f"{name} names no token of this prompt: give indices or roles that it has.")
    return chosen


# What runs where the weights are


def read_contributions(lm, request: dict) -> dict:
    """Run one forward; return {"norms" and the names of `also`: float32 CPU tensors}, see `AttentionContributions`.

    request: clean_ids [1, T], positions, image_inputs, queries, keys (positions), layers (indices), also.
    """
    with torch.no_grad():
        ids = request["clean_ids"]
        found = run(
            lm, prompt_inputs(ids, request["positions"], request["image_inputs"]), keep=[ids.shape[1] - 1],
            reads=Reads(queries=torch.tensor(request["queries"])), stop=request["layers"][-1] + 1,
        )
        return contributions(found["attention_calls"], request)


def contributions_from_cache(lm, request: dict, clean: dict) -> dict:
    """Return the same from a clean run (`engine.runs.clean_run`): only tokens from the first query on run again."""
    with torch.no_grad():
        ids, first = request["clean_ids"], min(request["queries"])
        where = torch.arange(first, ids.shape[1])
        inputs = {
            "inputs_embeds": clean["embeddings"][:, first:], "position_ids": positions_at(request["positions"], where),
        }
        found = run(
            lm, inputs, keep=[ids.shape[1] - 1 - first], cache=extend(clean["cache"], first),
            writes=image_writes(request, clean, ids, where),
            reads=Reads(queries=torch.tensor(request["queries"]) - first), stop=request["layers"][-1] + 1,
        )
        return contributions(found["attention_calls"], request)


def contributions(calls, request: dict) -> dict:
    """Return `layer_contributions` of all requested layers, stacked; calls: from `forward.run`."""
    rows, keys = torch.tensor(request["queries"]), torch.tensor(request["keys"])
    found = {}
    for layer in request["layers"]:
        queries, all_keys, values, output, gain = calls[layer]
        gain = None if gain is None else gain[0]
        by_name = layer_contributions(queries[0], all_keys[0], values[0], output, rows, keys, request["also"], gain)
        for name, value in by_name.items():
            found.setdefault(name, []).append(value.float().cpu())
    return {name: torch.stack(values) for name, values in found.items()}


def layer_contributions(queries, keys, values, output, rows, columns, also=(), gain=None) -> dict:
    """Return one layer's contributions, by name as in `AttentionContributions`.

    queries: [H, m, e], times the scaling, of positions `rows` [m]. keys, values: [G, T, e] of all tokens, one of the G
    heads for every H / G query heads. output: W_o [d, H e]. columns: [n], the requested keys. gain: [m, d], see
    `forward.norm_gain`.
    """
    kind = torch.promote_types(queries.dtype, torch.float32)
    n_heads, size, device = len(queries), queries.shape[-1], queries.device
    shared = torch.arange(n_heads, device=device) // (n_heads // len(keys))  # the key head of each query head
    rows, columns = rows.to(device), columns.to(device)
    scores = queries.to(kind) @ keys.to(kind)[shared].mT  # [H, m, T]
    behind = torch.arange(keys.shape[1], device=device) > rows[:, None]
    weights = scores.masked_fill_(behind, float("-inf")).softmax(-1)[:, :, columns]  # [H, m, n]
    by_head = output.to(device, kind).view(-1, n_heads, size).permute(1, 2, 0)  # [H, e, d]
    n, d = len(columns), len(output)
    found = {"norms": weights.new_empty(len(rows), n)}
    if "weights" in also:
        found["weights"] = weights
    if "vectors" in also:
        found["vectors"] = weights.new_empty(len(rows), n, d)
    if "head_norms" in also:
        found["head_norms"] = weights.new_empty(n_heads, len(rows), n)
    step = max(1, CHUNK // ((n_heads + len(rows)) * d))
    for begin in range(0, n, step):
        part = slice(begin, begin + step)
        written = values[:, columns[part]].to(kind)[shared] @ by_head  # with an attention weight of 1 [H, k, d]
        vectors = torch.einsum("hmk,hkd->kmd", weights[:, :, part], written)
        if gain is not None:
            vectors *= gain.to(vectors)
        found["norms"][:, part] = vectors.norm(dim=-1).mT
        if "vectors" in also:
            found["vectors"][:, part] = vectors.transpose(0, 1)
        if "head_norms" in also:
            lengths = written.norm(dim=-1)[:, None]
            if gain is not None:
                lengths = torch.einsum("hkd,md->hmk", written**2, gain.to(written) ** 2).sqrt()
            found["head_norms"][:, :, part] = weights[:, :, part] * lengths
    return found
