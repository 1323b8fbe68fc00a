"""Single questions: choose which ones to show, and work one out as in the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from PIL import Image

from ..engine.forward import extend, in_session, positions_at, run
from ..engine.runs import clean_run, corrupted_run, image_writes, n_samples, request_of_both, scored_part
from ..engine.windows import window_spans
from ..errors import ParameterError, Unusable
from ..models.model import VisionLanguageModel
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..prompts.tokens import token_texts
from ..studies.conditions import REPEAT_TOKEN, Conditions, as_asked, clean_prompt, corrupted_prompt, corrupted_roles
from ..studies.loop import DEFAULT_RUN, RunOptions
from ..testbed import Item, load_image
from ..testbed.phrases import question_pieces
from ..text import normalize
from .restoration import site_writes
from .study import TraceStudy, trace_study

ASK_AT_MOST = 20  # questions asked per question wanted


@dataclass(frozen=True)
class TracedQuestion:
    """A question with its trace.

    Attributes:
        item: the question, in the words that the model is asked.
        prompt, corrupted: its prompts under `conditions`.
        sites: its effects, from `CausalTrace.to_frame` or `TraceStudy.sites`.
        answer, answer_ids: the traced answer and its tokens.
        conditions, window: how it was traced.
    """

    item: Item
    prompt: Prompt
    corrupted: CorruptedPrompt
    sites: pd.DataFrame
    answer: str
    answer_ids: Iterable[int]
    conditions: Conditions
    window: int


@dataclass(frozen=True)
class WorkedExample:
    """One question in its clean, corrupted and restored run (paper, Figure 2).

    Attributes:
        id, answer, corruption: the question, the traced answer and how it was corrupted.
        texts: the clean and the corrupted question in pieces. Columns run, text, role ("" outside the constraints, and
            outside the corrupted ones in the corrupted question).
        answers: the likeliest next tokens of each run, and the answer's first visible token if it is not among them.
            Blank tokens at the start of the answer are teacher-forced. Columns run, rank (1 is the likeliest),
            token_id, token, p, is_answer.
        sites: as in `TracedQuestion`.
        site: the restored site: kind, position, token, layer (the center of the window), layers (first, last).
    """

    id: str
    answer: str
    corruption: str
    texts: pd.DataFrame
    answers: pd.DataFrame
    sites: pd.DataFrame
    site: dict

    def p_answer(self, run: str) -> float:
        """Return P(answer) in the "clean", "corrupted" or "restored" run."""
        return float(self.answers.loc[(self.answers["run"] == run) & self.answers["is_answer"], "p"].iloc[0])


def first_used(
    model: VisionLanguageModel, pool: Iterable[Item], n: int, *, run: RunOptions = DEFAULT_RUN, **settings
) -> TraceStudy:
    """Trace the questions of a pool in its order until n of each part are used.

    Args:
        model: the model.
        pool: the items in their order. A part ends after ASK_AT_MOST x n questions.
        n: used questions wanted of each part; 0 traces all of them.
        run: as for `trace_study`. With `required` or `shard`, unused questions are not replaced: the share of a shard
            must not depend on the results of the others.
        settings: the other arguments of `trace_study`.

    Returns:
        The study of all questions that were asked. Raises what `trace_study` does.
    """
    parts: dict[str, list[Item]] = {}
    for item in pool:
        parts.setdefault(item.part, []).append(item)
    n = 0 if run.required else n
    replaces = bool(n) and not run.shard
    parts = {part: items[: n * ASK_AT_MOST] if n else items for part, items in parts.items()}
    n_asked = {part: n or len(items) for part, items in parts.items()}
    while True:
        open_parts = [part for part, items in parts.items() if replaces and n_asked[part] < len(items)]
        try:
            # Questions asked before are read from the store, not traced again.
            items = [item for part in parts for item in parts[part][: n_asked[part]]]
            study = trace_study(model, items, run=run, **settings)
            used = study.questions.groupby("part")["used"].sum()
        except ParameterError:  # no question can be used
            if not open_parts:
                raise
            used = dict.fromkeys(parts, 0)
        missing = {part: n - int(used[part]) for part in open_parts}
        if not any(missing.values()):
            return study
        for part in open_parts:
            n_asked[part] += missing[part]


def typical(study: TraceStudy) -> str:
    """Return the id of the used question whose best effect at the constraint is the median (the lower of two)."""
    used = study.questions[study.questions["used"]]
    best = used.filter(like="p_restored_").max(axis=1) - used["p_corrupted"]
    return used.loc[best.sort_values(kind="stable").index[(len(best) - 1) // 2], "id"]


def pictures(items: Iterable[Item], ids: Iterable[str]) -> dict[str, Image.Image]:
    """Return the images of these questions by id, without questions that have no image."""
    ids = set(ids)
    return {item.id: load_image(item.image) for item in items if item.id in ids and item.image is not None}


def worked_example(
    model: VisionLanguageModel, item: Item, study: TraceStudy, *, top: int = 5, remote: bool | str | None = None
) -> WorkedExample:
    """Work out one question of a study with its best site restored (paper, Figure 2).

    Args:
        model: the model of the study.
        item: a question that the study used. Its best site is the one with the largest P(restored), of either kind, at
            the last token of the corrupted constraint.
        study: the study.
        top: number of likeliest tokens of each run.
        remote: None: as the model was loaded. One request.
    """
    own = study.only([item.id])
    row = own.questions.iloc[0]
    at_constraint = own.sites[own.sites["read"]]
    best = at_constraint.loc[at_constraint["p_restored"].idxmax()]
    item = as_asked(model, item)
    prompt = clean_prompt(model, item, study.conditions)
    question = TracedQuestion(
        item, prompt, corrupted_prompt(model, item, prompt, study.conditions), own.sites, row["answer"],
        row["answer_ids"], study.conditions, study.window,
    )
    site = str(best["kind"]), int(best["position"]), int(best["layer"])
    return example_at(model, question, site, top=top, remote=remote)


def example_at(
    model: VisionLanguageModel, question: TracedQuestion, site: tuple[str, int, int], *, top: int = 5,
    remote: bool | str | None = None,
) -> WorkedExample:
    """Work out one question with a chosen site (kind, position, layer) restored.

    Other arguments are those of `worked_example`. Raises `Unusable` if nothing is restored at the site.
    """
    kind, position, layer = site
    prompt, corrupted, conditions = question.prompt, question.corrupted, question.conditions
    start, stop = window_spans(question.window, conditions.window_rule, model.n_layers)[layer]
    if position < corrupted.first_corrupted:
        raise Unusable("nothing to restore: before the first corrupted token both runs are the same")
    if corrupted.alignment[position] is None:
        raise Unusable("nothing to restore: the token has no counterpart in the corrupted question")
    request = request_of_both(model, prompt, corrupted) | {
        "kinds": (kind,),
        "site": ((kind,), ((position, corrupted.alignment[position]),), start, stop),
        "answer_ids": [int(token) for token in question.answer_ids],
        "sequence": False,
        "top": top,
    }
    top_by_run = in_session(model.traced, top_tokens, request, model.runs_on(remote))
    answer_id = scored_part(request["answer_ids"], model.blank_ids, sequence=False)[1][0]
    answers = pd.DataFrame(
        [(name, rank, token, p, token == answer_id) for name, rows in top_by_run.items() for rank, token, p in rows],
        columns=["run", "rank", "token_id", "p", "is_answer"],
    )
    answers.insert(3, "token", token_texts(model, answers["token_id"].tolist()))
    texts = [("clean", *piece) for piece in question_pieces(question.item)]
    phrases = _corrupted_phrases(question)
    texts += [("corrupted", text, role if role in phrases else "")
              for text, role in question_pieces(question.item, phrases)]
    return WorkedExample(
        id=question.item.id, answer=question.answer, corruption=conditions.corruption,
        texts=pd.DataFrame(texts, columns=["run", "text", "role"]), answers=answers, sites=question.sites,
        site={"kind": kind, "position": position, "token": prompt.tokens[position], "layer": layer,
              "layers": (start, stop - 1)},
    )


def _corrupted_phrases(question: TracedQuestion) -> dict[str, str]:
    """Return the text of each corrupted constraint in the corrupted question; noise leaves the words as they are."""
    item, conditions = question.item, question.conditions
    roles = corrupted_roles(item, conditions)
    if conditions.corruption == "repeat":
        return {role: " ".join([REPEAT_TOKEN] * len(question.prompt.positions(role))) for role in roles}
    if conditions.is_noise:
        return {role: text for text, role in question_pieces(item) if role in roles}
    replacements = {"constraint": item.visual_replacement, "text_constraint": item.text_replacement}
    return {role: normalize(replacements[role]) for role in roles}


def top_tokens(lm, request: dict) -> dict:
    """Return the likeliest next tokens [(rank, token, p)] of the clean, the corrupted and the restored run, by run.

    request: as for `restoration.restore_sites`, with one `site` in place of `sites`, and `top`, the number of tokens.
    The answer's scored token comes last if it is not among them. With noise, probabilities are means over samples.
    Runs where the weights are.
    """
    with torch.no_grad():
        clean = clean_run(lm, request)
        first, site, answer = request["first"], request["site"], clean["scored"][0]
        writes = site_writes([(site, 0, -first)], clean)
        samples = n_samples(request)
        runs = {"clean": clean["logits"][0, -1].float().softmax(-1), "corrupted": 0, "restored": 0}
        for sample in range(samples):
            corrupted = corrupted_run(lm, request, clean, sample)
            where = torch.arange(first, corrupted["end"])
            placed = positions_at(request["corrupted_positions"], where)
            inputs = {"inputs_embeds": corrupted["hidden"][site[2]], "position_ids": placed}
            keep, cache = corrupted["keep"] - first, extend(clean["cache"], first)
            always = image_writes(request, clean, corrupted["ids"], where, site[2])
            restored = run(lm, inputs, keep=keep, cache=cache, skip=site[2], writes=always | writes)
            for name, logits in (("corrupted", corrupted["logits"]), ("restored", restored["logits"])):
                runs[name] = runs[name] + logits[0, -1].float().softmax(-1) / samples
        top_by_run = {}
        for name, probabilities in runs.items():
            tokens = probabilities.topk(request["top"]).indices.tolist()
            tokens += [] if answer in tokens else [answer]
            ranks = [int((probabilities > probabilities[token]).sum()) + 1 for token in tokens]
            top_by_run[name] = [(r, t, float(probabilities[t])) for r, t in zip(ranks, tokens, strict=True)]
        return top_by_run
