"""What candidates leave of P(answer): one clean run of an item, and on top of it a corrupted run a candidate.

All in one request.
"""

from __future__ import annotations

import numpy as np
import torch

from ..engine.forward import in_session
from ..engine.runs import clean_request
from ..prompts.prompt import Prompt
from ..testbed.schema import Item
from ..tracing.restoration import clean_run, corrupted_run
from .answers import is_right
from .tries import Try


def run_tries(model, prompt: Prompt, item: Item, groups: list[list[Try]], max_p: float, remote) -> tuple[dict, list]:
    """What the clean run says, and P(answer) of the candidates that were run, a list by group; one request."""
    corrupted = [one.corrupted for group in groups for one in group]
    if not corrupted:
        return {"p_clean": np.nan, "correct": None}, [[] for _ in groups]
    spans, end = [], 0
    for group in groups:
        spans.append([])
        for one in group:
            begin, end = end, end + len(one.corrupted.input_ids)
            spans[-1].append((begin, end, one.equal))
    request = clean_request(model, prompt, min(one.first_corrupted for one in corrupted)) | {
        "corrupted_ids": torch.cat([one.input_ids for one in corrupted])[None], "groups": spans, "max_p": max_p,
        "noise": None,
    }
    found = in_session(model.traced, candidate_probabilities, request, remote)
    said = model.decode(found["answer_ids"])
    return {"p_clean": found["p_clean"], "correct": is_right(said, item)}, found["p_corrupted"]


def candidate_probabilities(lm, request: dict) -> dict:
    """P(answer) of the clean run, and of runs with a candidate in a constraint's place, in one session.

    request: as for `restoration.clean_run`, with corrupted_ids [1, n], those of all candidates one after the other;
    groups, for each constraint a list of (begin, end, equal): where a candidate's ids stand there, and whether its
    length is equal; max_p. A group ends with the first candidate that is good enough.
    Plain code, for it runs where the weights are. Returns {"answer_ids", "p_clean", "p_corrupted": a list by group}.
    """
    with torch.no_grad():
        clean = clean_run(lm, request)
        answer, found = clean["embedded"][:, request["corrupted_ids"].shape[1] :], []  # of its blank tokens, if any
        for group in request["groups"]:
            found.append([])
            for begin, end, equal in group:
                one = request | {"corrupted_ids": request["corrupted_ids"][:, begin:end]}
                embedded = clean | {"embedded": torch.cat([clean["embedded"][:, begin:end], answer], dim=1)}
                p = corrupted_run(lm, one, embedded, 0)["p_corrupted"]
                found[-1].append(p)
                if equal and p <= request["max_p"] * clean["p_clean"]:
                    break
        return {"answer_ids": clean["answer_ids"], "p_clean": clean["p_clean"], "p_corrupted": found}
