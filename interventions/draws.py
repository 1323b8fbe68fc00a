"""Random choices that depend on names and a seed alone: the same on every machine, whatever else is in the data."""

import hashlib
from collections.abc import Iterable


def seeded_hash(*names: object) -> bytes:
    """Return the SHA-256 digest of these names, usually a seed and an id. Sort by it to shuffle."""
    return hashlib.sha256(":".join(map(str, names)).encode()).digest()


def sample(names: Iterable[object], n: int, *seed: object) -> list[str]:
    """Return `n` of these names (all, if there are fewer), in the order of their `seeded_hash`."""
    return sorted(map(str, names), key=lambda name: seeded_hash(*seed, name))[:n]
