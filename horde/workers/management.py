"""Changing and removing workers, by their owners and moderators."""

from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, delete, select, text, update
from sqlalchemy.exc import IntegrityError

from horde.moderation.service import is_profane
from horde.platform.errors import BadRequest, Forbidden, HordeError, NotFound, PayloadInvalid
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import rules, service
from horde.workers.schemas import MIN_NEW_NAME, DeletedWorker, ModifyWorker, ModifyWorkerInput
from horde.workers.tables import Team, Worker

NO_TEAM = "None"

log = structlog.get_logger(__name__)


def find_worker(platform: Platform, worker_id: str) -> UUID:
    """The id of a worker that exists. Raises `WorkerNotFound` (404)."""
    parsed = parse_id(worker_id)
    if parsed is None or not service.existing(platform, [parsed]):
        raise rules.no_worker(worker_id)
    return parsed


def change_worker(
    platform: Platform, api_key: str, worker_id: UUID, change: ModifyWorkerInput
) -> ModifyWorker:
    """Change what `change` names, all at once or, when any of it is refused, nothing.

    Raises `InvalidAPIKey` (401) and `NoWorkerModSelected` (400); for whoever is neither owner nor moderator
    `NotOwner` or `NotModerator` (403), which only moderators escape who pause a worker; and, in this order,
    `ProfaneWorkerInfo`, `ProfaneWorkerName`, `WorkerNameAlreadyExists` (400) and `TeamNotFound` (404).
    """
    user = users.authenticate(platform, api_key)
    if not change.model_fields_set - {"maintenance_msg"}:
        raise BadRequest(
            "The body names nothing to change. Send maintenance, paused, info, name or team.",
            "NoWorkerModSelected",
        )
    try:
        with platform.engine.begin() as db:
            worker = _locked(db, worker_id)
            values, changed = _changes(platform, db, user, worker, change)
            db.execute(update(Worker).where(Worker.id == worker_id).values(values))
    except IntegrityError:
        raise _name_taken(str(change.name)) from None
    service.forget(platform, worker.kind, worker.name, values.get("name", worker.name))
    platform.local.drop(service.TEAMS_KEY)
    log.info("worker changed", worker=str(worker_id), fields=sorted(values), by=user.id)
    return changed


def _locked(db: Connection, worker_id: UUID) -> Any:
    query = select(*Worker.__table__.columns).where(Worker.id == worker_id).with_for_update()
    worker = db.execute(query).one_or_none()
    if worker is None:
        raise rules.no_worker(str(worker_id))
    return worker


def _changes(
    platform: Platform, db: Connection, user: UserFacts, worker: Any, change: ModifyWorkerInput
) -> tuple[dict[str, Any], ModifyWorker]:
    """The columns to set, and what is answered."""
    values: dict[str, Any] = {}
    changed = ModifyWorker()
    if change.maintenance is not None:
        _check_may(user, worker, "NotOwner")
        changed.maintenance = values["maintenance"] = change.maintenance
        values["maintenance_message"] = change.maintenance_msg or None
    if change.info is not None:
        _check_may(user, worker, "NotOwner")
        _check_info(platform, worker, change.info)
        changed.info = change.info
        values["info"] = change.info or None
    if change.paused is not None:
        if not user.has(Role.MODERATOR):
            raise Forbidden("Only moderators may pause a worker or end its pause.", "NotModerator")
        changed.paused = values["paused"] = change.paused
    if change.name is not None:
        _check_may(user, worker, "NotModerator")
        _check_name(platform, db, worker, change.name)
        changed.name = values["name"] = change.name
    if change.team is not None:
        _check_may(user, worker, "NotModerator")
        values["team_id"], changed.team = _team(db, change.team)
    return values, changed


def _check_may(user: UserFacts, worker: Any, rc: str) -> None:
    if user.id != worker.owner_id and not user.has(Role.MODERATOR):
        raise Forbidden("Only a worker's owner and moderators may do this.", rc)
    if user.anonymous:
        raise Forbidden("The anonymous account cannot own workers.", "AnonForbiddenWorker")


def _check_info(platform: Platform, worker: Any, info: str) -> None:
    if info != worker.info and is_profane(platform, info):
        raise BadRequest("The worker's info holds a profane word. Please reword it.", "ProfaneWorkerInfo")


def _check_name(platform: Platform, db: Connection, worker: Any, name: str) -> None:
    """The worker's own name may always be sent along."""
    if name == worker.name:
        return
    if len(name) < MIN_NEW_NAME:
        raise PayloadInvalid({"name": f"must be at least {MIN_NEW_NAME} characters long"})
    rules.check_name(name)
    if is_profane(platform, name):
        raise BadRequest(
            "The worker's name holds a profane word. Please choose another.", "ProfaneWorkerName"
        )
    if db.execute(select(Worker.id).where(Worker.name == name)).first() is not None:
        raise _name_taken(name)


def _name_taken(name: str) -> BadRequest:
    return BadRequest(
        f"There is a worker called '{name}' already. Choose another name.", "WorkerNameAlreadyExists"
    )


def _team(db: Connection, given: str) -> tuple[UUID | None, str]:
    """Id and name of the team, which will not be deleted before the transaction ends; "" stands for none."""
    if not given:
        return None, NO_TEAM
    query = select(Team.id, Team.name).where(Team.id == parse_id(given))
    team = db.execute(query.with_for_update(read=True, key_share=True)).one_or_none()
    if team is None:
        raise NotFound(f"There is no team with id {given}.", "TeamNotFound")
    return team.id, team.name


_LIVE = text("""
    SELECT EXISTS (SELECT FROM jobs WHERE worker_id = :id)
        OR EXISTS (SELECT FROM requests WHERE :id = ANY (workers))
""")


def remove_worker(platform: Platform, api_key: str, worker_id: UUID) -> DeletedWorker:
    """Delete a worker with its messages and suspicions; its owner keeps the kudos.

    Raises, in this order, `InvalidAPIKey` (401), `NotModerator` (403) unless it is the caller's own, and
    `Locked` (423) while a request that has not expired knows the worker.
    """
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        worker = _locked(db, worker_id)
        _check_may(user, worker, "NotModerator")
        if db.execute(_LIVE, {"id": worker_id}).scalar_one():
            seconds = platform.settings.request_ttl_seconds
            raise HordeError(
                "Requests that have not expired yet know this worker: it does or did jobs of them, or they "
                f"name it. Switch it off and try again in {seconds // 60} minutes.",
                "Locked",
                status=423,
                headers={"Retry-After": str(seconds)},
            )
        db.execute(delete(Worker).where(Worker.id == worker_id))
    service.forget(platform, worker.kind, worker.name)
    platform.local.drop(service.TEAMS_KEY)
    log.info("worker removed", worker=str(worker_id), name=worker.name, by=user.id)
    return DeletedWorker(deleted_id=str(worker_id), deleted_name=worker.name)
