"""Periodic work, done once however many nodes run.

Every web process runs this; the one that holds a PostgreSQL advisory lock does the work. The lock
belongs to a connection, so it is free again the moment its holder dies, and somebody else takes over
within seconds. Jobs must bear being run twice.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from horde.platform.runtime import Platform

LEADER_LOCK = 7_463_000
ELECTION_SECONDS = 2.0
RETRY_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do every `seconds`, counted from the end of its previous run."""

    name: str
    seconds: float
    run: Callable[[Platform], object]
    slow: bool = False
    """Whether it may take long. Such tasks run one by one beside the others, which do not wait for them."""


class Runner:
    """Runs tasks in threads of its own while this process leads, and listens for invalidations."""

    def __init__(self, platform: Platform, tasks: Sequence[Task]) -> None:
        self._platform = platform
        self._tasks = tasks
        self._stop = threading.Event()
        self._leading = threading.Event()
        self._threads: list[threading.Thread] = []
        self._due = dict.fromkeys(range(len(tasks)), 0.0)

    def start(self) -> None:
        """Begin; call it once per process, after forking."""
        for name, target in (
            ("leader", self._lead),
            ("slow work", self._work_slowly),
            ("invalidations", self._listen),
        ):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Finish the task in hand and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _listen(self) -> None:
        self._platform.local.listen(self._stop)

    def _lead(self) -> None:
        while not self._stop.is_set():
            try:
                with self._platform.read() as db:
                    if _elected(db):
                        self._work(db)
            except DBAPIError:
                log.warning("periodic work interrupted", exc_info=True)
            self._stop.wait(ELECTION_SECONDS)

    def _work(self, db: Connection) -> None:
        """Run what is due until asked to stop or the lock's connection is lost."""
        log.info("leading")
        checked = time.monotonic()
        self._leading.set()
        try:
            while not self._stop.is_set():
                self.run_due()
                if time.monotonic() - checked > ELECTION_SECONDS:
                    db.execute(text("SELECT 1"))
                    checked = time.monotonic()
                self._stop.wait(0.1)
        finally:
            self._leading.clear()
            db.invalidate()

    def _work_slowly(self) -> None:
        while not self._stop.wait(1):
            if self._leading.is_set():
                self.run_due(slow=True)

    def run_due(self, *, slow: bool = False) -> None:
        """Run every task of the one or the other sort whose time has come.

        A failing one is logged and tried again later.
        """
        for index, task in enumerate(self._tasks):
            started = time.monotonic()
            if self._stop.is_set() or task.slow != slow or self._due[index] > started:
                continue
            try:
                task.run(self._platform)
            except Exception:
                log.exception("periodic task failed", task=task.name)
                self._due[index] = time.monotonic() + RETRY_SECONDS
            else:
                ended = time.monotonic()
                self._due[index] = ended + max(task.seconds, 5 * (ended - started))


def _elected(db: Connection) -> bool:
    return bool(db.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": LEADER_LOCK}).scalar_one())
