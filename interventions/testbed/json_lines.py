"""Files of JSON lines that only grow, several writers at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

from .errors import TestBedError, first_line


def append_lines(path: Path, contents: list[dict]) -> None:
    """Put lines of JSON at the end of a file, in one call, on the disk when this returns; never on a line cut off.

    Threads and processes may append at once. Raises `TestBedError` where the file cannot be written.
    """
    lines = "".join(json.dumps(content, ensure_ascii=False) + "\n" for content in contents).encode("utf-8", "replace")
    if not lines:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            if fcntl is not None:  # until it is closed: another may be cut off after the look at the end
                fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            if size:
                os.lseek(file, size - 1, os.SEEK_SET)  # only for the look: what is written goes to the end
            if size and os.read(file, 1) != b"\n":
                lines = b"\n" + lines
            if os.write(file, lines) != len(lines):
                raise OSError("the disk is full")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        problem = f"{path} cannot be written ({first_line(error)})"
        raise TestBedError(f"{problem}: what was to be added is not saved.") from error
