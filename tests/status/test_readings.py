"""Figures are counted for everybody at once, however many ask."""

import threading
from typing import Any

import pytest

from horde.platform.runtime import Platform
from horde.status import readings
from horde.status.readings import reading
from tests.support import Horde, in_threads


class Counter:
    """Counts how often it was asked to count."""

    def __init__(self) -> None:
        self.times = 0
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, _platform: Platform) -> dict[str, Any]:
        self.times += 1
        self.started.set()
        assert self.go_on.wait(20)
        return {"times": self.times}


def times(counted: dict[str, Any]) -> int:
    return int(counted["times"])


def outlive(platform: Platform, name: str, seconds: float) -> None:
    """Let this process's reading be over for `seconds`, and that of all nodes too."""
    held = platform.local._entries[f"reading:{name}"][1]
    held.until -= readings.LOCAL_SECONDS + seconds  # type: ignore[attr-defined]
    platform.cache.delete(f"reading:{name}")


def test_counted_once_however_many_ask(horde: Horde) -> None:
    count = Counter()
    assert in_threads(8, lambda _: reading(horde.platform, "x", count, times)) == [1] * 8
    assert count.times == 1


def test_the_last_one_is_shown_while_the_next_is_counted(horde: Horde) -> None:
    count = Counter()
    assert reading(horde.platform, "x", count, times) == 1
    outlive(horde.platform, "x", seconds=1)
    count.started.clear()
    count.go_on.clear()
    found: list[int] = []
    slow = threading.Thread(target=lambda: found.append(reading(horde.platform, "x", count, times)))
    slow.start()
    assert count.started.wait(20)
    assert reading(horde.platform, "x", count, times) == 1
    count.go_on.set()
    slow.join()
    assert found == [2]
    assert reading(horde.platform, "x", count, times) == 2


def test_an_old_one_is_not(horde: Horde) -> None:
    count = Counter()
    reading(horde.platform, "x", count, times)
    outlive(horde.platform, "x", seconds=readings.LATE_SECONDS + 1)
    assert in_threads(4, lambda _: reading(horde.platform, "x", count, times)) == [2] * 4


def test_after_a_failure_it_is_tried_again(horde: Horde) -> None:
    def fail(_platform: Platform) -> dict[str, Any]:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            reading(horde.platform, "x", fail, times)
    assert reading(horde.platform, "x", Counter(), times) == 1
