"""Errors that users see: one sentence each, which names the parameter and the fix."""


class OneSentence(Exception):
    """An error that a notebook shows as its message alone."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [str(self)]


class TraceError(ValueError):
    """A trace that cannot be run as asked."""
