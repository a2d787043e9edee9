"""Messages to workers, which their software shows to whoever runs them."""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, or_, select

from horde.platform.errors import Forbidden, NotFound
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import message_schemas as schemas
from horde.workers import rules
from horde.workers.message_schemas import MessageQuery, ResponseModelMessage
from horde.workers.service import LISTED_KEY
from horde.workers.tables import Worker, WorkerMessage

PAGE = 50
MOST_TO_ONE_WORKER = 10
"""Unexpired messages that an owner may have for one worker, as each pop answers all of them."""
KEPT_SECONDS = 10.0
ADDRESSED_KEY = "messages"
EXPIRED_DAYS = 7
"""How long messages that have expired can still be listed."""


def send(platform: Platform, api_key: str, new: ResponseModelMessage) -> schemas.WorkerMessage:
    """Leave a message for a worker or, without one, for all of them.

    Raises, in this order, `InvalidAPIKey` (401), `AnonForbidden` and `DeletedUser` (403), `WorkerNotFound`
    (404) and, with 403, for those who are no moderators, `MessagesOnlyOwnWorkers` and `Forbidden` for too
    many messages.
    """
    user = users.authenticate(platform, api_key)
    if user.anonymous:
        raise Forbidden(
            "The anonymous account cannot send messages. Register for an account of your own.",
            "AnonForbidden",
        )
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot send messages.", "DeletedUser")
    moderator = user.has(Role.MODERATOR)
    with platform.engine.begin() as db:
        worker = None if new.worker_id is None else _addressee(db, new.worker_id)
        if not moderator:
            _check_own(db, user, worker)
        row = db.execute(
            insert(WorkerMessage)
            .values(
                id=new_id(),
                worker_id=worker and worker.id,
                user_id=user.id,
                message=new.message,
                origin=new.origin if moderator else str(user.id),
                expires=datetime.now(UTC) + timedelta(hours=new.expiry),
            )
            .returning(*WorkerMessage.__table__.columns)
        ).one()
    _forget(platform, row.worker_id)
    return _details(row)


def _addressee(db: Connection, given: str) -> Any:
    """The worker, which will not be deleted before the transaction ends."""
    worker_id = parse_id(given)
    query = select(Worker.id, Worker.owner_id).where(Worker.id == worker_id)
    locked = query.with_for_update(read=True, key_share=True)
    row = db.execute(locked).one_or_none() if worker_id else None
    if row is None:
        raise rules.no_worker(given)
    return row


def _check_own(db: Connection, user: UserFacts, worker: Any) -> None:
    if worker is None or worker.owner_id != user.id:
        raise Forbidden(
            "You can send messages to your own workers only; name one of them as worker_id.",
            "MessagesOnlyOwnWorkers",
        )
    own = select(func.count()).where(
        WorkerMessage.worker_id == worker.id,
        WorkerMessage.user_id == user.id,
        WorkerMessage.expires > func.now(),
    )
    if db.execute(own).scalar_one() >= MOST_TO_ONE_WORKER:
        raise Forbidden(
            f"You have {MOST_TO_ONE_WORKER} messages for this worker that have not expired, and more are not "
            "possible. Delete one first.",
            "Forbidden",
        )


def list_messages(platform: Platform, api_key: str, wanted: MessageQuery) -> list[schemas.WorkerMessage]:
    """A page of messages, the newest first.

    Moderators see all of them, or those of one author and those to every worker; others what they wrote
    themselves, what was written to their workers and what is for every worker. Raises `InvalidAPIKey` (401),
    and `Forbidden` (403) for who asks for another author without being a moderator.
    """
    user = users.authenticate(platform, api_key)
    moderator = user.has(Role.MODERATOR)
    if not moderator and wanted.user_id is not None and int(wanted.user_id) != user.id:
        raise Forbidden("Only moderators may list the messages of others.", "Forbidden")
    query = select(*WorkerMessage.__table__.columns).order_by(WorkerMessage.id.desc())
    if not moderator:
        own_workers = select(Worker.id).where(Worker.owner_id == user.id)
        query = query.where(
            or_(
                WorkerMessage.user_id == user.id,
                WorkerMessage.worker_id.is_(None),
                WorkerMessage.worker_id.in_(own_workers),
            )
        )
    elif wanted.user_id is not None:
        author = int(wanted.user_id)
        query = query.where(or_(WorkerMessage.user_id == author, WorkerMessage.worker_id.is_(None)))
    if wanted.worker_id is not None:
        worker_id = parse_id(wanted.worker_id)
        if worker_id is None:
            return []
        query = query.where(WorkerMessage.worker_id == worker_id)
    if wanted.validity == "active":
        query = query.where(WorkerMessage.expires > func.now())
    elif wanted.validity == "expired":
        query = query.where(WorkerMessage.expires <= func.now())
    with platform.read() as db:
        rows = db.execute(query.limit(PAGE).offset((wanted.page - 1) * PAGE)).all()
    return [_details(row) for row in rows]


def message_details(platform: Platform, message_id: str) -> schemas.WorkerMessage:
    """A message, for whoever knows its id. Raises `WorkerMessageNotFound` (404)."""
    with platform.read() as db:
        return _details(_find(db, message_id))


def remove_message(platform: Platform, api_key: str, message_id: str) -> None:
    """Delete a message of one's own; moderators may delete any.

    Raises, in this order, `InvalidAPIKey` (401), `WorkerMessageNotFound` (404) and `Forbidden` (403).
    """
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        row = _find(db, message_id)
        if row.user_id != user.id and not user.has(Role.MODERATOR):
            raise Forbidden("Only a message's author and moderators may delete it.", "Forbidden")
        db.execute(delete(WorkerMessage).where(WorkerMessage.id == row.id))
    _forget(platform, row.worker_id)


def purge(platform: Platform) -> int:
    """Delete messages that expired a week ago or earlier; returns how many."""
    old = WorkerMessage.expires <= func.now() - timedelta(days=EXPIRED_DAYS)
    with platform.engine.begin() as db:
        return db.execute(delete(WorkerMessage).where(old)).rowcount


def _find(db: Connection, given: str) -> Any:
    message_id = parse_id(given)
    query = select(*WorkerMessage.__table__.columns).where(WorkerMessage.id == message_id)
    row = db.execute(query).one_or_none() if message_id else None
    if row is None:
        raise NotFound(f"There is no message with id {given[:60]}.", "WorkerMessageNotFound")
    return row


def for_pop(platform: Platform, worker_id: UUID) -> list[dict[str, str]]:
    """What a pop answers: the unexpired messages to a worker and to all, as of the last seconds.

    Other than by its first call in ten seconds, the database is asked for workers that there are messages
    for and for no others.
    """
    addressed = platform.local.get(ADDRESSED_KEY, KEPT_SECONDS, lambda: _addressed(platform))
    if not addressed:
        return []
    now = time.time()
    return [
        shown
        for target in (None, worker_id)
        if target in addressed
        for end, shown in _kept(platform, target)
        if end > now
    ]


def _addressed(platform: Platform) -> frozenset[UUID | None]:
    query = select(WorkerMessage.worker_id).where(WorkerMessage.expires > func.now()).distinct()
    with platform.read() as db:
        return frozenset(db.execute(query).scalars())


def _kept(platform: Platform, target: UUID | None) -> list[tuple[float, dict[str, str]]]:
    """The messages to `target` (None: to all) with the second at which each expires."""

    def load() -> list[tuple[float, dict[str, str]]]:
        with platform.read() as db:
            rows = db.execute(_active().where(WorkerMessage.worker_id == target)).all()
        fields = ("id", "message", "origin", "expiry")
        return [(row.expires.timestamp(), _details(row).model_dump(include=set(fields))) for row in rows]

    return platform.local.get(_key(target), KEPT_SECONDS, load)


def _active() -> Any:
    columns = WorkerMessage.__table__.columns
    return select(*columns).where(WorkerMessage.expires > func.now()).order_by(WorkerMessage.id)


def to_workers(db: Connection, worker_ids: Sequence[UUID]) -> dict[UUID, list[schemas.WorkerMessage]]:
    """The unexpired messages to each of these workers, without those to all."""
    found: dict[UUID, list[schemas.WorkerMessage]] = defaultdict(list)
    for row in db.execute(_active().where(WorkerMessage.worker_id.in_(worker_ids))):
        found[row.worker_id].append(_details(row))
    return found


def _key(target: UUID | None) -> str:
    return f"messages:{target}"


def _forget(platform: Platform, target: UUID | None) -> None:
    platform.local.drop(ADDRESSED_KEY, _key(target), LISTED_KEY)


def _details(row: Any) -> schemas.WorkerMessage:
    return schemas.WorkerMessage(
        id=str(row.id),
        message=row.message,
        origin=row.origin,
        expiry=_date(row.expires),
        worker_id=row.worker_id and str(row.worker_id),
        user_id=str(row.user_id),
        created=_date(row.created),
    )


def _date(moment: datetime) -> str:
    return format_datetime(moment.replace(tzinfo=None))
