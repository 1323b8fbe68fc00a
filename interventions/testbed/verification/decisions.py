"""What people decide about the items of a test bed: a log that only grows, and what stands in it.

One line of `decisions.jsonl` is one decision. A line is written at the end of the file in one call, under a lock, and
is on the disk before the next key is taken. So two people may write at once (on a network drive without locks, give
each a log of their own and join the files), and a crash costs at most the line that was being written.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from ...errors import TestBedError
from ...files import append_lines
from ...text import first_line, quoted
from ..schema import EMBEDDED, Item, TestBed

LOG = "decisions.jsonl"
ACTIONS = ("accept", "correct", "reject")


@dataclass(frozen=True)
class Decision:
    """One line of the log. The phrases are those of the item as the person left them."""

    item: str  # its id
    question_sha256: str  # a decision counts only for the wording it was made on
    annotator: str
    action: str  # "accept" | "correct" | "reject", or "undo": the person's last decision on the item no longer counts
    visual_constraint: str = ""
    text_constraint: str | None = None
    visual_replacement: str | None = None  # None: not written by this person; "": taken away
    text_replacement: str | None = None
    comment: str = ""
    blind: bool = True  # made without a look at what others decided: agreement counts no other
    time: str = ""  # UTC

    def is_on(self, item: Item) -> bool:
        """Was it made on the item's question as it is now?"""
        return self.question_sha256 == _sha256(item.question)


class DecisionLog:
    """The decisions in a file, which need not be there yet; `refresh` reads what others appended since.

    unreadable: the numbers of lines that hold no decision (cut off by a crash, or written by hand). They are passed
    over. Raises `TestBedError` where the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Read what was appended since, by anybody."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:  # another file by now
                    self._forget()
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            self._forget()
            return
        except OSError as error:
            raise TestBedError(f"{self.path} cannot be read ({first_line(error)}).") from error
        whole = data[: data.rfind(b"\n") + 1]  # the rest is being written, or was cut off
        self._read += len(whole)
        for line in whole.splitlines():
            self._lines += 1
            decision = _parsed(line)
            if decision:
                self._take(decision)
            elif line.strip():
                self.unreadable.append(self._lines)

    @property
    def annotators(self) -> tuple[str, ...]:
        """Whoever has a decision that stands."""
        return tuple(sorted({decision.annotator for decision in self._standing}))

    def standing(self, *, blind: bool = False) -> dict[str, dict[str, Decision]]:
        """The last decision of each person on each item: item id -> annotator -> decision. blind: the last such."""
        found: dict[str, dict[str, Decision]] = {}
        for decision in self._standing:
            if decision.blind or not blind:
                found.setdefault(decision.item, {})[decision.annotator] = decision
        return found

    def decided(self, annotator: str) -> list[str]:
        """The items of a person's decisions that were not undone, in the order of the decisions."""
        return [decision.item for decision in self._standing if decision.annotator == annotator]

    def decide(
        self, item: Item, annotator: str, action: str, *, visual_replacement: str | None = None,
        text_replacement: str | None = None, comment: str = "", blind: bool = True,
    ) -> Decision:
        """Append a decision on an item, whose constraints are already as the person wants them; returns it.

        action: one of ACTIONS; replacements: None unless the person wrote them. Raises `TestBedError` for an action
        or a name that is none, and for constraints that cannot be accepted; then nothing is written.
        """
        if action not in ACTIONS:
            raise TestBedError(f"action cannot be {quoted(action)}: use {', '.join(map(repr, ACTIONS))}.")
        problem = "" if action == "reject" else spans_problem(item)
        if problem:
            raise TestBedError(f"Item {quoted(item.id)} cannot be accepted: {problem}.")
        return self._append(Decision(
            item.id, _sha256(item.question), annotator, action, item.visual_constraint, item.text_constraint,
            visual_replacement, text_replacement, comment, blind,
        ))

    def undo(self, annotator: str, item_id: str) -> Decision:
        """Append that the person's last decision on an item no longer counts, but the one before it, if any."""
        last = self.standing().get(item_id, {}).get(annotator)
        if last is None:
            raise TestBedError(f"Nothing to undo: no decision of {quoted(annotator)} on item {quoted(item_id)} stands.")
        return self._append(Decision(item_id, last.question_sha256, annotator, "undo"))

    def _append(self, decision: Decision) -> Decision:
        if not decision.annotator.strip():
            raise TestBedError("annotator must be a name: decisions are told apart by it.")
        decision = replace(decision, time=datetime.now(UTC).isoformat(timespec="seconds"))
        append_lines(self.path, [asdict(decision)])
        self.refresh()
        return decision

    def _take(self, decision: Decision) -> None:
        if decision.action != "undo":
            self._standing.append(decision)
            return
        undone = [i for i, earlier in enumerate(self._standing)
                  if (earlier.item, earlier.annotator) == (decision.item, decision.annotator)]
        if undone:
            del self._standing[undone[-1]]

    def _forget(self) -> None:
        self.unreadable: list[int] = []
        self._standing: list[Decision] = []
        self._read = self._lines = 0


def default_log(testbed: TestBed) -> Path:
    """Where a test bed's decisions go: into its folder, for the embedded one into `results/`."""
    return (Path("results") if testbed.directory == EMBEDDED.resolve() else testbed.directory) / LOG


def spans_problem(item: Item) -> str:
    """Why the item's constraints cannot be traced, as the end of a sentence; empty if they can."""
    return "" if item.visual_constraint else "its visual constraint is not marked"  # the rest the item itself refuses


def _parsed(line: bytes) -> Decision | None:
    try:
        decision = Decision(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    types = {str: "str", bool: "bool", type(None): "None"}
    right = all(types.get(type(getattr(decision, f.name))) in f.type.split(" | ") for f in fields(Decision))
    return decision if right and decision.action in (*ACTIONS, "undo") else None


def _sha256(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()
