"""Attention knock-outs: is what attention could carry also used?

The edges of a *flow* (target tokens reading source tokens) are blocked in a window of layers, and P(answer) tells what
that costs. This is the causal check of `attention.py`'s contributions, which the paper does not make, by the method of
Geva et al., "Dissecting Recall of Factual Associations" (EMNLP 2023).

A blocked edge is a masked score: the softmax spreads over the tokens that are left. Nothing changes before the first
target token and below the window, so all flows and windows share one clean run's keys, values and hidden states, and
travel together in few forwards, see `forward.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from ..engine.forward import extend, in_session, run
from ..engine.packing import budget, packed_inputs, packs, rows_that_fit
from ..engine.runs import answer_probability, clean_request, clean_run, corrupted_run
from ..engine.windows import MASKABLE, check_packing, default_method, window_spans
from ..errors import AttentionError, PromptError
from ..prompts.prompt import Prompt, answer_tokens, resolve_positions
from .contributions import FLOWS

METHODS = ("packed", "rows")


@dataclass(frozen=True)
class AttentionKnockout:
    """P(answer) with each flow blocked around each layer, float32 [flows, layers], and in all layers [flows].

    p_clean: with nothing blocked, computed the same way. answer_ids: the whole answer; its first token with a visible
    character decides.
    """

    flows: tuple[str, ...]
    layers: tuple[int, ...]
    window: int
    answer_ids: tuple[int, ...]
    answer_text: str
    p_clean: float
    p_blocked: np.ndarray = field(repr=False)
    p_all_blocked: np.ndarray = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Tidy: flow, window, layer (its centre), p_blocked, drop (P_clean - P_blocked).

        One row a flow has `window` = all layers: the flow blocked everywhere. Leave these out to look at single layers.
        """
        n = len(self.layers)
        frames = [
            pd.DataFrame({
                "flow": flow,
                "window": [self.window] * n + [n],
                "layer": [*self.layers, n // 2],
                "p_blocked": np.append(blocked, entirely),
            })
            for flow, blocked, entirely in zip(self.flows, self.p_blocked, self.p_all_blocked, strict=True)
        ]
        frame = pd.concat(frames, ignore_index=True)
        frame = frame.drop_duplicates(["flow", "window", "layer"], ignore_index=True)  # a window of all layers
        return frame.assign(drop=np.float32(self.p_clean) - frame["p_blocked"])


def attention_knockout(
    model,
    prompt: Prompt,
    *,
    flows: Mapping[str, tuple] | None = None,
    answer: str | None = None,
    window: int = 3,
    window_rule: str = "centered",
    method: str | None = None,
    max_packed_tokens: int | None = None,
    remote: bool | str | None = None,
) -> AttentionKnockout:
    """Block each flow around each layer, and in all of them, in one request.

    flows: name -> (source, target), each positions or names of roles; all target tokens then read none of the source
        tokens (a token always reads itself). None = `attention.FLOWS`, those that the prompt has the tokens for.
    answer: text whose probability is told, that of its first token with a visible character; None = the model's own.
        Where blank tokens stand before it, a flow to the last token is blocked at them too: it is read there.
    window, window_rule: see `causal_trace.trace`.
    method: "packed" (a segment of one sequence each; fastest) or "rows" (a batch row each, as exact in half precision
        as separate runs); None = packed in float32, rows in half precision.
    max_packed_tokens: tokens of a forward; None = by the device and its free memory.
    remote: False | True | "local"; None = as the model was loaded.
    Raises AttentionError, TraceError for the window and for an answer without tokens of its own, and PromptError for
    positions that the prompt does not have.
    """
    spans = window_spans(window, window_rule, model.n_layers)
    check_packing(max_packed_tokens, AttentionError)
    if model.attention not in MASKABLE:
        raise AttentionError(
            f"attn_implementation {model.attention!r} takes no mask of single edges: load the model with "
            f"{' or '.join(map(repr, MASKABLE))}."
        )
    method = method or default_method(model.dtype)
    if method not in METHODS:
        raise AttentionError(f"method is unknown: {method!r}; use {', '.join(map(repr, METHODS))}.")
    edges = flow_edges(prompt, flows)
    request = knockout_request(model, prompt, list(edges.values()), spans, method, max_packed_tokens)
    request["answer_ids"] = None if answer is None else answer_tokens(model, prompt, answer)
    found = in_session(model.traced, knock_out, request, model.runs_on(remote))
    return as_knockout(model, tuple(edges), window, found)


def flow_edges(prompt: Prompt, flows: Mapping[str, tuple] | None = None) -> dict[str, tuple]:
    """Name -> (target positions, source positions) of every flow.

    Of the standard flows (None) those that the prompt has tokens for. Raises AttentionError for one that has no edge.
    """
    edges = {}
    for name, ends in (FLOWS if flows is None else flows).items():
        if not isinstance(ends, tuple) or len(ends) != 2:
            raise AttentionError(f"flow {name!r} must be a pair (source, target), each positions or names of roles.")
        try:
            source, target = (resolve_positions(prompt, end) for end in ends)
        except PromptError as error:
            raise PromptError(f"flow {name!r}: {error}") from error
        if any(s < t for s in source for t in target):
            edges[name] = target, source
        elif flows is not None:
            raise AttentionError(
                f"flow {name!r} has no edge: a token only reads those before it, so name a source before the target."
            )
    if not edges:
        raise AttentionError("flows has no flow that this prompt has tokens for: name source and target by positions.")
    return edges


def knockout_request(model, prompt: Prompt, edges: list[tuple], spans, method, max_packed_tokens) -> dict:
    """What `knock_out` needs, but for the answer (None: the model's own).

    Sites are (targets, sources, start, stop): nothing blocked, then of each flow every window and all layers.
    """
    sites = [((), (), 0, 0)]
    for targets, sources in edges:
        sites += [(targets, sources, *span) for span in [*spans, (0, model.n_layers)]]
    return clean_request(model, prompt, min(min(targets) for targets, _ in edges)) | {
        "corrupted_ids": prompt.input_ids[None],  # the run that is intervened on is the clean one
        "noise": None,
        "sites": sites,
        "method": method,
        "max_packed_tokens": max_packed_tokens,
    }


def as_knockout(model, flows: tuple[str, ...], window: int, found: dict) -> AttentionKnockout:
    """The result of `knock_out` in the order of `knockout_request`'s sites."""
    blocked = found["blocked"][1:].numpy().reshape(len(flows), model.n_layers + 1)
    return AttentionKnockout(
        flows=flows,
        layers=tuple(range(model.n_layers)),
        window=window,
        answer_ids=tuple(found["answer_ids"]),
        answer_text=model.decode(found["answer_ids"]),
        p_clean=float(found["blocked"][0]),
        p_blocked=blocked[:, :-1],
        p_all_blocked=blocked[:, -1],
    )


# What runs where the weights are


def knock_out(lm, request: dict) -> dict:
    """{"answer_ids", "blocked": P(answer) [sites] float32} of a request of `knockout_request`."""
    with torch.no_grad():
        clean = clean_run(lm, request)
        return {"answer_ids": clean["answer_ids"], "blocked": blocked_sites(lm, request, clean)}


def blocked_sites(lm, request: dict, clean: dict) -> torch.Tensor:
    """P(answer) [sites] float32 with the edges of each site blocked."""
    with torch.no_grad():
        base = corrupted_run(lm, request, clean, 0)
        last, end = request["clean_ids"].shape[1] - 1, base["end"]
        sites = [  # the answer is read behind its blank tokens, if it has some: there "last" is all of these
            ((*targets, *range(last + 1, end)) if last in targets else targets, *rest)
            for targets, *rest in request["sites"]
        ]
        block = {"packed": block_packed, "rows": block_rows}[request["method"]]
        return block(lm, request | {"sites": sites}, clean, base)


def block_packed(lm, request: dict, clean: dict, base: dict) -> torch.Tensor:
    """Many sites in one sequence: a segment each, from its first target token to the end."""
    sites, end = request["sites"], base["end"]
    begins = [min(site[0], default=end - 1) for site in sites]
    costs, most = [end - begin for begin in begins], budget(lm, request, end, base["hidden"][0])
    found = torch.zeros(len(sites))
    for pack in packs(sites, costs, most):
        layer, segments = sites[pack[0]][2], [begins[s] for s in pack]
        inputs, offsets = packed_inputs(base["hidden"][layer], request["first"], segments, [end] * len(pack))
        placed = [
            (sites[s], 0, offset - begins[s], begins[s], max(segments) + offset - begins[s])
            for s, offset in zip(pack, offsets, strict=True)
        ]
        masks = blocking_masks(inputs["attention_mask"], placed)
        keep = torch.tensor([offset + end - 1 - begin for offset, begin in zip(offsets, segments, strict=True)])
        cache = extend(base["cache"], max(segments))
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, trim=True, masks=masks)["logits"]
        found[pack] = answer_probability(logits[0][:, None], clean["scored"]).cpu()
    return found


def block_rows(lm, request: dict, clean: dict, base: dict) -> torch.Tensor:
    """A batch row each, from the first target token of all flows on, behind a shared prefix."""
    sites, first, end = request["sites"], request["first"], base["end"]
    n_rows = rows_that_fit(lm, request, end, base["hidden"][0])
    found = torch.zeros(len(sites))
    for pack in packs(sites, [1] * len(sites), n_rows):
        layer, where = sites[pack[0]][2], torch.arange(first, end)
        hidden = base["hidden"][layer].expand(len(pack), -1, -1)
        mask = torch.zeros(len(pack), 1, end - first, end, dtype=hidden.dtype, device=hidden.device)
        mask.masked_fill_((torch.arange(end)[None] > where[:, None]).to(mask.device), torch.finfo(mask.dtype).min)
        inputs = {"inputs_embeds": hidden, "position_ids": where[None], "attention_mask": mask}
        masks = blocking_masks(mask, [(sites[s], row, -first, end, 0) for row, s in enumerate(pack)])
        cache = extend(clean["cache"], first, len(pack))
        logits = run(lm, inputs, keep=[end - 1 - first], cache=cache, skip=layer, masks=masks)["logits"]
        found[pack] = answer_probability(logits, clean["scored"]).cpu()
    return found


def blocking_masks(mask: torch.Tensor, placed: list[tuple]) -> dict:
    """{layer: mask [B, 1, t, keys] with the edges of all sites blocked that reach into that layer}.

    placed: (site, batch row, shift from a position to its row of the mask, position from which keys are the site's own,
    shift from those to their column; earlier keys stand in the column of their position).
    """
    edges = {}
    for (targets, sources, start, stop), row, shift, own, own_shift in placed:
        blocked = [
            (row, target + shift, source + (own_shift if source >= own else 0))
            for target in targets for source in sources if source < target
        ]
        for layer in range(start, stop):
            edges.setdefault(layer, []).extend(blocked)
    masks = {}
    for layer, triples in edges.items():
        rows, targets, columns = torch.tensor(triples, device=mask.device).unbind(1)
        masks[layer] = mask.clone()
        masks[layer][rows, 0, targets, columns] = torch.finfo(mask.dtype).min
    return masks
