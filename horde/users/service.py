"""Accounts: creating them, finding who calls, showing them."""

import secrets
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, select, text

from horde.kudos import service as ledger
from horde.kudos import shared_keys
from horde.kudos.rules import Entry, account_class, balanced, kudos
from horde.platform.errors import Forbidden, NotFound, Unauthorized
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users.roles import change_roles, lock_account, lock_workers, resume_workers
from horde.users.rules import ANONYMOUS_KEY, Role, UserFacts, key_hash, same_text, with_implied
from horde.users.schemas import UserDetails
from horde.users.tables import ANONYMOUS_ID, User, UserRole
from horde.users.views import Privilege, describe, with_nulls

FACTS_SECONDS = 15.0
LISTED_SECONDS = 10.0
LISTED_KEY = "users"
LISTS = (LISTED_KEY, "workers", "teams")
"""Under which lists are kept that show something of accounts."""
PAGE = 25
LAST_PAGE = 10_000

_FACTS = """
    SELECT users.id, users.username, users.concurrency, users.worker_invited, users.external_id,
        purse.id AS balance_account, escrow.id AS escrow_account, purse.balance,
        ARRAY(SELECT role FROM user_roles WHERE user_id = users.id) AS roles,
        EXISTS (SELECT FROM supporters WHERE user_id = users.id) AS supporter
    FROM users
    JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
    JOIN accounts escrow ON escrow.user_id = users.id AND escrow.purpose = 'escrow'
"""
_FACTS_BY_KEY = text(_FACTS + " WHERE users.api_key_hash = :key")
_FACTS_BY_ID = text(_FACTS + " WHERE users.id = :id AND users.wiped IS NULL")


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
        supporter=row.supporter,
    )


def authenticate(platform: Platform, api_key: str) -> UserFacts:
    """The account that `api_key` belongs to, as of the last few seconds. Raises `InvalidAPIKey` (401)."""
    if not same_text(api_key, ANONYMOUS_KEY):
        return holder(platform, key_hash(platform.secret, api_key))
    if not platform.settings.anonymous_access:
        raise Unauthorized(
            f"This horde serves nobody without an account, so the key {ANONYMOUS_KEY} does not work here. "
            "Register to get an API key of your own.",
            "InvalidAPIKey",
        )
    return user_facts(platform, ANONYMOUS_ID)


def holder(platform: Platform, digest: str) -> UserFacts:
    """The account whose API key has this `rules.key_hash`, as of the last few seconds.

    Raises `InvalidAPIKey` (401).
    """

    def load() -> UserFacts:
        with platform.read() as db:
            row = db.execute(_FACTS_BY_KEY, {"key": digest}).one_or_none()
        if row is None:
            raise Unauthorized(
                "No account has this API key. Check it, or register to get one.", "InvalidAPIKey"
            )
        return _facts(row)

    return platform.local.get(f"key:{digest}", FACTS_SECONDS, load)


def require_moderator(platform: Platform, api_key: str) -> UserFacts:
    """The moderator whose key it is. Raises `InvalidAPIKey` (401) and `NotModerator` (403)."""
    user = authenticate(platform, api_key)
    if not user.has(Role.MODERATOR):
        raise Forbidden("Only moderators may do this.", "NotModerator")
    return user


def user_facts(platform: Platform, user_id: int) -> UserFacts:
    """The facts of an account that exists, as of the last few seconds. Raises `UserNotFound` (404)."""

    def load() -> UserFacts:
        with platform.read() as db:
            row = db.execute(_FACTS_BY_ID, {"id": user_id}).one_or_none()
        if row is None:
            raise no_user(user_id)
        return _facts(row)

    return platform.local.get(f"user:{user_id}", FACTS_SECONDS, load)


def no_user(user_id: object) -> NotFound:
    """The refusal of an id that no account has."""
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
    with platform.engine.begin() as db:
        user = db.execute(
            insert(User)
            .values(
                username=username,
                external_id=external_id,
                api_key_hash=key_hash(platform.secret, api_key),
                concurrency=platform.settings.max_concurrency_default,
            )
            .returning(*User.__table__.columns)
        ).one()
        balance_account, _ = ledger.open_accounts(db, user.id, account_class(external_id))
        change_roles(db, user, [(role, True) for role in roles], None)
        if amount:
            entries = balanced([Entry(balance_account, kudos(amount), "admin")])
            ledger.post(db, uuid4(), "admin", entries)
        facts = _facts(db.execute(_FACTS_BY_ID, {"id": user.id}).one())
    return facts, api_key


def set_role(platform: Platform, user_id: int, role: Role, held: bool) -> UserFacts:
    """Grant or take away a role by the server's rules or its operator's command; returns the account then.

    Raises `UserNotFound` (404), also for the anonymous account, which never holds a role. A moderator is
    trusted too; taking the moderator role away leaves the trust. Workers of an account that becomes trusted
    are paused no longer. An educator may have 200 results waiting.
    """
    with platform.engine.begin() as db:
        workers = lock_workers(db, user_id)
        if held and Role.TRUSTED in with_implied({role}):
            resume_workers(db, user_id)
        user = lock_account(db, user_id)
        if user is None or user_id == ANONYMOUS_ID:
            raise no_user(user_id)
        change_roles(db, user, [(role, held)], None)
        facts = _facts(db.execute(_FACTS_BY_ID, {"id": user_id}).one())
    forget(platform, user, workers)
    return facts


def forget(platform: Platform, user: Any, workers: Iterable[Any] = ()) -> None:
    """Drop what is kept of an account and of some of its workers, everywhere. Call it after a change.

    `user` is the account's row, `workers` have their name and kind: all of its workers if it became trusted
    or is so no longer, as they are kept with that. Lists of workers and teams name their owners.
    """
    kept = {key for worker in workers for key in (f"worker:{worker.name}", f"online:{worker.kind}")}
    platform.local.drop(f"user:{user.id}", f"key:{user.api_key_hash}", *LISTS, *kept)


def has_moderator(platform: Platform) -> bool:
    """Whether anybody moderates this horde yet."""
    with platform.read() as db:
        return (
            db.execute(select(UserRole.user_id).where(UserRole.role == "moderator").limit(1)).first()
            is not None
        )


_SHOWN = f"""
    SELECT users.id, users.username, users.external_id, users.concurrency, users.worker_invited,
        users.created, users.public_workers, users.contact, users.admin_comment, users.monthly_kudos,
        users.monthly_kudos_last_received,
        (SELECT coalesce(sum(kudos), 0) FROM supporters WHERE user_id = users.id) AS supported,
        ARRAY(SELECT role FROM user_roles WHERE user_id = users.id) AS roles,
        ARRAY(SELECT id FROM workers WHERE owner_id = users.id ORDER BY created) AS worker_ids,
        (SELECT json_agg(json_build_array(name, id, kind, public) ORDER BY created, id) FROM styles
         WHERE owner_id = users.id) AS styles,
        ARRAY(SELECT id FROM shared_keys WHERE account_id = purse.id ORDER BY created) AS sharedkey_ids,
        (SELECT json_object_agg(action, amount) FROM kudos_totals WHERE account_id = purse.id) AS totals,
        (SELECT json_agg(json_build_array(record, kind, amount)) FROM (
            SELECT record, kind, sum(amount) AS amount FROM (
                SELECT record, kind, amount FROM user_records WHERE user_id = users.id
                UNION ALL
                SELECT 'request', kind, count(*) FROM requests WHERE user_id = users.id GROUP BY kind
            ) counted GROUP BY record, kind
        ) records) AS records,
        (SELECT count(*) FROM suspicions WHERE user_id = users.id AND worker_id IS NULL) AS suspicions,
        {ledger.shown("purse")} AS kudos, {ledger.shown("escrow")} AS escrow
    FROM users
    JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
    JOIN accounts escrow ON escrow.user_id = users.id AND escrow.purpose = 'escrow'
    WHERE users.wiped IS NULL
"""
_DETAILS = text(_SHOWN + " AND users.id = :id")
_LISTED = {
    order: text(
        _SHOWN
        + f"""
        AND NOT EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'deleted')
        ORDER BY {columns} LIMIT :limit OFFSET :offset
        """
    )
    for order, columns in {
        "kudos": "purse.balance DESC, users.id",
        "age": "users.created, users.id",
    }.items()
}
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


def own_details(platform: Platform, user: UserFacts) -> UserDetails:
    """An account as its owner sees it. Raises `UserNotFound` (404)."""
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
    number = parse_user_id(user_id)
    caller = authenticate(platform, api_key) if api_key else None
    privilege = Privilege.PUBLIC
    if caller and caller.has(Role.MODERATOR):
        privilege = Privilege.MODERATOR
    elif caller and caller.id == number and not caller.anonymous:
        privilege = Privilege.OWNER
    return _details(platform, number, privilege)


def parse_user_id(given: str) -> int:
    """The number that a path names. Raises `UserNotFound` (404) for what is none."""
    if not (given.isascii() and given.isdigit()) or len(given) > 18:
        raise no_user(given[:60])
    return int(given)


def find_id(platform: Platform, given: str) -> int:
    """The id of an account that exists. Raises `UserNotFound` (404)."""
    user_id = parse_user_id(given)
    with platform.read() as db:
        query = select(User.id).where(User.id == user_id, User.wiped.is_(None))
        if db.execute(query).one_or_none() is None:
            raise no_user(user_id)
    return user_id


def list_users(platform: Platform, *, page: int, sort: str) -> list[dict[str, Any]]:
    """A page of 25 accounts as anybody may see them, as of some seconds ago; what is hidden is null.

    The richest come first or, with `sort` "age", the oldest. Deleted accounts are left out. Pages below 1
    count as 1; beyond 10,000 there is nothing.
    """
    page = max(page, 1)
    if page > LAST_PAGE:
        return []
    order = sort if sort in _LISTED else "kudos"
    pages: dict[tuple[str, int], list[dict[str, Any]]]
    pages = platform.local.get(LISTED_KEY, LISTED_SECONDS, dict)
    if (order, page) not in pages:
        with platform.read() as db:
            rows = db.execute(_LISTED[order], {"limit": PAGE, "offset": (page - 1) * PAGE}).all()
        now = time.time()
        pages[order, page] = [with_nulls(describe(row, {}, Privilege.PUBLIC, now)) for row in rows]
    return pages[order, page]


def _details(platform: Platform, user_id: int, privilege: Privilege) -> UserDetails:
    with platform.read() as db:
        row = db.execute(_DETAILS, {"id": user_id}).one_or_none()
        if row is None:
            raise no_user(user_id)
        active = (
            {kind: [str(i) for i in ids] for kind, ids in db.execute(_ACTIVE, {"id": user_id})}
            if privilege >= Privilege.OWNER and user_id != ANONYMOUS_ID
            else {}
        )
    return describe(row, active, privilege, time.time())
