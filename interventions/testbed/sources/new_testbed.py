"""A test bed in the making: what became of every row of the sources, and a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd

from ...errors import TestBedError
from ...files import new_folder
from ...text import count_reasons, quoted
from ..images import ImageFolder, image_problem, n_pixels
from ..provenance import add_step
from ..schema import Item, TestBed
from ..table import load_testbed, save_testbed

ROWS = "rows.csv"
CHOICES = ("first", "largest")


class LeftOut(Exception):
    """A row that cannot be used; the message is the reason, the part before a colon its kind."""


@dataclass
class Row:
    """What became of one row of a source: kept as it is, repaired, or left out with a reason."""

    source: str
    number: int  # from 1
    part: str
    id: str
    question: str
    status: str = ""  # kept | repaired | left out
    repairs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reason: str = ""
    image: str = ""  # as the user's folders have it
    image_sha256: str = ""


class NewTestBed:
    """`with NewTestBed(out) as new:` rows are added, images taken along; `publish` makes the folder `out` appear.

    Raises `TestBedError` if `out` holds something already. Whatever goes wrong inside, nothing is left of it.
    """

    def __init__(self, out: str | Path, choice: str = "first") -> None:
        self.out = Path(out).expanduser().resolve()
        if choice not in CHOICES:
            raise TestBedError(f"choice cannot be {quoted(choice)}: use {' or '.join(CHOICES)}.")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise TestBedError(f"out: {quoted(Path(out))} is there already: name a new folder.")
        self.choice, self.items, self.rows, self._taken = choice, [], [], {}

    def __enter__(self) -> NewTestBed:
        self._making = ExitStack()
        self.directory = self._making.enter_context(new_folder(self.out))  # of the same name, for its card tells it
        return self

    def __exit__(self, *error) -> None:
        self._making.__exit__(*error)

    def row(self, source: str, number: int, part: str, question: str) -> Row:
        """Begin the next row; every row ends in `keep` or `leave_out`."""
        self.rows.append(Row(source, number, part, f"{part}-{number:05d}", question))
        return self.rows[-1]

    def keep(self, row: Row, **item) -> None:
        """The row becomes an item; `image` may be a file of the user's. Raises LeftOut for what cannot be one."""
        try:
            self.items.append(Item(id=row.id, part=row.part, question=row.question, **item))
        except TestBedError as error:
            raise LeftOut(f"no valid item: {error}") from error
        row.status = "repaired" if row.repairs else "kept"

    def leave_out(self, row: Row, reason: str) -> None:
        row.status, row.reason = "left out", reason

    def take_image(self, row: Row, candidates: list[Path], name: str) -> Path:
        """The chosen picture, as its path in the test bed; raises LeftOut if none can be used.

        The file is linked where that is possible, copied elsewhere, and called after `name` and its sha256. Candidates
        that cannot be used are passed over, and noted.
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
        """Write tables and card, and move all of it to its place; returns the test bed and the table of rows."""
        undecided = [row.id for row in self.rows if not row.status]
        assert not undecided, f"rows without an end: {undecided[:3]}"
        if not self.items:
            raise TestBedError(f"Not one of {len(self.rows)} rows can be used ({told(self.rows)}): nothing is written.")
        save_testbed(self.items, self.directory)
        frame = rows_frame(self.rows)
        frame.to_csv(self.directory / ROWS, index=False)
        add_step(self.directory, command, settings=settings, inputs=inputs, counts=dict(Counter(frame["status"])))
        self._making.close()
        return load_testbed(self.out), frame

    def _into_images(self, path: Path, part: str, name: str) -> tuple[Path, str]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        place = Path("images") / part / f"{_slug(name)}-{digest[:12]}{path.suffix.lower()}"
        target = self.directory / place
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:  # another disk
                shutil.copyfile(path, target)
        return place, digest


def rows_frame(rows: list[Row]) -> pd.DataFrame:
    """One line a row of the sources; repairs and notes are separated by " | "."""
    flat = [asdict(row) | {name: " | ".join(getattr(row, name)) for name in ("repairs", "notes")} for row in rows]
    return pd.DataFrame(flat, columns=[f.name for f in fields(Row)])


def told(rows: list[Row]) -> str:
    """How often rows were left out for each kind of reason."""
    kinds = count_reasons(row.reason for row in rows)
    return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())


def summary(frame: pd.DataFrame, folders: Iterable[ImageFolder] = ()) -> str:
    """What is printed at the end: by source, kept + repaired + left out = all, then every kind of repair and reason."""
    lines = []
    for source, rows in frame.groupby("source", sort=False):
        counts = Counter(rows["status"])
        sum_ = " + ".join(f"{counts[status]} {status}" for status in ("kept", "repaired", "left out"))
        lines.append(f"{source}: {sum_} = {len(rows)} rows")
        repaired = rows.loc[rows["status"] == "repaired", "repairs"]  # others were left out for all that
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
