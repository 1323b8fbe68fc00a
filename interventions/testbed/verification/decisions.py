"""The log of what people decide about the items of a test bed. It only grows.

A line of `decisions.jsonl` is one decision. It is appended in one call, under a lock, and is on the disk before the
next key is read. So several people may write at once (on a network drive without locks, give each person a log and join
the files), and a crash costs at most one line.
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
    """One line of the log, with the phrases of the item as the person left them."""

    item: str  # its id
    question_sha256: str  # a decision counts only for this wording
    annotator: str
    action: str  # "accept" | "correct" | "reject", or "undo", which cancels the person's last decision on the item
    visual_constraint: str = ""
    text_constraint: str | None = None
    visual_replacement: str | None = None  # None: not written by this person; "": removed
    text_replacement: str | None = None
    comment: str = ""
    blind: bool = True  # made without seeing what others decided; agreement counts only these
    time: str = ""  # UTC

    def is_on(self, item: Item) -> bool:
        """Return whether it was made on the current wording of the item's question."""
        return self.question_sha256 == _sha256(item.question)


class DecisionLog:
    """The decisions in a file, which need not exist yet. `refresh` reads what others appended.

    Attributes:
        path: the file.
        unreadable: the numbers of lines without a decision (cut off by a crash, or written by hand), which are
            skipped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Read what anybody appended since the last time."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:  # the file was replaced
                    self._forget()
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            self._forget()
            return
        except OSError as error:
            raise TestBedError(f"{self.path} cannot be read ({first_line(error)}).") from error
        whole = data[: data.rfind(b"\n") + 1]  # the rest is incomplete
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
        """The people with a valid decision."""
        return tuple(sorted({decision.annotator for decision in self._standing}))

    def standing(self, *, blind: bool = False) -> dict[str, dict[str, Decision]]:
        """Return the last decision of each person on each item: item id -> annotator -> decision. blind: only these."""
        found: dict[str, dict[str, Decision]] = {}
        for decision in self._standing:
            if decision.blind or not blind:
                found.setdefault(decision.item, {})[decision.annotator] = decision
        return found

    def decided(self, annotator: str) -> list[str]:
        """Return the ids of the items on which a person decided, in that order, without undone decisions."""
        return [decision.item for decision in self._standing if decision.annotator == annotator]

    def decide(
        self, item: Item, annotator: str, action: str, *, visual_replacement: str | None = None,
        text_replacement: str | None = None, comment: str = "", blind: bool = True,
    ) -> Decision:
        """Append a decision on an item with the constraints that the person wants, and return it.

        Replacements are None unless the person wrote them. After a TestBedError nothing is written.
        """
        if action not in ACTIONS:
            raise TestBedError(f"action cannot be {quoted(action)}: use {', '.join(map(repr, ACTIONS))}.")
        if action != "reject" and not item.visual_constraint:  # an item refuses constraints that cannot be found
            raise TestBedError(f"Item {quoted(item.id)} cannot be accepted: its visual constraint is not marked.")
        return self._append(Decision(
            item.id, _sha256(item.question), annotator, action, item.visual_constraint, item.text_constraint,
            visual_replacement, text_replacement, comment, blind,
        ))

    def undo(self, annotator: str, item_id: str) -> Decision:
        """Cancel the person's last decision on an item, so that the one before it counts, if any."""
        last = self.standing().get(item_id, {}).get(annotator)
        if last is None:
            raise TestBedError(f"Nothing to undo: {quoted(annotator)} has no decision on item {quoted(item_id)}.")
        return self._append(Decision(item_id, last.question_sha256, annotator, "undo"))

    def _append(self, decision: Decision) -> Decision:
        if not decision.annotator.strip():
            raise TestBedError("annotator must be a name.")
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
    """Return the path of a test bed's log: in its folder, for the embedded one in `results/`."""
    return (Path("results") if testbed.directory == EMBEDDED.resolve() else testbed.directory) / LOG


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
