"""Work that keeps a thread of the machine busy, kept from holding up the other calls of its process."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from gevent import monkey
from gevent.threadpool import ThreadPool

from horde.platform.errors import HordeError

T = TypeVar("T")

RETRY_SECONDS = 5


class NativeThreads:
    """A few native threads for one kind of work, so that different kinds never wait for each other.

    Where this process does not serve with gevent, work is done in the calling thread, and no more at a time.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._turns = threading.Semaphore(count)
        self._pool: ThreadPool | None = None

    def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, or the error that it raises, once one of the threads was free for it.

        `work` must not use the database, the cache or anything else that waits cooperatively.
        """
        if not monkey.is_module_patched("threading"):
            with self._turns:
                return work()

        # gevent would print the traceback of every error that reaches it.
        def outcome() -> tuple[T | None, Exception | None]:
            try:
                return work(), None
            except Exception as error:
                return None, error

        result, error = self._own_pool().apply(outcome)
        if error is not None:
            raise error
        return cast(T, result)

    def _own_pool(self) -> ThreadPool:
        """Threads do not survive a fork, and work that is given to those of the parent is never done."""
        if self._pool is None or self._pool.pid != os.getpid():
            self._pool = ThreadPool(self._count)
        return self._pool


class Room:
    """How much of something this process takes on at a time; what comes then is refused, not queued."""

    def __init__(self, size: int, full: str) -> None:
        """`size` in any unit, `full`: what is too much then, as the start of a sentence."""
        self._size = size
        self._full = full
        self._held = 0
        self._holders: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, weight: int, who: str | None = None) -> Iterator[None]:
        """Take on something of `weight` until the end of the block.

        It need not fit: any room left is enough, so that heavy things get in as easily as light ones, and
        no more than one of them is too much. `who`, if given, holds one thing at a time, so that nobody takes
        all the room. Raises HordeError with status 503 and `Retry-After` when there is none left.
        """
        mine = {who} if who is not None else set()
        with self._lock:
            if self._held >= self._size or not self._holders.isdisjoint(mine):
                raise HordeError(
                    f"{self._full}; try again in some seconds.",
                    "TooManyRequests",
                    status=503,
                    headers={"Retry-After": str(RETRY_SECONDS)},
                )
            self._held += weight
            self._holders |= mine
        try:
            yield
        finally:
            with self._lock:
                self._held -= weight
                self._holders -= mine
