"""What waits in the queue, counted about once a second for everybody who asks.

The leader counts and publishes; every process keeps what it read for a while. Without a leader (it has
just gone, or the cache is away) whoever asks counts. There are two readings: the places in the queue,
small however long it is, and the groups of requests that stand in the same lanes, for workers that find
nothing to do.
"""

import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from uuid import UUID

import orjson
import redis
from sqlalchemy import Connection, text

from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey
from horde.platform.runtime import Platform

EXACT_POSITIONS = 1000
"""Places at the head of the queue that are told exactly; beyond, every 50th is kept."""
PUBLISHED_SECONDS = 15
PLACES_SECONDS, GROUPS_SECONDS = 1.0, 3.0


@dataclass(frozen=True, slots=True)
class Places:
    """The waiting requests of one kind in order of service."""

    ranks: list[int]
    """Ranks (all at the head, samples beyond), with the totals up to each:"""
    requests: list[int]
    results: list[int]
    things: list[float]
    total_results: int

    def before(self, rank: int) -> tuple[int, int, float]:
        """How many requests, results and raw things are served before a request of `rank`."""
        index = bisect.bisect_left(self.ranks, rank) - 1
        if index < 0:
            return 0, 0, 0.0
        return self.requests[index], self.results[index], self.things[index]


@dataclass(frozen=True, slots=True)
class Group:
    """Waiting requests that stand in the same lanes."""

    lanes: tuple[LaneKey, ...]
    size: int
    avoided: frozenset[UUID]
    """Workers that they do not want."""
    undecided: str | None
    """What decides which models would do, if they accept every one (see the kind's `undecided`)."""
    requests: int
    sender: int | None = None
    """The user whose they are, if they name workers that serve only whom they serve first."""

    @property
    def targets(self) -> set[UUID]:
        """The only workers that they want, if there are such."""
        return {lane.target for lane in self.lanes} - {ANY_WORKER}


@dataclass(frozen=True, slots=True)
class Demand:
    """What waiting requests need of a worker, apart from their size and from whom they want."""

    models: tuple[tuple[str, int], ...]
    """Each acceptable model (or `ANY_MODEL`) with the needs that come with it, in their senders' order."""
    undecided: str | None

    @property
    def needs(self) -> tuple[int, ...]:
        """The different needs, in the same order."""
        return tuple(dict.fromkeys(needs for _, needs in self.models))


class Groups:
    """The waiting requests of one kind by what they demand, each counted once in every reading."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self.all = list(groups)
        self.by_needs: Counter[tuple[int, ...]] = Counter()
        """Requests by the needs that come with their models."""
        demands: Counter[Demand] = Counter()
        sizes: Counter[int] = Counter()
        self._choosy = 0
        self._wanted: Counter[tuple[UUID, int | None]] = Counter()
        self._avoided: Counter[UUID] = Counter()
        for group in self.all:
            models = tuple(dict.fromkeys((lane.model, lane.needs) for lane in group.lanes))
            demands[Demand(models, group.undecided)] += group.requests
            sizes[group.size] += group.requests
            self._choosy += group.requests if group.targets else 0
            self._wanted.update({(target, group.sender): group.requests for target in group.targets})
            self._avoided.update(dict.fromkeys(group.avoided, group.requests))
        self._by_model: dict[str, list[tuple[Demand, int]]] = {}
        for demand, requests in demands.items():
            self.by_needs[demand.needs] += requests
            for model in {model for model, _ in demand.models}:
                self._by_model.setdefault(model, []).append((demand, requests))
        self._sizes = sorted(sizes)
        self._up_to = [0, *accumulate(sizes[size] for size in self._sizes)]

    def naming(self, models: Iterable[str]) -> list[tuple[Demand, int]]:
        """What the requests demand that one of `models` might do for, and how many they are."""
        found: dict[Demand, int] = {}
        for model in (*models, ANY_MODEL):
            found.update(self._by_model.get(model, ()))
        return list(found.items())

    def larger_than(self, size: int) -> int:
        """How many requests are for larger results."""
        return self._up_to[-1] - self._up_to[bisect.bisect_right(self._sizes, size)]

    def closed_to(self, worker_id: UUID, first: Collection[int | None] = (None,)) -> int:
        """How many requests do not want this worker, or are not served by it although they do.

        `first` are the users whom it serves first, where it matters whose requests name it.
        """
        wanted = sum(self._wanted[worker_id, user] for user in first)
        return self._choosy - wanted + self._avoided[worker_id]


_PLACES = text("""
    SELECT rank, place, results, things FROM (
        SELECT rank, row_number() OVER served AS place, sum(n) OVER served AS results,
            sum(things::numeric * n) OVER served AS things, count(*) OVER () AS total
        FROM requests WHERE kind = :kind AND n > 0
        WINDOW served AS (ORDER BY rank ROWS UNBOUNDED PRECEDING)
    ) waiting
    WHERE place <= :exact OR place % 50 = 0 OR place = total
    ORDER BY place
""")
_GROUPS = text("""
    SELECT lanes, size, CASE WHEN worker_blacklist THEN workers ELSE '{}' END AS avoided,
        CASE WHEN models = '{}' THEN options ->> 'undecided' END AS undecided,
        CASE WHEN :matched AND workers <> '{}' AND NOT worker_blacklist THEN user_id END AS sender,
        count(*) AS requests
    FROM requests WHERE kind = :kind AND n > 0 AND expires > now() GROUP BY 1, 2, 3, 4, 5
""")
_LANES = text("""
    SELECT id, model, target, needs, size_class FROM lanes
    WHERE id = ANY(CAST(:ids AS bigint[]))
""")


def _count_places(db: Connection, kind: str) -> bytes:
    places = db.execute(_PLACES, {"kind": kind, "exact": EXACT_POSITIONS}).all()
    return orjson.dumps([[row.rank, row.place, int(row.results), float(row.things)] for row in places])


def _parse_places(document: bytes) -> Places:
    rows = orjson.loads(document)
    return Places(
        ranks=[row[0] for row in rows],
        requests=[row[1] for row in rows],
        results=[row[2] for row in rows],
        things=[row[3] for row in rows],
        total_results=rows[-1][2] if rows else 0,
    )


def _count_groups(platform: Platform, db: Connection, kind: str) -> bytes:
    matched = platform.settings.require_matched_targeting
    groups = db.execute(_GROUPS, {"kind": kind, "matched": matched}).all()
    ids = {lane for group in groups for lane in group.lanes}
    lanes = db.execute(_LANES, {"ids": list(ids)}).all() if ids else []
    return orjson.dumps(
        {
            "kind": kind,
            "groups": [
                [row.lanes, row.size, [str(worker) for worker in row.avoided], row.undecided, row.requests]
                for row in groups
            ],
            "senders": [row.sender for row in groups] if matched else [],
            "lanes": [[row.id, row.model, str(row.target), row.needs, row.size_class] for row in lanes],
        }
    )


def _parse_groups(document: bytes) -> Groups:
    data = orjson.loads(document)
    lanes = {
        lane: LaneKey(data["kind"], model, UUID(target), int(needs, 2), size_class)
        for lane, model, target, needs, size_class in data["lanes"]
    }
    return Groups(
        Group(
            tuple(lanes[lane] for lane in ids if lane in lanes),
            size,
            frozenset(map(UUID, avoided)),
            undecided,
            requests,
            sender,
        )
        for (ids, size, avoided, undecided, requests), sender in zip_longest(
            data["groups"], data.get("senders", ())
        )
    )


def publish_places(platform: Platform, kind: str) -> None:
    """Count the places of one kind's queue and hand them to every process."""
    _publish(platform, f"places:{kind}", lambda db: _count_places(db, kind))


def publish_groups(platform: Platform, kind: str) -> None:
    """Count the groups of one kind's queue and hand them to every process."""
    _publish(platform, f"groups:{kind}", lambda db: _count_groups(platform, db, kind))


def places(platform: Platform, kind: str) -> Places:
    """The places in one kind's queue as they were a second or two ago."""
    return platform.local.get(
        f"places:{kind}",
        PLACES_SECONDS,
        lambda: _parse_places(_read(platform, f"places:{kind}", lambda db: _count_places(db, kind))),
        bridge=True,
    )


def groups(platform: Platform, kind: str) -> Groups:
    """The groups of one kind's queue as they were a few seconds ago."""
    return platform.local.get(
        f"groups:{kind}",
        GROUPS_SECONDS,
        lambda: _parse_groups(
            _read(platform, f"groups:{kind}", lambda db: _count_groups(platform, db, kind))
        ),
        bridge=True,
    )


def _publish(platform: Platform, key: str, count: Callable[[Connection], bytes]) -> None:
    with platform.read() as db:
        document = count(db)
    platform.cache.set(key, document, ex=PUBLISHED_SECONDS)


def _read(platform: Platform, key: str, count: Callable[[Connection], bytes]) -> bytes:
    try:
        document = platform.cache.get(key)
    except redis.RedisError:
        document = None
    if isinstance(document, bytes):
        return document
    with platform.read() as db:
        return count(db)
