"""Write files and folders that appear whole or not at all, append lines, hash files, and sort names naturally."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from .errors import TestBedError
from .text import first_line

_digests: dict[tuple[int, ...], str] = {}  # what says that a file is the same one -> its sha256


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path` and move it there once it is on the disk, so `path` is either as before or whole.

    Args:
        path: the file. Its folder is made if it does not exist.
        write: writes the file at the path that it gets, a hidden one that ends in ".tmp".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:  # Windows syncs only files that are open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder with the name of `out`, and move it to `out` at the end. After an error nothing is left.

    Raises:
        OSError: `out` exists and is not empty.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # of this run alone
    try:
        folder = beside / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def append_lines(path: Path, contents: list[dict]) -> None:
    """Append lines of JSON to a file, in one call, and sync it to the disk. Never continue a line that was cut off.

    Threads and processes may append at the same time. The lock is an empty hidden file beside `path`.

    Raises:
        TestBedError: the file cannot be written.
    """
    lines = "".join(json.dumps(content, ensure_ascii=False) + "\n" for content in contents).encode("utf-8", "replace")
    if not lines:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
            try:
                size = os.fstat(file).st_size
                if size:
                    os.lseek(file, size - 1, os.SEEK_SET)  # to read; O_APPEND writes at the end
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


def why_not_writable(folder: Path) -> str:
    """Return why no file can be made in a folder, such as "'a/b' is no folder"; "" if one can.

    The folder need not exist. A file is tried, since permissions do not tell all (a read-only disk, /proc).
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            return f"{str(existing)!r} is no folder"
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return f"{str(folder)!r} cannot be written ({error.strerror})"
    return ""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits. A process reads a file again only if it has changed."""
    status = path.stat()
    # Not the path, which `new_folder` changes.
    same = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if same not in _digests:
        with path.open("rb") as file:
            _digests[same] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[same]


def natural_order(name: str) -> list:
    """Return a key that sorts Image_2 before Image_10."""
    return [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", name)]


def is_file(path: Path) -> bool:
    """Return whether there is such a file, also for a name that the system refuses (one that is too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
