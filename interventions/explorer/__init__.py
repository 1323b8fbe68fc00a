"""A widget that explores single questions in notebooks/explore.ipynb: traces, contributions, knock-outs and edits.

`exploration.py` holds the state and the actions and needs no widget, `worker.py` runs an action in a thread, and the
other modules draw and take input. Needs the `explore` extra (ipywidgets, anywidget).
"""

from .exploration import Exploration
from .explorer import Explorer

__all__ = ["Exploration", "Explorer"]
