"""Changing accounts, by their owners, moderators and administrators, and who changed their roles."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, select, text, update
from sqlalchemy.orm import aliased

from horde.kudos import service as ledger
from horde.kudos.rules import TREASURY, ZERO, Entry, balanced, kudos
from horde.platform.errors import BadRequest, Forbidden
from horde.platform.runtime import Platform
from horde.users import edit_rules, once
from horde.users import service as users
from horde.users.management_schemas import ModifyUser, ModifyUserInput, RoleChangeDetails
from horde.users.passkeys import PASSKEYS_KEY
from horde.users.roles import change_roles, lock_account, lock_workers, resume_workers, roles_of
from horde.users.rules import Role, UserFacts, key_hash, one_line, roles_after
from horde.users.tables import RoleChange, User

CHANGES_PAGE = 50
COLUMNS = (
    "monthly_kudos",
    "usage_multiplier",
    "concurrency",
    "worker_invited",
    "admin_comment",
    "public_workers",
    "username",
    "contact",
)
"""Fields that are columns of the account, and are answered as such."""
MONEY = {"kudos", "monthly_kudos"}

log = structlog.get_logger(__name__)

_FORGIVE = text("""
    DELETE FROM suspicions
    WHERE user_id = :id OR worker_id IN (SELECT id FROM workers WHERE owner_id = :id)
""")


def change_user(
    platform: Platform,
    api_key: str,
    user_id: str,
    change: ModifyUserInput,
    idempotency_key: str | None = None,
) -> ModifyUser:
    """Change what `change` names, all at once or, when any of it is refused, nothing; returns what is stored.

    Whoever calls again with the same idempotency key moves no kudos again, and adds nothing to the monthly
    ones. Raises `UserNotFound` (404), `InvalidAPIKey` (401), `NoUserModSelected` (400) and then, field by
    field in the order of `edit_rules.FIELDS`: `NotAdmin`, `NotModerator` or `AnonForbiddenUserMod` (403),
    and `ProfaneAdminComment`, `ProfaneUserName`, `TooLongUserName`, `ProfaneUserContact` (400),
    `NonServiceForbidden` (403) and `UserNotDeleted` (400); last `IdempotencyKeyConflict` (400).
    """
    number = users.find_id(platform, user_id)
    caller = users.authenticate(platform, api_key)
    sent = edit_rules.wanted(change)
    if "username" in sent:
        sent["username"] = one_line(sent["username"])
    changes = edit_rules.role_changes(sent)
    trusts = Role.TRUSTED in roles_after((), changes)
    passkey = users.new_api_key() if "generate_proxy_passkey" in sent else None
    purse = users.user_facts(platform, number).balance_account
    with platform.engine.begin() as db:
        if MONEY & sent.keys():
            # Two calls with the same key come one after the other.
            ledger.lock_payer(db, caller.balance_account)
        workers = lock_workers(db, number) if changes or "reset_suspicion" in sent else ()
        user = lock_account(db, number)
        if user is None:
            raise users.no_user(number)
        before = roles_of(db, number)
        for name in sent:
            edit_rules.check_may(caller, number, name)
            _check_value(platform, user, roles_after(before, changes), before, name, sent[name])
        if trusts:
            resume_workers(db, number)
        if "reset_suspicion" in sent:
            db.execute(_FORGIVE, {"id": number})
        held = change_roles(db, user, changes, caller.id)
        values = _columns(platform, user, sent, passkey)
        if MONEY & sent.keys() and _move_kudos(db, caller, number, purse, sent, idempotency_key):
            values |= _more_monthly(user, sent.get("monthly_kudos", 0))
        if values:
            db.execute(update(User).where(User.id == number).values(values))
        stored = db.execute(select(*User.__table__.columns).where(User.id == number)).one()
        changed = _answer(stored, user.concurrency, held, sent, passkey)
        if "kudos" in sent:
            changed.new_kudos = float(ledger.shown_balance(db, purse))
    users.forget(platform, user, workers)
    platform.local.drop(PASSKEYS_KEY)
    log.info("account changed", user=number, fields=list(sent), by=caller.id)
    return changed


def _check_value(
    platform: Platform, user: Any, after: set[Role], before: frozenset[Role], name: str, value: Any
) -> None:
    """Whether the account may have this value. What it has already may always be sent along."""
    if name == "admin_comment":
        _check_decent(platform, user.admin_comment, value, "comment", "ProfaneAdminComment")
    elif name == "username" and value != user.username:
        _check_decent(platform, user.username, value, "name", "ProfaneUserName")
        edit_rules.check_username(value)
    elif name == "contact":
        _check_decent(platform, user.contact, value, "contact", "ProfaneUserContact")
    elif name == "generate_proxy_passkey" and Role.SERVICE not in after:
        raise Forbidden(
            "Only service accounts may have a proxy passkey. Ask the moderators for the service role.",
            "NonServiceForbidden",
        )
    elif name == "undelete" and Role.DELETED not in before:
        raise BadRequest("This account is not going to be deleted.", "UserNotDeleted")


def _check_decent(platform: Platform, present: str | None, text: str, what: str, rc: str) -> None:
    if text != present and platform.is_profane(platform, text):
        raise BadRequest(f"The {what} holds a profane word. Please choose other words.", rc)


def _columns(platform: Platform, user: Any, sent: Mapping[str, Any], passkey: str | None) -> dict[str, Any]:
    """The columns of the account to set."""
    values = {name: sent[name] for name in COLUMNS if name in sent and name not in MONEY}
    if user.id == 0:
        values.pop("public_workers", None)
    if passkey is not None:
        values["proxy_passkey_hash"] = key_hash(platform.secret, passkey)
    return values


def _more_monthly(user: Any, amount: int) -> dict[str, Any]:
    """The columns to set when administrators add `amount` to what the account gets every month."""
    if not amount:
        return {}
    values: dict[str, Any] = {"monthly_kudos": max(0, user.monthly_kudos + amount)}
    if amount > 0 and user.monthly_kudos_last_received is None:
        values["monthly_kudos_last_received"] = datetime.now(UTC)
    return values


def _move_kudos(
    db: Connection,
    caller: UserFacts,
    user_id: int,
    purse: int,
    sent: Mapping[str, Any],
    idempotency_key: str | None,
) -> bool:
    """Book what an administrator gives and takes; False, and nothing is done, if it was booked before.

    Raises `IdempotencyKeyConflict` (400).
    """
    given, monthly = int(sent.get("kudos", 0)), sent.get("monthly_kudos", 0)
    detail = {"by": caller.id, "to": user_id, "kudos": given, "monthly_kudos": monthly}
    events = {kind: once.event_id(kind, caller.id, idempotency_key) for kind in ("admin", "monthly")}
    if any(once.happened(db, event, detail) for event in events.values()):
        return False
    for kind, action, amount in (("admin", "admin", given), ("monthly", "recurring", monthly)):
        if amount:
            moved = Entry(purse, kudos(amount), action)
            # What is taken from a grant moves nothing now, and yet is to happen once.
            entries = [Entry(TREASURY, ZERO)] if action == "recurring" and amount < 0 else balanced([moved])
            ledger.post(db, events[kind], kind, entries, detail=orjson.dumps(detail).decode())
    return True


def _answer(
    stored: Any, concurrency: int, held: frozenset[Role], sent: Mapping[str, Any], passkey: str | None
) -> ModifyUser:
    """What was changed, from the account's row as it is `stored`; `concurrency` is what it was before."""
    shown: dict[str, Any] = {name: getattr(stored, name) for name in COLUMNS if name in sent}
    shown |= {name: Role(name) in held for name in edit_rules.ROLE_FIELDS if name in sent}
    if stored.concurrency != concurrency:
        shown["concurrency"] = stored.concurrency
    if "usage_multiplier" in sent:
        shown["usage_multiplier"] = float(stored.usage_multiplier)
    if "reset_suspicion" in sent:
        shown["new_suspicion"] = 0
    if "undelete" in sent:
        shown["undeleted"] = True
    return ModifyUser(**shown, proxy_passkey=passkey)


def role_changes(platform: Platform, api_key: str, user_id: str, page: int) -> Sequence[RoleChangeDetails]:
    """50 of the changes of an account's roles, the latest first.

    Raises `UserNotFound` (404), `InvalidAPIKey` (401) and `NotModerator` (403).
    """
    number = users.find_id(platform, user_id)
    users.require_moderator(platform, api_key)
    author = aliased(User)
    query = (
        select(*RoleChange.__table__.columns, author.username)
        .outerjoin(author, author.id == RoleChange.changed_by)
        .where(RoleChange.user_id == number)
        .order_by(RoleChange.id.desc())
    )
    with platform.read() as db:
        rows = db.execute(query.limit(CHANGES_PAGE).offset((page - 1) * CHANGES_PAGE)).all()
    return [
        RoleChangeDetails(
            role=row.role,
            before=row.held_before,
            after=row.held,
            changed_by=None if row.changed_by is None else f"{row.username}#{row.changed_by}",
            created=format_datetime(row.created.replace(tzinfo=None)),
        )
        for row in rows
    ]
