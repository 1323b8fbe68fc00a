"""Several questions at a time, on one processor: while one waits for a server, another gets its turn.

Threads only ever wait together. Whatever else they do (building prompts, capturing traces, writing tables) one does at
a time: what it calls need not be safe for threads, and results are those of one after the other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")
AHEAD = 8  # items that may be begun before the oldest is done, times those that wait together
_TURN = threading.Lock()
_HERE = threading.local()  # .held: whether this thread has the turn; .ended: whether nobody waits for it any more


class Abandoned(Exception):
    """Nobody waits for this item any more."""


def in_order(function: Callable[[Input], Result], items: Iterable[Input], at_a_time: int) -> Iterator[Result]:
    """`function` of each item, in the order of the items; up to `at_a_time` of them wait for a server together.

    A slow one holds up only what is handed out, not what is begun. An exception is raised in its item's place. Then,
    and when the caller stops early or is interrupted, nothing new is begun, and what waits for a server stops waiting.
    """
    if at_a_time == 1:
        yield from map(function, items)
        return
    begun, ended = deque(), threading.Event()
    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            for item in items:
                begun.append(pool.submit(_with_turn, function, item, ended))
                while begun and (begun[0].done() or len(begun) == AHEAD * at_a_time):
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            ended.set()
            for future in begun:
                future.cancel()


@contextmanager
def others_turn() -> Iterator[None]:
    """While it lasts, this thread only waits, and another one may go on."""
    if not getattr(_HERE, "held", False):
        yield
        return
    _HERE.held = False
    _TURN.release()
    try:
        yield
    finally:
        _TURN.acquire()
        _HERE.held = True


def rest(seconds: float) -> None:
    """Sleep while others have their turn. Raises Abandoned as soon as nobody waits for this thread's item any more."""
    ended = getattr(_HERE, "ended", None)
    with others_turn():
        if ended is None:
            time.sleep(seconds)
        elif ended.wait(seconds):
            raise Abandoned


def _with_turn(function: Callable[[Input], Result], item: Input, ended: threading.Event) -> Result:
    with _TURN:
        if ended.is_set():  # while it waited for its turn
            raise Abandoned
        _HERE.held, _HERE.ended = True, ended
        try:
            return function(item)
        finally:
            _HERE.held, _HERE.ended = False, None
