"""What computes a number, besides model, question and settings: versions of packages, the commit, the device."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parent
_COMPUTING = ("interventions", "torch", "transformers", "nnsight", "numpy")


def computing(device: str) -> dict:
    """What is stored with each table: versions, the device ("" if it is not known) and the commit."""
    return {"versions": versions(_COMPUTING), "device": device, "commit": commit()}


def device_of(model) -> str:
    """Where a model computes: "cpu", "cuda:0", or what its server says."""
    return str(model.server.device if model.server else model.device)


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """The version of Python and of each package; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


@functools.cache  # what runs is what was imported, whatever is committed meanwhile
def commit() -> str | None:
    """The commit of this package's checkout, with `+changes` if files differ from it; None when installed."""
    git = ["git", "-C", str(_PACKAGE)]
    try:
        # An installed copy may lie inside someone else's repository: it is not tracked there.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno", "."], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


@functools.cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
