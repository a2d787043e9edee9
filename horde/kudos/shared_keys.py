"""Shared keys: what others may still spend of an account's kudos, and what they have spent.

Debits of a request reach the key that it was made with when they are folded (`service.fold`). Until then,
and for what a request is still going to cost, the books count what it holds.

Functions that take a connection are steps of their caller's transaction.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, select, text, update

from horde.kudos.rules import SharedKeyFacts
from horde.kudos.service import lock_payer
from horde.kudos.tables import SharedKey
from horde.platform.errors import Unauthorized
from horde.platform.runtime import Platform

_CREATE = text("""
    INSERT INTO shared_keys (id, account_id, name, kudos, expires, max_image_pixels, max_image_steps,
        max_text_tokens, style_only)
    SELECT :id, :account, :name, :kudos, CAST(:expires AS timestamptz), :max_image_pixels, :max_image_steps,
        :max_text_tokens, :style_only
    WHERE (SELECT count(*) FROM shared_keys WHERE account_id = :account) < :most
""")
_FIND = text("""
    SELECT key.id, account.user_id, key.name, key.kudos, key.expires, key.max_image_pixels,
        key.max_image_steps, key.max_text_tokens, key.utilized, key.style_only
    FROM shared_keys key JOIN accounts account ON account.id = key.account_id
    WHERE key.id = ANY(CAST(:ids AS uuid[]))
""")


def create(db: Connection, account_id: int, values: Mapping[str, Any], *, most: int) -> UUID | None:
    """Add a key to an account, unless it has `most` or more of them: then None is returned.

    `values` holds the columns of `tables.SharedKey` that its owner chooses. The new key's id, which is all
    that its users need, cannot be guessed.
    """
    lock_payer(db, account_id)
    key_id = uuid4()
    row = {"style_only": False, **values, "id": key_id, "account": account_id, "most": most}
    added = db.execute(_CREATE, row)
    return key_id if added.rowcount else None


def find(db: Connection, key_id: UUID) -> SharedKeyFacts | None:
    """A key as it is now, counting folded debits; None when there is no such key."""
    return find_many(db, [key_id]).get(key_id)


def find_many(db: Connection, ids: Sequence[UUID]) -> dict[UUID, SharedKeyFacts]:
    """Those of some keys that exist, as they are now (see `find`)."""
    rows = db.execute(_FIND, {"ids": list(ids)}).mappings()
    return {row["id"]: SharedKeyFacts(**row) for row in rows}


def lock(db: Connection, key_id: UUID) -> None:
    """Let nobody else change or delete a key, if there is one, until the transaction ends."""
    db.execute(select(SharedKey.id).where(SharedKey.id == key_id).with_for_update(key_share=True))


def change(db: Connection, key_id: UUID, values: Mapping[str, Any]) -> None:
    """Set columns of a key."""
    db.execute(update(SharedKey).where(SharedKey.id == key_id).values(**values))


def raise_limit(db: Connection, key_id: UUID, amount: Decimal) -> None:
    """Let `amount` kudos more be spent with a key, unless it has no limit anyway."""
    more = SharedKey.kudos + amount
    db.execute(update(SharedKey).where(SharedKey.id == key_id, SharedKey.kudos >= 0).values(kudos=more))


def remove(db: Connection, key_id: UUID) -> None:
    """Delete a key. Requests that were made with it stay, and its owner goes on paying for them."""
    db.execute(delete(SharedKey).where(SharedKey.id == key_id))


_LIVE = """
    EXISTS (
        SELECT FROM requests request WHERE request.id = spending.request_id AND (
            request.n > 0 OR EXISTS (
                SELECT FROM jobs
                WHERE jobs.request_id = request.id AND jobs.state = 'processing' AND NOT jobs.decoy
            )
        )
    )
"""
_HOLD = text(f"""
    WITH key AS (
        SELECT id, account_id, kudos FROM shared_keys WHERE id = :key
    ), owed AS (
        SELECT (SELECT request_id FROM ledger_events WHERE id = event_id) AS request_id,
            sum(-amount) AS amount
        FROM ledger_entries
        WHERE account_id = (SELECT account_id FROM key) AND NOT folded AND amount < 0
        GROUP BY 1
    ), held AS (
        INSERT INTO shared_key_spending (request_id, shared_key_id, hold)
        SELECT :request_id, key.id, :amount FROM key
        WHERE key.kudos < 0 OR key.kudos - (
            SELECT coalesce(sum(greatest(
                CASE WHEN {_LIVE} THEN spending.hold - spending.spent ELSE 0 END, coalesce(owed.amount, 0)
            )), 0)
            FROM shared_key_spending spending LEFT JOIN owed ON owed.request_id = spending.request_id
            WHERE spending.shared_key_id = :key
        ) >= :amount
        RETURNING request_id
    )
    SELECT EXISTS (SELECT FROM key) AS found, EXISTS (SELECT FROM held) AS held
""")


def hold(db: Connection, key_id: UUID, request_id: UUID, amount: Decimal) -> bool:
    """Let a new request that is expected to cost `amount` kudos spend from a shared key.

    False, and nothing is done, when the key has less than that left, apart from what its other requests
    still hold or owe. The caller holds the lock of the key's owner (`service.lock_payer`), so that two
    requests never see the same kudos. Raises `InvalidAPIKey` (401) when the key has been deleted.
    """
    row = db.execute(_HOLD, {"key": key_id, "request_id": request_id, "amount": amount}).one()
    if not row.found:
        raise no_key()
    return bool(row.held)


_NOTE = text("""
    INSERT INTO shared_key_spending (request_id, shared_key_id, hold)
    SELECT :request_id, id, 0 FROM shared_keys WHERE id = :key
""")


def note(db: Connection, key_id: UUID, request_id: UUID) -> None:
    """Charge a new request to a shared key whether or not it has enough left.

    Raises `InvalidAPIKey` (401) when the key has been deleted.
    """
    if not db.execute(_NOTE, {"key": key_id, "request_id": request_id}).rowcount:
        raise no_key()


def no_key() -> Unauthorized:
    """The refusal of a key that does not exist."""
    return Unauthorized("There is no such shared key. Check it, or ask for a new one.", "InvalidAPIKey")


_FORGET = text(f"""
    WITH owed AS MATERIALIZED (
        SELECT (SELECT request_id FROM ledger_events WHERE id = event_id) AS request_id
        FROM ledger_entries WHERE NOT folded AND amount < 0
    )
    DELETE FROM shared_key_spending spending
    WHERE NOT {_LIVE} AND NOT EXISTS (SELECT FROM owed WHERE owed.request_id = spending.request_id)
""")


def forget_spending(platform: Platform) -> int:
    """Forget which key a request was made with once it has ended and its last debit is folded.

    Nothing is charged to a request that has ended, so that its row says nothing any more. Returns how many
    there were.
    """
    with platform.engine.begin() as db:
        return db.execute(_FORGET).rowcount
