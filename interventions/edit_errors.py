"""What cannot be edited."""


class EditError(ValueError):
    """An edit that cannot be made, loaded or applied; the message names the parameter and the fix."""


class NoGradientError(EditError):
    """Nothing that the model says depends on what is to be edited."""


class DivergedError(EditError):
    """Optimisation left the finite numbers."""
