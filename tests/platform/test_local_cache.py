import threading
import time
from collections.abc import Callable

import pytest
import redis

from horde.platform.local_cache import LocalCache


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


def test_a_lost_cache_server_costs_invalidations_only() -> None:
    local = LocalCache(redis.Redis(port=1, socket_connect_timeout=0.1))
    assert local.get("a", 60, lambda: 1) == 1
    local.drop("a")
    assert local.get("a", 60, lambda: 2) == 2
