"""What the paper says about a figure, and whether the numbers at hand agree: claims and a closing sentence.

Every text here is computed from a study's numbers, so a report cannot say what its figure does not show.
"""

from .attention import fig5_claims, fig5_numbers, fig5_table, knockout_claims, route_claims, subset_claims
from .by_layer import control_claims, fig3_claims, fig3_numbers, fig3_statistics
from .common import caveat, checks_sentence, closing_sentence, window_caveat
from .editing import (
    fig6_claims,
    fig6_numbers,
    fig14_claims,
    fig14_numbers,
    fig18_claims,
    fig18_numbers,
    sequential_claims,
    whole_answers,
)
from .failure import fig15_claims, fig15_numbers, fig15_table, fig16_claims, fig16_numbers, fig17_claims, fig17_numbers
from .precision import precision_claims, precision_numbers, precision_sentence, precision_table
from .question import (
    fig2_claims,
    fig2_numbers,
    question_claims,
    question_numbers,
    question_peaks,
    table1_claims,
    table1_numbers,
)
from .standard import fig7_claims, fig7_numbers
from .windows import fig1_claims, fig4_claims, sweep_numbers

__all__ = [
    "caveat", "checks_sentence", "closing_sentence", "control_claims", "fig1_claims", "fig2_claims", "fig2_numbers",
    "fig3_claims", "fig3_numbers", "fig3_statistics", "fig4_claims", "fig5_claims", "fig5_numbers", "fig5_table",
    "fig6_claims", "fig6_numbers", "fig7_claims", "fig7_numbers", "fig14_claims", "fig14_numbers", "fig15_claims",
    "fig15_numbers", "fig15_table", "fig16_claims", "fig16_numbers", "fig17_claims", "fig17_numbers", "fig18_claims",
    "fig18_numbers", "knockout_claims", "precision_claims", "precision_numbers", "precision_sentence",
    "precision_table", "question_claims", "question_numbers", "question_peaks", "route_claims", "sequential_claims",
    "subset_claims", "sweep_numbers", "table1_claims", "table1_numbers", "whole_answers", "window_caveat",
]
