"""What the paper says about a figure, and whether the numbers at hand agree: claims and a closing sentence.

Every text here is computed from a study's numbers, so a report cannot say what its figure does not show.
"""

from .by_layer import fig3_claims, fig3_numbers
from .common import caveat, closing_sentence

__all__ = ["caveat", "closing_sentence", "fig3_claims", "fig3_numbers"]
