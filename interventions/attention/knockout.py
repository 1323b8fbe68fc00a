"""Attention knockouts: does the model use what attention can carry?

A knockout blocks a *flow* (target tokens reading source tokens) in a window of layers and measures P(answer). It is the
causal check of `contributions.py`, by the method of Geva et al., "Dissecting Recall of Factual Associations" (EMNLP
2023); the paper does not make it. A blocked edge is a masked score: the softmax spreads over the remaining tokens.
Nothing changes before the first target token and below the window, so all flows and windows share one clean run.
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
from ..engine.windows import MASKABLE, Execution, default_method, window_spans
from ..errors import AttentionError, PromptError
from ..prompts.prompt import Prompt, answer_tokens, resolve_positions
from .contributions import FLOWS

METHODS = ("packed", "rows")


@dataclass(frozen=True)
class AttentionKnockout:
    """The result of a knockout.

    Attributes:
        flows, layers: the axes of `p_blocked`.
        window: layers blocked together.
        answer_ids, answer_text: the whole answer; its first token with a visible character is scored.
        p_clean: P(answer) with nothing blocked, computed the same way.
        p_blocked: P(answer) with each flow blocked around each layer, float32 [flows, layers].
        p_all_blocked: P(answer) with each flow blocked in all layers, float32 [flows].
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
        """Return one row per flow and window: flow, window, layer (its center), p_blocked, drop (P_clean - P_blocked).

        One row per flow has `window` = all layers: the flow blocked everywhere.
        """
        n = len(self.layers)
        frames = [
            pd.DataFrame({
                "flow": flow, "window": [self.window] * n + [n], "layer": [*self.layers, n // 2],
                "p_blocked": np.append(blocked, entirely),
            })
            for flow, blocked, entirely in zip(self.flows, self.p_blocked, self.p_all_blocked, strict=True)
        ]
        frame = pd.concat(frames, ignore_index=True)
        frame = frame.drop_duplicates(["flow", "window", "layer"], ignore_index=True)  # a window of all layers
        return frame.assign(drop=np.float32(self.p_clean) - frame["p_blocked"])


def attention_knockout(
    model, prompt: Prompt, *, flows: Mapping[str, tuple] | None = None, answer: str | None = None, window: int = 3,
    window_rule: str = "centered", execution: Execution | None = None,
) -> AttentionKnockout:
    """Block each flow around each layer, and in all layers, in one request.

    Args:
        flows: name -> (source, target), each positions or role names. Target tokens read none of the source tokens; a
            token always reads itself. None: those of `FLOWS` that the prompt has tokens for.
        answer: text of the answer to score; None: the model's own. Where blank tokens precede its first visible token,
            a flow to the last token is blocked at them too, because the answer is read there.
        window: see `causal_trace.trace`.
        window_rule: see `causal_trace.trace`.
        execution: how and where sites are computed; method "packed" or "rows".

    Returns:
        P(answer) of every flow and window.

    Raises:
        AttentionError: a flow, the method or the model cannot be used.
        TraceError: the window cannot be used, or the answer has no tokens.
        PromptError: the prompt does not have these positions.
    """
    execution = execution or Execution()
    spans = window_spans(window, window_rule, model.n_layers)
    if model.attention not in MASKABLE:
        raise AttentionError(
            f"attn_implementation {model.attention!r} takes no mask of single edges: load the model with "
            f"{' or '.join(map(repr, MASKABLE))}."
        )
    method = execution.method or default_method(model.dtype)
    if method not in METHODS:
        raise AttentionError(f"method is unknown: {method!r}; use {', '.join(map(repr, METHODS))}.")
    edges = flow_edges(prompt, flows)
    request = knockout_request(model, prompt, list(edges.values()), spans) | {
        "method": method, "max_packed_tokens": execution.max_packed_tokens,
    }
    request["answer_ids"] = None if answer is None else answer_tokens(model, prompt, answer)
    found = in_session(model.traced, knock_out, request, model.runs_on(execution.remote))
    return as_knockout(model, tuple(edges), window, found)


def flow_edges(prompt: Prompt, flows: Mapping[str, tuple] | None = None) -> dict[str, tuple]:
    """Return name -> (target positions, source positions) of every flow.

    flows: as for `attention_knockout`. Raises AttentionError for a named flow without an edge.
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


def knockout_request(model, prompt: Prompt, edges: list[tuple], spans) -> dict:
    """Return the prompt and the sites of a request to `knock_out`.

    Sites are (targets, sources, start, stop): nothing blocked, then for each flow every window and all layers.
    """
    sites = [((), (), 0, 0)]
    for targets, sources in edges:
        sites += [(targets, sources, *span) for span in [*spans, (0, model.n_layers)]]
    return clean_request(model, prompt, min(min(targets) for targets, _ in edges)) | {
        "corrupted_ids": prompt.input_ids[None],  # the run that is intervened on is the clean one
        "noise": None, "sites": sites,
    }


def as_knockout(model, flows: tuple[str, ...], window: int, found: dict) -> AttentionKnockout:
    """Return the result of `knock_out`, whose sites are in the order of `knockout_request`."""
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
    """Return {"answer_ids", "blocked": P(answer) [sites] float32}."""
    with torch.no_grad():
        clean = clean_run(lm, request)
        return {"answer_ids": clean["answer_ids"], "blocked": blocked_sites(lm, request, clean)}


def blocked_sites(lm, request: dict, clean: dict) -> torch.Tensor:
    """Return P(answer) [sites] float32 with the edges of each site blocked."""
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
    """Run many sites in one sequence: a segment each, from its first target token to the end."""
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
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, trim=True, writes=masks)["logits"]
        found[pack] = answer_probability(logits[0][:, None], clean["scored"]).cpu()
    return found


def block_rows(lm, request: dict, clean: dict, base: dict) -> torch.Tensor:
    """Run one batch row per site, from the first target token of all flows on, behind a shared prefix."""
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
        logits = run(lm, inputs, keep=[end - 1 - first], cache=cache, skip=layer, writes=masks)["logits"]
        found[pack] = answer_probability(logits, clean["scored"]).cpu()
    return found


def blocking_masks(mask: torch.Tensor, placed: list[tuple]) -> dict:
    """Return {layer: mask [B, 1, t, keys]} that blocks the edges of all sites that reach into that layer.

    placed: (site, batch row, shift from a position to its row of the mask, position from which keys are the site's own,
    shift from those to their column). Earlier keys stand in the column of their position.
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
        masks[layer, "mask"] = mask.clone()
        masks[layer, "mask"][rows, 0, targets, columns] = torch.finfo(mask.dtype).min
    return masks
