"""The history of a test bed: every step with the sha256 of its inputs, in `provenance.json` and on the card."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from ..environment import versions
from ..errors import TestBedError
from ..files import file_sha256, write_atomically
from ..text import first_line
from .card import write_card
from .schema import EMBEDDED, Item, TestBed
from .table import load_testbed, save_testbed

PROVENANCE = "provenance.json"


def rewrite(
    testbed: TestBed, items: Iterable[Item], command: str, *, remove: Iterable[str] = (), settings: dict | None = None,
    inputs: Iterable[str | Path] = (), counts: dict | None = None,
) -> TestBed:
    """Replace items by those of the same id, add a step to the history, and return the test bed as loaded again.

    Other items stay, and so does an item that somebody else changed since it was loaded. Such items, and those that
    somebody removed, are counted as "changed meanwhile". New items come last.

    Args:
        testbed: as it was loaded, or a selection of it.
        command: such as "annotate".
        remove: ids that leave the table.
        settings, counts: plain values for the card.
        inputs: files that were read, whose size and sha256 are kept.

    Raises:
        TestBedError: this is the embedded test bed.
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
    """Raise TestBedError for the embedded test bed."""
    if testbed.directory == EMBEDDED.resolve():
        raise TestBedError("The embedded test bed is part of the package and stays as it is: copy its folder first.")


def add_step(
    directory: Path, command: str, *, settings: dict | None = None, inputs: Iterable[str | Path] = (),
    counts: dict | None = None,
) -> None:
    """Append a step to the history of a test bed, and write its card."""
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
    """Return the steps, oldest first; none for a test bed that was made by hand."""
    path = Path(directory) / PROVENANCE
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["steps"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise TestBedError(f"{path} is not readable ({first_line(error)}): repair or move it.") from error


def described(path: str | Path) -> dict:
    """Return the name (without the folder), size and sha256 of a file."""
    path = Path(path).expanduser()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
