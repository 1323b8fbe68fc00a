"""How a test bed came about: every step with its inputs' sha256, kept in `provenance.json` and told by the card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from ..environment import versions
from ..errors import TestBedError
from ..files import write_atomically
from ..text import first_line
from .card import write_card
from .schema import EMBEDDED, Item, TestBed
from .table import load_testbed, save_testbed

PROVENANCE = "provenance.json"


def rewrite(
    testbed: TestBed, items: Iterable[Item], command: str, *, remove: Iterable[str] = (), settings: dict | None = None,
    inputs: Iterable[str | Path] = (), counts: dict | None = None,
) -> TestBed:
    """Put items in the place of those of the same id, note the step, and make the card anew; returns all, loaded again.

    testbed: as it was loaded, or a selection of it: whatever is not among `items` stays, and so does an item that
    somebody else has changed since (counted as "changed meanwhile", as is one that somebody took out, which does not
    come back). Items that are neither in `testbed` nor in the table come last.
    remove: ids that leave the table. command: what was run ("annotate"); settings and counts: plain values that the
    card shows; inputs: files that were read, whose size and sha256 are kept.
    Raises `TestBedError` for the embedded test bed, which is part of the package.
    """
    must_be_writable(testbed)
    new, before, remove = {item.id: item for item in items}, {item.id: item for item in testbed}, set(remove)
    merged, counts = [], dict(counts or {})
    for item in load_testbed(testbed.directory):
        mine = new.pop(item.id, item)
        if item != before.get(item.id, item) and (mine != item or item.id in remove):
            counts["changed meanwhile"] = counts.get("changed meanwhile", 0) + 1
            merged.append(item)
        elif item.id not in remove:
            merged.append(mine)
    gone = new.keys() & before.keys()
    if gone:
        counts["changed meanwhile"] = counts.get("changed meanwhile", 0) + len(gone)
    added = [item for name, item in new.items() if name not in gone]
    save_testbed([*merged, *added], testbed.directory)
    add_step(testbed.directory, command, settings=settings, inputs=inputs, counts=counts)
    return load_testbed(testbed.directory)


def must_be_writable(testbed: TestBed) -> None:
    """Raises `TestBedError` for the embedded test bed."""
    if testbed.directory == EMBEDDED.resolve():
        raise TestBedError("The embedded test bed is part of the package and stays as it is: copy its folder first.")


def add_step(
    directory: Path, command: str, *, settings: dict | None = None, inputs: Iterable[str | Path] = (),
    counts: dict | None = None,
) -> None:
    """Append a step to the test bed's history, and make its card anew from all of them."""
    steps = history(directory)
    steps.append({
        "command": command, "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(("interventions",)),
        "settings": settings or {}, "inputs": [described(path) for path in inputs], "counts": counts or {},
    })
    text = json.dumps({"steps": steps}, indent=1, ensure_ascii=False)
    write_atomically(directory / PROVENANCE, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    write_card(load_testbed(directory), steps)


def history(directory: str | Path) -> list[dict]:
    """The steps so far, oldest first; none for a test bed that was made by hand."""
    path = Path(directory) / PROVENANCE
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["steps"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise TestBedError(f"{path} is not readable ({first_line(error)}): mend it or move it away.") from error


def described(path: str | Path) -> dict:
    """A file by name, size and sha256. (Not by its folder, which is nobody else's business.)"""
    path = Path(path).expanduser()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
