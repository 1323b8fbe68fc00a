"""P(answer) with candidate phrases in the place of a constraint: what `replacements` runs on a model."""

from __future__ import annotations

import numpy as np
import torch

from ..engine.forward import in_session
from ..engine.runs import clean_request, clean_run, corrupted_run
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt
from ..testbed.answers import is_right
from ..testbed.schema import Item


def run_candidates(
    model, prompt: Prompt, item: Item, groups: list[list[CorruptedPrompt]], max_p: float, remote
) -> tuple[dict, list[list[float]]]:
    """Run one clean run and the candidates of each constraint on top of it, in one request.

    Args:
        groups: the candidates in the question, one list for each constraint. A list is left after the first candidate
            of equal length with P(answer) at most `max_p` times the clean run's.

    Returns:
        P(answer) of the clean run and whether the answer is right, and P(answer) of the candidates, by group.
    """
    candidates = [corrupted for group in groups for corrupted in group]
    if not candidates:
        return {"p_clean": np.nan, "correct": None}, [[] for _ in groups]
    spans, end = [], 0
    for group in groups:
        spans.append([])
        for corrupted in group:
            begin, end = end, end + len(corrupted.input_ids)
            spans[-1].append((begin, end, corrupted.position_ids, len(corrupted.input_ids) == len(prompt)))
    request = clean_request(model, prompt, min(corrupted.first_corrupted for corrupted in candidates)) | {
        "corrupted_ids": torch.cat([corrupted.input_ids for corrupted in candidates])[None], "groups": spans,
        "max_p": max_p, "noise": None,
    }
    result = in_session(model.traced, candidate_probabilities, request, remote)
    answer = model.decode(result["answer_ids"])
    return {"p_clean": result["p_clean"], "correct": is_right(answer, item)}, result["p_corrupted"]


def candidate_probabilities(lm, request: dict) -> dict:
    """Return P(answer) of the clean run and of the runs with candidates. Runs where the weights are.

    Args:
        request: as for `engine.runs.clean_run`, with "corrupted_ids" [1, n], the ids of all candidates in a row;
            "groups", for each constraint a list of (begin, end, positions, has equal length); and "max_p".

    Returns:
        "answer_ids", "p_clean" and "p_corrupted", a list for each group.
    """
    with torch.no_grad():
        clean = clean_run(lm, request)
        answer, p_corrupted = clean["embedded"][:, request["corrupted_ids"].shape[1] :], []  # its blank tokens, if any
        for group in request["groups"]:
            p_corrupted.append([])
            for begin, end, positions, equal in group:
                ids = request["corrupted_ids"][:, begin:end]
                candidate = request | {"corrupted_ids": ids, "corrupted_positions": positions}
                embedded = clean | {"embedded": torch.cat([clean["embedded"][:, begin:end], answer], dim=1)}
                p = corrupted_run(lm, candidate, embedded, 0)["p_corrupted"]
                p_corrupted[-1].append(p)
                if equal and p <= request["max_p"] * clean["p_clean"]:
                    break
        return {"answer_ids": clean["answer_ids"], "p_clean": clean["p_clean"], "p_corrupted": p_corrupted}
