"""Figures from tidy frames. Each function returns a Figure, which `style.save_figure` writes as PNG and PDF."""

from ..extras import extra

with extra("notebooks"):
    import matplotlib  # noqa: F401
    import seaborn  # noqa: F401
