"""Every figure, from tidy frames only: nothing here runs a model or knows where the numbers come from.

Each function returns a Figure; `save_figure` writes it as PNG and PDF.
"""

from .averages import effects_by_layer, probabilities, role_layer_maps
from .style import save_figure, window_label

__all__ = ["effects_by_layer", "probabilities", "role_layer_maps", "save_figure", "window_label"]
