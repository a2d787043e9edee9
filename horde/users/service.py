"""Accounts: creating them, finding who calls, showing them."""

import secrets
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, insert, select, text, update

from horde.kudos import service as ledger
from horde.kudos import shared_keys
from horde.kudos.rules import Entry, account_class, balanced, kudos
from horde.platform.errors import NotFound, Unauthorized
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users.rules import (
    ANONYMOUS_KEY,
    Role,
    UserFacts,
    concurrency_for,
    key_hash,
    same_text,
    with_implied,
)
from horde.users.schemas import UserDetails
from horde.users.tables import ANONYMOUS_ID, User, UserRole
from horde.users.views import Privilege, describe

FACTS_SECONDS = 15.0

_FACTS = """
    SELECT users.id, users.username, users.concurrency, users.worker_invited, users.external_id,
        purse.id AS balance_account, escrow.id AS escrow_account, purse.balance,
        ARRAY(SELECT role FROM user_roles WHERE user_id = users.id) AS roles
    FROM users
    JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
    JOIN accounts escrow ON escrow.user_id = users.id AND escrow.purpose = 'escrow'
"""
_FACTS_BY_KEY = text(_FACTS + " WHERE users.api_key_hash = :key")
_FACTS_BY_ID = text(_FACTS + " WHERE users.id = :id")


def _facts(row: Any) -> UserFacts:
    return UserFacts(
        id=row.id,
        username=row.username,
        balance_account=row.balance_account,
        escrow_account=row.escrow_account,
        balance=row.balance,
        roles=frozenset(row.roles),
        concurrency=row.concurrency,
        worker_invited=row.worker_invited,
        external_id=row.external_id,
    )


def authenticate(platform: Platform, api_key: str) -> UserFacts:
    """The account that `api_key` belongs to, as of the last few seconds. Raises `InvalidAPIKey` (401)."""
    if same_text(api_key, ANONYMOUS_KEY):
        return user_facts(platform, ANONYMOUS_ID)
    digest = key_hash(platform.secret, api_key)

    def load() -> UserFacts:
        with platform.read() as db:
            row = db.execute(_FACTS_BY_KEY, {"key": digest}).one_or_none()
        if row is None:
            raise Unauthorized(
                "No account has this API key. Check it, or register to get one.", "InvalidAPIKey"
            )
        return _facts(row)

    return platform.local.get(f"key:{digest}", FACTS_SECONDS, load)


def user_facts(platform: Platform, user_id: int) -> UserFacts:
    """The facts of an account that exists, as of the last few seconds. Raises `UserNotFound` (404)."""

    def load() -> UserFacts:
        with platform.read() as db:
            row = db.execute(_FACTS_BY_ID, {"id": user_id}).one_or_none()
        if row is None:
            raise _no_user(user_id)
        return _facts(row)

    return platform.local.get(f"user:{user_id}", FACTS_SECONDS, load)


def _no_user(user_id: object) -> NotFound:
    return NotFound(f"There is no user with id {user_id}.", "UserNotFound")


def new_api_key() -> str:
    """A random key of 22 characters; deployed programs insist on that length."""
    return secrets.token_urlsafe(16)


def create_user(
    platform: Platform,
    username: str,
    *,
    roles: Iterable[Role] = (),
    amount: Decimal = Decimal(0),
    external_id: str | None = None,
    api_key: str | None = None,
) -> tuple[UserFacts, str]:
    """Create an account holding `roles` and `amount` kudos; returns it and its API key.

    The key (a fresh one, unless given) is not stored and cannot be shown again. Without `external_id`
    the account is pseudonymous: only the key proves who owns it.
    """
    api_key = api_key or new_api_key()
    external_id = external_id or str(uuid4())
    held = with_implied(set(roles))
    with platform.engine.begin() as db:
        user_id = db.execute(
            insert(User)
            .values(
                username=username,
                external_id=external_id,
                api_key_hash=key_hash(platform.secret, api_key),
                concurrency=concurrency_for(held, platform.settings.max_concurrency_default),
            )
            .returning(User.id)
        ).scalar_one()
        balance_account, _ = ledger.open_accounts(db, user_id, account_class(external_id))
        _set_roles(db, user_id, held, add=True)
        if amount:
            entries = balanced([Entry(balance_account, kudos(amount), "admin")])
            ledger.post(db, uuid4(), "admin", entries)
        facts = _facts(db.execute(_FACTS_BY_ID, {"id": user_id}).one())
    return facts, api_key


def _set_roles(db: Connection, user_id: int, roles: set[Role], *, add: bool) -> None:
    db.execute(delete(UserRole).where(UserRole.user_id == user_id, UserRole.role.in_(roles)))
    if add and roles:
        db.execute(insert(UserRole), [{"user_id": user_id, "role": role.value} for role in sorted(roles)])


def set_role(platform: Platform, user_id: int, role: Role, held: bool) -> UserFacts:
    """Grant or take away a role; returns the account as it is then. Raises `UserNotFound` (404).

    A moderator is trusted too; taking the moderator role away leaves the trust. An educator may have
    200 requests waiting. The anonymous account never holds a role.
    """
    with platform.engine.begin() as db:
        row = db.execute(select(User).where(User.id == user_id).with_for_update()).one_or_none()
        if row is None or user_id == ANONYMOUS_ID:
            raise _no_user(user_id)
        _set_roles(db, user_id, with_implied({role}) if held else {role}, add=held)
        if held:
            db.execute(
                update(User)
                .where(User.id == user_id)
                .values(concurrency=concurrency_for({role}, row.concurrency))
            )
        facts = _facts(db.execute(_FACTS_BY_ID, {"id": user_id}).one())
        digest = row.api_key_hash
    platform.local.drop(f"user:{user_id}", f"key:{digest}")
    return facts


def has_moderator(platform: Platform) -> bool:
    """Whether anybody moderates this horde yet."""
    with platform.read() as db:
        return (
            db.execute(select(UserRole.user_id).where(UserRole.role == "moderator").limit(1)).first()
            is not None
        )


_DETAILS = text("""
    SELECT users.id, users.username, users.external_id, users.concurrency, users.worker_invited,
        users.created, users.public_workers, users.contact, users.admin_comment,
        ARRAY(SELECT role FROM user_roles WHERE user_id = users.id) AS roles,
        ARRAY(SELECT id FROM workers WHERE owner_id = users.id ORDER BY created) AS worker_ids,
        ARRAY(SELECT id FROM shared_keys WHERE account_id = purse.id ORDER BY created) AS sharedkey_ids,
        (SELECT json_object_agg(action, amount) FROM kudos_totals WHERE account_id = purse.id) AS totals,
        (SELECT json_agg(json_build_array(record, kind, amount)) FROM user_records
         WHERE user_id = users.id) AS records,
        (SELECT count(*) FROM suspicions WHERE user_id = users.id AND worker_id IS NULL) AS suspicions,
        purse.balance + coalesce((
            SELECT sum(amount) FROM ledger_entries WHERE account_id = purse.id AND NOT folded
        ), 0) AS kudos,
        escrow.balance + coalesce((
            SELECT sum(amount) FROM ledger_entries WHERE account_id = escrow.id AND NOT folded
        ), 0) AS escrow
    FROM users
    JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
    JOIN accounts escrow ON escrow.user_id = users.id AND escrow.purpose = 'escrow'
    WHERE users.id = :id
""")
_ACTIVE = text("""
    SELECT kind, array_agg(id ORDER BY id) AS ids FROM requests
    WHERE user_id = :id AND (n > 0 OR expires > now()) GROUP BY kind
""")


def find_user(platform: Platform, api_key: str) -> UserDetails:
    """The account that a key belongs to, as its owner sees it. Raises `UserNotFound` (404).

    A shared key, usable or not, shows what anybody may see of its owner, under a name that tells of the key.
    """
    shared_key = parse_id(api_key)
    if shared_key is not None:
        return _owner_of(platform, shared_key)
    try:
        user = authenticate(platform, api_key)
    except Unauthorized as error:
        raise NotFound("No account has this API key.", "UserNotFound") from error
    return _details(platform, user.id, Privilege.OWNER)


def _owner_of(platform: Platform, key_id: UUID) -> UserDetails:
    with platform.read() as db:
        key = shared_keys.find(db, key_id)
    if key is None:
        raise NotFound("No account has this shared key.", "UserNotFound")
    owner = _details(platform, key.user_id, Privilege.PUBLIC)
    note = f"Shared Key: {key.name}" if key.name else "Shared Key"
    return owner.model_copy(update={"username": f"{owner.username} ({note})"})


def user_details(platform: Platform, user_id: str, api_key: str | None) -> UserDetails:
    """An account as the caller may see it: anybody, its owner, or a moderator.

    Raises `UserNotFound` (404) and, for a key that no account has, `InvalidAPIKey` (401).
    """
    caller = authenticate(platform, api_key) if api_key else None
    if not (user_id.isascii() and user_id.isdigit()) or len(user_id) > 18:
        raise _no_user(user_id[:60])
    privilege = Privilege.PUBLIC
    if caller and caller.has(Role.MODERATOR):
        privilege = Privilege.MODERATOR
    elif caller and caller.id == int(user_id) and not caller.anonymous:
        privilege = Privilege.OWNER
    return _details(platform, int(user_id), privilege)


def _details(platform: Platform, user_id: int, privilege: Privilege) -> UserDetails:
    with platform.read() as db:
        row = db.execute(_DETAILS, {"id": user_id}).one_or_none()
        if row is None:
            raise _no_user(user_id)
        active = (
            {kind: [str(i) for i in ids] for kind, ids in db.execute(_ACTIVE, {"id": user_id})}
            if privilege >= Privilege.OWNER and user_id != ANONYMOUS_ID
            else {}
        )
    return describe(row, active, privilege, time.time())
