"""Progress of a long run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace


class Progress:
    """Lines, not bars: they read the same on a terminal, in papermill's log and in the saved notebook."""

    def __init__(self, total: int, label: str = "", every: float = 30.0) -> None:
        self.total, self.every, self.done, self.stored = total, every, 0, 0
        self.label = f"{label}: " if label else ""
        self.started = self.reported = time.monotonic()
        self.before = replace(TRAFFIC)

    def step(self, note: str, stored: bool = False) -> None:
        """One question is done; says so if the last line is older than `every` seconds.

        stored: whether it was only read back from an earlier run, which says nothing of how long the others take.
        """
        self.done += 1
        self.stored += stored
        now = time.monotonic()
        if now - self.reported > self.every and self.done < self.total:
            rate = (self.done - self.stored) / (now - self.started)
            pace = f"; {_per_time(rate)}, {_duration((self.total - self.done) / rate)} left" if rate else ""
            print(f"{self.label}{self.done} of {self.total} questions, {note}{pace}", flush=True)
            self.reported = now

    def close(self, note: str) -> None:
        """All is done; says what went to a server and came back, if anything did."""
        took, traffic = _duration(time.monotonic() - self.started), TRAFFIC.since(self.before)
        sent = f" ({traffic})" if traffic.requests else ""
        print(f"{self.label}{self.done} questions asked, {note}, in {took}{sent}", flush=True)


def _per_time(rate: float) -> str:
    """A rate in questions a second, in the unit in which it is a number of a few digits."""
    unit, number = next(
        (unit, rate * seconds) for unit, seconds in (("a second", 1), ("a minute", 60), ("an hour", 3600))
        if rate * seconds >= 1 or unit == "an hour"
    )
    return f"{number:.{0 if number >= 10 else 1}f} {unit}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"



_TELL_AFTER = 30.0  # seconds of waiting until the first line says so, and between lines


@dataclass
class Traffic:
    """What went to servers and came back in this process: jobs, bytes of requests and of answers, repetitions."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        again = f", {self.repeated} repeated" if self.repeated else ""
        return f"{self.requests} requests{again}, {_size(self.bytes_up)} up, {_size(self.bytes_down)} down"

    def reset(self) -> None:
        """Begin to count anew."""
        vars(self).update(vars(Traffic()))

    def since(self, before: Traffic) -> Traffic:
        """What was added."""
        return Traffic(**{name: value - getattr(before, name) for name, value in vars(self).items()})


TRAFFIC = Traffic()
_told = [0.0]


def tell(began: float, text: str) -> None:
    """Print what is waited for, if that has taken a while, and nothing was said for a while."""
    now = time.monotonic()
    if now - max(began, _told[0]) > _TELL_AFTER:
        _told[0] = now
        print(text, flush=True)


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
