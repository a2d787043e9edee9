"""The queue: standing in lanes, being taken by a worker, being given back. `finding` searches it.

Every function is a step of its caller's transaction; those on the hot path run one statement. Together
they keep two promises: a waiting request (`n` > 0) stands in all of its lanes and no other one stands in any;
and no result is handed to two workers, because whoever takes one holds the request's row lock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, text

from horde.generation.rules import FAULTS_BEFORE_GIVING_UP, LaneKey, bits
from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced

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
