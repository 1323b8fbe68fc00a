"""Several at a time: order, one processor, and what an exception ends."""

import threading
import time

import pytest

from interventions.remote.turns import AHEAD, in_order, others_turn, rest


def waits(log):
    """A function that computes, waits for a "server" and computes again; `log` sees which threads overlap."""
    def function(item):
        log.append(("computes", item))
        with others_turn():
            log.append(("waits", item))
            time.sleep(0.02 * (3 - item % 3))  # later ones come back earlier
        log.append(("computes", item))
        return item * item
    return function


@pytest.mark.parametrize("at_a_time", [1, 2, 5, 50])
def test_results_come_in_the_order_of_the_items(at_a_time):
    assert list(in_order(waits([]), range(12), at_a_time)) == [i * i for i in range(12)]


def test_they_wait_together_and_compute_alone():
    log, computing, most = [], threading.Lock(), []

    def function(item):
        assert computing.acquire(blocking=False)  # nobody else is between its waits
        computing.release()
        with computing:
            time.sleep(0.001)
        with others_turn():
            log.append(1)
            most.append(len(log))
            time.sleep(0.05)
            log.pop()
        with computing:
            return item

    began = time.monotonic()
    assert list(in_order(function, range(8), 8)) == list(range(8))
    assert max(most) > 4 and time.monotonic() - began < 8 * 0.05


def test_alone_nothing_is_a_thread():
    assert list(in_order(lambda _: threading.current_thread(), range(2), 1)) == [threading.current_thread()] * 2
    with others_turn():  # of no effect without others
        pass


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_an_exception_is_raised_in_its_place_and_nothing_new_begins(at_a_time):
    begun, seen = [], []

    def function(item):
        begun.append(item)
        with others_turn():
            time.sleep(0.01)
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        seen.extend(in_order(function, range(1000), at_a_time))
    assert seen == [0, 1] and len(begun) <= 3 + AHEAD * at_a_time
    assert list(in_order(function, [0, 1], at_a_time)) == [0, 1]  # the turn was given back


def test_a_caller_that_stops_early_begins_no_more():
    begun = []
    results = in_order(lambda item: begun.append(item) or item, range(100), 4)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 1 + AHEAD * 4


def test_who_still_waited_for_its_turn_in_the_end_does_not_begin():
    begun, inside, go = [], threading.Event(), threading.Event()

    def function(item):
        begun.append(item)
        inside.set()
        assert go.wait(5)  # without letting others have their turn

    def items():
        yield 0
        assert inside.wait(5)
        yield from (1, 2)
        time.sleep(0.1)  # until both wait for their turn
        threading.Timer(0.2, go.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_order(function, items(), 3))
    assert begun == [0]


def test_a_slow_one_holds_up_none_that_could_begin():
    log = []

    def function(item):
        log.append(item)
        rest(0.5 if item == 0 else 0.02)
        if item == 0:
            log.append("the slow one is done")
        return item

    assert list(in_order(function, range(20), 4)) == list(range(20))
    assert log.index("the slow one is done") > 15


def test_who_is_not_waited_for_stops_waiting():
    """After an exception, or an interrupt: the wait of minutes of another question ends at once."""
    def function(item):
        if item == 0:
            rest(0.05)
            raise ValueError("zero")
        rest(60)

    began = time.monotonic()
    with pytest.raises(ValueError, match="zero"):
        list(in_order(function, range(4), 4))
    assert time.monotonic() - began < 5
    rest(0.001)  # alone, it only sleeps
