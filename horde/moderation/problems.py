"""Results that show abuse of children, by the worker's word; operators are told who keeps asking for such."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
import structlog
from sqlalchemy import Connection, text

from horde.generation.webhooks import Notice, notify
from horde.moderation import addresses
from horde.platform.runtime import Platform
from horde.users.tables import ANONYMOUS_ID

UNCOUNTED_ID = 1
"""The account that was created first, with which operators try things out."""
LIMITS = (("hour", 3600, 50), ("day", 24 * 3600, 200))
"""More than so many problem jobs within so many seconds are too many."""
MOST_PROMPT_CHARACTERS = 1000
KEPT_DAYS = 30

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """A job whose result a worker has reported."""

    job_id: UUID
    user_id: int
    address: str
    """Where the request came from."""
    proxied_account: str | None
    """Whom a service asked for."""
    worker_id: UUID
    worker_name: str
    prompt: str
    loras: tuple[str, ...]


_NOTE = text("""
    INSERT INTO problem_jobs (id, user_id, ipaddr, proxied_account, worker_id)
    VALUES (:job, :user, :address, :proxied, :worker) ON CONFLICT DO NOTHING
""")
_COUNT = text("""
    SELECT count(*) FILTER (WHERE by_user AND created > now() - interval '1 hour') AS user_hour,
        count(*) FILTER (WHERE by_user) AS user_day,
        count(*) FILTER (WHERE by_address AND created > now() - interval '1 hour') AS address_hour,
        count(*) FILTER (WHERE by_address) AS address_day
    FROM (
        SELECT created, user_id = :user AND proxied_account IS NOT DISTINCT FROM :proxied AS by_user,
            ipaddr = :address AS by_address
        FROM problem_jobs
        WHERE (user_id = :user OR ipaddr = :address) AND created > now() - interval '1 day'
    ) recent
""")


_PURGE = text("DELETE FROM problem_jobs WHERE created < now() - make_interval(days => :days)")


def purge(platform: Platform) -> int:
    """Forget problem jobs, which name accounts and addresses, after 30 days; returns how many."""
    with platform.engine.begin() as db:
        return db.execute(_PURGE, {"days": KEPT_DAYS}).rowcount


def note(platform: Platform, db: Connection, problem: Problem) -> None:
    """Keep a problem job, and tell the operator if its requester, or else its address, has had too many.

    A step of its caller's transaction. Somebody for whom a service asks counts as a requester, and of the
    anonymous account only the address does. The operator is told once per hour and once per day of each.
    """
    if problem.user_id == UNCOUNTED_ID:
        return
    network = addresses.read_network(problem.address)
    address = problem.address if network is None else addresses.shown(addresses.offender(network))
    values = {
        "job": problem.job_id,
        "user": problem.user_id,
        "address": address,
        "proxied": problem.proxied_account,
        "worker": problem.worker_id,
    }
    db.execute(_NOTE, values)
    counts = db.execute(_COUNT, values).one()._mapping
    if problem.user_id != ANONYMOUS_ID and _tell_once(platform, db, problem, "user", counts):
        return
    _tell_once(platform, db, problem, "address", counts, address)


def _tell_once(
    platform: Platform, db: Connection, problem: Problem, subject: str, counts: Any, address: str = ""
) -> bool:
    """Whether the subject has had too many; then the operator knows."""
    who = address or f"account {problem.user_id}"
    if not address and problem.proxied_account:
        who += f", asking for {problem.proxied_account}"
    many = [limit for limit in LIMITS if counts[f"{subject}_{limit[0]}"] > limit[2]]
    for period, seconds, _ in many:
        if _first(platform, f"problem:{period}:{who}", seconds):
            count = counts[f"{subject}_{period}"]
            notify(
                db,
                Notice.PROBLEM_USER,
                f"{count} results for {who} within one {period} were reported to show abuse of children. "
                f"The last one is job {problem.job_id} on the worker '{problem.worker_name}' "
                f"({problem.worker_id}), asked for from {problem.address}; "
                f"LoRAs: {', '.join(problem.loras) or 'none'}; prompt: "
                f"{problem.prompt[:MOST_PROMPT_CHARACTERS]}",
            )
    return bool(many)


def _first(platform: Platform, key: str, seconds: int) -> bool:
    """Whether this is the first time within `seconds`; without an answer from Valkey it is taken for that."""
    try:
        return bool(platform.cache.set(key, 1, ex=seconds, nx=True))
    except redis.RedisError as error:
        log.warning("problem user may be told of twice, Valkey does not answer", error=str(error))
        return True
