"""Deleting accounts: marking them and, a month later, wiping who they belonged to.

A wiped account stays as a number: the books, and what it made for others, go on referring to it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection, delete, select, text, update

from horde.kudos import shared_keys
from horde.platform.errors import Forbidden
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.passkeys import PASSKEYS_KEY
from horde.users.roles import change_roles, lock_account, lock_workers, roles_of
from horde.users.rules import WIPE_DAYS, WIPED_USERNAME, Role, UserFacts, earliest_wipe
from horde.users.shared_keys import kept_as
from horde.users.tables import ANONYMOUS_ID, EducationApplication, Supporter, User, UserRole

log = structlog.get_logger(__name__)

_SHARED_KEYS = text("""
    SELECT key.id FROM shared_keys key JOIN accounts account ON account.id = key.account_id
    WHERE account.user_id = :id
""")
_REMOVE_WORKERS = text("DELETE FROM workers WHERE owner_id = :id")


def delete_user(platform: Platform, api_key: str, user_id: str) -> None:
    """Mark an account as deleted, which can be undone, or wipe one that was marked a month ago.

    Raises, in this order, `UserNotFound` (404) for what is no number, `InvalidAPIKey` (401), `UserNotFound`
    (404) and, with 403, `AnonForbiddenUser`, `CannotDeleteMod`, `NotUserOrMod` and `CannotWipeActiveUser`.
    """
    number = users.parse_user_id(user_id)
    caller = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        workers = lock_workers(db, number)
        user = lock_account(db, number)
        if user is None:
            raise users.no_user(number)
        held = roles_of(db, number)
        _check_may(caller, number, held)
        kept: Sequence[str] = ()
        if Role.DELETED not in held:
            change_roles(db, user, [(Role.DELETED, True)], caller.id)
        else:
            _check_idle(db, user)
            kept = _wipe(db, number)
    users.forget(platform, user, workers)
    platform.local.drop(PASSKEYS_KEY, *kept)
    log.info("account deleted", user=number, wiped=Role.DELETED in held, by=caller.id)


def _check_may(caller: UserFacts, user_id: int, held: frozenset[Role]) -> None:
    if caller.anonymous or user_id == ANONYMOUS_ID:
        raise Forbidden(
            "The anonymous account deletes nobody and cannot be deleted. Send your own API key.",
            "AnonForbiddenUser",
        )
    if Role.MODERATOR in held:
        raise Forbidden(
            "Moderators cannot be deleted. An administrator has to take that role away first.",
            "CannotDeleteMod",
        )
    if caller.id != user_id and not caller.has(Role.MODERATOR):
        raise Forbidden("Only an account's owner and moderators may delete it.", "NotUserOrMod")


def _check_idle(db: Connection, user: Any) -> None:
    query = select(UserRole.granted).where(UserRole.user_id == user.id, UserRole.role == Role.DELETED)
    earliest = earliest_wipe(db.execute(query).scalar_one(), user.last_active)
    if datetime.now(UTC) < earliest:
        raise Forbidden(
            f"This account is marked as deleted. It can be wiped for good from {earliest:%Y-%m-%d %H:%M} UTC "
            f"on, {WIPE_DAYS} days after it was marked and last active.",
            "CannotWipeActiveUser",
        )


def _wipe(db: Connection, user_id: int) -> list[str]:
    """Remove what tells of the owner, workers and shared keys; returns what is kept of them in processes.

    Requests that name one of the workers, or were made with one of the keys, stay as they are.
    """
    keys = db.execute(_SHARED_KEYS, {"id": user_id}).scalars().all()
    for key in keys:
        shared_keys.remove(db, key)
    db.execute(_REMOVE_WORKERS, {"id": user_id})
    db.execute(delete(EducationApplication).where(EducationApplication.user_id == user_id))
    db.execute(delete(Supporter).where(Supporter.user_id == user_id))
    db.execute(
        update(User)
        .where(User.id == user_id)
        .values(
            username=WIPED_USERNAME,
            external_id=f"{WIPED_USERNAME}{user_id}",
            api_key_hash=None,
            proxy_passkey_hash=None,
            contact=None,
            admin_comment=None,
            wiped=datetime.now(UTC),
        )
    )
    return [kept_as(key) for key in keys]
