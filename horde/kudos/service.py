"""The ledger: posting events, reserving kudos, folding balances.

Functions that take a connection are steps of their caller's transaction: kudos move in the transaction
that makes them move, or not at all.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import redis
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from horde.kudos.rules import FLOORS, TREASURY, AccountClass, Entry, check_balanced, floor_adjustment
from horde.kudos.tables import Account
from horde.platform.ids import new_id
from horde.platform.runtime import Platform

FOLD_BATCH = 5000
FOLD_LOCK = 7_463_001
FOLDED_AT = "ledger:folded"

POSTING = """
    event AS (
        INSERT INTO ledger_events (id, kind, request_id, detail)
        SELECT CAST(:event_id AS uuid), :event_kind, CAST(:event_request AS uuid),
            CAST(:event_detail AS jsonb)
        FROM cause
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    ), posted AS (
        INSERT INTO ledger_entries (event_id, line, account_id, amount, action)
        SELECT event.id, line, account_id, amount, action
        FROM event, unnest(
            CAST(:accounts AS bigint[]), CAST(:amounts AS numeric[]), CAST(:actions AS text[])
        ) WITH ORDINALITY AS entry (account_id, amount, action, line)
        RETURNING line
    )
"""
"""Two parts of a WITH clause that append the event of `posting` if the part `cause` has a row.

They let whatever makes kudos move post it in the same statement.
"""
_POST = text("WITH cause AS (SELECT 1)," + POSTING + "SELECT count(*) FROM posted")


def posting(
    event_id: UUID,
    kind: str,
    entries: Sequence[Entry],
    *,
    request_id: UUID | None = None,
    detail: str | None = None,
) -> dict[str, Any]:
    """The values that `POSTING` needs for one event.

    `request_id` names the request whose reservation pays the debits; `detail` is JSON for the audit.
    Raises `UnbalancedError` when the entries do not sum to zero.
    """
    check_balanced(entries)
    return {
        "event_id": event_id,
        "event_kind": kind,
        "event_request": request_id,
        "event_detail": detail,
        "accounts": [entry.account_id for entry in entries],
        "amounts": [entry.amount for entry in entries],
        "actions": [entry.action for entry in entries],
    }


def post(
    db: Connection,
    event_id: UUID,
    kind: str,
    entries: Sequence[Entry],
    *,
    request_id: UUID | None = None,
    detail: str | None = None,
) -> bool:
    """Append one event (see `posting`). False, and nothing moves, when `event_id` was posted before."""
    values = posting(event_id, kind, entries, request_id=request_id, detail=detail)
    return bool(db.execute(_POST, values).scalar_one())


def open_accounts(db: Connection, user_id: int, account_class: AccountClass) -> tuple[int, int]:
    """Give a new user a balance and an escrow; returns their account ids in that order."""
    rows = db.execute(
        insert(Account).returning(Account.id, sort_by_parameter_order=True),
        [
            {"user_id": user_id, "purpose": "balance", "floor": FLOORS[account_class]},
            {"user_id": user_id, "purpose": "escrow", "floor": None},
        ],
    ).scalars()
    balance, escrow = rows
    return balance, escrow


_BALANCE = text("""
    SELECT balance + coalesce((
        SELECT sum(amount) FROM ledger_entries WHERE account_id = accounts.id AND NOT folded
    ), 0)
    FROM accounts WHERE id = :account
""")


def effective_balance(db: Connection, account_id: int) -> Decimal:
    """What the account's entries come to, folded or not."""
    return Decimal(db.execute(_BALANCE, {"account": account_id}).scalar_one())


def shown(account: str) -> str:
    """SQL of what a row of `accounts` of this alias is going to hold: its entries, but not below its floor.

    For showing, not for admission. Accounts that nothing has moved yet may be below it.
    """
    return f"""(
        SELECT CASE WHEN moving.amount IS NULL THEN {account}.balance
            ELSE greatest({account}.balance + moving.amount, coalesce({account}.floor, '-infinity')) END
        FROM (
            SELECT sum(amount) AS amount FROM ledger_entries WHERE account_id = {account}.id AND NOT folded
        ) moving
    )"""


_SHOWN = text(f"SELECT {shown('account')} FROM accounts account WHERE id = :account")


def shown_balance(db: Connection, account_id: int) -> Decimal:
    """What the account is going to hold; see `shown`."""
    return Decimal(db.execute(_SHOWN, {"account": account_id}).scalar_one())


PAYABLE = """(
    SELECT CASE WHEN payer.balance > 0 THEN payer.balance - coalesce(payer.floor, 0) ELSE payer.balance END
        - (
            SELECT coalesce(sum(greatest(coalesce(held.remaining, 0), coalesce(owed.amount, 0))), 0)
            FROM (
                SELECT request_id, remaining FROM reservations WHERE account_id = payer.id
            ) held FULL JOIN (
                SELECT event.request_id, sum(-entry.amount) AS amount
                FROM ledger_entries entry JOIN ledger_events event ON event.id = entry.event_id
                WHERE entry.account_id = payer.id AND NOT entry.folded AND entry.amount < 0
                GROUP BY event.request_id
            ) owed ON owed.request_id = held.request_id
        )
    FROM accounts payer WHERE payer.id = payers.account_id
)"""
"""SQL for what the account `payers.account_id` can pay at this moment, for whoever asks for that first.

As `available`, but whoever has nothing can pay nothing: their floor is no credit.
"""
_PROMISED = """
    WITH owed AS (
        SELECT event.request_id, sum(-entry.amount) AS amount
        FROM ledger_entries entry JOIN ledger_events event ON event.id = entry.event_id
        WHERE entry.account_id = :account AND NOT entry.folded AND entry.amount < 0
        GROUP BY event.request_id
    ), held AS (
        SELECT request_id, remaining FROM reservations WHERE account_id = :account
    ), free AS (
        SELECT account.balance - account.floor
            - (SELECT coalesce(sum(greatest(coalesce(held.remaining, 0), coalesce(owed.amount, 0))), 0)
               FROM held FULL JOIN owed ON owed.request_id = held.request_id) AS amount
        FROM accounts account WHERE account.id = :account
    )
"""
_AVAILABLE = text(_PROMISED + "SELECT amount FROM free")
_RESERVE = text(
    _PROMISED
    + """
    INSERT INTO reservations (request_id, account_id, amount, remaining)
    SELECT :request_id, :account, :amount, :amount FROM free WHERE free.amount >= :amount
    """
)


def available(db: Connection, account_id: int) -> Decimal:
    """Kudos the account can still promise: balance less floor, reservations and debits not yet folded.

    Credits not yet folded never count. A debit that a reservation covers is not subtracted twice.
    """
    return Decimal(db.execute(_AVAILABLE, {"account": account_id}).scalar_one())


def reserve(db: Connection, account_id: int, request_id: UUID, amount: Decimal) -> bool:
    """Set `amount` aside for a request, or return False when the account cannot afford it.

    The caller holds the payer's lock (`lock_payer`), so that two requests never see the same kudos.
    """
    if amount <= 0:
        return True
    result = db.execute(_RESERVE, {"request_id": request_id, "account": account_id, "amount": amount})
    return result.rowcount == 1


def release(db: Connection, request_ids: Sequence[UUID]) -> None:
    """Give back what is left of the reservations of requests that will not be charged any more."""
    db.execute(
        text("DELETE FROM reservations WHERE request_id = ANY(CAST(:ids AS uuid[]))"),
        {"ids": list(request_ids)},
    )


def lock_payer(db: Connection, account_id: int) -> None:
    """Serialise admissions of one payer until the transaction ends; nobody else waits."""
    db.execute(text("SELECT pg_advisory_xact_lock(74631, :account)"), {"account": account_id})


_PURSES = text("""
    SELECT escrow.id AS escrow, purse.id AS purse FROM accounts escrow
    JOIN accounts purse ON purse.user_id = escrow.user_id AND purse.purpose = 'balance'
    WHERE escrow.user_id = :user_id AND escrow.purpose = 'escrow'
""")


def release_escrow(db: Connection, user_id: int) -> None:
    """Move what a user's escrow holds into their purse, as one event; nothing moves twice.

    What a settlement under way still adds to the escrow, taking its owner for a new one, is left for later.
    """
    accounts = db.execute(_PURSES, {"user_id": user_id}).one()
    lock_payer(db, accounts.escrow)
    amount = effective_balance(db, accounts.escrow)
    if amount > 0:
        entries = [Entry(accounts.escrow, -amount), Entry(accounts.purse, amount, "accumulated")]
        post(db, new_id(), "promotion", entries)


# Events are looked up one by one: joined, all that there ever were are read, as the planner expects more
# entries than there are.
_FOLD = text("""
    WITH batch AS (
        SELECT event_id, line FROM ledger_entries WHERE NOT folded LIMIT :limit
    ), folded AS (
        UPDATE ledger_entries entry SET folded = true FROM batch
        WHERE entry.event_id = batch.event_id AND entry.line = batch.line
        RETURNING entry.event_id, entry.account_id, entry.amount, entry.action
    ), totals AS (
        INSERT INTO kudos_totals (account_id, action, amount)
        SELECT account_id, action, sum(amount) FROM folded WHERE action IS NOT NULL GROUP BY 1, 2
        ON CONFLICT (account_id, action) DO UPDATE SET amount = kudos_totals.amount + excluded.amount
    ), debit AS (
        SELECT (SELECT request_id FROM ledger_events WHERE id = event_id) AS request_id, account_id, amount
        FROM folded
        WHERE amount < 0
            AND (EXISTS (SELECT FROM reservations) OR EXISTS (SELECT FROM shared_key_spending))
    ), spent AS (
        SELECT request_id, account_id, sum(-amount) AS amount FROM debit GROUP BY 1, 2
    ), consumed AS (
        UPDATE reservations SET remaining = greatest(0, remaining - spent.amount) FROM spent
        WHERE reservations.request_id = spent.request_id AND reservations.account_id = spent.account_id
    ), lent AS (
        UPDATE shared_key_spending spending SET spent = spending.spent + spent.amount
        FROM spent, shared_keys key
        WHERE spending.request_id = spent.request_id
            AND key.id = spending.shared_key_id AND key.account_id = spent.account_id
        RETURNING key.id, spent.amount
    ), used AS (
        SELECT id, sum(amount) AS amount FROM lent GROUP BY 1
    ), keys AS (
        UPDATE shared_keys key SET utilized = key.utilized + used.amount,
            kudos = CASE WHEN key.kudos > 0 THEN greatest(0, key.kudos - used.amount) ELSE key.kudos END
        FROM used WHERE key.id = used.id
    ), moved AS (
        SELECT account_id, sum(amount) AS amount, count(*) AS entries FROM folded GROUP BY 1
    )
    UPDATE accounts SET balance = balance + moved.amount FROM moved
    WHERE accounts.id = moved.account_id
    RETURNING accounts.id, accounts.balance, accounts.floor, moved.entries
""")

_ADJUST = text("""
    WITH event AS (
        INSERT INTO ledger_events (id, kind) VALUES (:id, 'floor')
    ), entries AS (
        INSERT INTO ledger_entries (event_id, line, account_id, amount, folded)
        SELECT :id, line, account_id, amount, true
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:amounts AS numeric[]))
            WITH ORDINALITY AS entry (account_id, amount, line)
    )
    UPDATE accounts SET balance = balance + change.amount
    FROM unnest(CAST(:accounts AS bigint[]), CAST(:amounts AS numeric[])) AS change (account_id, amount)
    WHERE accounts.id = change.account_id
""")


def fold(platform: Platform, limit: int = FOLD_BATCH) -> int:
    """Apply up to `limit` entries to balances, totals, reservations and shared keys; returns how many.

    A crash leaves either all or nothing of a batch applied. Where a balance would end below its
    account's floor the treasury makes good the difference, as an event of its own.
    Only one fold runs at a time anywhere; a second one returns 0.
    """
    with platform.engine.begin() as db:
        if not db.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": FOLD_LOCK}).scalar_one():
            return 0
        rows = db.execute(_FOLD, {"limit": limit}).all()
        gifts: list[tuple[int, Decimal]] = []
        for account_id, balance, floor, _ in rows:
            adjustment = floor_adjustment(balance, floor)
            if adjustment:
                gifts.append((account_id, adjustment))
        if gifts:
            total = sum((amount for _, amount in gifts), Decimal(0))
            changes = [*gifts, (TREASURY, -total)]
            db.execute(
                _ADJUST,
                {
                    "id": uuid4(),
                    "accounts": [account for account, _ in changes],
                    "amounts": [amount for _, amount in changes],
                },
            )
        return sum(row.entries for row in rows)


def fold_all(platform: Platform, batches: int = 10) -> int:
    """Fold until nothing is left or `batches` are done; returns the number of entries folded."""
    total = 0
    for _ in range(batches):
        folded = fold(platform)
        total += folded
        if folded < FOLD_BATCH:
            break
    with suppress(redis.RedisError):
        platform.cache.set(FOLDED_AT, time.time())
    return total


def seconds_since_fold(platform: Platform) -> float | None:
    """How long ago `fold_all` last came to its end anywhere; None when Valkey does not know."""
    with suppress(redis.RedisError):
        moment = platform.cache.get(FOLDED_AT)
        return None if moment is None else max(0.0, time.time() - float(moment))
    return None


_ENTRY_CHECKS = {
    "events whose entries do not sum to zero": """
        SELECT event_id, sum(amount) FROM ledger_entries GROUP BY event_id HAVING sum(amount) <> 0""",
    "entries without an event": """
        SELECT entry.event_id, entry.line FROM ledger_entries entry
        LEFT JOIN ledger_events event ON event.id = entry.event_id WHERE event.id IS NULL""",
    "events without entries": """
        SELECT event.id, event.kind FROM ledger_events event
        WHERE NOT EXISTS (SELECT FROM ledger_entries entry WHERE entry.event_id = event.id)""",
    "entries on accounts that do not exist": """
        SELECT entry.event_id, entry.account_id FROM ledger_entries entry
        LEFT JOIN accounts account ON account.id = entry.account_id WHERE account.id IS NULL""",
    "delivered jobs that nobody was paid for": """
        SELECT job.id, job.state FROM jobs job
        LEFT JOIN ledger_events event ON event.id = job.id
        WHERE job.state IN ('ok', 'censored', 'csam') AND NOT job.decoy AND event.id IS NULL""",
}
"""What shows that entries were lost or changed, so that they do not tell any more what is right."""
_CHECKS = _ENTRY_CHECKS | {
    "balances that differ from the sum of their folded entries": """
        SELECT account.id, account.balance, coalesce(folded.amount, 0) FROM accounts account
        LEFT JOIN (
            SELECT account_id, sum(amount) AS amount FROM ledger_entries WHERE folded GROUP BY 1
        ) folded ON folded.account_id = account.id
        WHERE account.balance <> coalesce(folded.amount, 0)""",
    "totals per action that differ from the sum of their folded entries": """
        SELECT coalesce(total.account_id, folded.account_id), coalesce(total.action, folded.action),
            total.amount, folded.amount
        FROM kudos_totals total FULL JOIN (
            SELECT account_id, action, sum(amount) AS amount FROM ledger_entries
            WHERE folded AND action IS NOT NULL GROUP BY 1, 2
        ) folded ON folded.account_id = total.account_id AND folded.action = total.action
        WHERE coalesce(total.amount, 0) <> coalesce(folded.amount, 0)""",
    "balances below their floor": """
        SELECT account.id, account.balance, account.floor FROM accounts account
        WHERE account.balance < account.floor
            AND EXISTS (SELECT FROM ledger_entries WHERE account_id = account.id AND folded)""",
    "reservations of requests that are gone": """
        SELECT reservation.request_id, reservation.remaining FROM reservations reservation
        LEFT JOIN requests request ON request.id = reservation.request_id WHERE request.id IS NULL""",
    "reservations that hold something else than their requests have not spent": """
        SELECT reservation.request_id, reservation.amount, reservation.remaining, folded.amount
        FROM reservations reservation LEFT JOIN (
            SELECT event.request_id, entry.account_id, sum(-entry.amount) AS amount
            FROM ledger_events event JOIN ledger_entries entry ON entry.event_id = event.id
            WHERE entry.folded AND entry.amount < 0
                AND event.request_id IN (SELECT request_id FROM reservations)
            GROUP BY 1, 2
        ) folded ON folded.request_id = reservation.request_id
            AND folded.account_id = reservation.account_id
        WHERE reservation.remaining <> greatest(0, reservation.amount - coalesce(folded.amount, 0))""",
    "requests whose shared key was not charged what they were": """
        SELECT spending.request_id, spending.spent, folded.amount
        FROM shared_key_spending spending JOIN shared_keys key ON key.id = spending.shared_key_id
        LEFT JOIN (
            SELECT event.request_id, entry.account_id, sum(-entry.amount) AS amount
            FROM ledger_events event JOIN ledger_entries entry ON entry.event_id = event.id
            WHERE entry.folded AND entry.amount < 0
                AND event.request_id IN (SELECT request_id FROM shared_key_spending)
            GROUP BY 1, 2
        ) folded ON folded.request_id = spending.request_id AND folded.account_id = key.account_id
        WHERE spending.spent <> coalesce(folded.amount, 0)""",
    "shared keys that show less than was spent with them": """
        SELECT key.id, key.utilized, sum(spending.spent)
        FROM shared_keys key JOIN shared_key_spending spending ON spending.shared_key_id = key.id
        GROUP BY key.id HAVING key.utilized < sum(spending.spent)""",
}


def check_books(platform: Platform) -> tuple[dict[str, int], dict[str, list[tuple[Any, ...]]]]:
    """Prove the books in one consistent snapshot.

    Returns counts (events, entries, unfolded entries, accounts) and, per broken rule, up to 20 offending
    rows; no rows at all means that the books are right.
    """
    with platform.engine.connect().execution_options(isolation_level="REPEATABLE READ") as db:
        counts = {
            name: int(db.execute(text(f"SELECT count(*) FROM {source}")).scalar_one())
            for name, source in {
                "events": "ledger_events",
                "entries": "ledger_entries",
                "unfolded entries": "ledger_entries WHERE NOT folded",
                "accounts": "accounts",
                "reservations": "reservations",
            }.items()
        }
        return counts, _broken(db, _CHECKS)


def check_entries(db: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """The part of `check_books` that shows whether entries were lost or changed; a step of a transaction."""
    return _broken(db, _ENTRY_CHECKS)


def _broken(db: Connection, checks: Mapping[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    found = {
        rule: [tuple(row) for row in db.execute(text(query + " LIMIT 20"))] for rule, query in checks.items()
    }
    return {rule: rows for rule, rows in found.items() if rows}
