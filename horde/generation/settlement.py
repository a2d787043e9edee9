"""Ending a job: pay for it exactly once, or give its slot back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from horde.generation import queue
from horde.generation.rules import UNTOLD_MODELS
from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced, reward_entries

_JOB = text("""
    SELECT job.id, job.state, job.model, job.started, job.worker_id, job.things, job.value, job.batch,
        job.decoy, extract(epoch FROM now() - job.started)::float8 AS seconds,
        request.id AS request_id, request.kind, request.user_id, request.account_id, request.payload,
        request.options, request.r2, request.client_agent, request.models, request.ipaddr,
        request.proxied_account,
        worker.owner_id, worker.name AS worker_name, worker.bridge_agent, worker.team_id
    FROM jobs job
    JOIN requests request ON request.id = job.request_id
    JOIN workers worker ON worker.id = job.worker_id
    WHERE job.id = :id AND request.kind = :kind
""")


def find_job(db: Connection, job_id: UUID, kind: str) -> Row[Any] | None:
    """A job with what its settlement needs of its request and worker; None when there is no such job.

    Decoys are found too: whoever has one must not notice.
    """
    return db.execute(_JOB, {"id": job_id, "kind": kind}).one_or_none()


_RECORD = """
    INSERT INTO generation_records (id, kind, state, model, things, started, user_id, owner_id, worker_id,
        kudos, client_agent, bridge_agent, batch, team_id, details)
"""
_RECORD_LOST = text(
    _RECORD
    + """
    VALUES (:id, :kind, :state, :model, :things, :started, :user_id, :owner_id, :worker_id, 0,
        :client_agent, :bridge_agent, :batch, :team_id, CAST(:details AS jsonb))
    """
)
_DELIVER = text(
    """
    WITH cause AS (
        UPDATE jobs SET state = :state, finished = now(), seed = :seed, metadata = CAST(:metadata AS jsonb),
            charged = CAST(:charge AS numeric), reward = CAST(:reward AS numeric)
        WHERE id = :id AND state = 'processing'
        RETURNING id
    ),
    """
    + ledger.POSTING
    + _RECORD
    + """
    SELECT :id, :kind, :state, :model, :things, CAST(:started AS timestamptz), :user_id, :owner_id,
        CAST(:worker_id AS uuid), CAST(:reward AS numeric), :client_agent, :bridge_agent, :batch,
        CAST(:team_id AS uuid), CAST(:details AS jsonb)
    FROM cause
    """
)


def _facts(job: Row[Any], state: str, details: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": state,
        "model": "" if UNTOLD_MODELS in job.model else job.model,
        "things": job.things,
        "started": job.started,
        "user_id": job.user_id,
        "owner_id": job.owner_id,
        "worker_id": job.worker_id,
        "client_agent": job.client_agent,
        "bridge_agent": job.bridge_agent,
        "batch": job.batch,
        "team_id": job.team_id,
        "details": orjson.dumps(details).decode(),
    }


@dataclass(frozen=True, slots=True)
class Payee:
    """The worker's owner, who is paid."""

    balance_account: int
    escrow_account: int
    trusted: bool


def deliver(
    db: Connection,
    job: Row[Any],
    payee: Payee,
    state: str,
    *,
    seed: int | None,
    metadata: list[Any],
    charge: Decimal,
    reward: Decimal,
    details: Mapping[str, Any],
) -> bool:
    """Settle a delivered job: the requester is charged, the worker's owner credited, the job recorded.

    `charge` and `reward` are kudos, `details` what statistics are to know of the job. It is one statement, so
    it needs no transaction around it. False: the job had been ended before, and nothing was done.
    """
    entries = balanced(
        [
            Entry(job.account_id, -charge, "accumulated"),
            *reward_entries(payee.balance_account, payee.escrow_account, reward, trusted=payee.trusted),
        ]
    )
    result = db.execute(
        _DELIVER,
        {
            **_facts(job, state, details),
            **ledger.posting(job.id, "generation", entries, request_id=job.request_id),
            "seed": seed,
            "metadata": orjson.dumps(metadata).decode(),
            "charge": charge,
            "reward": reward,
        },
    )
    return result.rowcount == 1


_RELEASE = text("""
    DELETE FROM reservations USING requests request
    WHERE reservations.request_id = :id AND request.id = :id AND request.n = 0
        AND NOT EXISTS (
            SELECT FROM jobs WHERE jobs.request_id = :id AND jobs.state = 'processing' AND NOT jobs.decoy
        )
""")


def release_if_complete(db: Connection, request_id: UUID) -> None:
    """Give back what is left of a request's reservation once nothing more can be charged to it."""
    db.execute(_RELEASE, {"id": request_id})


_TOGETHER = text("""
    SELECT count(*) FROM jobs
    WHERE request_id = :request_id AND worker_id = :worker_id AND started = :started
        AND state IN ('ok', 'censored', 'csam')
""")


def delivered_together(db: Connection, job: Row[Any]) -> int:
    """How many of the jobs that a worker took at once with `job` it has delivered."""
    values = {"request_id": job.request_id, "worker_id": job.worker_id, "started": job.started}
    return int(db.execute(_TOGETHER, values).scalar_one())


def lose(db: Connection, job: Row[Any], details: Mapping[str, Any]) -> bool:
    """A worker gives a job back: it is recorded as faulted and its slot returns to the queue.

    False: the job had been ended before, and nothing was done.
    """
    if not queue.end(db, job.id, "faulted"):
        return False
    db.execute(_RECORD_LOST, _facts(job, "faulted", details))
    queue.give_back(db, [job.request_id])
    return True


_ABORT = text("""
    WITH overdue AS (
        SELECT id FROM jobs WHERE state = 'processing' AND deadline < now()
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), aborted AS (
        UPDATE jobs SET state = 'aborted', finished = now() FROM overdue WHERE jobs.id = overdue.id
        RETURNING jobs.*
    ), recorded AS (
        INSERT INTO generation_records (id, kind, state, model, things, started, user_id, owner_id,
            worker_id, kudos, client_agent, bridge_agent, batch, team_id)
        SELECT aborted.id, request.kind, 'aborted',
            CASE WHEN strpos(aborted.model, :untold) > 0 THEN '' ELSE aborted.model END,
            aborted.things, aborted.started, request.user_id, worker.owner_id, worker.id, 0,
            request.client_agent, worker.bridge_agent, aborted.batch, worker.team_id
        FROM aborted
        JOIN requests request ON request.id = aborted.request_id
        JOIN workers worker ON worker.id = aborted.worker_id
        WHERE NOT aborted.decoy
    )
    SELECT request_id FROM aborted WHERE NOT decoy
""")


def abort_overdue(db: Connection, limit: int = 200) -> Sequence[UUID]:
    """Take jobs back whose workers ran out of time, up to `limit`; returns their requests, one per job.

    Decoys end too, and nothing comes of it.
    """
    requests = db.execute(_ABORT, {"limit": limit, "untold": UNTOLD_MODELS}).scalars().all()
    queue.give_back(db, requests)
    return requests
