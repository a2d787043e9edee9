"""Turns: never too many at a time, first come first served, and none is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

from horde.platform.turns import Turns

LONG = 30.0


def test_never_too_many_at_a_time_and_none_is_lost() -> None:
    turns, lock = Turns(3), threading.Lock()
    inside, most = 0, 0

    def work(_number: int) -> bool:
        nonlocal inside, most
        with turns.take(LONG) as mine:
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.001)
            with lock:
                inside -= 1
        return mine

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(200)))
    assert most <= 3
    with turns.take(0), turns.take(0), turns.take(0) as third, turns.take(0) as fourth:
        assert third
        assert not fourth


def test_who_comes_first_is_served_first() -> None:
    turns, order = Turns(1), []

    def work(number: int) -> None:
        with turns.take(LONG):
            order.append(number)

    with ThreadPoolExecutor(8) as pool:
        with turns.take(0):
            for number in range(8):
                pool.submit(work, number)
                while len(turns._waiting) <= number:
                    threading.Event().wait(0.001)
        pool.shutdown()
    assert order == list(range(8))


def test_whoever_gives_up_is_not_given_a_turn() -> None:
    turns = Turns(1)
    with turns.take(0):
        with turns.take(0.01) as late:
            assert not late
        with turns.take(0) as at_once:
            assert not at_once
    with turns.take(0) as mine:
        assert mine
