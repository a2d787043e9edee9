"""Signs of life: gathered in the cache, folded into the database, and rewarded."""

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

import redis
import structlog
from sqlalchemy import Connection, text

from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced, kudos
from horde.platform.runtime import Platform
from horde.workers.rules import STALE_SECONDS, UPTIME_PERIOD, UPTIME_REWARDS

HEARTBEATS = "heartbeats"
HEARTBEAT_SECONDS = 5.0
WRITTEN_SECONDS = 60.0
"""While the cache is away, signs of life are written to the database, so seldom."""
BATCH = 200

log = structlog.get_logger(__name__)


def present(moment: str) -> dict[str, str]:
    """Columns of `workers` and SQL for their values, when a worker gives a sign of life at `moment`.

    The time since the last one counts as uptime, in whole seconds: what is left of a second counts next time.
    It does not count for workers that were away for too long or serve only their owner; these also lose the
    uptime since their last reward, as far as no reward is due for it.
    """
    gap = f"floor(extract(epoch FROM {moment} - workers.last_seen))"
    serving = "NOT workers.paused AND NOT workers.maintenance"
    counts = f"{gap} BETWEEN 0 AND {STALE_SECONDS} AND {serving}"
    lost = f"{gap} > {STALE_SECONDS} OR NOT ({serving})"
    due = f"(workers.uptime - workers.uptime_rewarded) / {UPTIME_PERIOD} * {UPTIME_PERIOD}"
    return {
        "uptime": f"workers.uptime + CASE WHEN {counts} THEN CAST({gap} AS bigint) ELSE 0 END",
        "uptime_rewarded": f"CASE WHEN {lost} THEN workers.uptime - {due} ELSE workers.uptime_rewarded END",
        "last_seen": f"""CASE WHEN {counts} THEN workers.last_seen + make_interval(secs => {gap})
            ELSE greatest(workers.last_seen, {moment}) END""",
    }


def beat(platform: Platform, worker_id: UUID, address: str, amount: int | None = None) -> None:
    """Note that a worker has called from `address` just now, and the most jobs that it takes at once."""
    sign = f"{time.time()} {address}"
    seen = {str(worker_id): sign if amount is None else f"{sign} {amount}"}

    def write() -> bool:
        _count(platform, seen)
        return True

    def send() -> bool:
        try:
            platform.cache.hset(HEARTBEATS, str(worker_id), seen[str(worker_id)])
        except redis.RedisError:
            log.warning("Valkey does not answer, sign of life written", worker=str(worker_id))
            platform.local.get(f"written:{worker_id}", WRITTEN_SECONDS, write)
        return True

    platform.local.get(f"heartbeat:{worker_id}", HEARTBEAT_SECONDS, send)


_SEEN = text(f"""
    WITH held AS (
        SELECT id FROM workers WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE workers SET ipaddr = seen.address, amount = coalesce(seen.amount, workers.amount),
        {", ".join(f"{column} = {value}" for column, value in present("seen.moment").items())}
    FROM (
        SELECT unnest(CAST(:ids AS uuid[])) AS id, to_timestamp(unnest(CAST(:moments AS float8[]))) AS moment,
            unnest(CAST(:addresses AS text[])) AS address, unnest(CAST(:amounts AS smallint[])) AS amount
    ) seen JOIN held ON held.id = seen.id
    WHERE workers.id = seen.id
""")


def _count(platform: Platform, seen: Mapping[str, str]) -> None:
    """`seen` holds, by worker id, the last sign of life of each as `beat` writes it."""
    signs = [sign.split() for sign in seen.values()]
    with platform.engine.begin() as db:
        db.execute(
            _SEEN,
            {
                "ids": list(seen),
                "moments": [float(sign[0]) for sign in signs],
                "addresses": [sign[1] for sign in signs],
                "amounts": [int(sign[2]) if len(sign) > 2 else None for sign in signs],
            },
        )


def fold_heartbeats(platform: Platform) -> int:
    """Bring the signs of life gathered in the cache into the database, and reward what is due for them.

    Returns how many workers gave one. A crash loses none of their uptime: their next sign of life counts the
    time since the last one that arrived.
    """
    pipeline = platform.cache.pipeline()
    pipeline.hgetall(HEARTBEATS)
    pipeline.delete(HEARTBEATS)
    seen = {key.decode(): value.decode() for key, value in pipeline.execute()[0].items()}
    if seen:
        _count(platform, seen)
    while pay_uptime(platform) == BATCH:
        pass
    return len(seen)


_DUE = text("""
    SELECT id FROM workers
    WHERE uptime - uptime_rewarded >= :period AND kind = ANY(CAST(:kinds AS text[]))
    ORDER BY id LIMIT :limit
""")


def pay_uptime(platform: Platform, limit: int = BATCH) -> int:
    """Reward each of up to `limit` workers for 600 seconds online; returns how many.

    It is one transaction per worker: the mark up to which uptime is rewarded moves together with the kudos.
    """
    with platform.read() as db:
        due = {"period": UPTIME_PERIOD, "kinds": list(UPTIME_REWARDS), "limit": limit}
        ids = db.execute(_DUE, due).scalars().all()
    for worker_id in ids:
        with platform.engine.begin() as db:
            _pay(db, worker_id)
    return len(ids)


_WORKER = text("""
    SELECT worker.*, purse.id AS balance_account, escrow.id AS escrow_account, EXISTS (
            SELECT FROM user_roles WHERE user_id = worker.owner_id AND role = 'trusted'
        ) AS owner_trusted
    FROM workers worker
    JOIN accounts purse ON purse.user_id = worker.owner_id AND purse.purpose = 'balance'
    JOIN accounts escrow ON escrow.user_id = worker.owner_id AND escrow.purpose = 'escrow'
    WHERE worker.id = :id AND uptime - uptime_rewarded >= :period
    FOR UPDATE OF worker
""")
_PAID = text("""
    WITH machine AS (
        UPDATE workers SET uptime_rewarded = uptime_rewarded + :period, kudos_uptime = kudos_uptime + :reward
        WHERE id = :id
    ), team AS (
        UPDATE teams SET uptime = uptime + :period, last_active = now() WHERE id = :team
    )
    UPDATE users SET last_active = now() WHERE id = :owner
""")


def _pay(db: Connection, worker_id: UUID) -> None:
    """Pay one reward to the owner of a worker, if it is still due.

    Owners who are not trusted yet get all of it into their escrow.
    """
    worker: Any = db.execute(_WORKER, {"id": worker_id, "period": UPTIME_PERIOD}).one_or_none()
    if worker is None:
        return
    reward = kudos(UPTIME_REWARDS[worker.kind](worker))
    credit = (
        Entry(worker.balance_account, reward, "accumulated")
        if worker.owner_trusted
        else Entry(worker.escrow_account, reward)
    )
    event = uuid5(worker.id, f"uptime after {worker.uptime_rewarded}")
    paid = ledger.post(db, event, "uptime", balanced([credit]))
    db.execute(
        _PAID,
        {
            "id": worker.id,
            "period": UPTIME_PERIOD,
            "reward": reward if paid else 0,
            "team": worker.team_id if paid else None,
            "owner": worker.owner_id,
        },
    )
