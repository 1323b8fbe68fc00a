"""Every figure, from tidy frames only: nothing here runs a model or knows where the numbers come from.

Each function returns a Figure; `style.save_figure` writes it as PNG and PDF.
"""
