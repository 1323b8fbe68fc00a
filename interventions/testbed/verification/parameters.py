"""The parameters of notebooks/verify.ipynb; the defaults are those of its `parameters` cell."""

from __future__ import annotations

import getpass
from typing import Literal

from ...errors import ParameterError, TestBedError
from ...notebook import Limit, NotebookParameters, Seed, listed, named, one_of
from ..schema import TestBed
from ..table import load_testbed
from .decisions import DecisionLog, default_log
from .outcomes import with_set_aside
from .rounds import ONLY, Verification

# Pydantic reads the values of a Literal from a tuple.
# pyright: reportInvalidTypeForm=false


class VerifyParameters(NotebookParameters):
    """notebooks/verify.ipynb"""

    testbed: str = "embedded"
    annotator: str = ""
    parts: str = ""
    only: Literal[ONLY] = "all"
    limit: Limit = 0
    seed: Seed = 0
    log_path: str = ""

    def load(self) -> tuple[TestBed, DecisionLog]:
        """Return the chosen questions, with those set aside by earlier decisions, and the log."""
        testbed = with_set_aside(named("testbed", TestBedError, load_testbed, self.testbed))
        for part in listed(self.parts):
            one_of("parts", part, testbed.parts)
        log = named("log_path", TestBedError, DecisionLog, self.log_path or default_log(testbed))
        if log.unreadable:
            print(f"{log.path}: lines without a decision, passed over: {', '.join(map(str, log.unreadable))}")
        return testbed.select(listed(self.parts) or None, limit=self.limit, seed=self.seed), log

    def verification(self, questions: TestBed, log: DecisionLog) -> Verification:
        """Return the round of `annotator`, or of the user of this account, through the questions."""
        try:
            return Verification(questions, log, self.annotator.strip() or getpass.getuser(), only=self.only)
        except (KeyError, OSError) as error:
            raise ParameterError("Parameter 'annotator' must be your name: this account has none.") from error
