"""Make a test bed from the rows of sources: account for every row, and write the folder whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import TestBedError
from ...files import file_sha256, new_folder
from ...progress import Progress
from ...text import count_reasons, list_reasons, quoted
from ..images import ImageFolder, image_problem, n_pixels
from ..provenance import add_step
from ..schema import Item, TestBed
from ..table import load_testbed, save_testbed

ROWS = "rows.csv"
CHOICES = ("first", "largest")


class LeftOut(Exception):
    """A row that cannot be used. The message is the reason; the text before a colon is its kind."""


@dataclass
class Row:
    """One row of a source: kept as it is, repaired, or left out with a reason."""

    source: str
    number: int  # from 1
    part: str
    id: str
    question: str
    status: str = ""  # kept | repaired | left out
    repairs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reason: str = ""
    image: str = ""  # the name in the user's folder
    image_sha256: str = ""


class NewTestBed:
    """A test bed in the making: `with NewTestBed(out) as new:` add rows and images; `publish` moves it to `out`.

    After an error nothing is left.
    """

    def __init__(self, out: str | Path, choice: str = "first") -> None:
        self.out = Path(out).expanduser().resolve()
        if choice not in CHOICES:
            raise TestBedError(f"choice cannot be {quoted(choice)}: use {' or '.join(CHOICES)}.")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise TestBedError(f"out: {quoted(Path(out))} exists and is not empty: name a new folder.")
        self.choice, self.items, self.rows, self._taken = choice, [], [], {}

    def __enter__(self) -> NewTestBed:
        self._making = ExitStack()
        self.directory = self._making.enter_context(new_folder(self.out))  # of the same name, which its card shows
        return self

    def __exit__(self, *error) -> None:
        self._making.__exit__(*error)

    def add_rows(
        self, part: str, source: str, entries: Iterable[tuple[str, Any]], add: Callable[[Row, Any], None]
    ) -> None:
        """Add a row for every (question, entry): `add(row, entry)` calls `keep` or raises LeftOut."""
        entries, before = list(entries), sum(row.part == part for row in self.rows)
        progress = Progress(len(entries), source)
        for number, (question, entry) in enumerate(entries, start=before + 1):
            row = Row(source, number, part, f"{part}-{number:05d}", question)
            self.rows.append(row)
            try:
                add(row, entry)
            except LeftOut as error:
                row.status, row.reason = "left out", str(error)
            progress.step(f"{len(self.items)} used")

    def keep(self, row: Row, **item) -> None:
        """Make an item of the row. Raise LeftOut if that is not possible."""
        try:
            self.items.append(Item(id=row.id, part=row.part, question=row.question, **item))
        except TestBedError as error:
            raise LeftOut(f"no valid item: {error}") from error
        row.status = "repaired" if row.repairs else "kept"

    def take_image(self, row: Row, candidates: list[Path], name: str) -> Path:
        """Link or copy the chosen picture into the test bed, and return its path there.

        The file is named after `name` and its sha256. Unusable candidates are skipped and noted.
        """
        if not candidates:
            raise LeftOut(f"no image: {name}")
        usable: list[Path] = []
        problems: list[str] = []
        for path in candidates:
            problem = image_problem(path)
            if problem:
                problems.append(f"{path.name} cannot be used, {problem}")
            else:
                usable.append(path)
                if self.choice == "first":
                    break
        if not usable:
            raise LeftOut(f"no usable image: {'; '.join(problems)}")
        row.notes += problems
        chosen = usable[0] if self.choice == "first" else max(usable, key=n_pixels)
        if problems:
            row.repairs.append("unusable images passed over")
        if len(candidates) > 1:
            row.notes.append(f"{chosen.name} of {len(candidates)} images, the {self.choice} that can be used")
        row.image = str(Path(*chosen.parts[-2:]))
        if chosen not in self._taken:
            self._taken[chosen] = self._into_images(chosen, row.part, name)
        path, row.image_sha256 = self._taken[chosen]
        return path

    def publish(self, command: str, *, settings: dict, inputs: Iterable[Path]) -> tuple[TestBed, pd.DataFrame]:
        """Write tables and card, and move the folder to `out`. Return the test bed and the table of rows."""
        if not self.items:
            reasons = list_reasons(row.reason for row in self.rows)
            raise TestBedError(f"None of {len(self.rows)} rows can be used ({reasons}): nothing is written.")
        save_testbed(self.items, self.directory)
        rows = [asdict(row) | {name: " | ".join(getattr(row, name)) for name in ("repairs", "notes")}
                for row in self.rows]
        frame = pd.DataFrame(rows, columns=[f.name for f in fields(Row)])
        frame.to_csv(self.directory / ROWS, index=False)
        add_step(self.directory, command, settings=settings, inputs=inputs, counts=dict(Counter(frame["status"])))
        self._making.close()
        return load_testbed(self.out), frame

    def _into_images(self, path: Path, part: str, name: str) -> tuple[Path, str]:
        digest = file_sha256(path)
        place = Path("images") / part / f"{_slug(name)}-{digest[:12]}{path.suffix.lower()}"
        target = self.directory / place
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:  # another disk
                shutil.copyfile(path, target)
        return place, digest


def summary(frame: pd.DataFrame, folders: Iterable[ImageFolder] = ()) -> str:
    """Return the counts of each source as text: kept + repaired + left out, then every kind of repair and reason."""
    lines = []
    for source, rows in frame.groupby("source", sort=False):
        counts = Counter(rows["status"])
        sum_ = " + ".join(f"{counts[status]} {status}" for status in ("kept", "repaired", "left out"))
        lines.append(f"{source}: {sum_} = {len(rows)} rows")
        repaired = rows.loc[rows["status"] == "repaired", "repairs"]
        repairs = Counter(repair for cell in repaired for repair in cell.split(" | "))
        lines += [f"  repaired, {repair}: {n}" for repair, n in repairs.most_common()]
        lines += [f"  left out, {kind}: {n}" for kind, n in count_reasons(rows["reason"]).most_common()]
    for folder in folders:
        unnamed = folder.unnamed()
        if unnamed:
            lines.append(f"{folder.root}: {len(unnamed)} folders that no row names, such as {unnamed[0]!r}")
    return "\n".join(lines)


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-").lower()[:60] or "image"
