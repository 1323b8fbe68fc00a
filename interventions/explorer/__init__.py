"""An explorer of single questions, for notebooks/explore.ipynb: trace, contributions, knock-outs and edits by hand.

`exploration.py` holds what is known of a question and the actions on it, with no widget; `work.py` runs an action in
a thread, step by step; the other modules draw and take clicks. Needs the `explore` extra (ipywidgets, anywidget).
"""

from .exploration import Exploration
from .explorer import Explorer

__all__ = ["Exploration", "Explorer"]
