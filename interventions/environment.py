"""The environment of a result: versions of packages, commit and device."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parent
_COMPUTING = ("interventions", "torch", "transformers", "nnsight", "numpy")


def computing(device: str) -> dict:
    """Return what each stored table records: versions, the device ("" if unknown) and the commit."""
    return {"versions": versions(_COMPUTING), "device": device, "commit": commit()}


def device_of(model) -> str:
    """Return a model's device: "cpu", "cuda:0", or its server's."""
    return str(model.server.device if model.server else model.device)


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Return the version of Python and of each package; None if it is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


@functools.cache  # later commits do not change the imported code
def commit() -> str | None:
    """Return the commit of this package's checkout, with "+changes" if files differ; None if installed."""
    git = ["git", "-C", str(_PACKAGE)]
    try:
        # Fails for an installed copy inside another repository, which does not track it.
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
