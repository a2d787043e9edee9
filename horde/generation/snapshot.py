"""What waits in the queue, counted about once a second for everybody who asks.

The leader counts and publishes; every process keeps what it read for a second. Without a leader (it has
just gone, or the cache is away) whoever asks counts.
"""

import bisect
from dataclasses import dataclass
from uuid import UUID

import orjson
import redis
from sqlalchemy import Connection, text

from horde.generation.rules import LaneKey
from horde.platform.runtime import Platform

EXACT_POSITIONS = 1000
"""Places at the head of the queue that are told exactly; beyond, every 50th is kept."""
PUBLISHED_SECONDS = 15
KEPT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Group:
    """Waiting requests that stand in the same lanes."""

    lanes: tuple[int, ...]
    size: int
    avoided: frozenset[UUID]
    """Workers that they do not want."""
    requests: int


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The waiting requests of one kind."""

    ranks: list[int]
    """Ranks in order of service (all at the head, samples beyond), with the totals up to each:"""
    requests: list[int]
    results: list[int]
    things: list[float]
    groups: list[Group]
    lanes: dict[int, LaneKey]
    total_results: int

    def place(self, rank: int) -> tuple[int, int, float]:
        """How many requests, results and raw things are served before a request of `rank`."""
        index = bisect.bisect_left(self.ranks, rank) - 1
        if index < 0:
            return 0, 0, 0.0
        return self.requests[index], self.results[index], self.things[index]


_PLACES = text("""
    SELECT rank, place, results, things FROM (
        SELECT rank, row_number() OVER served AS place, sum(n) OVER served AS results,
            sum(things::numeric * n) OVER served AS things
        FROM requests WHERE kind = :kind AND n > 0
        WINDOW served AS (ORDER BY rank ROWS UNBOUNDED PRECEDING)
    ) waiting
    WHERE place <= :exact OR place % 50 = 0
    ORDER BY place
""")
_GROUPS = text("""
    SELECT lanes, size, CASE WHEN worker_blacklist THEN workers ELSE '{}' END AS avoided,
        count(*) AS requests, sum(n) AS results
    FROM requests WHERE kind = :kind AND n > 0 GROUP BY 1, 2, 3
""")
_LANES = text("""
    SELECT id, model, target, needs, size_class FROM lanes
    WHERE id = ANY(CAST(:ids AS bigint[]))
""")


def count(db: Connection, kind: str) -> bytes:
    """Count the queue of one kind; returns what `load` reads, as JSON."""
    places = db.execute(_PLACES, {"kind": kind, "exact": EXACT_POSITIONS}).all()
    groups = db.execute(_GROUPS, {"kind": kind}).all()
    ids = {lane for group in groups for lane in group.lanes}
    lanes = db.execute(_LANES, {"ids": list(ids)}).all() if ids else []
    return orjson.dumps(
        {
            "places": [[row.rank, row.place, int(row.results), float(row.things)] for row in places],
            "groups": [
                [row.lanes, row.size, [str(worker) for worker in row.avoided], row.requests] for row in groups
            ],
            "lanes": [[row.id, row.model, str(row.target), row.needs, row.size_class] for row in lanes],
            "results": int(sum(row.results for row in groups)),
        }
    )


def _parse(kind: str, document: bytes) -> QueueSnapshot:
    data = orjson.loads(document)
    ranks, requests, results, things = (
        map(list, zip(*data["places"], strict=True)) if data["places"] else ([],) * 4
    )
    return QueueSnapshot(
        ranks=ranks,
        requests=requests,
        results=results,
        things=things,
        groups=[
            Group(tuple(lanes), size, frozenset(map(UUID, avoided)), requests)
            for lanes, size, avoided, requests in data["groups"]
        ],
        lanes={
            lane: LaneKey(kind, model, UUID(target), int(needs, 2), size_class)
            for lane, model, target, needs, size_class in data["lanes"]
        },
        total_results=data["results"],
    )


def publish(platform: Platform, kind: str) -> None:
    """Count one kind's queue and hand the result to every process."""
    with platform.read() as db:
        document = count(db, kind)
    platform.cache.set(_key(kind), document, ex=PUBLISHED_SECONDS)


def load(platform: Platform, kind: str) -> QueueSnapshot:
    """The queue of one kind as it was a second or two ago."""

    def read() -> QueueSnapshot:
        try:
            document = platform.cache.get(_key(kind))
        except redis.RedisError:
            document = None
        if not isinstance(document, bytes):
            with platform.read() as db:
                document = count(db, kind)
        return _parse(kind, document)

    return platform.local.get(_key(kind), KEPT_SECONDS, read)


def _key(kind: str) -> str:
    return f"queue:{kind}"
