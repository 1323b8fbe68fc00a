"""The corrupted run with pieces of the clean run restored: what `causal_trace.trace` computes.

One clean run and one corrupted run a question, then every site in one of three ways that agree: `plain` (a
whole forward a site), `rows` (a batch row a site) and `packed` (a segment a site); see `forward.py` for why
they may.

A *site* is (kinds, pairs, start, stop): in layers start <= l < stop the outputs of the modules `kinds` at
corrupted position p become the clean run's outputs at position c, for all (c, p) of pairs. A causal trace has
one pair a site; several restore a whole phrase, or everything.
"""

import torch
from transformers import DynamicCache

from ..engine.forward import decode, extend, prompt_inputs, run
from ..engine.packing import budget, packed_inputs, rows_that_fit
from ..statistics import answer_probability


def restore_sites(lm, request: dict) -> dict:
    """P(answer) of the clean run, of the corrupted run, and of the corrupted run with each site restored.

    request, a dict that travels as it is:
      clean_ids [1, T], corrupted_ids [1, T'], image_inputs (of the picture, see `Prompt`), image_token_id (-1: none);
      first: no position before it differs between the runs; noise: None or (positions, scale, samples, seed);
      kinds; sites: as in the module's docstring, pairs at or after `first`;
      answer_ids: list, or None for the model's own (up to max_answer_tokens, or one of eos_token_ids); blank_ids,
      sequence: which of its tokens are scored, see `scored_part`;
      require_top: the work ends after the clean run if the answer given is not what the model says;
      min_p_clean: and if the answer is less probable than that;
      method: "packed" | "rows" | "plain"; max_packed_tokens: a number or None.
    Returns {"p_clean", "p_corrupted", "restored" [sites] float32, "answer_ids"}; with noise the corrupted and restored
    probabilities are means over the samples. Work that ended after the clean run has no "p_corrupted" and "restored",
    and where the answer was another one, has "said": the model's own.
    """
    with torch.no_grad():
        clean = clean_run(lm, request)
        result = {key: clean[key] for key in ("p_clean", "answer_ids")}
        if request["require_top"] and not clean["is_top"]:
            return result | {"said": own_answer_ids(lm, request, clean)}
        if clean["p_clean"] < request["min_p_clean"]:
            return result
        restore = {"packed": restore_packed, "rows": restore_rows, "plain": restore_plain}[request["method"]]
        samples = n_samples(request)
        corrupted, restored = 0.0, torch.zeros(len(request["sites"]))
        for sample in range(samples):
            p_corrupted, p_restored = restore(lm, request, clean, corrupted_run(lm, request, clean, sample))
            corrupted += p_corrupted / samples
            restored += p_restored / samples
        return result | {"p_corrupted": corrupted, "restored": restored}


def n_samples(request: dict) -> int:
    """How often the corrupted run is made: once, or with noise once a draw."""
    return 1 if request["noise"] is None else request["noise"][2]


def clean_run(lm, request: dict) -> dict:
    """The clean prompt, once: encodes the image, records module outputs from `first` on, decides the answer.

    Returns attention, mlp (lists of [1, T - first, d] by layer), embeddings [1, T, d], embedded (those of the corrupted
    prompt's text, where the request has one, and of the answer's tokens that are fed), cache (of the prompt),
    first_logits [1, 1, V] (behind the prompt), answer_ids, forced and scored (see `scored_part`), logits
    [1, len(scored), V] (those that predict the scored tokens), p_clean, is_top (whether every token of the answer, or
    without require_top every forced and scored one, is the likeliest).
    """
    ids = request["clean_ids"]
    clean = run(
        lm,
        prompt_inputs(ids, request["image_inputs"]),
        keep=[ids.shape[1] - 1],
        cache=DynamicCache(),
        reads=(*request["kinds"], "embeddings", "cache"),
        start=request["first"],
        embed=request.get("corrupted_ids"),
    )
    clean["first_logits"] = clean["logits"]
    answer = request["answer_ids"]
    answer = list(own_answer_ids(lm, request, clean) if answer is None else answer)
    forced, scored = scored_part(answer, request["blank_ids"], request["sequence"])
    fed = [*forced, *scored][:-1]
    checked = answer if request.get("require_top") else [*forced, *scored]
    logits = clean["first_logits"]
    if len(checked) > 1:
        inputs, keep = {"input_ids": torch.tensor([checked[:-1]])}, torch.arange(len(checked) - 1)
        cache = extend(clean["cache"], ids.shape[1])
        more = run(lm, inputs, keep=keep, cache=cache, reads=("embeddings",))
        logits = torch.cat([logits, more["logits"]], dim=1)
        if "embedded" in clean:
            clean["embedded"] = torch.cat([clean["embedded"], more["embeddings"][:, : len(fed)]], dim=1)
    clean |= {"answer_ids": answer, "forced": forced, "scored": scored}
    clean["is_top"] = logits[0].argmax(-1).tolist() == checked
    clean["logits"] = logits[:, len(forced) : len(forced) + len(scored)]
    clean["p_clean"] = float(answer_probability(clean["logits"], scored)[0])
    return clean


def own_answer_ids(lm, request: dict, clean: dict) -> list[int]:
    """The model's own answer behind a clean run: its tokens without the end; the end token, if it answers nothing."""
    cache = extend(clean["cache"], request["clean_ids"].shape[1])  # decoding extends it in turn
    logits = clean["first_logits"]
    answer = decode(lm, cache, logits, request["eos_token_ids"], request["max_answer_tokens"])
    return answer or [int(logits[0, -1].argmax())]


def scored_part(answer: list[int], blank_ids, sequence: bool) -> tuple[list[int], list[int]]:
    """(forced, scored): the answer's tokens that are only fed to the model, and those whose probability counts behind
    them.

    Scored is the first token with a visible character: where a tokenizer writes the space before "2006" as a token of
    its own, that one says nothing about the answer, so it is teacher-forced. sequence: all tokens are scored.
    """
    if sequence:
        return [], list(answer)
    n = 0
    while n < len(answer) - 1 and answer[n] in blank_ids:
        n += 1
    return list(answer[:n]), list(answer[n : n + 1])


def corrupted_run(lm, request: dict, clean: dict, sample: int) -> dict:
    """The corrupted prompt (and the answer's tokens, teacher forced) from `first` on, over the clean prefix.

    Returns hidden (list of [1, t, d] by layer, the first being the embeddings), cache (of the whole corrupted
    sequence), ids [1, end] (the sequence), end (its length), keep (positions that predict the scored tokens), logits
    [1, len(keep), V], p_corrupted.
    """
    first, forced, scored = request["first"], clean["forced"], clean["scored"]
    fed = torch.tensor([[*forced, *scored][:-1]], dtype=torch.long)
    ids = torch.cat([request["corrupted_ids"], fed], dim=1)
    embeddings = clean["embedded"][:, first:].clone()
    visual = clean["embeddings"][(request["clean_ids"] == request["image_token_id"]).to(embeddings.device)]  # [m, d]
    is_visual = (ids[:, first:] == request["image_token_id"]).to(embeddings.device)
    if is_visual.any():  # the last ones of the picture, which are the clean run's
        embeddings[is_visual] = visual[len(visual) - int(is_visual.sum()) :]
    if request["noise"] is not None:
        embeddings = embeddings + embedding_noise(request, clean["embeddings"], embeddings, sample)
    end = ids.shape[1]
    keep = torch.arange(end - len(scored), end)
    cache = extend(clean["cache"], first)
    inputs = {"inputs_embeds": embeddings, "position_ids": torch.arange(first, end)[None]}
    corrupted = run(lm, inputs, keep=keep - first, cache=cache, reads=("hidden", "cache"))
    p_corrupted = float(answer_probability(corrupted["logits"], scored)[0])
    return corrupted | {"ids": ids, "end": end, "keep": keep, "p_corrupted": p_corrupted}


def embedding_noise(request: dict, clean_embeddings, like, sample: int) -> torch.Tensor:
    """Gaussian noise [1, t, d] at the noised positions, 0 elsewhere.

    Its standard deviation is `scale` times that of the prompt's own embeddings at those positions, visual and
    text tokens apart: their sizes differ by far, one common value would leave one of them almost unharmed.
    Drawn on the CPU in float32, from a seed for each sample, so that it is the same on every device.
    """
    positions, scale, _, seed = request["noise"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + sample)
    noise = torch.zeros(like.shape)
    positions = torch.tensor(positions)
    is_visual = request["clean_ids"][0, positions] == request["image_token_id"]
    drawn = torch.randn(len(positions), like.shape[-1], generator=generator)
    for group in (is_visual, ~is_visual):
        if group.any():
            sigma = clean_embeddings[0].float().cpu()[positions[group]].std()
            noise[0, positions[group] - request["first"]] = scale * sigma * drawn[group]
    return noise.to(like)


def restore_plain(lm, request: dict, clean: dict, corrupted: dict):
    """One whole forward a site, image encoder included: the slow reference of the other two."""
    inputs = prompt_inputs(corrupted["ids"], request["image_inputs"])
    if request["noise"] is not None:
        prefix = clean["embeddings"][:, : request["first"]]
        inputs = {"inputs_embeds": torch.cat([prefix, corrupted["hidden"][0]], dim=1)}
    probabilities = []
    for placed in [[]] + [[(site, 0, 0)] for site in request["sites"]]:
        writes = site_writes(placed, clean, request["first"])
        logits = run(lm, inputs, keep=corrupted["keep"], writes=writes)["logits"]
        probabilities.append(float(answer_probability(logits, clean["scored"])[0]))
    return probabilities[0], torch.tensor(probabilities[1:])


def restore_rows(lm, request: dict, clean: dict, corrupted: dict):
    """A batch row a site: the suffix from `first` on over the shared prefix, layers below the site skipped.

    Every row is computed as it would be alone, which keeps half precision exact.
    """
    sites, first = request["sites"], request["first"]
    n_rows = rows_that_fit(lm, request, corrupted["end"], corrupted["hidden"][0])
    restored = torch.zeros(len(sites))
    for pack in packs(sites, [1] * len(sites), n_rows):
        layer, rows = sites[pack[0]][2], len(pack)
        inputs = {
            "inputs_embeds": corrupted["hidden"][layer].expand(rows, -1, -1),
            "position_ids": torch.arange(first, corrupted["end"])[None],
        }
        writes = site_writes([(sites[s], row, -first) for row, s in enumerate(pack)], clean, first)
        cache = extend(clean["cache"], first, rows)
        keep = corrupted["keep"] - first
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, writes=writes)["logits"]
        restored[pack] = answer_probability(logits, clean["scored"]).cpu()
    return corrupted["p_corrupted"], restored


def restore_packed(lm, request: dict, clean: dict, corrupted: dict):
    """Many sites in one sequence: a segment each, from the first restored position to the end.

    What a segment needs of earlier positions is the corrupted run's cache, shared by all. In a site's first
    layer only the restored tokens change: that layer runs for them alone, and their outputs enter the next
    one together with the corrupted run's hidden states of the tokens behind them. Layers below are skipped.
    """
    sites, first, end = request["sites"], request["first"], corrupted["end"]
    begins = [min(p for _, p in site[1]) for site in sites]
    costs, most = [end - begin for begin in begins], budget(lm, request, end, corrupted["hidden"][0])
    restored = torch.zeros(len(sites))
    for pack in packs(sites, costs, most):
        layer = sites[pack[0]][2] + 1
        segments = [begins[s] for s in pack]
        inputs, offsets = packed_inputs(corrupted["hidden"][layer], first, segments, [end] * len(pack))
        placed = [(sites[s], 0, offset - begins[s]) for s, offset in zip(pack, offsets, strict=True)]
        where = [p + shift for (_, pairs, _, _), _, shift in placed for _, p in pairs]
        entering = first_layer(lm, request, clean, corrupted, [sites[s] for s in pack])
        inputs["inputs_embeds"][0, where] = entering.to(inputs["inputs_embeds"])
        keep = torch.cat([corrupted["keep"] + shift for _, _, shift in placed])
        cache = extend(corrupted["cache"], max(segments))
        writes = site_writes(placed, clean, first)
        logits = run(lm, inputs, keep=keep, cache=cache, skip=layer, trim=True, writes=writes)["logits"]
        logits = logits[0].unflatten(0, (len(pack), len(corrupted["keep"])))
        restored[pack] = answer_probability(logits, clean["scored"]).cpu()
    return corrupted["p_corrupted"], restored


def first_layer(lm, request: dict, clean: dict, corrupted: dict, sites) -> torch.Tensor:
    """Outputs [m, d] of the layer in which all these sites start, at their restored tokens, pair by pair."""
    layer, first = sites[0][2], request["first"]
    pairs = [(site, pair) for site in sites for pair in site[1]]
    begins = [p for _, (_, p) in pairs]
    inputs, offsets = packed_inputs(corrupted["hidden"][layer], first, begins, [p + 1 for p in begins])
    placed = [
        ((kinds, (pair,), start, start + 1), 0, offset - pair[1])
        for ((kinds, _, start, _), pair), offset in zip(pairs, offsets, strict=True)
    ]
    cache = extend(corrupted["cache"], max(begins))
    writes = site_writes(placed, clean, first)
    return run(lm, inputs, keep=[0], cache=cache, skip=layer, stop=layer + 1, writes=writes)["output"][0]


def site_writes(placed, clean: dict, first: int) -> dict:
    """`run`'s writes for [(site, row, shift)]: clean outputs, at corrupted position + shift of that row."""
    index = {}
    for (kinds, pairs, start, stop), row, shift in placed:
        for key in [(layer, kind) for kind in kinds for layer in range(start, stop)]:
            index.setdefault(key, []).extend((row, p + shift, c - first) for c, p in pairs)
    writes = {}
    for (layer, kind), triples in index.items():
        rows, positions, sources = torch.tensor(triples).unbind(1)
        output = clean[kind][layer][0]
        writes[layer, kind] = (rows, positions, output[sources.to(output.device)])
    return writes


def packs(sites, costs, budget: int) -> list[list[int]]:
    """Sites, as indices, in even packs of one start layer, each within the budget (or a single site)."""
    groups = []
    for start in sorted({site[2] for site in sites}):
        members = sorted((i for i, site in enumerate(sites) if site[2] == start), key=lambda i: costs[i])
        n = -(-sum(costs[i] for i in members) // budget)
        while n < len(members) and max(sum(costs[i] for i in members[k::n]) for k in range(n)) > budget:
            n += 1
        groups += [members[k::n] for k in range(min(n, len(members)))]
    return groups
