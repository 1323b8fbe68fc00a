"""Windows of layers, and how their sites are computed."""

from dataclasses import dataclass

import torch

from ..errors import TraceError

WINDOW_RULES = ("centered", "radius")
MASKABLE = ("sdpa", "eager")  # attention implementations that take a mask of one's own


@dataclass(frozen=True)
class Execution:
    """How and where the sites of an intervention are computed.

    Attributes:
        method: "packed" puts many sites into one sequence and is the fastest. "rows" computes a batch row per site, as
            exact in half precision as separate runs. "plain", for traces, is one whole forward per site: the reference.
            None: packed in float32, rows in half precision.
        max_packed_tokens: tokens of all segments or rows of a forward. None: as many as the device's memory allows.
        remote: False, True or "local". None: as the model was loaded.
    """

    method: str | None = None
    max_packed_tokens: int | None = None
    remote: bool | str | None = None

    def __post_init__(self) -> None:
        if self.max_packed_tokens is not None and self.max_packed_tokens < 1:
            raise TraceError(
                f"max_packed_tokens must be at least 1, not {self.max_packed_tokens}: leave it out to have it chosen."
            )


def default_method(dtype: torch.dtype, maskable: bool = True) -> str:
    """Return "packed" in float32 and "rows" in half precision, where packing rounds differently."""
    return "packed" if maskable and dtype == torch.float32 else "rows"


def window_spans(window: int, rule: str, n_layers: int) -> list[tuple[int, int]]:
    """Return the window [start, stop) of each layer l, clipped at the model's ends."""
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= n_layers:
        raise TraceError(f"window must be a whole number from 1 to the model's {n_layers} layers, not {window!r}.")
    choice("window_rule", (rule,), WINDOW_RULES)
    if rule == "centered":
        before, after = window // 2, window - window // 2
    else:
        before = 0 if window == 1 else window
        after = before + 1
    return [(max(0, layer - before), min(n_layers, layer + after)) for layer in range(n_layers)]


def choice(name: str, values: tuple, allowed: tuple) -> tuple:
    """Return `values`. Raises TraceError about the argument `name` if there are none or one is not allowed."""
    unknown = [value for value in values if value not in allowed]
    if unknown or not values:
        what = f"unknown: {unknown[0]!r}" if unknown else "empty"
        raise TraceError(f"{name} is {what}; use {', '.join(map(repr, allowed))}.")
    return values
