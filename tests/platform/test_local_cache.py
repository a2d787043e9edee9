import math
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from horde.platform import local_cache
from horde.platform.local_cache import LocalCache

AWAY = redis.Redis(port=1, socket_connect_timeout=0.1)


class Value:
    """Something whose end can be seen."""


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_value_is_loaded_once_and_again_when_its_time_is_over(redis_url: str) -> None:
    local = LocalCache(redis.Redis.from_url(redis_url))
    loads = iter(range(10))
    assert local.get("a", 60, lambda: next(loads)) == 0
    assert local.get("a", 60, lambda: next(loads)) == 0
    assert local.get("b", 0, lambda: next(loads)) == 1
    assert local.get("b", 0, lambda: next(loads)) == 2


def test_failures_are_not_kept(redis_url: str) -> None:
    local = LocalCache(redis.Redis.from_url(redis_url))

    def fail() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        local.get("a", 60, fail)
    assert local.get("a", 60, lambda: 1) == 1


def test_dropping_reaches_the_other_processes(redis_url: str) -> None:
    here, there = (LocalCache(redis.Redis.from_url(redis_url)) for _ in range(2))
    stop = threading.Event()
    listener = threading.Thread(target=there.listen, args=(stop,))
    listener.start()
    try:
        wait_until(lambda: bool(redis.Redis.from_url(redis_url).pubsub_numsub("horde:invalidate")[0][1]))
        assert there.get("a", 60, lambda: "old") == "old"
        here.drop("a")
        wait_until(lambda: there.get("a", 60, lambda: "new") == "new")
    finally:
        stop.set()
        listener.join()


def test_what_is_dropped_while_it_is_loaded_is_not_kept() -> None:
    local = LocalCache(AWAY)

    def load() -> str:
        assert local.get("a", 60, lambda: "another caller's") == "another caller's"
        local.drop("a")
        return "old"

    assert local.get("a", 60, load) == "old"
    assert local.get("a", 60, lambda: "new") == "new"
    assert local.get("a", 60, lambda: "newer") == "new"


def test_a_lost_cache_server_costs_invalidations_only() -> None:
    local = LocalCache(redis.Redis(port=1, socket_connect_timeout=0.1))
    assert local.get("a", 60, lambda: 1) == 1
    local.drop("a")
    assert local.get("a", 60, lambda: 2) == 2


def test_what_has_ended_is_given_up_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cache, "SWEEP_SECONDS", 0.0)
    local, value, lasting = LocalCache(AWAY), Value(), Value()
    ended, held = weakref.ref(value), weakref.ref(lasting)
    local.put("a", 0, value)
    local.put("b", 60, lasting)
    del value, lasting
    local.put("c", 60, "another")
    assert ended() is None
    assert held() is not None


def test_that_is_not_looked_for_at_every_call() -> None:
    local = LocalCache(AWAY)
    local.put("first", 0, 1)
    value = Value()
    ended = weakref.ref(value)
    local.put("a", 0, value)
    del value
    local.put("b", 60, 2)
    assert ended() is not None


def test_of_too_many_those_go_that_end_soonest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cache, "MAX_ENTRIES", 100)
    local = LocalCache(AWAY)
    local.put("parsed", math.inf, "dear")
    values = [Value() for _ in range(1000)]
    alive = [weakref.ref(value) for value in values]
    for place, value in enumerate(values):
        local.put(str(place), 60 + place, value)
    del value
    values.clear()
    assert local.get("parsed", math.inf, lambda: "lost") == "dear"
    left = [place for place, value in enumerate(alive) if value() is not None]
    assert 80 <= len(left) <= 100
    assert left == list(range(1000 - len(left), 1000))


def test_many_threads_may_use_it_while_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cache, "MAX_ENTRIES", 50)
    monkeypatch.setattr(local_cache, "SWEEP_SECONDS", 0.0)
    local = LocalCache(AWAY)

    def use(start: int) -> bool:
        keys = [str(start * 7 % 90 + place) for place in range(500)]
        for place, key in enumerate(keys):
            local.put(key, place % 3, key)
        return all(local.get(key, 60, lambda key=key: key) == key for key in keys)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(16)))
