"""Attention knockouts: does the model use what attention can carry?

A knockout blocks a *flow* (target tokens reading source tokens) in a window of layers and measures P(answer). It is the
causal check of `contributions.py`, by the method of Geva et al., "Dissecting Recall of Factual Associations" (EMNLP
2023); the paper does not make it. A blocked edge is a masked score: the softmax spreads over the remaining tokens.
Nothing changes before the first target token and below the window, so all flows and windows share one clean run.

A drop does not say what was lost: the last token may read the answer at the source, or something else that it needs. A
*donor* tells. In the same window, the last token reads the keys and values that the donor's own run has at the source,
for example those of the same words about another image. If the donor's answer appears, the flow carries the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from ..engine.forward import extend, in_session, positions_at, run
from ..engine.packing import budget, packed_inputs, packs, rows_that_fit
from ..engine.runs import (
    answer_probability,
    clean_request,
    clean_run,
    corrupted_run,
    image_writes,
    prompt_request,
    with_answer,
)
from ..engine.windows import MASKABLE, Execution, default_method, window_spans
from ..errors import AttentionError, PromptError
from ..prompts.prompt import Prompt, answer_token_ids, counterparts, resolve_positions
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
        p_transplanted, p_all_transplanted: likewise, with each flow read from the donor; None without a donor.
        p_donor: P(answer) in the donor's own run; NaN without a donor.
        other_answers: the same knockouts read for the other `answers`.
    """

    flows: tuple[str, ...]
    layers: tuple[int, ...]
    window: int
    answer_ids: tuple[int, ...]
    answer_text: str
    p_clean: float
    p_blocked: np.ndarray = field(repr=False)
    p_all_blocked: np.ndarray = field(repr=False)
    p_transplanted: np.ndarray | None = field(default=None, repr=False)
    p_all_transplanted: np.ndarray | None = field(default=None, repr=False)
    p_donor: float = math.nan
    other_answers: tuple[AttentionKnockout, ...] = field(default=(), repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per flow and window: flow, window, layer (its center), p_blocked, drop (P_clean - P_blocked).

        One row per flow has `window` = all layers: the flow blocked everywhere. With a donor, there are columns
        p_transplanted and p_donor. With several answers, there are rows for each, and a column answer.
        """
        if self.other_answers:
            answers = (replace(self, other_answers=()), *self.other_answers)
            frames = [one.to_frame().assign(answer=one.answer_text) for one in answers]
            return pd.concat(frames, ignore_index=True)
        n, n_flows = len(self.layers), len(self.flows)
        frame = pd.DataFrame({
            "flow": np.repeat(np.array(self.flows, dtype=object), n + 1),
            "window": ([self.window] * n + [n]) * n_flows,
            "layer": [*self.layers, n // 2] * n_flows,
            "p_blocked": np.column_stack([self.p_blocked, self.p_all_blocked]).ravel(),
        })
        frame["drop"] = np.float32(self.p_clean) - frame["p_blocked"]
        if self.p_transplanted is not None and self.p_all_transplanted is not None:
            frame["p_transplanted"] = np.column_stack([self.p_transplanted, self.p_all_transplanted]).ravel()
            frame["p_donor"] = np.float32(self.p_donor)
        return frame.drop_duplicates(["flow", "window", "layer"], ignore_index=True)  # a window of all layers


def attention_knockout(
    model, prompt: Prompt, *, flows: Mapping[str, tuple] | None = None, answer: str | Iterable[int] | None = None,
    answers: Iterable[str | Iterable[int]] | None = None, donor: Prompt | None = None, window: int = 3,
    window_rule: str = "centered", execution: Execution | None = None,
) -> AttentionKnockout:
    """Block each flow around each layer, and in all layers, in one request.

    Args:
        flows: name -> (source, target), each positions or role names. Target tokens read none of the source tokens; a
            token always reads itself. None: those of `FLOWS` that the prompt has tokens for; with a donor, those of
            them whose target is the last token.
        answer: the answer to score, as text or token ids; None: the model's own. Where blank tokens precede its first
            visible token, a flow to the last token is blocked at them too, because the answer is read there.
        answers: in place of `answer`, several answers to score.
        donor: a prompt from whose own run the target also reads the source tokens, in place of blocking them. Targets
            must be the last token, and source tokens must stand at the same positions in both prompts.
        window: see `causal_trace.trace`.
        window_rule: see `causal_trace.trace`.
        execution: how and where sites are computed; method "packed" or "rows". Sites with a donor are always rows.

    Returns:
        P(answer) of every flow and window, and in `other_answers` that of the others.

    Raises:
        AttentionError: a flow, the donor, the method or the model cannot be used.
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
    if donor is not None and flows is None:
        flows = {name: ends for name, ends in FLOWS.items() if ends[1] == "last" and prompt.positions(ends[0])}
    edges = flow_edges(prompt, flows)
    if donor is not None:
        check_donor(prompt, donor, edges)
    scored = _answers(model, prompt, answer, answers)
    request = knockout_request(model, prompt, list(edges.values()), spans, scored, donor) | {
        "method": method, "max_packed_tokens": execution.max_packed_tokens,
    }
    found = in_session(model.traced, knock_out, request, model.runs_on(execution.remote))
    results = [as_knockout(model, tuple(edges), window, one) for one in (found, *found["other_answers"])]
    return replace(results[0], other_answers=tuple(results[1:]))


def check_donor(prompt: Prompt, donor: Prompt, edges: Mapping[str, tuple]) -> None:
    """Raise AttentionError for a flow (of `flow_edges`) that cannot be read from this donor.

    Keys are rotated by their position, so the donor's fit only at the same one. The cache of a row is shared by all its
    tokens, so they must all be targets.
    """
    sources_of = counterparts(prompt, donor, AttentionError)
    for name, (targets, sources) in edges.items():
        if targets != (prompt.last,):
            raise AttentionError(
                f"flow {name!r} has other targets than the last token: leave donor out, or name a flow to 'last'."
            )
        moved = [
            source for source in sources if source < prompt.last and (
                sources_of[source] != source
                or not torch.equal(prompt.position_ids[:, source], donor.position_ids[:, source])
            )
        ]
        if moved:
            raise AttentionError(
                f"donor has no token at position {moved[0]} that corresponds to {prompt.tokens[moved[0]]!r}: give a "
                f"donor of the same form, with source tokens of flow {name!r} at the same positions."
            )


def _answers(model, prompt: Prompt, answer, answers) -> list[list[int] | None]:
    """Return the tokens of each answer; None is the model's own."""
    if answers is None:
        return [None if answer is None else answer_token_ids(model, prompt, answer, AttentionError)]
    answers = [answers] if isinstance(answers, str) else list(answers)
    if answer is not None or not answers:
        raise AttentionError("answers takes the place of answer and must hold one at least: give one of the two.")
    return [answer_token_ids(model, prompt, one, AttentionError) for one in answers]


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


def knockout_request(
    model, prompt: Prompt, edges: list[tuple], spans: list[tuple], answers: list, donor: Prompt | None = None
) -> dict:
    """Return the prompts, the answers and the sites of a request to `knock_out`.

    Sites are (targets, sources, start, stop): nothing blocked, then for each flow every window and all layers.
    """
    answer, *others = answers
    sites = [((), (), 0, 0)]
    for targets, sources in edges:
        sites += [(targets, sources, *span) for span in [*spans, (0, model.n_layers)]]
    return clean_request(model, prompt, min(min(targets) for targets, _ in edges)) | {
        # The run that is intervened on is the clean one.
        "corrupted_ids": prompt.input_ids[None], "corrupted_positions": prompt.position_ids,
        "noise": None, "sites": sites, "answer_ids": answer, "other_answers": others,
        "donor": None if donor is None else prompt_request(donor),
    }


def as_knockout(model, flows: tuple[str, ...], window: int, found: dict) -> AttentionKnockout:
    """Return the result for one answer of `knock_out`, whose sites are in the order of `knockout_request`."""
    tables = {}
    for name in ("blocked", "transplanted"):
        if name in found:
            table = found[name][1:].numpy().reshape(len(flows), model.n_layers + 1)
            tables |= {f"p_{name}": table[:, :-1], f"p_all_{name}": table[:, -1]}
    return AttentionKnockout(
        flows=flows,
        layers=tuple(range(model.n_layers)),
        window=window,
        answer_ids=tuple(found["answer_ids"]),
        answer_text=model.decode(found["answer_ids"]),
        p_clean=float(found["blocked"][0]),
        p_donor=found.get("p_donor", math.nan),
        **tables,
    )


# What runs where the weights are


def knock_out(lm, request: dict) -> dict:
    """Return {"answer_ids", "blocked": P(answer) [sites] float32}, and in "other_answers" a list of the same.

    With a donor, "transplanted" is P(answer) [sites] with each flow read from it, and "p_donor" that of its own run.
    """
    with torch.no_grad():
        clean, donor, results = clean_run(lm, request), request["donor"], []
        runs = [clean, *(with_answer(lm, request, clean, answer) for answer in request["other_answers"])]
        if donor is not None:
            theirs = request | donor | {"corrupted_ids": None, "answer_ids": clean["answer_ids"]}
            source = clean_run(lm, theirs)
        for one in runs:
            result = {"answer_ids": one["answer_ids"], "blocked": blocked_sites(lm, request, one)}
            if donor is not None:
                read = one | {"donor_cache": source["cache"]}
                result["transplanted"] = blocked_sites(lm, request | {"method": "rows"}, read)
                result["p_donor"] = with_answer(lm, theirs, source, one["answer_ids"])["p_clean"]
            results.append(result)
        return results[0] | {"other_answers": results[1:]}


def blocked_sites(lm, request: dict, clean: dict) -> torch.Tensor:
    """Return P(answer) [sites] float32 with the edges of each site blocked.

    clean: from `clean_run`; with "donor_cache", the sources are read there instead, and all targets must be last.
    """
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
        hidden, ends = base["hidden"][layer], [end] * len(pack)
        inputs, offsets, places = packed_inputs(hidden, request["positions"], request["first"], segments, ends)
        placed = [
            (sites[s], 0, offset - begins[s], begins[s], max(segments) + offset - begins[s])
            for s, offset in zip(pack, offsets, strict=True)
        ]
        writes = image_writes(request, clean, base["ids"], places, layer)
        writes |= blocking_masks(inputs["attention_mask"], placed)
        keep = torch.tensor([offset + end - 1 - begin for offset, begin in zip(offsets, segments, strict=True)])
        cache = extend(base["cache"], max(segments))
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, trim=True, writes=writes)["logits"]
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
        placed = positions_at(request["positions"], where)
        inputs = {"inputs_embeds": hidden, "position_ids": placed, "attention_mask": mask}
        cache, writes = extend(clean["cache"], first, len(pack)), {}
        if "donor_cache" in clean:
            read_from_donor(cache, clean["donor_cache"], [sites[s] for s in pack])
        else:
            writes = image_writes(request, clean, base["ids"], where, layer, len(pack))
            writes |= blocking_masks(mask, [(sites[s], row, -first, end, 0) for row, s in enumerate(pack)])
        logits = run(lm, inputs, keep=[end - 1 - first], cache=cache, skip=layer, writes=writes)["logits"]
        found[pack] = answer_probability(logits, clean["scored"]).cpu()
    return found


def read_from_donor(cache, donor, sites: list[tuple]) -> None:
    """Put the donor's keys and values of the sources into the cache of each row, in the layers of its site."""
    for index, (layer, theirs) in enumerate(zip(cache.layers, donor.layers, strict=True)):
        rows = [(row, sources) for row, (_, sources, start, stop) in enumerate(sites) if start <= index < stop]
        if not rows:
            continue
        layer.keys, layer.values = layer.keys.clone(), layer.values.clone()  # rows share them
        for row, sources in rows:
            before = [source for source in sources if source < layer.keys.shape[2]]  # the last token reads itself
            layer.keys[row, :, before] = theirs.keys[0, :, before]
            layer.values[row, :, before] = theirs.values[0, :, before]


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
