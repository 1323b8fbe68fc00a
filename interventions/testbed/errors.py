"""The one error of test beds."""


class TestBedError(ValueError):
    """A test bed, an item, a source or an image that cannot be used; the message is one sentence with the remedy."""

    __test__ = False  # pytest would otherwise collect a class of this name


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough to stand in brackets."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
