"""The clean and the corrupted run that every intervention begins with, and their requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import PromptError
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..prompts.tokens import MAX_ANSWER_TOKENS, check_length
from .forward import Reads, decode, extend, in_session, positions_at, prompt_inputs, run


def request_of_both(model, prompt: Prompt, corrupted: CorruptedPrompt, first: int | None = None) -> dict:
    """Return the part of a request that describes the clean and the corrupted run.

    first: the first position that is run again. None: the first corrupted one. Raises PromptError, see `check_causal`.
    """
    noise = corrupted.noise
    return clean_request(model, prompt, corrupted.first_corrupted if first is None else first) | {
        "corrupted_ids": corrupted.input_ids[None],
        "corrupted_positions": corrupted.position_ids,
        "noise": None if noise is None else (noise.positions, noise.scale, noise.samples, noise.seed),
    }


def clean_request(model, prompt: Prompt, first: int) -> dict:
    """Return the part of a request that describes the clean run: no module recorded, the model's own answer.

    Raises PromptError, see `check_causal`.
    """
    check_causal(model, prompt, first)
    return prompt_request(prompt) | {
        "image_token_id": -1 if model.image_token_id is None else model.image_token_id,
        "image_layers": model.image_layers if prompt.visual and first <= prompt.visual[-1] else (),
        "first": first,
        "kinds": (),
        "answer_ids": None,
        "blank_ids": model.blank_ids,
        "sequence": False,
        "eos_token_ids": model.eos_token_ids,
        "max_answer_tokens": MAX_ANSWER_TOKENS,
    }


def prompt_request(prompt: Prompt) -> dict:
    """Return the part of a request that describes a prompt: its tokens, their positions, and its picture."""
    return {
        "clean_ids": prompt.input_ids[None], "positions": prompt.position_ids, "image_inputs": prompt.image_inputs,
    }


def check_causal(model, prompt: Prompt, first: int) -> None:
    """Raise PromptError if the tokens from `first` on cannot run behind a cached prefix.

    An image whose tokens see each other both ways would have to run as a whole.
    """
    if model.family.image_block and prompt.visual and first <= prompt.visual[-1]:
        raise PromptError(
            f"model {model.name!r} lets the tokens of an image see each other both ways, so that only tokens behind "
            f"the image can be intervened on, and position {first} is not: use a chat format (prompt) with the image "
            "first, and positions behind it."
        )


def answer_probability(logits: Tensor, answer_ids: Tensor | Iterable[int]) -> Tensor:
    """P(answer): the product of the probabilities of its tokens.

    `logits` [..., A, V] are those at the A positions that predict the answer's tokens, `answer_ids` [A] the
    tokens; returns [...] in float32. The paper's probability is the case A = 1: the first token decides.
    """
    import torch  # heavy, and nothing else here needs it

    answer_ids = torch.as_tensor(answer_ids, dtype=torch.long, device=logits.device)
    if answer_ids.ndim != 1 or logits.shape[-2] != answer_ids.shape[0]:
        raise ValueError(
            f"answer_ids must be one token for each of the {logits.shape[-2]} rows of logits, "
            f"not of shape {tuple(answer_ids.shape)}."
        )
    log_p = logits.float().log_softmax(-1)  # [..., A, V]
    index = answer_ids[:, None].expand(*log_p.shape[:-1], 1)
    return log_p.gather(-1, index).sum((-1, -2)).exp()  # [..., A, 1] -> [...]


@dataclass(frozen=True)
class Answer:
    """A model's answer: token ids without the end token, text without outer space, P(first visible token)."""

    ids: tuple[int, ...]
    text: str
    p: float


def own_answer(
    model, prompt: Prompt, *, max_answer_tokens: int = MAX_ANSWER_TOKENS, remote: bool | str | None = None
) -> Answer:
    """The model's greedy answer to a prompt, in one request.

    Args:
        model: a `VisionLanguageModel`.
        prompt: what is asked.
        max_answer_tokens: tokens after which the answer is cut.
        remote: False | True | "local"; None = as the model was loaded.

    Returns:
        The answer; the end token, if the model says nothing.

    Raises:
        PromptError: the answer would be longer than what all layers of the model see.
        ModelError, NDIFError: for remote.
    """
    check_length(model, len(prompt), max_answer_tokens)
    request = clean_request(model, prompt, len(prompt) - 1) | {"max_answer_tokens": max_answer_tokens}
    found = in_session(model.traced, read_answer, request, model.runs_on(remote))
    return Answer(tuple(found["answer_ids"]), model.decode(found["answer_ids"]), found["p_clean"])


def read_answer(lm, request: dict) -> dict:
    """{"answer_ids", "p_clean"} of a clean run; runs where the weights are."""
    with torch.no_grad():
        clean = clean_run(lm, request)
        return {name: clean[name] for name in ("answer_ids", "p_clean")}


def n_samples(request: dict) -> int:
    """How often the corrupted run is made: once, or with noise once a draw."""
    return 1 if request["noise"] is None else request["noise"][2]


def clean_run(lm, request: dict) -> dict:
    """The clean prompt, once: encodes the image, records module outputs from `first` on, decides the answer.

    Returns attention, mlp (lists of [1, T - first, d] by layer), hidden (likewise, the layers' inputs and the last
    one's output), embeddings [1, T, d], embedded (those of the corrupted prompt's text, where the request has one),
    cache (of the prompt), first (as in the request), first_logits [1, 1, V] (behind the prompt), and what `with_answer`
    adds.
    """
    ids = request["clean_ids"]
    clean = run(
        lm,
        prompt_inputs(ids, request["positions"], request["image_inputs"]),
        keep=[ids.shape[1] - 1],
        cache=DynamicCache(),
        reads=Reads(
            *request["kinds"], "embeddings", "cache", start=request["first"], embed=request.get("corrupted_ids"),
            image_layers=request["image_layers"],
        ),
    )
    clean |= {"first": request["first"], "first_logits": clean["logits"]}
    answer = request["answer_ids"]
    return with_answer(lm, request, clean, own_answer_ids(lm, request, clean) if answer is None else answer)


def with_answer(lm, request: dict, clean: dict, answer) -> dict:
    """What `clean_run` read, with the probability of an answer (token ids).

    Adds answer_ids, forced and scored (see `scored_part`), logits [1, len(scored), V] (those that predict the scored
    tokens), p_clean, is_top (whether every token of the answer, or without require_top every forced and scored one, is
    the likeliest), and to embedded the answer's tokens that are fed.
    """
    answer, ids = list(answer), request["clean_ids"]
    forced, scored = scored_part(answer, request["blank_ids"], request["sequence"])
    fed = [*forced, *scored][:-1]
    checked = answer if request.get("require_top") else [*forced, *scored]
    clean, logits = dict(clean), clean["first_logits"]
    if "embedded" in clean:  # without what another answer added
        clean["embedded"] = clean["embedded"][:, : request["corrupted_ids"].shape[1]]
    if len(checked) > 1:
        keep = torch.arange(len(checked) - 1)
        inputs = {
            "input_ids": torch.tensor([checked[:-1]]),
            "position_ids": positions_at(request["positions"], ids.shape[1] + keep),
        }
        cache = extend(clean["cache"], ids.shape[1])
        more = run(lm, inputs, keep=keep, cache=cache, reads=Reads("embeddings"))
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
    limit = request["max_answer_tokens"]
    answer = decode(lm, cache, logits, request["positions"], request["eos_token_ids"], limit)
    return answer or [int(logits[0, -1].argmax())]


def scored_part(
    answer: list[int] | tuple[int, ...], blank_ids, sequence: bool
) -> tuple[list[int], list[int]]:
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
    where = torch.arange(first, end)
    inputs = {"inputs_embeds": embeddings, "position_ids": positions_at(request["corrupted_positions"], where)}
    writes = image_writes(request, clean, ids, where)
    corrupted = run(lm, inputs, keep=keep - first, cache=cache, reads=Reads("hidden", "cache"), writes=writes)
    p_corrupted = float(answer_probability(corrupted["logits"], scored)[0])
    return corrupted | {"ids": ids, "end": end, "keep": keep, "p_corrupted": p_corrupted}


def image_writes(request: dict, clean: dict, ids, where, skip: int = 0, rows: int = 1) -> dict:
    """The `writes` of a run on embeddings for a model that adds features of the image in its first layers (DeepStack).

    Such a model adds them only where it reads the picture itself. Empty for other models.

    Args:
        clean: from `clean_run`.
        ids: [1, n], the whole sequence.
        where: [t], the places in it of the run's tokens.
        skip, rows: the first layer that is run, and the batch rows.
    """
    added = clean.get("image_added") or []
    is_visual = ids[0] == request["image_token_id"]
    seen = is_visual[where].nonzero()[:, 0]
    if not len(seen):
        return {}
    index = (is_visual.cumsum(0) - 1)[where[seen]].repeat(rows)
    row = torch.arange(rows).repeat_interleave(len(seen))
    return {
        (layer, "image"): (row, seen.repeat(rows), values[index.to(values.device)])
        for layer, values in enumerate(added) if layer >= skip
    }


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
