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

log = structlog.get_logger(__name__)


class LocalCache:
    """A time-limited dictionary whose entries any process can invalidate over Valkey.

    A missed invalidation (the cache server was away) only means that a value lives out its seconds.
    """

    def __init__(self, cache: "redis.Redis") -> None:
        self._cache = cache
        self._entries: dict[Hashable, tuple[float, object]] = {}

    def get(self, key: str, seconds: float, load: Callable[[], T]) -> T:
        """The value kept under `key`, or what `load` returns, then kept for `seconds`.

        Errors of `load` are not kept.
        """
        now = time.monotonic()
        entry = self._entries.get(key)
        if entry is not None and entry[0] > now:
            return cast(T, entry[1])
        value = load()
        self.put(key, seconds, value)
        return value

    def put(self, key: str, seconds: float, value: object) -> None:
        """Keep `value` under `key` for `seconds`, in this process."""
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[key] = (time.monotonic() + seconds, value)

    def drop(self, *keys: str) -> None:
        """Forget `keys` in this process and, as soon as the message arrives, in every other one.

        Call it after the transaction that changed the values has committed.
        """
        for key in keys:
            self._entries.pop(key, None)
        try:
            for key in keys:
                self._cache.publish(CHANNEL, key)
        except redis.RedisError:
            log.warning("invalidation not sent", keys=keys)

    def listen(self, stop: threading.Event) -> None:
        """Apply other processes' invalidations until `stop` is set; run it in a thread of its own."""
        while not stop.is_set():
            try:
                with self._cache.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CHANNEL)
                    self._entries.clear()
                    while not stop.is_set():
                        message = channel.get_message(timeout=1.0)
                        if message is not None:
                            self._entries.pop(message["data"].decode(), None)
            except redis.RedisError:
                stop.wait(1.0)
