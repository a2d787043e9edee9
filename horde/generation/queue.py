"""The queue: standing in lanes, being found by a worker, being taken.

Every function is a step of its caller's transaction; those on the hot path run one statement. Together
they keep two promises: a waiting request (`n` > 0) stands in all of its lanes and no other one stands in any;
and no result is handed to two workers, because whoever takes one holds the request's row lock.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from horde.generation.rules import (
    ANY_MODEL,
    ANY_WORKER,
    FAULTS_BEFORE_GIVING_UP,
    NEED_BITS,
    LaneKey,
    bits,
    size_class,
)
from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of the queue one search looks at."""

    heads: int
    """Places read over all lanes together, at least 2 of each."""
    per_lane: int
    candidates: int
    """Requests looked at closely."""


NARROW, WIDE = Bounds(512, 32, 64), Bounds(8192, 512, 2000)
TOP = (-(2**62), UUID(int=0))
"""Rank and request id before everybody's."""


_ENQUEUE = text(
    """
    WITH room AS (
        SELECT 1 WHERE CAST(:limit AS int) IS NULL OR :jobs + (
            SELECT coalesce(sum(n), 0) FROM requests
            WHERE user_id = :user_id AND kind = :kind AND n > 0
                AND (CAST(:rivals AS text[]) IS NULL OR models && CAST(:rivals AS text[]))
        ) <= CAST(:limit AS int)
    ), lane AS (
        SELECT asked.* FROM room, unnest(
            CAST(:lanes AS bigint[]), CAST(:lane_models AS text[]), CAST(:targets AS uuid[]),
            CAST(:needs AS text[]), CAST(:classes AS int[])
        ) AS asked (id, model, target, needs, size_class)
    ), opened AS (
        INSERT INTO lanes (id, kind, model, target, needs, size_class)
        SELECT id, :kind, model, target, CAST(needs AS bit(128)), size_class FROM lane
        ON CONFLICT (id) DO NOTHING
    ), cause AS (
        INSERT INTO requests (id, kind, user_id, account_id, expires, jobs, n, rank, models, lanes, workers,
            worker_blacklist, prompt, payload, options, things, size, ttl, price, tax, r2, client_agent,
            ipaddr, proxied_account)
        SELECT CAST(:id AS uuid), :kind, :user_id, :account_id, now() + make_interval(secs => :lifetime),
            :jobs, :jobs, :rank, CAST(:models AS text[]), CAST(:lanes AS bigint[]),
            CAST(:workers AS uuid[]), :worker_blacklist, :prompt, CAST(:payload AS jsonb),
            CAST(:options AS jsonb), :things, :size, :ttl, CAST(:price AS numeric), CAST(:tax AS numeric),
            :r2, :client_agent, :ipaddr, :proxied_account
        FROM room
        RETURNING id
    ),
    """
    + ledger.POSTING
    + """
    INSERT INTO queue (lane_id, rank, request_id, size)
    SELECT id, :rank, CAST(:id AS uuid), :size FROM lane
    """
)


def enqueue(
    db: Connection,
    request: Mapping[str, Any],
    lanes: Sequence[LaneKey],
    *,
    limit: int | None = None,
    rivals: Sequence[str] | None = None,
    credits: Sequence[Entry] = (),
) -> bool:
    """Add a request for `jobs` results, let it stand in its lanes, and charge its `tax`.

    `request` holds the columns of `tables.Request` that do not follow from others, and `lifetime`, the
    seconds that it is kept without activity. False, and nothing is done, when more than `limit` results
    of the user would wait then; with `rivals` only those of requests for one of these models count.
    Whoever must hold the limit strictly locks the payer before. `credits` are paid out of the tax.
    """
    tax = balanced([Entry(request["account_id"], -request["tax"], "accumulated"), *credits])
    result = db.execute(
        _ENQUEUE,
        {
            **request,
            **ledger.posting(request["id"], "activation", tax, request_id=request["id"]),
            "payload": orjson.dumps(request["payload"]).decode(),
            "options": orjson.dumps(request["options"]).decode(),
            "lanes": [lane.id for lane in lanes],
            "lane_models": [lane.model for lane in lanes],
            "targets": [lane.target for lane in lanes],
            "needs": [bits(lane.needs) for lane in lanes],
            "classes": [lane.size_class for lane in lanes],
            "limit": limit,
            "rivals": list(rivals) if rivals else None,
        },
    )
    return result.rowcount > 0


_WAITING = text("""
    SELECT coalesce(sum(n), 0) FROM requests
    WHERE user_id = :user AND kind = :kind AND n > 0
        AND (CAST(:rivals AS text[]) IS NULL OR models && CAST(:rivals AS text[]))
""")


def waiting(db: Connection, user_id: int, kind: str, rivals: Sequence[str] | None) -> int:
    """How many results of a user wait, counted as `enqueue` does."""
    values = {"user": user_id, "kind": kind, "rivals": list(rivals) if rivals else None}
    return int(db.execute(_WAITING, values).scalar_one())


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can do and for whom, as far as the queue has to know."""

    kind: str
    worker_id: UUID
    models: Sequence[str]
    offered: int
    """Bits of the kind's rule table that the worker meets."""
    size: int
    """Largest result that it makes, pixels."""
    friends: Sequence[int]
    """User ids whose requests come first: its owner and those it names."""
    only_friends: bool
    """Serve nobody else (maintenance)."""
    blacklist: Sequence[str]
    """Lower-case words whose presence in the prompt it refuses."""
    upfront: bool = False
    """Serve only who can pay already, is trusted or a friend."""
    unsuited: Collection[str] = ()
    """The `undecided` of requests for which none of `models` would do."""


_WORDED = """EXISTS (
        SELECT FROM unnest(CAST(:blacklist AS text[])) word WHERE strpos(lower(request.prompt), word) > 0
    )"""
_UNPAID = """(
        :upfront AND request.user_id <> ALL(CAST(:friends AS bigint[]))
        AND NOT coalesce(CAST(request.options ->> 'trusted' AS boolean), false)
        AND NOT coalesce(CAST(request.options ->> 'reserved' AS boolean), false)
        AND coalesce(CAST(request.options ->> 'kudos' AS numeric), request.price) > (
            SELECT amount FROM payers WHERE payers.account_id = request.account_id
        )
    )"""
# Written so that PostgreSQL cannot choose to read the whole queue, whatever it knows about the values:
# friends' requests are found first, and each one's places by a subquery that cannot become a join.
# 500 is the most that a known account may have waiting; the anonymous one may have any number.
_SEARCH = (
    """
    WITH servable AS MATERIALIZED (
        SELECT id, model FROM lanes
        WHERE kind = :kind AND model = ANY(CAST(:models AS text[]))
            AND target = ANY(CAST(:targets AS uuid[]))
            AND (needs & CAST(:missing AS bit(128))) = CAST(:none AS bit(128))
            AND size_class <= :size_class
    ), width AS (
        SELECT least(:per_lane, greatest(2, :heads / greatest(1, count(*)))) AS rows FROM servable
    ), befriended AS MATERIALIZED (
        SELECT first.id, first.rank FROM unnest(CAST(:friends AS bigint[])) AS friend (id), LATERAL (
            SELECT id, rank FROM requests
            WHERE user_id = friend.id AND n > 0 AND kind = :kind AND size <= :size
            ORDER BY rank LIMIT 500
        ) first
    ), heads AS (
        SELECT 1 AS pass, servable.id AS lane, head.rank, head.request_id
        FROM servable CROSS JOIN LATERAL (
            SELECT rank, request_id FROM queue
            WHERE lane_id = servable.id AND size <= :size
                AND (rank, request_id) > (:after_rank, CAST(:after_id AS uuid))
            ORDER BY rank, request_id LIMIT (SELECT rows FROM width)
        ) head
        WHERE NOT :only_friends
        UNION ALL
        (
            SELECT 0, 0, rank, id FROM befriended
            WHERE (rank, id) > (:after_rank, CAST(:after_id AS uuid))
                AND (
                    SELECT true FROM queue JOIN servable ON servable.id = queue.lane_id
                    WHERE queue.request_id = befriended.id LIMIT 1
                )
            ORDER BY rank, id LIMIT (SELECT rows FROM width)
        )
    ), candidates AS (
        SELECT min(pass) AS pass, rank, request_id FROM heads
        WHERE request_id <> ALL(CAST(:refused AS uuid[]))
        GROUP BY rank, request_id ORDER BY 1, 2, 3 LIMIT :candidates
    ), payers AS MATERIALIZED (
        SELECT account_id, """
    + ledger.PAYABLE
    + """ AS amount
        FROM (
            SELECT DISTINCT request.account_id
            FROM candidates JOIN requests request ON request.id = candidates.request_id WHERE :upfront
        ) payers
    ), picked AS (
        SELECT request.id, request.rank, request.n, request.payload, request.options, request.ttl, request.r2,
            request.things, request.price, request.user_id, request.models
        FROM candidates JOIN requests request ON request.id = candidates.request_id
        WHERE request.n > 0 AND request.expires > now()
            AND NOT (request.worker_blacklist AND :worker = ANY(request.workers))
            AND NOT EXISTS (
                SELECT FROM jobs
                WHERE jobs.request_id = request.id AND jobs.decoy AND jobs.worker_id = :worker
            )
            AND NOT coalesce(request.options ->> 'undecided' = ANY(CAST(:unsuited AS text[])), false)
            AND NOT """
    + _WORDED
    + """
            AND NOT """
    + _UNPAID
    + """
        ORDER BY candidates.pass, candidates.rank, candidates.request_id
        LIMIT 1
        FOR UPDATE OF request SKIP LOCKED
    )
    """
)
_FOUND = """
    SELECT (SELECT count(*) FROM candidates) AS candidates, picked.*,
        ARRAY(
            SELECT DISTINCT servable.model FROM queue JOIN servable ON servable.id = queue.lane_id
            WHERE queue.request_id = picked.id
        ) AS matched
    FROM (VALUES (1)) AS one (x) LEFT JOIN picked ON true
"""
_ANYTHING = text(_SEARCH + "SELECT EXISTS (SELECT FROM candidates)")
_FIND = text(_SEARCH + _FOUND)
# Where a search that looked at all it may must go on from: no further than the last place read of any
# lane that was cut short, and no further than the last candidate if those were cut short.
_FIND_ON = text(
    _SEARCH
    + """
    , last AS (
        SELECT DISTINCT ON (lane) rank, request_id, count(*) OVER (PARTITION BY lane) AS rows
        FROM heads ORDER BY lane, rank DESC, request_id DESC
    ), ends AS (
        SELECT rank, request_id FROM last WHERE rows >= (SELECT rows FROM width)
        UNION ALL (
            SELECT rank, request_id FROM candidates
            WHERE (SELECT count(*) FROM candidates) >= :candidates
            ORDER BY rank DESC, request_id DESC LIMIT 1
        )
    ), reached AS (
        SELECT rank, request_id FROM ends ORDER BY rank, request_id LIMIT 1
    ), refused AS (
        SELECT count(*) FILTER (WHERE """
    + _WORDED
    + """) AS words, count(*) FILTER (WHERE """
    + _UNPAID
    + """) AS kudos
        FROM candidates JOIN requests request ON request.id = candidates.request_id
        WHERE request.n > 0 AND request.expires > now()
            AND NOT (request.worker_blacklist AND :worker = ANY(request.workers))
    )
    SELECT found.*, reached.rank AS reached_rank, reached.request_id AS reached_id,
        refused.words AS refused_for_words, refused.kudos AS refused_for_kudos
    FROM ("""
    + _FOUND
    + """) found CROSS JOIN refused LEFT JOIN reached ON true
    """
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    request: Row[Any] | None
    """The locked request: `id`, `rank`, `n`, `payload`, `options`, `ttl`, `r2`, `things`, `price`, `user_id`,
    `models` and `matched`, the models (or `ANY_MODEL`) of those of its lanes that fit. None: none of those
    looked at would do."""
    candidates: int
    """How many requests were looked at."""
    reached: tuple[int, UUID] | None = None
    """Where to go on if there may be more."""
    refused_for_words: int = 0
    """How many of the candidates hold a word that the worker refuses,"""
    refused_for_kudos: int = 0
    """and how many of their senders cannot pay for them yet."""


def anything(db: Connection, offer: Offer) -> bool:
    """Whether there is any request that `find` would look at; it locks nothing."""
    return bool(db.execute(_ANYTHING, _search(offer, (), NARROW, TOP)).scalar_one())


def find(db: Connection, offer: Offer, *, refused: Sequence[UUID] = ()) -> Found:
    """Lock the first request in order of service that `offer` fits, looking at the head of the queue only.

    Requests whose rows another worker holds right now are passed over, as are those in `refused` and those
    of which this worker got a decoy.
    """
    row = db.execute(_FIND, _search(offer, refused, NARROW, TOP)).one()
    return Found(row if row.id is not None else None, row.candidates)


def find_further(
    db: Connection, offer: Offer, *, refused: Sequence[UUID] = (), after: tuple[int, UUID] = TOP
) -> Found:
    """As `find`, but look at much more of the queue, from `after` (a rank and request id) on.

    With `reached` as the next `after`, repeated calls come by every request, however many are refused.
    """
    row = db.execute(_FIND_ON, _search(offer, refused, WIDE, after)).one()
    return Found(
        row if row.id is not None else None,
        row.candidates,
        None if row.reached_id is None else (row.reached_rank, row.reached_id),
        row.refused_for_words,
        row.refused_for_kudos,
    )


def _search(offer: Offer, refused: Sequence[UUID], bounds: Bounds, after: tuple[int, UUID]) -> dict[str, Any]:
    return {
        "kind": offer.kind,
        "models": [*offer.models, ANY_MODEL],
        "targets": [ANY_WORKER, offer.worker_id],
        "worker": offer.worker_id,
        "missing": bits(~offer.offered & ((1 << NEED_BITS) - 1)),
        "none": bits(0),
        "size_class": size_class(offer.size),
        "size": offer.size,
        "friends": list(offer.friends),
        "only_friends": offer.only_friends,
        "blacklist": list(offer.blacklist),
        "upfront": offer.upfront,
        "unsuited": list(offer.unsuited),
        "refused": list(refused),
        "heads": bounds.heads,
        "per_lane": bounds.per_lane,
        "candidates": bounds.candidates,
        "after_rank": after[0],
        "after_id": after[1],
    }


_TAKE = text("""
    WITH taken AS (
        UPDATE requests SET
            n = n - cardinality(CAST(:jobs AS uuid[])),
            expires = greatest(expires, now() + make_interval(secs => :keep))
        WHERE id = :request_id
        RETURNING n
    ), gone AS (
        DELETE FROM queue USING taken WHERE request_id = :request_id AND taken.n = 0
    )
    INSERT INTO jobs (id, request_id, worker_id, model, deadline, things, value, batch)
    SELECT job, :request_id, :worker, :model, now() + make_interval(secs => :ttl), :things,
        CAST(:value AS numeric), cardinality(CAST(:jobs AS uuid[]))
    FROM unnest(CAST(:jobs AS uuid[])) AS job
""")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to do for each result that it takes."""

    worker: UUID
    model: str
    ttl: int
    """Seconds that it has."""
    things: int
    """Raw units of work,"""
    value: Decimal
    """and the kudos that this is worth."""


def take(
    db: Connection, request_id: UUID, jobs: Sequence[UUID], assignment: Assignment, *, keep: int
) -> None:
    """Turn as many of a found request's results into jobs of a worker as `jobs` has ids.

    The request is kept for at least `keep` seconds more.
    """
    db.execute(
        _TAKE,
        {
            "request_id": request_id,
            "jobs": list(jobs),
            "worker": assignment.worker,
            "model": assignment.model,
            "ttl": assignment.ttl,
            "things": assignment.things,
            "value": assignment.value,
            "keep": keep,
        },
    )


# Whoever holds the request's lock sees here what its last holder left, which the search may not have seen.
_PRETEND = text("""
    INSERT INTO jobs (id, request_id, worker_id, model, deadline, things, value, decoy)
    SELECT CAST(:job AS uuid), CAST(:request_id AS uuid), CAST(:worker AS uuid), :model,
        now() + make_interval(secs => :ttl), :things, CAST(:value AS numeric), true
    WHERE NOT EXISTS (
        SELECT FROM jobs WHERE jobs.request_id = :request_id AND jobs.decoy AND jobs.worker_id = :worker
    )
""")


def pretend(db: Connection, request_id: UUID, job: UUID, assignment: Assignment) -> bool:
    """Note a decoy of a found request: a job for show, which leaves the request as it is.

    False, and nothing is noted, when the worker has just got a decoy of this request.
    """
    values = {
        "job": job,
        "request_id": request_id,
        "worker": assignment.worker,
        "model": assignment.model,
        "ttl": assignment.ttl,
        "things": assignment.things,
        "value": assignment.value,
    }
    return db.execute(_PRETEND, values).rowcount == 1


_LOCK = text("SELECT id FROM requests WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")


def _lock(db: Connection, request_ids: Sequence[UUID]) -> None:
    """Lock requests in a statement of its own, so that the next one sees what their last holder left."""
    db.execute(_LOCK, {"ids": list(request_ids)})


_RETURN = text("""
    WITH back AS (
        SELECT mention.id, count(*) AS lost,
            (SELECT count(*) FROM jobs
             WHERE jobs.request_id = mention.id AND state IN ('faulted', 'aborted') AND NOT decoy
            ) >= :limit AS spent
        FROM unnest(CAST(:request_ids AS uuid[])) AS mention (id) GROUP BY mention.id
    ), changed AS (
        UPDATE requests request SET
            n = CASE WHEN spent OR cancelled OR faulted THEN 0 ELSE n + lost END,
            faulted = faulted OR (spent AND NOT cancelled)
        FROM back WHERE back.id = request.id
        RETURNING request.id, request.n, request.rank, request.size, request.lanes
    ), gone AS (
        DELETE FROM queue USING changed WHERE queue.request_id = changed.id AND changed.n = 0
    )
    INSERT INTO queue (lane_id, rank, request_id, size)
    SELECT lane, changed.rank, changed.id, changed.size FROM changed, unnest(changed.lanes) AS lane
    WHERE changed.n > 0
    ON CONFLICT DO NOTHING
""")


def give_back(db: Connection, request_ids: Sequence[UUID]) -> None:
    """Put results that a worker lost back into the queue: one per mention of a request in `request_ids`.

    The jobs are marked before this is called, so that each gives its slot back once. A request that has
    lost too many jobs is given up instead; a cancelled one regains nothing.
    """
    if request_ids:
        _lock(db, request_ids)
        db.execute(_RETURN, {"request_ids": list(request_ids), "limit": FAULTS_BEFORE_GIVING_UP})


_CANCEL = text("""
    WITH changed AS (
        UPDATE requests SET n = 0, cancelled = true WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING id
    )
    DELETE FROM queue USING changed WHERE queue.request_id = changed.id
""")


def cancel(db: Connection, request_ids: Sequence[UUID]) -> None:
    """Hand out nothing more of these requests. Jobs under way go on. Doing it again changes nothing."""
    _lock(db, request_ids)
    db.execute(_CANCEL, {"ids": list(request_ids)})


_END = text("UPDATE jobs SET state = :state, finished = now() WHERE id = :id AND state = 'processing'")


def end(db: Connection, job_id: UUID, state: str) -> bool:
    """End a job that is under way without a result. False: it had been ended before."""
    return db.execute(_END, {"id": job_id, "state": state}).rowcount == 1
