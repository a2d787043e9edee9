"""Ending a job: pay for it exactly once, or give its slot back."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from horde.generation import queue
from horde.kudos import service as ledger
from horde.kudos.rules import ZERO, Entry, balanced, reward_entries

_JOB = text("""
    SELECT job.id, job.state, job.model, job.started, job.worker_id,
        request.id AS request_id, request.kind, request.user_id, request.account_id, request.payload,
        request.options, request.things, request.price, request.r2, request.client_agent,
        worker.owner_id, worker.name AS worker_name, worker.bridge_agent
    FROM jobs job
    JOIN requests request ON request.id = job.request_id
    JOIN workers worker ON worker.id = job.worker_id
    WHERE job.id = :id AND request.kind = :kind
""")


def find_job(db: Connection, job_id: UUID, kind: str) -> Row[Any] | None:
    """A job with what its settlement needs of its request and worker; None when there is no such job."""
    return db.execute(_JOB, {"id": job_id, "kind": kind}).one_or_none()


_RECORD = text("""
    INSERT INTO generation_records (id, kind, state, model, things, started, user_id, owner_id, worker_id,
        kudos, client_agent, bridge_agent)
    VALUES (:id, :kind, :state, :model, :things, :started, :user_id, :owner_id, :worker_id,
        :kudos, :client_agent, :bridge_agent)
""")


def _record(db: Connection, job: Row[Any], state: str, kudos: Decimal) -> None:
    db.execute(
        _RECORD,
        {
            "id": job.id,
            "kind": job.kind,
            "state": state,
            "model": job.model,
            "things": job.things,
            "started": job.started,
            "user_id": job.user_id,
            "owner_id": job.owner_id,
            "worker_id": job.worker_id,
            "kudos": kudos,
            "client_agent": job.client_agent,
            "bridge_agent": job.bridge_agent,
        },
    )


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
) -> bool:
    """Settle a delivered job: the requester is charged, the worker's owner credited, the job recorded.

    `charge` and `reward` are kudos. False: the job had been ended before, and nothing was done.
    """
    if not queue.claim(db, job.id, state, seed=seed, metadata=metadata, charged=charge, reward=reward):
        return False
    entries = balanced(
        [
            Entry(job.account_id, -charge, "accumulated"),
            *reward_entries(payee.balance_account, payee.escrow_account, reward, trusted=payee.trusted),
        ]
    )
    ledger.post(db, job.id, "generation", entries, request_id=job.request_id)
    _record(db, job, state, reward)
    if job.options.get("reserved"):
        release_if_complete(db, job.request_id)
    return True


_RELEASE = text("""
    DELETE FROM reservations USING requests request
    WHERE reservations.request_id = :id AND request.id = :id AND request.n = 0
        AND NOT EXISTS (SELECT FROM jobs WHERE jobs.request_id = :id AND jobs.state = 'processing')
""")


def release_if_complete(db: Connection, request_id: UUID) -> None:
    """Give back what is left of a request's reservation once nothing more can be charged to it."""
    db.execute(_RELEASE, {"id": request_id})


def lose(db: Connection, job: Row[Any]) -> bool:
    """A worker gives a job back: it is recorded as faulted and its slot returns to the queue.

    False: the job had been ended before, and nothing was done.
    """
    if not queue.claim(db, job.id, "faulted"):
        return False
    _record(db, job, "faulted", ZERO)
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
            worker_id, kudos, client_agent, bridge_agent)
        SELECT aborted.id, request.kind, 'aborted', aborted.model, request.things, aborted.started,
            request.user_id, worker.owner_id, worker.id, 0, request.client_agent, worker.bridge_agent
        FROM aborted
        JOIN requests request ON request.id = aborted.request_id
        JOIN workers worker ON worker.id = aborted.worker_id
    )
    SELECT request_id FROM aborted
""")


def abort_overdue(db: Connection, limit: int = 200) -> Sequence[UUID]:
    """Take jobs back whose workers ran out of time, up to `limit`; returns their requests, one per job."""
    requests = db.execute(_ABORT, {"limit": limit}).scalars().all()
    queue.give_back(db, requests)
    return requests
