"""Long work beside a notebook that stays usable: one action at a time, in a thread, which ends between two steps.

An action is a generator that yields a `Step` before each thing that takes time, and takes its result over only at its
end. So a thread that is asked to stop closes it where it stands, and everything is as it was before.
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
    """What is done now, and how much of it is done; total 0: nobody knows how long it takes."""

    doing: str
    done: int = 0
    total: int = 0


Steps: TypeAlias = Generator[Step, None, None]


class Work:
    """What runs, and what came of the last action.

    changed: called whenever something of it has changed, from the action's thread, or from that which asks to stop.
    step: None when nothing runs. message: its kind ("done", "stopped", "problem") and one sentence. error: the last
    exception, for who wants to see more than its sentence.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed, self._ended, self._thread = changed, threading.Event(), None
        self.step: Step | None = None
        self.message = ("", "")
        self.error: Exception | None = None

    @property
    def stopping(self) -> bool:
        return self.step is not None and self._ended.is_set()

    def start(self, name: str, steps: Steps, then: Callable[[], None]) -> None:
        """Run an action, and `then` what shows its result; nothing happens while another one runs."""
        if self.step is not None:
            return
        self.step, self.message, self.error = Step("Starting"), ("", ""), None
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, args=(name, steps, then), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the action to end before its next step."""
        if self.step is not None:
            self._ended.set()
            self._changed()

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing runs."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, name: str, steps: Steps, then: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            for step in steps:
                if self._ended.is_set():
                    steps.close()
                    self.message = ("stopped", f"{name}: stopped, and everything is as it was before.")
                    break
                self.step = step
                self._changed()
            else:
                then()
                self.message = ("done", f"{name}: done in {time.monotonic() - began:.1f} s.")
        except Exception as error:  # whatever it is: a person at a form is told in a sentence
            self.error, self.message = error, ("problem", sentence(error))
        self.step = None
        self._changed()


def sentence(error: Exception) -> str:
    """An error in one sentence: the package's own types say one, of others the type and the first line are told."""
    text, name = first_line(error).rstrip(":"), type(error).__name__
    if not type(error).__module__.startswith("interventions"):
        text = f"This failed: {name}" + (f", {text}" if text != name else "")
    return f"{text[:1].upper()}{text[1:]}."
