"""Files and folders that appear whole or not at all, and names in the order that a reader expects."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import TestBedError
from .text import first_line


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, and move it there once it is on the disk: it is either as before or whole.

    write: gets the path of the file that it is to make, a hidden one that ends in ".tmp". The folder is made if it is
    not there. Whatever goes wrong, nothing is left beside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:  # Windows puts only files on the disk that may be written
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """`with new_folder(out) as folder:` fill a folder of the same name elsewhere, which is moved to `out` at the end.

    Whatever goes wrong inside, nothing is left. Raises OSError where `out` is there already and not empty.
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


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder, which need not be there yet: a clause such as "'a/b' is no folder".

    "" if one can. Tried out, since permissions do not tell all (a disk that is mounted read-only, /proc).
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            return f"{str(there)!r} is no folder"
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"{str(folder)!r} cannot be written ({error.strerror})"
    return ""


def natural_order(name: str) -> list:
    """What to sort names by: Image_2 comes before Image_10."""
    return [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", name)]


def is_file(path: Path) -> bool:
    """Whether there is such a file; not where the system takes no such name (too long, for one)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False



try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None


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
