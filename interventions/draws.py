"""Draws that depend on names alone, so that they are the same everywhere and no question's place depends on others."""

import hashlib
from collections.abc import Iterable


def lot(*names: object) -> bytes:
    """The lot of what these names stand for, usually a seed and an id: sort by it to shuffle, and take the first."""
    return hashlib.sha256(":".join(map(str, names)).encode()).digest()


def drawn(names: Iterable[object], n: int, *seed: object) -> list[str]:
    """n of these names (all, if there are fewer) in the order of their lots with this seed: no one has picked them."""
    return sorted(map(str, names), key=lambda name: lot(*seed, name))[:n]
