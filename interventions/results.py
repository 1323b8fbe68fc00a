"""One small file per question and setting, so that a run that is killed and started again simply continues.

A file is named by a hash of everything that determines its content and appears in one step (written beside,
then renamed), so at any moment it is either absent or whole. A file that is unreadable all the same (a full
disk, a copy cut short) counts as absent. What `get_or_compute` returns has always been read back from the
file: a fresh run and a resumed one therefore give the same table, types included.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .files import in_one_step

SCHEMA_VERSION = 1  # raise it whenever the content of a stored table changes its meaning
_KEY = b"interventions.key"
_LEFTOVER_AGE = 3600  # seconds after which a temporary file must have lost its writer


class ResultStore:
    """A directory of result tables.

    `store.get_or_compute({"model": revision, "item": ..., "window": 3}, compute)` returns the stored table of
    that key, or calls `compute()` for a DataFrame and stores it. Keys hold what JSON can: strings, numbers,
    booleans, None, lists and dictionaries of them.
    """

    def __init__(self, results_dir: str | Path) -> None:
        self.directory = Path(results_dir).expanduser() / "questions"
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.glob(".*.tmp"):  # a run killed while it wrote leaves one
            with suppress(FileNotFoundError):  # another run may finish it right now
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                    path.unlink()

    def path(self, key: dict) -> Path:
        """Where the table of `key` is, or would be."""
        return self.directory / f"{hashlib.sha256(_canonical(key)).hexdigest()[:32]}.parquet"

    def get(self, key: dict) -> pd.DataFrame | None:
        """The stored table, or None if there is none that can be read."""
        try:
            table = pq.read_table(self.path(key), page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        if (table.schema.metadata or {}).get(_KEY) != _canonical(key):
            return None
        return table.to_pandas()

    def get_or_compute(self, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table of `key`: stored, or computed now and stored. If `compute` raises, nothing is."""
        stored = self.get(key)
        if stored is not None:
            return stored
        self._put(key, compute())
        stored = self.get(key)
        if stored is None:
            raise OSError(f"{self.path(key)} could not be read back: check the disk of results_dir.")
        return stored

    def _put(self, key: dict, frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: _canonical(key)})

        def write(path: Path) -> None:
            with path.open("wb") as file:  # Arrow takes a relative path such as "gpt:2/…" for a URI
                pq.write_table(table, file, compression="zstd", write_page_checksum=True)

        in_one_step(self.path(key), write)


def _canonical(key: dict) -> bytes:
    """The one JSON text of a key: sorted, without spaces, refusing what has no exact JSON form."""
    versioned = {"schema_version": SCHEMA_VERSION, **key}
    return json.dumps(versioned, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
