"""Figures of the whole horde, counted for everybody at once.

They are the same for all callers, whatever key or field mask comes with a call: both are looked at after
a reading was taken from here.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import orjson
import redis

from horde.platform.runtime import Platform

T = TypeVar("T")
Count = Callable[[Platform], dict[str, Any]]
"""Counts, and returns what JSON can hold."""

SHARED_SECONDS = 5
"""All nodes show the same reading for so long,"""
SHARE = 20
"""or for so many times the time that counting took, if that is longer: a large horde counts less often."""
LOCAL_SECONDS = 1.0
"""So long a process does not look whether there is a newer one;"""
LATE_SECONDS = 10.0
"""for so much longer it may show the one that it has, while somebody is getting the next."""


class _Held(Generic[T]):
    """What this process shows, and until when."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until = -math.inf
        self.value: T


def reading(platform: Platform, name: str, count: Count, shape: Callable[[dict[str, Any]], T]) -> T:
    """What `count` found some seconds ago, brought into `shape`.

    Of one process, one caller at a time gets a new one. While the cache is away, each process counts for
    itself.
    """
    held: _Held[T] = platform.local.get(f"reading:{name}", math.inf, _Held)
    late = time.monotonic() - held.until
    if late < 0 or not held.lock.acquire(blocking=late > LATE_SECONDS):
        return held.value
    try:
        if time.monotonic() >= held.until:
            held.value = shape(_shared(platform, f"reading:{name}", count))
            held.until = time.monotonic() + LOCAL_SECONDS
    finally:
        held.lock.release()
    return held.value


def _shared(platform: Platform, key: str, count: Count) -> dict[str, Any]:
    try:
        document = platform.cache.get(key) or _published(platform, key, count)
    except redis.RedisError:
        document = platform.local.get(f"own {key}", SHARED_SECONDS, lambda: orjson.dumps(count(platform)))
    found: dict[str, Any] = orjson.loads(cast(bytes, document))
    return found


def _published(platform: Platform, key: str, count: Count) -> bytes:
    started = time.monotonic()
    document = orjson.dumps(count(platform))
    seconds = max(SHARED_SECONDS, SHARE * (time.monotonic() - started))
    platform.cache.set(key, document, px=int(1000 * seconds))
    return document
