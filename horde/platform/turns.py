"""Letting so many do something at a time, the others waiting in order."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Turns at something, handed on from one to the next; who comes first is served first.

    A semaphore would let newcomers overtake those who wait.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def take(self, seconds: float) -> Iterator[bool]:
        """Take a turn for the block, waiting up to `seconds` for it; whether there was one."""
        mine = self._enter(seconds)
        try:
            yield mine
        finally:
            if mine:
                self._leave()

    def _enter(self, seconds: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        came = False
        try:
            came = turn.wait(seconds)
        finally:
            if not came:
                came = self._give_up(turn)
        return came

    def _give_up(self, turn: threading.Event) -> bool:
        """Wait no more; whether the turn has come at the last moment."""
        with self._lock:
            if turn.is_set():
                return True
            self._waiting.remove(turn)
            return False

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
