"""Every error of this package. Each message is one sentence that names the argument and the fix."""

from __future__ import annotations


class InterventionsError(Exception):
    """The base class of all errors of this package."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in a notebook, in place of a traceback (IPython calls this)."""
        return [str(self)]


class ParameterError(InterventionsError, ValueError):
    """A notebook parameter or a command option that cannot be used."""


class ModelError(InterventionsError, ValueError):
    """A model that cannot be loaded or used."""


class TestBedError(InterventionsError, ValueError):
    """A test bed, an item, a source or an image that cannot be used."""

    __test__ = False  # pytest would otherwise collect a class of this name


class PromptError(InterventionsError, ValueError):
    """A question, constraint or replacement that cannot be used."""


class TraceError(InterventionsError, ValueError):
    """A trace that cannot be run as asked."""


class AttentionError(InterventionsError, ValueError):
    """Attention contributions or knockouts that cannot be computed as asked."""


class FailureError(InterventionsError, ValueError):
    """Contributions or layers that failure prediction cannot use."""


class EditError(InterventionsError, ValueError):
    """An edit that cannot be made, loaded or applied."""


class NoGradientError(EditError):
    """No output of the model depends on what is to be edited."""


class DivergedError(EditError):
    """An optimization whose values are not finite any more."""


class RecordError(InterventionsError, ValueError):
    """A notebook without a record."""


class Unusable(InterventionsError):
    """An item that is left out before anything is computed. The message is the reason."""


class RunStopped(InterventionsError, RuntimeError):
    """A fault of the machine that ended a run."""


class NDIFError(InterventionsError, RuntimeError):
    """A fault of an NDIF server. The message never holds the API key."""


class ServerUnreachable(NDIFError):
    """The server does not answer. Another request would get no answer either."""


class InternalError(ServerUnreachable):
    """The server failed without giving a reason (500)."""


class RequestRefused(NDIFError):
    """The server takes no requests with this key, for this model or from this version."""


class KeyRefused(RequestRefused):
    """The server does not take this API key."""


class NotServed(RequestRefused):
    """The server does not run this model."""


class JobFailed(NDIFError):
    """This request failed on the server and would fail again."""


class NothingThere(NDIFError):
    """The server has nothing at this address (404)."""
