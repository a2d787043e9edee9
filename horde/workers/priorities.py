"""Whom workers serve first after their owners, as their last pops said.

It matters to others only where workers serve nobody else of those who name them. It is kept in the cache;
what is lost there the next pop says again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import orjson
import redis
import structlog

from horde.platform.runtime import Platform
from horde.workers.heartbeats import HEARTBEAT_SECONDS
from horde.workers.rules import STALE_SECONDS, WorkerFacts

log = structlog.get_logger(__name__)


def _key(worker: WorkerFacts) -> str:
    return f"priority users:{worker.id}"


def note(platform: Platform, worker: WorkerFacts, users: Iterable[int]) -> WorkerFacts:
    """Let everybody know whom a worker that pops serves first (user ids); returns it with these."""
    named = sorted(set(users))

    def send() -> bool:
        try:
            platform.cache.set(_key(worker), orjson.dumps(named), ex=STALE_SECONDS)
        except redis.RedisError:
            log.warning("Valkey does not answer, priority users not noted", worker=str(worker.id))
        return True

    platform.local.get(f"{_key(worker)}:{named}", HEARTBEAT_SECONDS, send)
    return replace(worker, priority_users=frozenset(named))


def complete(platform: Platform, workers: Sequence[WorkerFacts]) -> list[WorkerFacts]:
    """The same workers with the users whom they serve first, as far as the cache knows."""
    if not workers:
        return []
    try:
        noted = platform.cache.mget(list(map(_key, workers)))
    except redis.RedisError:
        return list(workers)
    return [
        replace(worker, priority_users=frozenset(orjson.loads(named))) if named else worker
        for worker, named in zip(workers, noted, strict=True)
    ]
