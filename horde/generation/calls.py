"""Word that results wait in the queue, which every process hears over Valkey."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID

import orjson
import redis
import structlog
from sqlalchemy import text

from horde.generation.rules import LaneKey
from horde.platform.runtime import Platform

CHANNEL = "horde:queued"
OUTAGE_SECONDS = 5.0
"""How long nothing is published after a failure of Valkey."""
CLAIM_SECONDS = 60
MOST_PASSED = 8
"""Processes that a call is passed on by, before whoever rests has to find out otherwise."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """Word that results wait in the queue."""

    kind: str
    demands: frozenset[tuple[str, UUID, int]]
    """Model, worker and needs of each lane that they stand in."""
    size: int
    avoided: Sequence[UUID]
    """Workers that their requester does not want."""
    results: int
    passed_by: Sequence[str] = ()
    """Processes none of whose workers could take them."""
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @classmethod
    def of(
        cls, kind: str, lanes: Iterable[LaneKey], size: int, avoided: Sequence[UUID], results: int
    ) -> Self:
        """The call for results that stand in these lanes."""
        return cls(
            kind, frozenset((lane.model, lane.target, lane.needs) for lane in lanes), size, avoided, results
        )

    def passed_on(self, process: str, results: int) -> Self:
        """The call for what a process could not have done."""
        passed_by = (*self.passed_by, process)
        return replace(self, results=results, passed_by=passed_by, name=secrets.token_urlsafe(12))

    def encode(self) -> bytes:
        """The call as it is published."""
        demands = [[model, target, f"{needs:x}"] for model, target, needs in self.demands]
        return orjson.dumps(
            [self.kind, demands, self.size, list(self.avoided), self.results, list(self.passed_by), self.name]
        )

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """The call that was published."""
        kind, demands, size, avoided, results, passed_by, name = orjson.loads(message)
        return cls(
            kind,
            frozenset((model, UUID(target), int(needs, 16)) for model, target, needs in demands),
            size,
            [UUID(worker) for worker in avoided],
            results,
            passed_by,
            name,
        )


def announce(platform: Platform, call: Call) -> None:
    """Wake workers for what has just been queued. Never fails; call it after the transaction committed."""
    if platform.local.get("announcements pause", OUTAGE_SECONDS, lambda: False):
        return
    try:
        platform.cache.publish(CHANNEL, call.encode())
    except redis.RedisError:
        platform.local.put("announcements pause", OUTAGE_SECONDS, True)
        log.warning("waiting workers not called", seconds=OUTAGE_SECONDS)


_WAITING = text("""
    SELECT kind, size, n, CASE WHEN worker_blacklist THEN workers ELSE '{}' END AS avoided, ARRAY(
        SELECT json_build_array(model, target, needs, size_class) FROM lanes
        WHERE lanes.id = ANY(requests.lanes)
    ) AS standing
    FROM requests WHERE id = ANY(CAST(:ids AS uuid[])) AND n > 0
""")


def announce_again(platform: Platform, request_ids: Iterable[UUID]) -> None:
    """Wake workers for those of some requests that wait again, after the transaction that gave them back."""
    ids = list(set(request_ids))
    if not ids:
        return
    with platform.read() as db:
        rows = db.execute(_WAITING, {"ids": ids}).all()
    for row in rows:
        lanes = [
            LaneKey(row.kind, model, UUID(target), int(needs, 2), size_class)
            for model, target, needs, size_class in row.standing
        ]
        announce(platform, Call.of(row.kind, lanes, row.size, row.avoided, row.n))


def claim(platform: Platform, call: Call, wanted: int) -> int:
    """How many of a call's results this process may wake workers for, of the `wanted` that it could.

    All processes together get as many as there are, so that not every one of them wakes somebody for each.
    """
    key = f"claimed:{call.name}"
    try:
        pipeline = platform.cache.pipeline(transaction=False)
        pipeline.incrby(key, wanted)
        pipeline.expire(key, CLAIM_SECONDS)
        claimed_before = int(pipeline.execute()[0]) - wanted
    except redis.RedisError:
        return wanted
    return max(0, min(wanted, call.results - claimed_before))
