"""Looking back at what moved an account's kudos."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text

from horde.platform.errors import Forbidden
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.kudos_schemas import LedgerMovement, LedgerPage, LedgerQuery
from horde.users.rules import Role, UserFacts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# Both halves walk through one index; without their LIMIT all that an account ever did would be sorted. Events
# are looked up one by one: joined, the planner may read all that there ever were.
_HISTORY = text("""
    WITH moved AS (
        (SELECT created, event_id, sum(amount) AS amount, 0 AS escrow, max(action) AS action
         FROM ledger_entries WHERE account_id = :purse AND account_id > 2 AND created <= :until
         GROUP BY created, event_id ORDER BY created DESC, event_id DESC LIMIT :most)
        UNION ALL
        (SELECT created, event_id, 0, sum(amount), NULL
         FROM ledger_entries WHERE account_id = :escrow AND account_id > 2 AND created <= :until
         GROUP BY created, event_id ORDER BY created DESC, event_id DESC LIMIT :most)
    ), shown AS (
        SELECT created, event_id, sum(amount) AS amount, sum(escrow) AS escrow, max(action) AS action
        FROM moved GROUP BY created, event_id ORDER BY created DESC, event_id DESC
        OFFSET :skip LIMIT :limit
    )
    SELECT shown.created, shown.amount, shown.escrow, shown.action, event.kind,
        other.username || '#' || other.id AS counterpart
    FROM shown LEFT JOIN LATERAL (
        SELECT kind, detail FROM ledger_events WHERE id = shown.event_id LIMIT 1
    ) event ON true LEFT JOIN LATERAL (
        SELECT id, username FROM users WHERE event.kind = 'transfer' AND id = CAST(
            event.detail ->> CASE WHEN shown.amount < 0 THEN 'to' ELSE 'from' END AS bigint
        ) LIMIT 1
    ) other ON true
    ORDER BY shown.created DESC, shown.event_id DESC
""")


def history(platform: Platform, api_key: str, user_id: str, query: LedgerQuery) -> LedgerPage:
    """What moved an account's kudos, newest first; for its owner and for moderators.

    Ids of jobs and requests are not told: they may be those of whoever has a shared key of the account.
    Raises, in this order, `InvalidAPIKey` (401), `UserNotFound` (404) and `NotUserOrMod` (403).
    """
    caller = users.authenticate(platform, api_key)
    user = users.user_facts(platform, users.find_id(platform, user_id))
    if not caller.has(Role.MODERATOR) and (caller.anonymous or caller.id != user.id):
        raise Forbidden("Only an account's owner and moderators may see its ledger.", "NotUserOrMod")
    return movements(platform, user, query)


def movements(platform: Platform, user: UserFacts, query: LedgerQuery) -> LedgerPage:
    """What moved an account's kudos, newest first, without ids of jobs and requests."""
    until, skip = _position(query.before)
    values = {
        "purse": user.balance_account,
        "escrow": user.escrow_account,
        "until": until,
        "skip": skip,
        "limit": query.limit + 1,
        "most": skip + query.limit + 1,
    }
    with platform.read() as db:
        rows = db.execute(_HISTORY, values).all()
    shown = rows[: query.limit]
    return LedgerPage(
        movements=[_movement(row) for row in shown],
        next=_next([row.created for row in shown], until, skip) if len(rows) > len(shown) else None,
    )


def _movement(row: Row[Any]) -> LedgerMovement:
    return LedgerMovement(
        created=row.created.isoformat(),
        kind=row.kind,
        action=row.action,
        amount=float(row.amount),
        escrow=float(row.escrow),
        counterpart=row.counterpart,
    )


def _position(before: str | None) -> tuple[datetime, int]:
    """Up to which moment a page goes, and how many movements of that very moment were shown before."""
    if before is None:
        return datetime.max.replace(tzinfo=UTC), 0
    moment, shown = before.split(".")
    return EPOCH + int(moment) * MICROSECOND, int(shown)


def _next(shown: list[datetime], until: datetime, skip: int) -> str:
    last = shown[-1]
    same = shown.count(last) + (skip if last == until else 0)
    return f"{(last - EPOCH) // MICROSECOND}.{same}"
