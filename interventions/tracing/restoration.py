"""The corrupted run with clean outputs restored: what `causal_trace.trace` computes where the weights are.

Three methods give the same numbers: `plain` runs a whole forward per site, `rows` a batch row, `packed` a segment of
one sequence. A *site* is (kinds, pairs, start, stop): in layers start <= l < stop the outputs of the modules `kinds` at
corrupted position p become the clean outputs at position c, for all (c, p) of pairs. A causal trace has one pair.

In a *transplant*, the outputs come from the run of another prompt, the donor, and c is a position in that prompt.
"""

import torch

from ..engine.forward import extend, positions_at, prompt_inputs, run, token_types
from ..engine.packing import budget, packed_inputs, packs, rows_that_fit
from ..engine.runs import (
    answer_probability,
    clean_run,
    corrupted_run,
    image_writes,
    n_samples,
    own_answer_ids,
    with_answer,
)


def restore_sites(lm, request: dict) -> dict:
    """Return P(answer) of the clean run, of the corrupted run, and of the corrupted run with each site restored.

    Answers are read in one sweep over the sites if the tokens that the model is fed are the same, else in one each.

    Args:
        lm: the nnsight model.
        request: a dict that is sent to a server as it is:
            clean_ids [1, T], corrupted_ids [1, T'], positions and corrupted_positions (see `positions_at`),
            image_inputs (see `Prompt`), image_token_id (-1: none), image_layers (see `Reads`);
            first: no position before it differs between the runs; noise: None or (positions, scale, samples, seed);
            kinds; sites: as in the module's docstring, pairs at or after `first`;
            donor: None, or a dict with clean_ids, positions, image_inputs and first of the prompt whose outputs are
            written;
            answer_ids: list, or None for the model's own (up to max_answer_tokens, or one of eos_token_ids);
            other_answers: lists of the tokens of further answers;
            blank_ids, sequence: which answer tokens are scored, see `scored_part`;
            require_top: stop after the clean run if the given answer is not the model's;
            min_p_clean: stop after the clean run if the answer is less probable than this;
            method: "packed" | "rows" | "plain"; max_packed_tokens: a number or None.

    Returns:
        {"p_clean", "p_corrupted", "restored" [sites] float32, "answer_ids"}, with a donor "p_donor", P(answer) of its
        own run, and in "other_answers" a list of the same for each of them. With noise, corrupted and restored
        probabilities are means over the samples. A request that stopped after the clean run has only "p_clean" and
        "answer_ids"; if it stopped because of require_top, "own_answer_ids" too.
    """
    with torch.no_grad():
        donor, others = request["donor"], request["other_answers"]
        clean = clean_run(lm, request if donor is None else request | {"kinds": ()})
        if request["require_top"] and not clean["is_top"]:
            return probability_of(clean) | {"own_answer_ids": own_answer_ids(lm, request, clean)}
        if clean["p_clean"] < request["min_p_clean"]:
            return probability_of(clean)
        runs = [clean, *(with_answer(lm, request, clean, answer) for answer in others)]
        results, source = [probability_of(one) for one in runs], clean
        if donor is not None:
            own = request | donor | {"corrupted_ids": None, "answer_ids": clean["answer_ids"], "require_top": False}
            source = clean_run(lm, own)
            for result in results:
                result["p_donor"] = with_answer(lm, own, source, result["answer_ids"])["p_clean"]
        for members in alike(runs):
            read = {"source": source, "read": [runs[n]["scored"] for n in members]}
            p_corrupted, p_restored = restore_all(lm, request, runs[members[0]] | read)
            for place, n in enumerate(members):
                results[n] |= {"p_corrupted": p_corrupted[place], "restored": p_restored[:, place].clone()}
        return results[0] | {"other_answers": results[1:]}


def probability_of(clean: dict) -> dict:
    return {key: clean[key] for key in ("p_clean", "answer_ids")}


def alike(runs: list[dict]) -> list[list[int]]:
    """Group answers, as indices, that one sweep can read: the model is fed the same tokens, and as many are scored."""
    groups = {}
    for n, one in enumerate(runs):
        tokens = (*one["forced"], *one["scored"])
        groups.setdefault((len(one["scored"]), tokens[:-1]), []).append(n)
    return list(groups.values())


def restore_all(lm, request: dict, clean: dict) -> tuple[list[float], torch.Tensor]:
    """Return P(answer) of the corrupted run [answers] and with each site restored [sites, answers], means over samples.

    clean: from `clean_run`, with "source", the run whose outputs are written, and "read", the scored tokens of each
    answer.
    """
    restore = {"packed": restore_packed, "rows": restore_rows, "plain": restore_plain}[request["method"]]
    samples, answers = n_samples(request), len(clean["read"])
    corrupted, restored = [0.0] * answers, torch.zeros(len(request["sites"]), answers)
    for sample in range(samples):
        p_corrupted, p_restored = restore(lm, request, clean, corrupted_run(lm, request, clean, sample))
        corrupted = [total + p / samples for total, p in zip(corrupted, p_corrupted.tolist(), strict=True)]
        restored += p_restored / samples
    return corrupted, restored


def answer_probabilities(logits: torch.Tensor, clean: dict) -> torch.Tensor:
    """Return P(answer) [..., answers] of all answers that are read, by logits [..., scored tokens, V]."""
    return torch.stack([answer_probability(logits, scored) for scored in clean["read"]], dim=-1).cpu()


def restore_plain(lm, request: dict, clean: dict, corrupted: dict):
    """Run one whole forward per site, image encoder included: the slow reference of the other two."""
    ids, end = corrupted["ids"], corrupted["end"]
    inputs, always = prompt_inputs(ids, request["corrupted_positions"], request["image_inputs"]), {}
    # A layer's output is written as the next layer reads it, so features of the image (DeepStack) are added here, too.
    if request["noise"] is not None or request["image_layers"]:
        prefix, where = clean["embeddings"][:, : request["first"]], torch.arange(end)
        embeddings = {"inputs_embeds": torch.cat([prefix, corrupted["hidden"][0]], dim=1)}
        inputs = embeddings | {"position_ids": inputs["position_ids"]} | token_types(request["image_inputs"], end)
        always = image_writes(request, clean, ids, where)
    probabilities = []
    for placed in [[]] + [[(site, 0, 0)] for site in request["sites"]]:
        writes = always | site_writes(placed, clean["source"])
        logits = run(lm, inputs, keep=corrupted["keep"], writes=writes)["logits"]
        probabilities.append(answer_probabilities(logits[0], clean))
    return probabilities[0], torch.stack(probabilities)[1:]


def restore_rows(lm, request: dict, clean: dict, corrupted: dict):
    """Run one batch row per site: the suffix from `first` on over the shared prefix, from the site's first layer on.

    Every row is computed as it would be alone, which keeps half precision exact.
    """
    sites, first = request["sites"], request["first"]
    n_rows = rows_that_fit(lm, request, corrupted["end"], corrupted["hidden"][0])
    restored = torch.zeros(len(sites), len(clean["read"]))
    for pack in packs(sites, [1] * len(sites), n_rows):
        layer, rows, where = sites[pack[0]][2], len(pack), torch.arange(first, corrupted["end"])
        inputs = {
            "inputs_embeds": corrupted["hidden"][layer].expand(rows, -1, -1),
            "position_ids": positions_at(request["corrupted_positions"], where),
        }
        writes = image_writes(request, clean, corrupted["ids"], where, layer, rows)
        writes |= site_writes([(sites[s], row, -first) for row, s in enumerate(pack)], clean["source"])
        cache = extend(clean["cache"], first, rows)
        keep = corrupted["keep"] - first
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, writes=writes)["logits"]
        restored[pack] = answer_probabilities(logits, clean)
    return answer_probabilities(corrupted["logits"][0], clean), restored


def restore_packed(lm, request: dict, clean: dict, corrupted: dict):
    """Run many sites in one sequence: a segment each, from the first restored position to the end.

    All segments share the corrupted run's cache of earlier positions. In a site's first layer only the restored tokens
    change: that layer runs for them alone. Their outputs enter the next layer together with the corrupted run's hidden
    states of the tokens behind them. Layers below are skipped.
    """
    sites, first, end, table = request["sites"], request["first"], corrupted["end"], request["corrupted_positions"]
    begins = [min(p for _, p in site[1]) for site in sites]
    costs, most = [end - begin for begin in begins], budget(lm, request, end, corrupted["hidden"][0])
    restored = torch.zeros(len(sites), len(clean["read"]))
    for pack in packs(sites, costs, most):
        layer = sites[pack[0]][2] + 1
        segments = [begins[s] for s in pack]
        hidden, ends = corrupted["hidden"][layer], [end] * len(pack)
        inputs, offsets, places = packed_inputs(hidden, table, first, segments, ends)
        placed = [(sites[s], 0, offset - begins[s]) for s, offset in zip(pack, offsets, strict=True)]
        where = [p + shift for (_, pairs, _, _), _, shift in placed for _, p in pairs]
        entering = first_layer(lm, request, clean, corrupted, [sites[s] for s in pack])
        inputs["inputs_embeds"][0, where] = entering.to(inputs["inputs_embeds"])
        keep = torch.cat([corrupted["keep"] + shift for _, _, shift in placed])
        cache = extend(corrupted["cache"], max(segments))
        writes = image_writes(request, clean, corrupted["ids"], places, layer) | site_writes(placed, clean["source"])
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, trim=True, writes=writes)["logits"]
        logits = logits[0].unflatten(0, (len(pack), len(corrupted["keep"])))
        restored[pack] = answer_probabilities(logits, clean)
    return answer_probabilities(corrupted["logits"][0], clean), restored


def first_layer(lm, request: dict, clean: dict, corrupted: dict, sites) -> torch.Tensor:
    """Return the outputs [m, d] of the layer in which all these sites start, at their restored tokens."""
    layer, first = sites[0][2], request["first"]
    pairs = [(site, pair) for site in sites for pair in site[1]]
    begins = [p for _, (_, p) in pairs]
    hidden, ends = corrupted["hidden"][layer], [p + 1 for p in begins]
    inputs, offsets, places = packed_inputs(hidden, request["corrupted_positions"], first, begins, ends)
    placed = [
        ((kinds, (pair,), start, start + 1), 0, offset - pair[1])
        for ((kinds, _, start, _), pair), offset in zip(pairs, offsets, strict=True)
    ]
    cache = extend(corrupted["cache"], max(begins))
    writes = image_writes(request, clean, corrupted["ids"], places, layer) | site_writes(placed, clean["source"])
    return run(lm, inputs, keep=[0], cache=cache, skip=layer, stop=layer + 1, writes=writes)["output"][0]


def site_writes(placed, source: dict) -> dict:
    """Return the `writes` argument of `run` for [(site, row, shift)]: outputs of a run at corrupted position + shift.

    source: from `clean_run`.
    """
    index = {}
    for (kinds, pairs, start, stop), row, shift in placed:
        for key in [(layer, kind) for kind in kinds for layer in range(start, stop)]:
            index.setdefault(key, []).extend((row, p + shift, c - source["first"]) for c, p in pairs)
    writes = {}
    for (layer, kind), triples in index.items():
        rows, positions, sources = torch.tensor(triples).unbind(1)
        output = source[kind][layer + (kind == "hidden")][0]  # hidden begins with the embeddings
        writes[layer, kind] = (rows, positions, output[sources.to(output.device)])
    return writes
