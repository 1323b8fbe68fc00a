"""Layers as shares of a model's depth: what the paper says of 32 layers, said of a model of any depth."""

from __future__ import annotations

import math
from fractions import Fraction

PAPER_LAYERS = 32  # of LLaVA-1.5-7B, Vicuna-7B and Phi-2


def in_layers(share: Fraction, n_layers: int) -> int:
    """How many of `n_layers` a share of the depth is: to the nearest whole layer, halves up, and at least one."""
    return max(1, math.floor(share * n_layers + Fraction(1, 2)))


def layer_range(layers: range) -> str:
    """Layers as a report names them: "0-1", or "0" for a single one."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else "".join(map(str, layers)) or "none"


def spanned(window: int, window_rule: str = "centered") -> int:
    """How many layers a window restores together, away from the model's ends: by the scripts' rule 2 W + 1, or 1."""
    return window if window_rule == "centered" or window == 1 else 2 * window + 1
