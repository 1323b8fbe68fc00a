"""Whether a figure can be read."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg


def text_problems(figure) -> list[tuple[str, str]]:
    """Pairs of visible texts whose boxes overlap, and texts that leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    unseen = set()  # matplotlib keeps ticks beyond the axis limits, which it does not draw
    for side in (side for axis in figure.axes for side in (axis.xaxis, axis.yaxis)):
        low, high = sorted(side.get_view_interval())
        unseen |= {label for tick in side.get_major_ticks() if not low <= tick.get_loc() <= high
                   for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(plt.Text) if text.get_visible() and text.get_text().strip()]
    texts = [text for text in texts if text not in unseen]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    inside = figure.bbox.padded(1)
    problems = [(text, "outside") for text, box in boxes if not (inside.contains(*box.min)
                                                                 and inside.contains(*box.max))]
    for (text, box), (other, second) in itertools.combinations(boxes, 2):
        width, height = np.minimum(box.max, second.max) - np.maximum(box.min, second.min)
        if width > 1 and height > 1:
            problems.append((text, other))
    return problems
