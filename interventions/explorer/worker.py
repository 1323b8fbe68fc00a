"""Run one action at a time in a thread, so that the notebook stays responsive and the action can be stopped.

An action is a generator that yields a `Step` before each slow operation and stores its result only at its end. Stopping
closes the generator between two steps, which leaves everything as it was before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

from ..text import first_line


@dataclass(frozen=True)
class Step:
    """What an action does now and how far it is; a total of 0 means unknown."""

    doing: str
    done: int = 0
    total: int = 0


Steps: TypeAlias = Generator[Step, None, None]


class Worker:
    """The running action and the outcome of the last one.

    Attributes:
        step: The current step; None when nothing runs.
        message: The kind ("done", "stopped" or "problem") and a sentence about the last action.
        error: The exception of the last action, if it failed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called after every change, in the thread of the action or in the one that stops it."""
        self._changed, self._stop, self._thread = changed, threading.Event(), None
        self.step: Step | None = None
        self.message = ("", "")
        self.error: Exception | None = None

    @property
    def stopping(self) -> bool:
        return self.step is not None and self._stop.is_set()

    def start(self, name: str, steps: Steps, then: Callable[[], None]) -> None:
        """Run an action and then `then`, which shows its result; do nothing while another action runs."""
        if self.step is not None:
            return
        self.step, self.message, self.error = Step("Starting"), ("", ""), None
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(name, steps, then), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the action to end before its next step."""
        if self.step is not None:
            self._stop.set()
            self._changed()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing runs."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, name: str, steps: Steps, then: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            for step in steps:
                if self._stop.is_set():
                    steps.close()
                    self.message = ("stopped", f"{name}: stopped; nothing has changed.")
                    break
                self.step = step
                self._changed()
            else:
                then()
                self.message = ("done", f"{name}: done in {time.monotonic() - began:.1f} s.")
        except Exception as error:  # the user of a form sees any error as a sentence
            self.error, self.message = error, ("problem", sentence(error))
        self.step = None
        self._changed()


def sentence(error: Exception) -> str:
    """Return an error as one sentence; the name of its type is added unless it is an error of this package."""
    text, name = first_line(error).rstrip(":"), type(error).__name__
    if not type(error).__module__.startswith("interventions"):
        text = f"This failed: {name}" + (f", {text}" if text != name else "")
    return f"{text[:1].upper()}{text[1:]}."
