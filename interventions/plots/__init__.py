"""Every figure, from tidy frames only: nothing here runs a model or knows where the numbers come from.

Each function returns a Figure; `save_figure` writes it as PNG and PDF.
"""

from .attention import flows_by_layer, question_contributions
from .averages import effects_and_controls, effects_by_layer, probabilities, role_layer_maps
from .editing import efficacy_by_layer, further_metrics, methods_by_metric, sequential
from .examples import edited_examples, example_questions
from .failure import contributions_by_outcome, roc_curves
from .patches import patch_maps, patches_over_images, visual_token_maps
from .precision import precision_differences
from .question import question_maps, worked_example
from .style import save_figure, window_label
from .sweeps import compared_by_layer, effects_by_window, peak_histograms

__all__ = [
    "compared_by_layer", "contributions_by_outcome", "edited_examples", "effects_and_controls", "effects_by_layer",
    "effects_by_window", "efficacy_by_layer", "example_questions", "flows_by_layer", "further_metrics",
    "methods_by_metric", "patch_maps", "patches_over_images", "peak_histograms", "precision_differences",
    "probabilities", "question_contributions", "question_maps", "roc_curves", "role_layer_maps", "save_figure",
    "sequential", "visual_token_maps", "window_label", "worked_example",
]
