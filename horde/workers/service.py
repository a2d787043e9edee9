"""Workers: registering and checking in, finding who is online, showing them."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import redis
import structlog
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from horde.platform.errors import BadRequest, Forbidden
from horde.platform.ids import new_id
from horde.platform.runtime import Platform
from horde.users.rules import Role, UserFacts
from horde.workers import rules
from horde.workers.rules import WorkerFacts
from horde.workers.schemas import WorkerDetails
from horde.workers.software import SoftwareTable, load_software
from horde.workers.tables import Worker
from horde.workers.views import describe

FACTS_SECONDS = 10.0
ONLINE_SECONDS = 5.0
HEARTBEAT_SECONDS = 5.0
HEARTBEATS = "heartbeats"

log = structlog.get_logger(__name__)

_COLUMNS = select(
    *(column for column in Worker.__table__.columns),
    text("""EXISTS (
        SELECT FROM user_roles WHERE user_id = workers.owner_id AND role = 'trusted'
    ) AS owner_trusted"""),
)


def software_table(platform: Platform) -> SoftwareTable:
    """What the known worker programs can do, as configured."""
    path = platform.settings.config_path(platform.settings.worker_software)
    return platform.local.get("worker_software", 3600, lambda: load_software(path))


def _facts(platform: Platform, row: Any) -> WorkerFacts:
    return WorkerFacts(
        id=row.id,
        kind=row.kind,
        owner_id=row.owner_id,
        owner_trusted=row.owner_trusted,
        name=row.name,
        bridge_agent=row.bridge_agent,
        software=software_table(platform).capabilities(row.bridge_agent),
        threads=row.threads,
        models=frozenset(row.models),
        blacklist=tuple(row.blacklist),
        max_pixels=row.max_pixels,
        nsfw=row.nsfw,
        allow_img2img=row.allow_img2img,
        allow_painting=row.allow_painting,
        allow_unsafe_ipaddr=row.allow_unsafe_ipaddr,
        allow_post_processing=row.allow_post_processing,
        allow_controlnet=row.allow_controlnet,
        allow_sdxl_controlnet=row.allow_sdxl_controlnet,
        allow_lora=row.allow_lora,
        limit_max_steps=row.limit_max_steps,
        extra_slow_worker=row.extra_slow_worker,
        maintenance=row.maintenance,
        maintenance_message=row.maintenance_message,
        paused=row.paused,
        speed=row.speed,
    )


def _find(platform: Platform, name: str) -> WorkerFacts | None:
    def load() -> WorkerFacts | None:
        with platform.read() as db:
            row = db.execute(_COLUMNS.where(Worker.name == name)).one_or_none()
        return None if row is None else _facts(platform, row)

    return platform.local.get(_key(name), FACTS_SECONDS, load)


def _key(name: str) -> str:
    return f"worker:{name}"


def check_in(
    platform: Platform,
    owner: UserFacts,
    kind: str,
    name: str,
    settings: Mapping[str, Any],
    address: str,
) -> WorkerFacts:
    """Note that a worker is there and what it offers now; register it if its name is new.

    `settings` holds every name of `rules.SETTINGS`; changed ones are stored at once, a mere sign of life
    goes to the cache and reaches the database some seconds later. Nothing is stored when this raises:
    403 for an owner who may not run workers, a name that belongs to somebody else, or too many workers;
    400 for a name that cannot be used.
    """
    _check_owner(owner)
    name = rules.check_name(name)
    worker = _find(platform, name)
    if worker is None:
        return _register(platform, owner, kind, name, settings, address)
    if worker.kind != kind:
        raise BadRequest(
            f"The name '{name}' belongs to a worker of type {worker.kind}. Give this one another name.",
            "PolymorphicNameConflict",
        )
    if worker.owner_id != owner.id:
        raise Forbidden(
            f"Wrong credentials: the worker '{name}' belongs to another account. "
            "Choose another name, or use its owner's API key.",
            "WrongCredentials",
        )
    stored = dict(settings, models=frozenset(settings["models"]), blacklist=tuple(settings["blacklist"]))
    if rules.changed_settings(worker, stored):
        return _store(platform, worker.id, name, settings, address)
    _heartbeat(platform, worker.id)
    return worker


def _check_owner(owner: UserFacts) -> None:
    if owner.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot run workers.", "DeletedUser")
    if owner.has(Role.FLAGGED):
        raise Forbidden(
            "This account may not run workers: moderators have put all its workers into maintenance mode. "
            "Please contact them.",
            "WorkerFlaggedMaintenance",
        )
    if owner.anonymous:
        raise Forbidden(
            "Workers need an account of their own. Register to get an API key, and use it in your worker.",
            "AnonForbiddenWorker",
        )


_COUNT = text("""
    SELECT count(*) AS workers, count(*) FILTER (WHERE ipaddr = :address) AS here
    FROM workers WHERE owner_id = :owner
""")


def _register(
    platform: Platform, owner: UserFacts, kind: str, name: str, settings: Mapping[str, Any], address: str
) -> WorkerFacts:
    rules.check_new_name(name)
    limits = platform.settings
    most = limits.max_workers_trusted if owner.trusted else limits.max_workers_untrusted
    with platform.engine.begin() as db:
        db.execute(text("SELECT pg_advisory_xact_lock(74632, :owner)"), {"owner": owner.id})
        have = db.execute(_COUNT, {"owner": owner.id, "address": address}).one()
        if have.workers >= max(most, owner.worker_invited):
            raise Forbidden(
                f"You have {have.workers} workers, and {most} is the most for your account. "
                "Delete one that you do not use, or ask a moderator for more.",
                "TooManyWorkersTrusted" if owner.trusted else "TooManyWorkers",
            )
        here = most if owner.trusted else limits.max_workers_per_address
        if have.here >= max(here, owner.worker_invited):
            raise Forbidden(
                f"{have.here} of your workers run at this address already, and {here} is the most.",
                "TooManySameIPs",
            )
        try:
            row = db.execute(
                insert(Worker)
                .values(
                    id=new_id(),
                    kind=kind,
                    owner_id=owner.id,
                    name=name,
                    ipaddr=address,
                    speed=rules.BASELINE_SPEED[kind],
                    **settings,
                )
                .returning(*Worker.__table__.columns, text(f"{owner.trusted} AS owner_trusted"))
            ).one()
        except IntegrityError as error:
            raise Forbidden(
                f"Wrong credentials: the worker name '{name}' has just been taken. Choose another name.",
                "WrongCredentials",
            ) from error
    platform.local.drop(_key(name), f"online:{row.kind}")
    return _facts(platform, row)


def _store(
    platform: Platform, worker_id: UUID, name: str, settings: Mapping[str, Any], address: str
) -> WorkerFacts:
    with platform.engine.begin() as db:
        db.execute(
            update(Worker)
            .where(Worker.id == worker_id)
            .values(**settings, ipaddr=address, last_seen=datetime.now(UTC))
        )
        row = db.execute(_COLUMNS.where(Worker.id == worker_id)).one()
    platform.local.drop(_key(name), f"online:{row.kind}")
    return _facts(platform, row)


def _heartbeat(platform: Platform, worker_id: UUID) -> None:
    def send() -> bool:
        try:
            platform.cache.hset(HEARTBEATS, str(worker_id), str(time.time()))
        except redis.RedisError:
            log.warning("heartbeat not noted", worker=str(worker_id))
        return True

    platform.local.get(f"heartbeat:{worker_id}", HEARTBEAT_SECONDS, send)


_SEEN = text("""
    UPDATE workers SET
        uptime = uptime + CASE
            WHEN seen.moment - last_seen BETWEEN interval '0' AND make_interval(secs => :stale)
                AND NOT paused AND NOT maintenance
            THEN round(extract(epoch FROM seen.moment - last_seen)) ELSE 0 END,
        last_seen = greatest(last_seen, seen.moment)
    FROM (
        SELECT unnest(CAST(:ids AS uuid[])) AS id, to_timestamp(unnest(CAST(:moments AS float8[]))) AS moment
    ) seen
    WHERE workers.id = seen.id
""")


def fold_heartbeats(platform: Platform) -> int:
    """Bring the signs of life gathered in the cache into the database; returns how many workers gave one."""
    pipeline = platform.cache.pipeline()
    pipeline.hgetall(HEARTBEATS)
    pipeline.delete(HEARTBEATS)
    seen = pipeline.execute()[0]
    if seen:
        with platform.engine.begin() as db:
            db.execute(
                _SEEN,
                {
                    "ids": [key.decode() for key in seen],
                    "moments": [float(value) for value in seen.values()],
                    "stale": rules.STALE_SECONDS,
                },
            )
    return len(seen)


def online_workers(platform: Platform, kind: str) -> Sequence[WorkerFacts]:
    """All workers of a kind that popped within the last five minutes, as of a few seconds ago."""

    def load() -> list[WorkerFacts]:
        with platform.read() as db:
            rows = db.execute(
                _COLUMNS.where(
                    Worker.kind == kind,
                    Worker.last_seen > text(f"now() - interval '{rules.STALE_SECONDS} seconds'"),
                )
            ).all()
        return [_facts(platform, row) for row in rows]

    return platform.local.get(f"online:{kind}", ONLINE_SECONDS, load)


def existing(platform: Platform, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that are workers."""
    with platform.read() as db:
        return set(db.execute(select(Worker.id).where(Worker.id.in_(ids))).scalars())


_SHOWN = """
    SELECT workers.*, users.username || '#' || users.id AS owner_alias, users.public_workers AS owner_public,
        EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'trusted') AS owner_trusted,
        EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'flagged') AS owner_flagged
    FROM workers JOIN users ON users.id = workers.owner_id
    WHERE last_seen > now() - make_interval(secs => :stale)
"""
_SHOWN_BY_KIND = text(_SHOWN + " AND (CAST(:kind AS text) IS NULL OR kind = :kind) ORDER BY kind, created")
_SHOWN_BY_NAME = text(_SHOWN + " AND lower(name) = lower(:name)")


def list_workers(platform: Platform, *, kind: str | None, name: str | None) -> list[WorkerDetails]:
    """The online workers, all or those of a kind, or the one called `name` (in upper or lower case)."""
    with platform.read() as db:
        if name is not None:
            rows = db.execute(_SHOWN_BY_NAME, {"name": name, "stale": rules.STALE_SECONDS}).all()
        else:
            rows = db.execute(_SHOWN_BY_KIND, {"kind": kind, "stale": rules.STALE_SECONDS}).all()
    table = software_table(platform)
    now = datetime.now(UTC)
    return [describe(row, table.capabilities(row.bridge_agent), now) for row in rows]
