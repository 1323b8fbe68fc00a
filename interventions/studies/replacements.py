"""Choose a replacement phrase for every constraint that has none: the words of the corrupted run (paper, section 3.2).

A good one is of the same kind, makes the picture unnecessary, has as many tokens as the constraint, so that every
restored token has its counterpart, and takes the answer away: with a model, that is measured. Every item has one clean
run, and several candidates (`candidates.py`) are tried on top of it, in one request (`tries.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..engine.forward import in_session
from ..engine.runs import clean_request, clean_run, corrupted_run
from ..errors import PromptError, TestBedError
from ..prompts.prompt import Prompt
from ..testbed.answers import is_right
from ..testbed.candidates import Candidates
from ..testbed.entity_kinds import KINDS_FILE
from ..testbed.phrases import needs_image
from ..testbed.provenance import rewrite
from ..testbed.schema import NOT_MARKED, Item, TestBed
from ..text import find_phrase, list_reasons, normalize

if TYPE_CHECKING:
    from ..models.model import VisionLanguageModel
    from ..prompts.corruption import CorruptedPrompt

STATUSES = ("chosen", "unchecked", "kept", "not asked", "none")
_NEW = ("chosen", "unchecked")
_TYPES = {
    "id": object, "part": object, "constraints": object, "role": object, "constraint": object, "status": object,
    "phrase": object, "source": object, "tokens": "Int64", "phrase_tokens": "Int64", "equal_length": "boolean",
    "tried": "Int64", "p_clean": float, "p_corrupted": float, "correct": "boolean", "needs_image": "boolean",
    "reason": object,
}


@dataclass(frozen=True)
class Corruptions:
    """The items of a test bed with what was chosen, and how.

    items: all of them, in their order. settings: as asked for.
    choices, one row a constraint of every item (a question with two has two): id, part, constraints, role ("visual" |
    "text"), constraint, status, phrase, source (of `candidates.SOURCES`), tokens and phrase_tokens (words where
    unchecked), equal_length, tried (candidates that were run), p_clean and p_corrupted (of the model's
    answer), correct (whether it is right; the item is given a phrase in any case),
    needs_image (whether the new question still points at the picture; of visual constraints), reason (of "none").
    status: "chosen"; "unchecked", without a model; "kept", it had one; "not asked", in another part or beyond `limit`;
    "none", nothing was found, and what was there stays. What does not apply is missing.
    """

    items: tuple[Item, ...] = field(repr=False)
    choices: pd.DataFrame = field(repr=False)
    settings: dict

    def summary(self) -> pd.DataFrame:
        """By part and role: constraints; how many of each status, and why none; of new phrases the share of equal
        length and how many leave the picture needed; of chosen ones medians of p_clean and p_corrupted, the share at
        most `max_p` of p_clean ("low"), candidates tried on average, and how many the model answers wrongly."""
        rows = []
        for (part, role), group in self.choices.groupby(["part", "role"], sort=False):
            new, run = group[group["status"].isin(_NEW)], group[group["status"] == "chosen"]
            rows.append({
                "part": part, "role": role, "constraints": len(group),
                **{status: int((group["status"] == status).sum()) for status in STATUSES},
                "why none": list_reasons(group["reason"]), "equal length": new["equal_length"].astype(float).mean(),
                "needs image": int(new["needs_image"].sum()), "median p_clean": run["p_clean"].median(),
                "median p_corrupted": run["p_corrupted"].median(),
                "low": (run["p_corrupted"] <= self.settings["max_p"] * run["p_clean"]).mean(),
                "mean tried": run["tried"].astype(float).mean(), "answered wrongly": int((~run["correct"]).sum()),
            })
        return pd.DataFrame(rows)


def choose_corruptions(
    testbed: TestBed, model: VisionLanguageModel | None = None, *, overwrite: bool = False, tries: int = 8,
    max_p: float = 0.05, seed: int = 0, parts: str | Iterable[str] | None = None, limit: int = 0,
    results_dir: str | Path = "results", remote: bool | str | None = None,
) -> Corruptions:
    """A replacement for each constraint of `testbed` that lacks one, or for all if `overwrite`; nothing is written.

    Candidates that need no image, and among these those with as many tokens as the constraint, come first. At most
    `tries` are run. The first of equal length with P(answer) at most `max_p` times the clean run's is taken, and if
    there is none, the one with the lowest. Of a question with two constraints each is replaced by itself.
    model: None = the first candidate, its length told by words, is taken "unchecked".
    parts, limit: of the test bed, and how many items of each part that lack one (0 = all).
    results_dir: one stored table an item; a run that was killed goes on from there.
    remote: None = as the model was loaded; one request an item.
    Raises TestBedError for a parameter that cannot be, and what `asking.ask` does.
    """
    parts = testbed.parts if parts is None else (parts,) if isinstance(parts, str) else tuple(parts)
    must_be_possible(testbed, tries=tries, max_p=max_p, parts=parts, limit=limit)
    wanted = testbed.select(parts)
    if overwrite:
        wanted = replace(wanted, items=tuple(replace(i, visual_replacement="", text_replacement=None) for i in wanted))
    wanted = replace(wanted, items=tuple(item for item in wanted if _lacking(item)))
    asked = {item.id: item for item in wanted.select(limit=limit, seed=seed)}
    pool = Candidates(asked.get(item.id, item) for item in testbed)  # what is to be replaced is no candidate
    settings = {"tries": tries, "max_p": max_p, "seed": seed}
    if model is None:
        found = {item.id: _unchecked(pool, settings, item) for item in asked.values()}
    else:
        found = _checked(model, asked, pool, settings, model.runs_on(remote), results_dir) if asked else {}
    items, choices = [], []
    for item in testbed:
        rows = [_untouched(item, role) | found.get(item.id, {}).get(role, {}) for role in _roles(item)]
        phrases = {f"{row['role']}_replacement": row["phrase"] for row in rows if row["status"] in _NEW}
        items.append(replace(item, **phrases))
        choices += rows
    return Corruptions(tuple(items), pd.DataFrame(choices, columns=list(_TYPES)).astype(_TYPES), settings | {
        "model": model.name if model else None, "overwrite": overwrite, "parts": list(parts), "limit": limit,
    })


def must_be_possible(testbed: TestBed, *, tries: int, max_p: float, parts: Iterable[str] | None, limit: int) -> None:
    """Raises TestBedError for parameters of `choose_corruptions` that cannot be; no model is needed to tell."""
    if tries < 1 or not 0 < max_p <= 1 or limit < 0:
        raise TestBedError(
            f"tries must be at least 1, max_p above 0 and at most 1, and limit 0 (all) or more, not {tries}, {max_p} "
            f"and {limit}."
        )
    testbed.select(parts)


def write_corruptions(testbed: TestBed, found: Corruptions) -> TestBed:
    """Put the items of `choose_corruptions(testbed, …)` into the test bed's directory; returns it as loaded again."""
    counts = found.choices["status"].value_counts().to_dict()
    return rewrite(testbed, found.items, "corruptions", settings=found.settings, counts=counts, inputs=[KINDS_FILE])


def _checked(model, asked: dict[str, Item], pool: Candidates, settings: dict, remote, results_dir) -> dict[str, dict]:
    """By id and role, what is chosen for items that the model is asked."""
    from .loop import ask  # heavy

    entries = ask(
        model, asked.values(), partial(_choose, model, pool, settings, remote), purpose=("replace", "replaced"),
        key=settings | {"table": "corruptions", "candidates": pool.key, "remote": remote}, results_dir=results_dir,
        label="corruptions",
    )
    return {
        entry.item.id: _unusable(entry.item, entry.reason) if entry.table is None else
        {row["role"]: row | {"reason": row["why_none"]} for row in entry.table.to_dict("records")}
        for entry in entries
    }


def _choose(model, pool: Candidates, settings: dict, remote, item: Item) -> pd.DataFrame:
    """The table stored for one item: a row for each constraint that lacks a replacement."""
    from .conditions import Conditions, clean_prompt  # heavy
    from .replacements import run_tries

    prompt = clean_prompt(model, item, Conditions())
    tries = {role: tries_of(pool, settings, item, role, model, prompt) for role in _lacking(item)}
    run, probabilities = run_tries(model, prompt, item, list(tries.values()), settings["max_p"], remote)
    rows = []
    for (role, group), p in zip(tries.items(), probabilities, strict=True):
        good = [i for i, one in enumerate(p) if group[i].equal and one <= settings["max_p"] * run["p_clean"]]
        best = good[0] if good else int(np.argmin(p)) if p else None
        row = _row(pool, item, role, "chosen", group[best] if p else None)
        rows.append(row | run | {"tried": len(p), "p_corrupted": p[best] if p else np.nan})
    # `reason` is for items that could not be asked; one that has no candidate could.
    return pd.DataFrame(rows).rename(columns={"reason": "why_none"}).assign(reason="")


def _unchecked(pool: Candidates, settings: dict, item: Item) -> dict[str, dict]:
    """By role, what is chosen for an item that no model is asked."""
    if not item.visual_constraint:
        return _unusable(item, NOT_MARKED)
    tries = {role: tries_of(pool, settings, item, role) for role in _lacking(item)}
    return {role: _row(pool, item, role, "unchecked", group[0] if group else None) for role, group in tries.items()}


def _roles(item: Item) -> list[str]:
    return ["visual"] if item.text_constraint is None else ["visual", "text"]


def _lacking(item: Item) -> list[str]:
    """The roles of the constraints that lack a replacement."""
    return [role for role in _roles(item) if not getattr(item, f"{role}_replacement")]


def _untouched(item: Item, role: str) -> dict:
    """The row of a constraint for which nothing is chosen."""
    phrase = getattr(item, f"{role}_replacement") or ""
    return {"id": item.id, "part": item.part, "constraints": item.constraints, "role": role,
            "constraint": getattr(item, f"{role}_constraint"), "status": "kept" if phrase else "not asked",
            "phrase": phrase, "source": "", "reason": ""}


def _row(pool: Candidates, item: Item, role: str, status: str, one: Try | None) -> dict:
    """What is said of a choice; one: what was chosen, None where there was nothing to choose from."""
    if one is None:
        return {"role": role, "status": "none", "phrase": "", "source": "", "reason": pool.why_none(item, role)}
    told = {name: getattr(one, name) for name in ("phrase", "source", "needs_image", "tokens", "phrase_tokens")}
    return {"role": role, "status": status, **told, "equal_length": one.equal, "reason": ""}


def _unusable(item: Item, reason: str) -> dict[str, dict]:
    return {role: {"status": "none", "phrase": "", "reason": reason} for role in _lacking(item)}



LOOKED_AT = 32  # candidates of a constraint whose length is looked up
_PROMPT_ROLES = {"visual": "constraint", "text": "text_constraint"}


class Try(NamedTuple):
    """A candidate in the question: whether that still needs the image (None: it is meant to), and the lengths there of
    the constraint and of the phrase."""

    phrase: str
    source: str
    needs_image: bool | None
    tokens: int
    phrase_tokens: int
    corrupted: CorruptedPrompt | None  # None without a model

    @property
    def equal(self) -> bool:
        return self.tokens == self.phrase_tokens


def tries_of(pool: Candidates, settings: dict, item: Item, role: str, model=None, prompt: Prompt | None = None) -> list:
    """The candidates to try for a constraint, in that order; lengths in tokens, or without a prompt in words."""
    constraint, question = getattr(item, f"{role}_constraint"), normalize(item.question)
    if prompt:
        from ..prompts.corruption import corrupt  # heavy
    begin, end = find_phrase(question, constraint, f"{role}_constraint", last=role == "text")
    n = len(prompt.positions(_PROMPT_ROLES[role])) if prompt else len(constraint.split())
    found = []
    for phrase, source in pool.of(item, role, seed=settings["seed"], most=max(LOOKED_AT, settings["tries"])):
        corrupted, length = None, len(phrase.split())
        if prompt:
            try:
                corrupted = corrupt(model, prompt, **{f"{role}_replacement": phrase})
            except PromptError:
                continue
            length = n + len(corrupted.input_ids) - len(prompt)
        # Beside another text constraint the visual one stays, and so does the need for the image.
        pointing = needs_image(question[:begin] + phrase + question[end:]) if role == "visual" else None
        found.append(Try(phrase, source, pointing, n, length, corrupted))
    return sorted(found, key=lambda one: (bool(one.needs_image), not one.equal))[: settings["tries"]]



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
