"""One small file per question and setting, so that a run that was killed continues when it starts again.

A file is named by a hash of everything that determines its content, and is written in one step, so it is absent or
whole. An unreadable file (a full disk, a copy cut short) counts as absent. `get_or_compute` always reads its table back
from the file: a fresh run and a resumed one return the same table, types included.

Each file says which versions of packages, which device and which commit computed it. They are not part of its name: a
new commit recomputes nothing, and a report says which ones computed its tables.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..environment import computing
from ..files import write_atomically

TABLES = "questions"  # the folder of tables in a folder of results
_KEY, _COMPUTED_BY, _OF = b"interventions.key", b"interventions.computed_by", b"interventions.computed_of"
_LEFTOVER_AGE = 3600  # seconds after which a temporary file must have lost its writer
_read: dict[str, str] = {}  # the tables that this run's numbers rest on, and what computed each, as JSON
_computing = threading.local()  # .of: for each table that this thread computes just now, those that it reads


class ResultStore:
    """A directory of result tables.

    `store.get_or_compute({"table": "trace_study", "version": 2, "window": 3, ...}, compute)` returns the stored table
    of that key, or calls `compute()` for a DataFrame and stores it. A key is plain JSON. It names its "table" and the
    "version" of its computation, which rises with every change of the table's numbers or their meaning. A table's
    `attrs["computed_by"]` says what computed it.

    Args:
        results_dir: the folder; its sub-folder TABLES holds the files.
        device: where new tables are computed, stored with them.
    """

    def __init__(self, results_dir: str | Path, device: str = "") -> None:
        self.directory, self.device = Path(results_dir).expanduser() / TABLES, device
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.glob(".*.tmp"):  # a run killed while it wrote leaves one
            with suppress(FileNotFoundError):  # another run may finish it right now
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                    path.unlink()

    def path(self, key: dict) -> Path:
        """Return the path of the table of `key`."""
        return self.directory / f"{hashlib.sha256(_canonical(key)).hexdigest()[:32]}.parquet"

    def get(self, key: dict) -> pd.DataFrame | None:
        """Return the stored table, or None if there is none that can be read."""
        path = self.path(key)
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        metadata = table.schema.metadata or {}
        if metadata.get(_KEY) != _canonical(key):
            return None
        own = metadata[_COMPUTED_BY].decode()
        rests_on = json.loads(metadata.get(_OF, b"{}")) | {path.stem: own}
        tables = getattr(_computing, "of", [])
        (tables[-1] if tables else _read).update(rests_on)
        frame = table.to_pandas()
        frame.attrs["computed_by"] = json.loads(own)
        return frame

    def get_or_compute(self, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the table of `key`, computed and stored if it is not there. If `compute` raises, nothing is stored."""
        stored = self.get(key)
        if stored is not None:
            return stored
        _computing.of = [*getattr(_computing, "of", []), {}]
        try:
            frame = compute()
        finally:
            rests_on = _computing.of.pop()
        self._put(key, frame, rests_on)
        stored = self.get(key)
        if stored is None:
            raise OSError(f"{self.path(key)} could not be read back: check the disk of results_dir.")
        return stored

    def _put(self, key: dict, frame: pd.DataFrame, rests_on: dict[str, str]) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        own = {_KEY: _canonical(key), _COMPUTED_BY: _json(computing(self.device)), _OF: _json(rests_on)}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **own})

        def write(path: Path) -> None:
            with path.open("wb") as file:  # Arrow takes a relative path such as "gpt:2/…" for a URI
                pq.write_table(table, file, compression="zstd", write_page_checksum=True)

        write_atomically(self.path(key), write)


def begin_run() -> None:
    """Begin a run: `computed_by` counts the tables that are read from here on."""
    _read.clear()


def computed_by() -> list[dict]:
    """Return what computed the tables that this run's numbers rest on, the one with most tables first.

    Each entry is that of `environment.computing` with the number of its "tables". A table that another one was computed
    from counts as well, even if only the other one was read.
    """
    return [json.loads(told) | {"tables": n} for told, n in Counter(_read.values()).most_common()]


def content_digest(content: object) -> str:
    """Return a digest that stands for large JSON content in a key."""
    return hashlib.sha256(_json(content)).hexdigest()


def _canonical(key: dict) -> bytes:
    """Return the canonical JSON text of a key."""
    if not isinstance(key.get("version"), int):
        raise ValueError(f"The key of table {key['table']!r} has no version: add one, and raise it with every change.")
    return _json(key)


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
