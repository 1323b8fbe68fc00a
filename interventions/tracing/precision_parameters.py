"""The parameters of the notebook about half precision and weights in 4 or 8 bits; the defaults are those of its
`parameters` cell."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nnsight.modeling.quantization import QUANTIZATIONS

from ..models.model import VisionLanguageModel
from ..studies.parameters import ParameterError, listed, one_of
from .precision import DTYPES, REFERENCE
from .trace_parameters import TraceParameters


@dataclass(frozen=True)
class PrecisionParameters(TraceParameters):
    """notebooks/precision_modes.ipynb"""

    window: int | str = 3
    limit: int = 5
    dtypes: str = "bfloat16,float16"

    figure: typing.ClassVar[str] = "precision_modes"

    def check(self) -> None:
        super().check()
        for dtype in listed(self.dtypes) or [""]:
            one_of("dtypes", dtype, DTYPES)
        if self.dtype in QUANTIZATIONS:
            raise ParameterError(
                f"Parameter 'dtype' cannot be {self.dtype!r} here, where precisions are compared: name it in dtypes."
            )
        if self.remote:
            raise ParameterError(
                "Parameter 'remote' cannot be True here: a server has its model in one precision, so leave it out."
            )

    def load_model(self, parameter: str, name: str = "", dtype: str = REFERENCE) -> VisionLanguageModel:
        """The model that a parameter names, in a precision; `dtype`, which model files set, is not used."""
        return super(PrecisionParameters, replace(self, dtype=dtype)).load_model(parameter, name)

    def in_half_precision(self) -> Iterator[VisionLanguageModel]:
        """The model in each of `dtypes`, loaded when its turn comes."""
        return (self.load_model("model", dtype=dtype) for dtype in listed(self.dtypes))
