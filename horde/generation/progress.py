"""Reading where a request stands."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

_REQUEST = text("""
    SELECT request.id, request.n, request.faulted, request.rank, request.size, request.things, request.r2,
        request.user_id, request.worker_blacklist, request.workers, request.models, request.lanes,
        ARRAY(SELECT state FROM jobs WHERE jobs.request_id = request.id AND NOT decoy) AS states,
        request.tax + coalesce((
            SELECT sum(charged) FROM jobs WHERE jobs.request_id = request.id
        ), 0) AS kudos,
        coalesce((
            SELECT max(job.things / greatest(worker.speed, 1) - extract(epoch FROM now() - job.started))
            FROM jobs job JOIN workers worker ON worker.id = job.worker_id
            WHERE job.request_id = request.id AND job.state = 'processing' AND NOT job.decoy
        ), 0) AS seconds_left,
        CASE WHEN request.n > 0 THEN ARRAY(
            SELECT json_build_array(model, target, needs, size_class) FROM lanes
            WHERE lanes.id = ANY(request.lanes)
        ) ELSE '{}' END AS standing
    FROM requests request WHERE request.id = :id AND request.kind = :kind
""")


def find_request(db: Connection, request_id: UUID, kind: str) -> Row[Any] | None:
    """A request with the states of its jobs, what it has cost so far, and the lanes it waits in."""
    return db.execute(_REQUEST, {"id": request_id, "kind": kind}).one_or_none()


_WISHES = text("""
    SELECT payload, options, models, workers, worker_blacklist, r2, user_id, prompt
    FROM requests WHERE id = :id
""")


def find_wishes(db: Connection, request_id: UUID) -> Row[Any] | None:
    """What a request asks for, all of it; None when it is gone."""
    return db.execute(_WISHES, {"id": request_id}).one_or_none()


_JOBS = text("""
    SELECT job.id, job.state, job.model, job.seed, job.metadata, job.worker_id,
        coalesce(worker.name, 'unknown') AS worker_name,
        floor(extract(epoch FROM now() - job.started))::int AS seconds
    FROM jobs job LEFT JOIN workers worker ON worker.id = job.worker_id
    WHERE job.request_id = :id AND job.state IN ('ok', 'censored', 'csam', 'processing') AND NOT job.decoy
    ORDER BY job.finished, job.started, job.id
""")


def delivered(db: Connection, request_id: UUID) -> Sequence[Row[Any]]:
    """The delivered jobs of a request, first delivered first."""
    return find_jobs(db, request_id)[0]


def find_jobs(db: Connection, request_id: UUID) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
    """The delivered jobs of a request, first delivered first, and those under way, first taken first."""
    jobs = db.execute(_JOBS, {"id": request_id}).all()
    under_way = [job for job in jobs if job.state == "processing"]
    return [job for job in jobs if job.state != "processing"], under_way
