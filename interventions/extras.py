"""Packages of the optional extras: a missing one is reported with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import InterventionsError


class MissingExtra(InterventionsError, ImportError):
    """A package of an extra that is not installed."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failed import inside the `with` block into one sentence that names the extra to install.

    Args:
        name: An extra of `pyproject.toml`, as in `with extra("notebooks"): import papermill`.

    Raises:
        MissingExtra: A package that is imported in the block is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = {"sklearn": "scikit-learn"}.get(root := (error.name or "").partition(".")[0], root)
        raise MissingExtra(f"{package} is not installed: pip install 'interventions[{name}]'") from error
