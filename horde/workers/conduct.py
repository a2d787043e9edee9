"""What becomes of workers that lose many jobs or are too fast to be honest."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from horde.platform.runtime import Platform
from horde.users import suspicions
from horde.users.rules import Reason
from horde.workers import service

MOST_DROPPED, MOST_DROPPED_IN_RAIDS = 20, 10
"""Jobs that a worker may lose within an hour."""
MOST_DROPPED_OF_KIND: Mapping[str, int] = {"interrogation": 100}
"""The same for kinds whose jobs are small, whatever the mode."""

_CARELESS = text("""
    SELECT workers.id, workers.kind, workers.name, workers.owner_id, workers.dropped, modes.raid
    FROM workers, modes WHERE workers.dropped > :fewest
    ORDER BY workers.id FOR UPDATE OF workers
""")
_COUNT_ANEW = text("""
    UPDATE workers SET dropped = :dropped,
        maintenance_message = CASE WHEN :maintenance AND NOT maintenance
            THEN :message ELSE maintenance_message END,
        maintenance = maintenance OR :maintenance
    WHERE id = :id
""")


def judge_dropped_jobs(platform: Platform) -> int:
    """Put workers into maintenance that lost too many jobs within an hour; returns how many lost too many.

    Each time that is a reason for suspicion, and counting starts anew. While the horde is raided workers stay
    at work and are suspected sooner. Their owners end the maintenance.
    """
    judged = []
    with platform.engine.begin() as db:
        for worker in db.execute(_CARELESS, {"fewest": MOST_DROPPED_IN_RAIDS}).all():
            most = _most_dropped(worker)
            times, dropped = divmod(worker.dropped, most + 1)
            if not times:
                continue
            db.execute(
                _COUNT_ANEW,
                {
                    "id": worker.id,
                    "dropped": dropped,
                    "maintenance": not worker.raid,
                    "message": (
                        f"This worker was put into maintenance mode because it lost more than {most} jobs "
                        "within an hour. Find out why, then switch maintenance off in the worker's settings "
                        "on this horde."
                    ),
                },
            )
            for _ in range(times):
                suspicions.report(db, worker.owner_id, Reason.TOO_MANY_JOBS_ABORTED, worker.id)
            judged.append(worker)
    for worker in judged:
        service.forget(platform, worker.kind, worker.name)
    return len(judged)


def _most_dropped(worker: Row[Any]) -> int:
    usual = MOST_DROPPED_IN_RAIDS if worker.raid else MOST_DROPPED
    return MOST_DROPPED_OF_KIND.get(worker.kind, usual)


def suspect(
    platform: Platform, reason: Reason, *, owner_id: int, worker_id: UUID, kind: str, name: str
) -> None:
    """Note `reason` against a worker and its owner; enough of them pause the worker."""
    with platform.engine.begin() as db:
        paused = suspicions.report(db, owner_id, reason, worker_id)
    if paused:
        service.forget(platform, kind, name)
