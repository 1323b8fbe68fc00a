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



# Shares of the depth. Early: the paper finds MLP layers 1-4 (Figure 1) and edits the early layers 0-5 (appendix G).
# Middle: it reaches up to layers 16 and 17, which the paper calls middle layers (section 4.4).
EARLY, EARLY_AND_MIDDLE = Fraction(6, 32), Fraction(18, 32)


def early_layers(n_layers: int) -> range:
    """The layers that count as early: 0-5 of 32, 0-1 of 8."""
    return range(min(n_layers, in_layers(EARLY, n_layers)))


def early_and_middle_layers(n_layers: int) -> range:
    """Where the paper finds effects in questions with two constraints: layers 0-17 of 32, 0-4 of 8."""
    return range(min(n_layers, in_layers(EARLY_AND_MIDDLE, n_layers)))
