"""Apply the decisions of people to a test bed: the outcome of every item, and the new test bed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

import pandas as pd

from ...errors import TestBedError
from ...files import append_lines
from ...text import quoted
from ..provenance import must_be_writable, rewrite
from ..schema import Item, TestBed
from ..table import load_testbed
from .decisions import Decision, DecisionLog

SET_ASIDE = "set_aside.jsonl"
OUTCOMES = ("accepted", "corrected", "rejected", "disputed", "stale", "undecided")


def outcomes(testbed: TestBed, log: DecisionLog, *, prefer: str = "") -> pd.DataFrame:
    """Return the outcome of every item: id, part, outcome (one of OUTCOMES), annotators, reason.

    An item is disputed where people disagree, unless `prefer` names one of them. It is stale if all decisions on it
    were made on another wording of the question.
    """
    return pd.DataFrame(
        [(item.id, item.part, outcome, ", ".join(people), reason)
         for item, outcome, _, people, reason in _verdicts(testbed, log, prefer)],
        columns=["id", "part", "outcome", "annotators", "reason"],
    )


def apply_decisions(
    testbed: TestBed, log: DecisionLog, *, prefer: str = "", only_verified: bool = False
) -> dict[str, int]:
    """Write the decisions into the test bed: all of it, even if `testbed` is a selection.

    Accepted and corrected items get the constraints of the decision and lose paraphrases without them. Rejected items
    are set aside in `set_aside.jsonl`; a new decision brings them back. The others stay as they are.

    Args:
        prefer: whose decision counts where people disagree.
        only_verified: set aside all items that are neither accepted nor corrected. They come back when decisions are
            applied without it.

    Returns:
        Counts of all items: by outcome, kept, set aside, and the paraphrases left out.
    """
    must_be_writable(testbed)
    testbed = load_testbed(testbed.directory)
    verdicts = _verdicts(with_set_aside(testbed), log, prefer)
    if not log.annotators:
        raise TestBedError(f"{log.path} holds no decision: make some in notebooks/verify.ipynb first.")
    kept, aside, lost = [], [], 0
    for item, outcome, decided, people, reason in verdicts:
        if outcome == "rejected" or (only_verified and outcome not in ("accepted", "corrected")):
            aside.append((item, reason or (f"rejected by {', '.join(people)}" if people else "not verified")))
        else:
            kept.append(decided)
            lost += len(item.paraphrases) - len(decided.paraphrases)
    if not kept:
        raise TestBedError(f"All {len(aside)} items would be set aside: nothing is written.")
    there, images = {item.id for item in testbed}, testbed.directory
    rows = [{"reason": reason, "row": asdict(item) | {"image": item.image and os.path.relpath(item.image, images)}}
            for item, reason in aside if item.id in there]
    append_lines(testbed.directory / SET_ASIDE, rows)  # before they leave the table
    found = Counter(outcome for _, outcome, *_ in verdicts)
    counts = {"items": len(verdicts)} | {name: found[name] for name in OUTCOMES}
    counts |= {"kept": len(kept), "set aside": len(aside), "paraphrases left out": lost}
    settings, removed = {"prefer": prefer, "only_verified": only_verified}, [item.id for item, _ in aside]
    rewrite(testbed, kept, "verify", remove=removed, settings=settings, inputs=[log.path], counts=counts)
    return counts


def summary(counts: Mapping[str, int]) -> str:
    """Return the counts of `apply_decisions` as text. The outcomes add up to the items, as do kept and set aside."""
    outcomes = " + ".join(f"{counts[name]} {name}" for name in OUTCOMES)
    lost, where = counts["paraphrases left out"], f" (in {SET_ASIDE})" if counts["set aside"] else ""
    return (
        f"{outcomes} = {counts['items']} items\n{counts['kept']} kept + {counts['set aside']} set aside{where}"
        + (f"\n{lost} paraphrases without the corrected constraint left out" if lost else "")
    )


def with_set_aside(testbed: TestBed) -> TestBed:
    """Return the test bed with the items that were set aside, after its own."""
    rows, path = {item.id: item for item in testbed}, testbed.directory / SET_ASIDE
    aside: dict[str, Item] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)["row"]
            image = row["image"] and testbed.directory / row["image"]
            lists = {name: tuple(row[name]) for name in ("answers", "paraphrases", "annotations")}
            aside[row["id"]] = Item(**row | lists | {"image": image})
        except (ValueError, TypeError, KeyError, RecursionError):  # a line cut off: its item is in the table
            continue
    return replace(testbed, items=(*testbed, *(item for item in aside.values() if item.id not in rows)))


def as_decided(item: Item, decisions: Iterable[Decision]) -> Item:
    """Return the item with the phrases of these decisions, which agree and do not reject it."""
    decisions = list(decisions)
    item = item.with_constraints(decisions[0].visual_constraint, decisions[0].text_constraint)
    for decision in decisions:
        if decision.visual_replacement is not None:
            item = replace(item, visual_replacement=decision.visual_replacement)
        if decision.text_replacement is not None and item.text_constraint:
            item = replace(item, text_replacement=decision.text_replacement or None)
    return item


def disagree(decisions: Iterable[Decision]) -> bool:
    """Return whether decisions on an item differ in the verdict, a constraint or a written replacement."""
    decisions = list(decisions)
    if len({decision.action == "reject" for decision in decisions}) > 1:
        return True
    if decisions[0].action == "reject":
        return False
    written = [{getattr(decision, name) for decision in decisions} - {None}
               for name in ("visual_replacement", "text_replacement")]
    return len({(d.visual_constraint, d.text_constraint) for d in decisions}) > 1 or max(map(len, written)) > 1


def _verdicts(testbed: TestBed, log: DecisionLog, prefer: str) -> list[tuple[Item, str, Item, tuple[str, ...], str]]:
    """For every item: the item, its outcome, the item as decided, who decided, and why it is rejected."""
    if prefer and prefer not in log.annotators:
        people = ", ".join(log.annotators) or "nobody"
        raise TestBedError(f"prefer cannot be {quoted(prefer)}: the log has decisions of {people}.")
    standing = log.standing()
    return [(item, *_verdict(item, standing.get(item.id, {}), prefer)) for item in testbed]


def _verdict(item: Item, decisions: Mapping[str, Decision], prefer: str) -> tuple[str, Item, tuple[str, ...], str]:
    valid = {name: decision for name, decision in decisions.items() if decision.is_on(item)}
    if not valid:
        return "stale" if decisions else "undecided", item, (), ""
    people = tuple(valid)
    if disagree(valid.values()):
        if prefer not in valid:
            return "disputed", item, people, ""
        valid = {prefer: valid[prefer]}
    if next(iter(valid.values())).action == "reject":
        comments = [f"{name}: {decision.comment}" for name, decision in valid.items() if decision.comment]
        return "rejected", item, people, "; ".join(comments)
    decided = as_decided(item, valid.values())
    return "accepted" if decided == item else "corrected", decided, people, ""
