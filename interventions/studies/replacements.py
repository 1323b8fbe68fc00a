"""Choose a replacement phrase for every constraint without one: the words of the corrupted run (paper, section 3.2).

A good phrase is of the same kind, makes the image unnecessary, has as many tokens as the constraint, so that every
restored token has its counterpart, and lowers P(answer), which a model measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..errors import PromptError, TestBedError
from ..testbed.candidates import Candidates
from ..testbed.entity_kinds import KINDS_FILE
from ..testbed.phrases import needs_image
from ..testbed.provenance import rewrite
from ..testbed.schema import NOT_MARKED, Item, TestBed
from ..text import find_phrase, list_reasons, normalize

if TYPE_CHECKING:
    from ..models.model import VisionLanguageModel
    from ..prompts.corruption import CorruptedPrompt
    from ..prompts.prompt import Prompt
    from .loop import RunOptions

STATUSES = ("chosen", "unchecked", "kept", "not asked", "none")
_NEW = ("chosen", "unchecked")
_TYPES = {
    "id": object, "part": object, "constraints": object, "role": object, "constraint": object, "status": object,
    "phrase": object, "source": object, "tokens": "Int64", "phrase_tokens": "Int64", "equal_length": "boolean",
    "tried": "Int64", "p_clean": float, "p_corrupted": float, "correct": "boolean", "needs_image": "boolean",
    "reason": object,
}
_MOST_CANDIDATES = 32  # of a constraint, of which the length is looked up
_PROMPT_ROLES = {"visual": "constraint", "text": "text_constraint"}


@dataclass(frozen=True)
class Corruptions:
    """The items of a test bed with the chosen phrases.

    Attributes:
        items: all items, in their order.
        choices: one row a constraint, so two rows for a question with two. Columns: id, part, constraints, role
            ("visual" | "text"), constraint, status, phrase, source (one of `candidates.SOURCES`), tokens and
            phrase_tokens (words where unchecked), equal_length, tried (candidates that were run), p_clean and
            p_corrupted (of the model's answer), correct (whether the answer is right; the item gets a phrase in any
            case), needs_image (whether the new question still points at the image; for visual constraints), reason
            (of "none"). A status is "chosen"; "unchecked" without a model; "kept" where the item had a phrase;
            "not asked" in another part or beyond `limit`; or "none" where no candidate was found, which changes
            nothing. What does not apply is missing.
        settings: the arguments of `choose_corruptions`.
    """

    items: tuple[Item, ...] = field(repr=False)
    choices: pd.DataFrame = field(repr=False)
    settings: dict

    def summary(self) -> pd.DataFrame:
        """Return a row for each part and role.

        Counts of each status and the reasons of "none"; of new phrases the share of equal length and how many leave
        the image needed; of chosen ones the medians of p_clean and p_corrupted, the share at most `max_p` of p_clean
        ("low"), the mean number of tried candidates, and how many questions the model answers wrongly.
        """
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
    run: RunOptions | None = None,
) -> Corruptions:
    """Choose a replacement for each constraint without one. Write nothing.

    Candidates that need no image come first, and among them those with as many tokens as the constraint. The first
    one of equal length with P(answer) at most `max_p` times the clean run's is chosen; if there is none, the one with
    the lowest P(answer). In a question with two constraints each is replaced alone.

    Args:
        testbed: the items.
        model: measures P(answer), in one request an item. None: the first candidate is taken "unchecked", and words
            are counted instead of tokens.
        overwrite: choose again for items that have a replacement.
        tries: the largest number of candidates to run for a constraint.
        max_p: the P(answer) that is low enough, as a share of the clean run's.
        seed: decides the order of equally good candidates.
        parts: the parts of the test bed (None: all).
        limit: how many items of each part that lack a phrase (0: all).
        run: where one table an item is stored, from which an interrupted run continues, and where the model runs.

    Raises:
        TestBedError: an argument is out of range, or there is no such part.
    """
    parts = testbed.parts if parts is None else (parts,) if isinstance(parts, str) else tuple(parts)
    check_settings(testbed, tries=tries, max_p=max_p, parts=parts, limit=limit)
    wanted = testbed.select(parts)
    if overwrite:
        wanted = replace(wanted, items=tuple(replace(i, visual_replacement="", text_replacement=None) for i in wanted))
    wanted = replace(wanted, items=tuple(item for item in wanted if _open_roles(item)))
    selected = {item.id: item for item in wanted.select(limit=limit, seed=seed)}
    pool = Candidates(selected.get(item.id, item) for item in testbed)  # a phrase to be replaced is no candidate
    settings = {"tries": tries, "max_p": max_p, "seed": seed}
    if model is None:
        found = {item.id: _unchecked(pool, settings, item) for item in selected.values()}
    else:
        found = _checked(model, selected, pool, settings, run) if selected else {}
    items, choices = [], []
    for item in testbed:
        rows = [_unchanged(item, role) | found.get(item.id, {}).get(role, {}) for role in _roles(item)]
        phrases = {f"{row['role']}_replacement": row["phrase"] for row in rows if row["status"] in _NEW}
        items.append(replace(item, **phrases))
        choices += rows
    return Corruptions(tuple(items), pd.DataFrame(choices, columns=list(_TYPES)).astype(_TYPES), settings | {
        "model": model.name if model else None, "overwrite": overwrite, "parts": list(parts), "limit": limit,
    })


def write_corruptions(testbed: TestBed, found: Corruptions) -> TestBed:
    """Write the items of `choose_corruptions(testbed, …)` into the test bed's folder, and return the new test bed."""
    counts = found.choices["status"].value_counts().to_dict()
    return rewrite(testbed, found.items, "corruptions", settings=found.settings, counts=counts, inputs=[KINDS_FILE])


def check_settings(testbed: TestBed, *, tries: int, max_p: float, parts: Iterable[str] | None, limit: int) -> None:
    """Raise TestBedError for arguments that `choose_corruptions` refuses, before a model is loaded."""
    if tries < 1 or not 0 < max_p <= 1 or limit < 0:
        raise TestBedError(
            f"tries must be at least 1, max_p above 0 and at most 1, and limit 0 (all) or more, not {tries}, {max_p} "
            f"and {limit}."
        )
    testbed.select(parts)


class Substitution(NamedTuple):
    """A candidate in the question: whether the question still needs the image (None: it is meant to), and the lengths
    of the constraint and of the phrase, in tokens or, without a model, in words."""

    phrase: str
    source: str
    needs_image: bool | None
    tokens: int
    phrase_tokens: int
    corrupted: CorruptedPrompt | None

    @property
    def equal_length(self) -> bool:
        return self.tokens == self.phrase_tokens


def _checked(model, selected: dict[str, Item], pool: Candidates, settings: dict, run: RunOptions | None) -> dict:
    """The rows of items, by id and role, chosen with a model."""
    from .loop import DEFAULT_RUN, RunOptions, question_loop  # heavy

    run = run or DEFAULT_RUN
    remote = model.runs_on(run.remote)
    entries = question_loop(
        model, selected.values(), partial(_item_table, model, pool, settings, remote), purpose=("replace", "replaced"),
        key=settings | {"table": "corruptions", "version": 2, "candidates": pool.key, "remote": remote},
        run=RunOptions(run.results_dir, label="corruptions"),
    )
    return {
        entry.item.id: _unusable(entry.item, entry.reason) if entry.table is None else
        {row["role"]: row | {"reason": row["why_none"]} for row in entry.table.to_dict("records")}
        for entry in entries
    }


def _item_table(model, pool: Candidates, settings: dict, remote, item: Item) -> pd.DataFrame:
    """The table that is stored for an item: a row for each constraint that lacks a replacement."""
    from .candidate_runs import run_candidates  # heavy
    from .conditions import Conditions, clean_prompt

    prompt = clean_prompt(model, item, Conditions())
    groups = {role: _substitutions(pool, settings, item, role, model, prompt) for role in _open_roles(item)}
    corrupted = [[one.corrupted for one in group] for group in groups.values()]
    run, probabilities = run_candidates(model, prompt, item, corrupted, settings["max_p"], remote)  # pyright: ignore[reportArgumentType]
    rows = []
    for (role, group), p in zip(groups.items(), probabilities, strict=True):
        good = [i for i, one in enumerate(p) if group[i].equal_length and one <= settings["max_p"] * run["p_clean"]]
        best = good[0] if good else int(np.argmin(p)) if p else None
        row = _row(pool, item, role, "chosen", group[best] if best is not None else None)
        rows.append(row | run | {"tried": len(p), "p_corrupted": p[best] if best is not None else np.nan})
    # `reason` says why an item could not be asked; one without a candidate could.
    return pd.DataFrame(rows).rename(columns={"reason": "why_none"}).assign(reason="")


def _unchecked(pool: Candidates, settings: dict, item: Item) -> dict[str, dict]:
    """The rows of an item, by role, chosen without a model."""
    if not item.visual_constraint:
        return _unusable(item, NOT_MARKED)
    groups = {role: _substitutions(pool, settings, item, role) for role in _open_roles(item)}
    return {role: _row(pool, item, role, "unchecked", group[0] if group else None) for role, group in groups.items()}


def _substitutions(
    pool: Candidates, settings: dict, item: Item, role: str, model=None, prompt: Prompt | None = None
) -> list[Substitution]:
    """The candidates to try for a constraint, in that order."""
    if prompt:
        from ..prompts.corruption import corrupt  # heavy
    constraint, question = getattr(item, f"{role}_constraint"), normalize(item.question)
    begin, end = find_phrase(question, constraint, f"{role}_constraint", last=role == "text")
    n = len(prompt.positions(_PROMPT_ROLES[role])) if prompt else len(constraint.split())
    found = []
    for phrase, source in pool.of(item, role, seed=settings["seed"], most=max(_MOST_CANDIDATES, settings["tries"])):
        corrupted, length = None, len(phrase.split())
        if prompt:
            try:
                corrupted = corrupt(model, prompt, **{f"{role}_replacement": phrase})
            except PromptError:
                continue
            length = n + len(corrupted.input_ids) - len(prompt)
        # Where the text constraint is replaced, the visual one stays, and so does the need for the image.
        pointing = needs_image(question[:begin] + phrase + question[end:]) if role == "visual" else None
        found.append(Substitution(phrase, source, pointing, n, length, corrupted))
    return sorted(found, key=lambda one: (bool(one.needs_image), not one.equal_length))[: settings["tries"]]


def _roles(item: Item) -> list[str]:
    return ["visual"] if item.text_constraint is None else ["visual", "text"]


def _open_roles(item: Item) -> list[str]:
    """The roles of the constraints that lack a replacement."""
    return [role for role in _roles(item) if not getattr(item, f"{role}_replacement")]


def _unchanged(item: Item, role: str) -> dict:
    """The row of a constraint for which nothing is chosen."""
    phrase = getattr(item, f"{role}_replacement") or ""
    return {"id": item.id, "part": item.part, "constraints": item.constraints, "role": role,
            "constraint": getattr(item, f"{role}_constraint"), "status": "kept" if phrase else "not asked",
            "phrase": phrase, "source": "", "reason": ""}


def _row(pool: Candidates, item: Item, role: str, status: str, chosen: Substitution | None) -> dict:
    """The row of a constraint for which a candidate was chosen. chosen: None where there was no candidate."""
    if chosen is None:
        return {"role": role, "status": "none", "phrase": "", "source": "", "reason": pool.why_none(item, role)}
    names = ("phrase", "source", "needs_image", "tokens", "phrase_tokens", "equal_length")
    return {"role": role, "status": status, **{name: getattr(chosen, name) for name in names}, "reason": ""}


def _unusable(item: Item, reason: str) -> dict[str, dict]:
    return {role: {"status": "none", "phrase": "", "reason": reason} for role in _open_roles(item)}
