"""Layers as shares of the depth: scale the paper's statements about 32 layers to any model."""

from __future__ import annotations

import math
from fractions import Fraction

PAPER_LAYERS = 32  # of LLaVA-1.5-7B, Vicuna-7B and Phi-2


def in_layers(share: Fraction, n_layers: int) -> int:
    """Return a share of the depth in whole layers: rounded, halves up, at least one."""
    return max(1, math.floor(share * n_layers + Fraction(1, 2)))


def layer_range(layers: range) -> str:
    """Return layers as text: "0-1", "0" or "none"."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else "".join(map(str, layers)) or "none"


def spanned(window: int, window_rule: str = "centered") -> int:
    """Return the layers that an unclipped window restores: W, or by the scripts' rule ("radius") 2 W + 1, or 1."""
    return window if window_rule == "centered" or window == 1 else 2 * window + 1


# Shares of the depth. Early: the paper finds MLP layers 1-4 (Figure 1) and edits the early layers 0-5 (appendix G).
# Middle: it reaches up to layers 16 and 17, which the paper calls middle layers (section 4.4).
EARLY, EARLY_AND_MIDDLE = Fraction(6, 32), Fraction(18, 32)


def early_layers(n_layers: int) -> range:
    """Return the early layers: 0-5 of 32, 0-1 of 8."""
    return range(min(n_layers, in_layers(EARLY, n_layers)))


def early_and_middle_layers(n_layers: int) -> range:
    """Return the layers of the paper's effects in questions with two constraints: 0-17 of 32, 0-4 of 8."""
    return range(min(n_layers, in_layers(EARLY_AND_MIDDLE, n_layers)))
