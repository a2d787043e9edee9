import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from horde.app import make_platform
from horde.platform import periodic
from horde.platform.periodic import LEADER_LOCK, Runner, Task
from horde.platform.runtime import Platform
from horde.settings import Settings
from tests.platform.test_local_cache import wait_until


class Count:
    """A task that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.running = 0
        self.overlapped = False
        self._lock = threading.Lock()

    def __call__(self, _platform: Platform) -> None:
        with self._lock:
            self.running += 1
            self.overlapped = self.overlapped or self.running > 1
        self.runs += 1
        with self._lock:
            self.running -= 1


@contextmanager
def running(settings: Settings, task: Task) -> Iterator[Runner]:
    platform = make_platform(settings)
    runner = Runner(platform, [task])
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()
        platform.engine.dispose()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "ELECTION_SECONDS", 0.1)


def test_one_of_several_nodes_works_and_another_takes_over(settings: Settings) -> None:
    first, second = Count(), Count()
    with running(settings, Task("first", 0, first)):
        wait_until(lambda: first.runs > 2)
        with running(settings, Task("second", 0, second)):
            seen = first.runs
            wait_until(lambda: first.runs > seen + 2)
            assert second.runs == 0
        # Both stop here, the idle one first.
    with running(settings, Task("second", 0, second)):
        wait_until(lambda: second.runs > 0)


def test_a_leader_whose_connection_dies_makes_room(settings: Settings, platform: Platform) -> None:
    count = Count()
    with running(settings, Task("count", 0, count)):
        wait_until(lambda: count.runs > 0)
        with platform.engine.begin() as db:
            ended = db.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                    "AND objid = :lock AND granted"
                ),
                {"lock": LEADER_LOCK},
            ).all()
        assert ended == [(True,)]
        seen = count.runs
        wait_until(lambda: count.runs > seen + 3)
    assert not count.overlapped


def test_a_failing_task_does_not_stop_the_others(platform: Platform) -> None:
    count = Count()

    def fail(_platform: Platform) -> None:
        raise RuntimeError("on purpose")

    runner = Runner(platform, [Task("fails", 0, fail), Task("counts", 0, count)])
    runner.run_due()
    assert count.runs == 1


def test_a_task_waits_its_time(platform: Platform) -> None:
    count = Count()
    runner = Runner(platform, [Task("hourly", 3600, count)])
    runner.run_due()
    runner.run_due()
    assert count.runs == 1


def test_nobody_waits_for_a_slow_task(settings: Settings) -> None:
    begun, go_on, count = threading.Event(), threading.Event(), Count()

    def dawdle(_platform: Platform) -> None:
        begun.set()
        go_on.wait(10)

    platform = make_platform(settings)
    runner = Runner(platform, [Task("slow", 0, dawdle, slow=True), Task("count", 0, count)])
    runner.start()
    try:
        assert begun.wait(10)
        seen = count.runs
        wait_until(lambda: count.runs > seen + 2)
    finally:
        go_on.set()
        runner.stop()
        platform.close()
