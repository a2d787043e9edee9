"""Values kept in this process for seconds, dropped everywhere when somebody changes them."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import redis
import structlog

T = TypeVar("T")

CHANNEL = "horde:invalidate"
MAX_ENTRIES = 50_000
SWEEP_SECONDS = 10.0
"""Values whose time is over are given up that often, if new ones come."""

log = structlog.get_logger(__name__)


class LocalCache:
    """A time-limited dictionary whose entries any process can invalidate over Valkey.

    It holds at most `MAX_ENTRIES`: of more, those go that would end soonest. A missed invalidation (the cache
    server was away) only means that a value lives out its seconds.
    """

    def __init__(self, cache: "redis.Redis") -> None:
        self._cache = cache
        self._entries: dict[Hashable, tuple[float, object]] = {}
        self._loading: dict[Hashable, object] = {}
        """A mark of those that are being loaded; whoever drops the key takes it away."""
        self._next_sweep = 0.0

    def get(self, key: str, seconds: float, load: Callable[[], T], *, bridge: bool = False) -> T:
        """The value kept under `key`, or what `load` returns, then kept for `seconds`.

        Errors of `load` are not kept, nor is a value whose key was dropped meanwhile, as it may be older than
        that change. With `bridge`, for what is dear to load and wanted by many at once, one caller loads it
        anew when its time is over, and the others get the old value meanwhile, which may then be twice as
        old.
        """
        now = time.monotonic()
        entry = self._entries.get(key)
        if entry is not None and entry[0] > now:
            return cast(T, entry[1])
        if bridge and entry is not None and entry[0] > now - seconds:
            self._entries[key] = (entry[0] + seconds, entry[1])
        mark = self._loading.setdefault(key, object())
        try:
            value = load()
            if self._loading.get(key) is mark:
                self.put(key, seconds, value)
        finally:
            if self._loading.get(key) is mark:
                self._loading.pop(key, None)  # another thread may be as far
        return value

    def put(self, key: str, seconds: float, value: object) -> None:
        """Keep `value` under `key` for `seconds`, in this process."""
        now = time.monotonic()
        if now >= self._next_sweep or len(self._entries) >= MAX_ENTRIES:
            self._next_sweep = now + SWEEP_SECONDS
            self._sweep(now)
        self._entries[key] = (now + seconds, value)

    def _sweep(self, now: float) -> None:
        """Give up what has ended and, if that is too little, what ends soonest.

        A tenth of the room is made at once, as looking through all entries takes milliseconds.
        """
        # Other threads may go on changing the dictionary; what they lose in the meantime is loaded again.
        ends = {key: end for key, (end, _) in self._entries.copy().items()}
        gone = [key for key, end in ends.items() if end <= now]
        excess = len(ends) - len(gone) - MAX_ENTRIES * 9 // 10
        if len(ends) >= MAX_ENTRIES and excess > 0:
            gone = sorted(ends, key=ends.__getitem__)[: len(gone) + excess]
        for key in gone:
            self._entries.pop(key, None)

    def drop(self, *keys: str) -> None:
        """Forget `keys` in this process and, as soon as the message arrives, in every other one.

        Call it after the transaction that changed the values has committed.
        """
        for key in keys:
            self._forget(key)
        try:
            for key in keys:
                self._cache.publish(CHANNEL, key)
        except redis.RedisError:
            log.warning("invalidation not sent", keys=keys)

    def _forget(self, key: str) -> None:
        self._loading.pop(key, None)
        self._entries.pop(key, None)

    def listen(self, stop: threading.Event) -> None:
        """Apply other processes' invalidations until `stop` is set; run it in a thread of its own."""
        while not stop.is_set():
            try:
                with self._cache.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CHANNEL)
                    self._loading.clear()
                    self._entries.clear()
                    while not stop.is_set():
                        message = channel.get_message(timeout=1.0)
                        if message is not None:
                            self._forget(message["data"].decode())
            except redis.RedisError:
                stop.wait(1.0)
