"""The parameters of every notebook that asks a sample of questions: which ones."""

from __future__ import annotations

from dataclasses import dataclass

from ..testbed import TestBed
from .parameters import ParameterError, Parameters, by_id, closest, listed, one_of, shard_of


@dataclass(frozen=True)
class SampleParameters(Parameters):
    """Parts of the test bed, kind of question, ids, and the share of a machine among several."""

    constraints: str = "single"
    parts: str = "known,okvqa,movies"
    items: str = ""
    shard: str = ""

    def check(self) -> None:
        super().check()
        one_of("constraints", self.constraints, ("single", "multi"))
        if self.shard:
            shard_of(self.shard)

    def select(self, testbed: TestBed) -> TestBed:
        if self.items:
            return by_id(testbed, listed(self.items))
        parts = listed(self.parts) or list(testbed.parts)
        for part in parts:
            if part not in testbed.parts:
                raise ParameterError(
                    f"Parameter 'parts': test bed {testbed.name!r} has no part {part!r}: "
                    f"{closest(part, testbed.parts)}"
                )
        selected = testbed.select(parts, constraints=self.constraints, limit=self.limit, seed=self.seed)
        for part in parts:
            if part not in selected.parts:
                raise ParameterError(
                    f"Parameter 'parts': part {part!r} of test bed {testbed.name!r} has no question with "
                    f"{self.constraints} constraints: leave that part out."
                )
        return selected

    def asking(self) -> dict:
        """The arguments of `asking.ask` that every experiment passes on."""
        return {
            "results_dir": self.results, "remote": self.remote, "required": bool(self.items), "shard": self.shard,
        }
