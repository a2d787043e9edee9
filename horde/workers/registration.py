"""Whether a worker may check in, and registering it when it is new."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from horde.moderation import ip_safety, timeouts
from horde.moderation.modes import modes
from horde.moderation.service import is_profane
from horde.platform.errors import BadRequest, Forbidden
from horde.platform.ids import new_id
from horde.platform.runtime import Platform
from horde.users import suspicions
from horde.users.rules import Reason, Role, UserFacts
from horde.workers import rules
from horde.workers.rules import Room, WorkerFacts
from horde.workers.service import FACTS_COLUMNS, facts_of, find, forget
from horde.workers.tables import Worker


@dataclass(frozen=True, slots=True)
class Admission:
    """A worker that may check in with any settings that suit its kind."""

    owner: UserFacts
    kind: str
    name: str
    bridge_agent: str
    address: str
    worker: WorkerFacts | None
    """None: it is new."""
    safe_address: bool


def admit(
    platform: Platform, owner: UserFacts, kind: str, name: str, bridge_agent: str, address: str
) -> Admission:
    """Check who asks, under which name and from where, before anything is stored.

    Raises 403 for an owner who may not run workers, an address that is kept out or unsafe, a name that
    belongs to somebody else, or too many workers; 400 for a name that cannot be used.
    """
    _check_owner(owner)
    name = rules.check_name(name)
    worker = find(platform, name)
    if worker is not None and worker.kind != kind:
        raise BadRequest(
            f"The name '{name}' belongs to a worker of type {worker.kind}. Give this one another name.",
            "PolymorphicNameConflict",
        )
    timeouts.check_timeout(platform, address)
    safe_address = ip_safety.check_worker(platform, owner, address)
    if worker is None:
        _check_new(platform, owner, name, bridge_agent, address)
    elif worker.owner_id != owner.id:
        raise Forbidden(
            f"Wrong credentials: the worker '{name}' belongs to another account. "
            "Choose another name, or use its owner's API key.",
            "WrongCredentials",
        )
    return Admission(owner, kind, name, bridge_agent, address, worker, safe_address)


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


def _check_new(platform: Platform, owner: UserFacts, name: str, bridge_agent: str, address: str) -> None:
    if is_profane(platform, name):
        with platform.engine.begin() as db:
            suspicions.report(db, owner.id, Reason.PROFANE_WORKER_NAME)
        raise BadRequest(
            "The worker's name holds a word that is not allowed here. Choose another name.",
            "ProfaneWorkerName",
        )
    if is_profane(platform, bridge_agent):
        raise BadRequest(
            "The name of the worker's software (bridge_agent) holds a word that is not allowed here.",
            "ProfaneBridgeAgent",
        )
    rules.check_new_name(name)
    invite_only = modes(platform).invite_only
    with platform.read() as db:
        _check_room(platform, db, owner, address, invite_only=invite_only)


_COUNT = text("""
    SELECT count(*) AS workers, count(*) FILTER (WHERE ipaddr = :address) AS here
    FROM workers WHERE owner_id = :owner
""")


def _check_room(
    platform: Platform, db: Connection, owner: UserFacts, address: str, *, invite_only: bool
) -> None:
    limits = platform.settings
    most = limits.max_workers_trusted if owner.trusted else limits.max_workers_untrusted
    have = db.execute(_COUNT, {"owner": owner.id, "address": address}).one()
    room = Room(
        workers=have.workers,
        here=have.here,
        invited=owner.worker_invited,
        trusted=owner.trusted,
        most=most,
        most_here=most if owner.trusted else limits.max_workers_per_address,
    )
    rules.check_room(room, invite_only=invite_only)


_KNOWN = text("SELECT EXISTS (SELECT FROM workers WHERE name = :name)")


def register(platform: Platform, new: Admission, settings: Mapping[str, Any]) -> WorkerFacts | None:
    """Register a worker with `settings` (every name of `rules.SETTINGS`); None if its name exists by now.

    Raises 403 when the owner's other workers have taken the last place in the meantime.
    """
    values = {
        "id": new_id(),
        "kind": new.kind,
        "owner_id": new.owner.id,
        "name": new.name,
        "ipaddr": new.address,
        "speed": rules.BASELINE_SPEED[new.kind],
        **settings,
    }
    added = insert(Worker).values(values).on_conflict_do_nothing(index_elements=[Worker.name])
    # Whoever holds a connection must not wait for another one.
    invite_only = modes(platform).invite_only
    with platform.engine.begin() as db:
        db.execute(text("SELECT pg_advisory_xact_lock(74632, :owner)"), {"owner": new.owner.id})
        if not db.execute(_KNOWN, {"name": new.name}).scalar_one():
            _check_room(platform, db, new.owner, new.address, invite_only=invite_only)
        row = db.execute(added.returning(*FACTS_COLUMNS)).one_or_none()
    forget(platform, new.kind, new.name)
    return None if row is None else facts_of(platform, row)
