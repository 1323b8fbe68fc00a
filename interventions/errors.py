"""Errors that users see: one sentence each, which names the parameter and the fix."""


class TraceError(ValueError):
    """A trace that cannot be run as asked."""
