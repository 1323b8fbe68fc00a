"""Several questions at a time, on one processor: while one waits for a server, another gets its turn.

Threads only ever wait together. Whatever else they do (building prompts, capturing traces, writing tables) one does at
a time: what it calls need not be safe for threads, and results are those of one after the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_TURN = threading.Lock()
_HERE = threading.local()  # .held: whether this thread has the turn


def in_order(function: Callable[[Item], Result], items: Iterable[Item], at_a_time: int) -> Iterator[Result]:
    """`function` of each item, in the order of the items; up to `at_a_time` of them wait for a server together.

    An exception is raised in its item's place. What was begun by then is finished, what was not never is; the same
    when the caller stops early.
    """
    if at_a_time == 1:
        yield from map(function, items)
        return
    items, begun = iter(items), deque()
    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            for item in items:
                begun.append(pool.submit(_with_turn, function, item))
                if len(begun) == at_a_time:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
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


def _with_turn(function: Callable[[Item], Result], item: Item) -> Result:
    with _TURN:
        _HERE.held = True
        try:
            return function(item)
        finally:
            _HERE.held = False
