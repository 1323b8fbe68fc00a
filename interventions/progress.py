"""Report the progress of a long run, and its traffic with servers."""

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
        """Count a question, and print a line if the last one is older than `every` seconds.

        `stored` questions were read from an earlier run, and do not count for the pace.
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
        """Print the closing line, with the traffic if there was any."""
        took, traffic = _duration(time.monotonic() - self.started), TRAFFIC.since(self.before)
        sent = f" ({traffic})" if traffic.requests else ""
        print(f"{self.label}{self.done} questions asked, {note}, in {took}{sent}", flush=True)


def _per_time(rate: float) -> str:
    """Return a rate (questions per second) in a unit that makes it at least 1, if there is one."""
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


_TELL_AFTER = 30.0  # seconds of waiting before the first line, and between lines


@dataclass
class Traffic:
    """Counts of this process: jobs, bytes sent and received, repeated jobs."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        again = f", {self.repeated} repeated" if self.repeated else ""
        return f"{self.requests} requests{again}, {_size(self.bytes_up)} up, {_size(self.bytes_down)} down"

    def reset(self) -> None:
        """Set all counts to 0."""
        vars(self).update(vars(Traffic()))

    def since(self, before: Traffic) -> Traffic:
        """Return the traffic added since `before`."""
        return Traffic(**{name: value - getattr(before, name) for name, value in vars(self).items()})


TRAFFIC = Traffic()
_last_line = [0.0]


def tell(began: float, text: str) -> None:
    """Print `text` if `began` and the last line are both longer ago than `_TELL_AFTER` seconds."""
    now = time.monotonic()
    if now - max(began, _last_line[0]) > _TELL_AFTER:
        _last_line[0] = now
        print(text, flush=True)


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
