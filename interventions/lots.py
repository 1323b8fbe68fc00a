"""Draws that depend on names alone, so that they are the same everywhere and no question's place depends on others."""

import hashlib


def lot(*names: object) -> bytes:
    """The lot of what these names stand for, usually a seed and an id: sort by it to shuffle, and take the first."""
    return hashlib.sha256(":".join(map(str, names)).encode()).digest()
