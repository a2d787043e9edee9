"""Balances and totals that say something else than the entries do: finding and repairing them.

The entries are the truth. Whatever drifted from them was changed by a fault or by hand, and is never just
overwritten: it is booked as what it is, and taken back. Where entries were lost nothing is repaired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, text

from horde.kudos import service as ledger
from horde.kudos.rules import Entry, check_balanced
from horde.platform.ids import new_id
from horde.platform.runtime import Platform

log = structlog.get_logger(__name__)


class EntriesDamagedError(Exception):
    """Entries were lost or changed, so nobody can tell what balances should be; the text says which rules
    they break."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A balance, or one of the totals per action, that is off."""

    account_id: int
    action: str | None
    """None: the balance itself."""
    amount: Decimal
    """By how much it is higher than the sum of its folded entries."""


_DRIFT = text("""
    SELECT account.id AS account_id, NULL AS action, account.balance - coalesce(folded.amount, 0) AS amount
    FROM accounts account LEFT JOIN (
        SELECT account_id, sum(amount) AS amount FROM ledger_entries WHERE folded GROUP BY 1
    ) folded ON folded.account_id = account.id
    WHERE account.balance <> coalesce(folded.amount, 0)
    UNION ALL
    SELECT coalesce(total.account_id, folded.account_id), coalesce(total.action, folded.action),
        coalesce(total.amount, 0) - coalesce(folded.amount, 0)
    FROM kudos_totals total FULL JOIN (
        SELECT account_id, action, sum(amount) AS amount FROM ledger_entries
        WHERE folded AND action IS NOT NULL GROUP BY 1, 2
    ) folded ON folded.account_id = total.account_id AND folded.action = total.action
    WHERE coalesce(total.amount, 0) <> coalesce(folded.amount, 0)
    ORDER BY account_id, action
""")
_POST = text("""
    WITH event AS (
        INSERT INTO ledger_events (id, kind, detail) VALUES (:id, 'reconciliation', CAST(:detail AS jsonb))
    )
    INSERT INTO ledger_entries (event_id, line, account_id, amount, action, folded)
    SELECT :id, line, account_id, amount, action, folded
    FROM unnest(
        CAST(:accounts AS bigint[]), CAST(:amounts AS numeric[]), CAST(:actions AS text[]),
        CAST(:folded AS boolean[])
    ) WITH ORDINALITY AS entry (account_id, amount, action, folded, line)
""")


def repair(platform: Platform) -> list[Drift]:
    """Bring every balance and total back to what its entries say; returns what was off.

    Each gets an event whose first half books the drift, as already folded, and whose second half takes it
    back with the next fold. Nothing is folded meanwhile, so that a drift is found once and repaired once,
    however often this runs and wherever it is interrupted. Raises `EntriesDamagedError`.
    """
    with platform.engine.begin() as db:
        if damaged := ledger.check_entries(db):
            raise EntriesDamagedError("; ".join(damaged))
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ledger.FOLD_LOCK})
        found = [Drift(row.account_id, row.action, row.amount) for row in db.execute(_DRIFT)]
        for drift in found:
            _compensate(db, drift)
    for drift in found:
        log.warning("books repaired", account=drift.account_id, action=drift.action, drift=str(drift.amount))
    return found


def _compensate(db: Connection, drift: Drift) -> None:
    booked, taken_back = _halves(drift)
    entries = [*booked, *taken_back]
    check_balanced(entries)
    db.execute(
        _POST,
        {
            "id": new_id(),
            "detail": orjson.dumps({"drift": str(drift.amount), "action": drift.action}).decode(),
            "accounts": [entry.account_id for entry in entries],
            "amounts": [entry.amount for entry in entries],
            "actions": [entry.action for entry in entries],
            "folded": [True] * len(booked) + [False] * len(taken_back),
        },
    )


def _halves(drift: Drift) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """Entries that count as folded already, and entries that are yet to be.

    A total that is off says nothing about the balance, so each of its entries has one without an action
    beside it that makes up for what it does to the balance.
    """
    account, amount = drift.account_id, drift.amount
    if drift.action is None:
        return [Entry(account, amount)], [Entry(account, -amount)]
    return (
        [Entry(account, amount, drift.action), Entry(account, -amount)],
        [Entry(account, -amount, drift.action), Entry(account, amount)],
    )


_RELEASE = text("""
    DELETE FROM reservations
    WHERE NOT EXISTS (SELECT FROM requests WHERE requests.id = reservations.request_id)
""")


def release_orphans(platform: Platform) -> int:
    """Give back what is reserved for requests that are gone; returns how many there were."""
    with platform.engine.begin() as db:
        return db.execute(_RELEASE).rowcount


@dataclass(frozen=True, slots=True)
class Health:
    """How far the balances are behind the entries, and what is reserved."""

    unfolded: int
    unfolded_seconds: float
    """Age of the oldest entry that is not folded; 0 if there is none."""
    folded_seconds: float | None
    """How long ago entries were last folded, or looked for; None: nobody knows."""
    reservations: int
    reserved: Decimal
    reservation_seconds: float
    """Age of the oldest reservation; 0 if there is none."""


_HEALTH = text("""
    SELECT unfolded, unfolded_seconds, reservations, reserved, reservation_seconds
    FROM (
        SELECT count(*) AS unfolded,
            coalesce(extract(epoch FROM now() - min(created)), 0)::float8 AS unfolded_seconds
        FROM ledger_entries WHERE NOT folded
    ) entry, (
        SELECT count(*) AS reservations, coalesce(sum(remaining), 0) AS reserved,
            coalesce(extract(epoch FROM now() - min(created)), 0)::float8 AS reservation_seconds
        FROM reservations
    ) reservation
""")


def health(platform: Platform) -> Health:
    """How the books stand at this moment."""
    with platform.read() as db:
        row = db.execute(_HEALTH).one()
    return Health(**row._mapping, folded_seconds=ledger.seconds_since_fold(platform))


@dataclass(frozen=True, slots=True)
class NightlyCheck:
    """What a proof of the books found."""

    created: datetime
    entries: int
    broken: dict[str, int]
    """Rule that did not hold -> how many rows broke it, up to 20."""


_DUE = text("""
    SELECT NOT EXISTS (
        SELECT FROM books_checks
        WHERE created >= date_trunc('day', now() - interval '3 hours') + interval '3 hours'
    )
""")
_NOTE = text("INSERT INTO books_checks (entries, broken) VALUES (:entries, CAST(:broken AS jsonb))")
_FORGET = text("DELETE FROM books_checks WHERE created < now() - interval '90 days'")
_LAST = text("SELECT created, entries, broken FROM books_checks ORDER BY id DESC LIMIT 1")


def check_nightly(platform: Platform) -> bool:
    """Prove the books once a day, from 3 o'clock (UTC) on, and note what was found; returns whether it did.

    Whatever is wrong is logged as an error and left for the operator to look at: nothing is repaired.
    """
    with platform.read() as db:
        if not db.execute(_DUE).scalar_one():
            return False
    counts, broken = ledger.check_books(platform)
    found = {rule: len(rows) for rule, rows in broken.items()}
    with platform.engine.begin() as db:
        db.execute(_NOTE, {"entries": counts["entries"], "broken": orjson.dumps(found).decode()})
        db.execute(_FORGET)
    for rule, rows in broken.items():
        shown: list[Any] = [" ".join(map(str, row)) for row in rows]
        log.error("the books are wrong, see `horde ledger check`", rule=rule, rows=shown)
    return True


def last_check(platform: Platform) -> NightlyCheck | None:
    """What the newest nightly proof found, if there was one yet."""
    with platform.read() as db:
        row = db.execute(_LAST).one_or_none()
    return None if row is None else NightlyCheck(row.created, row.entries, row.broken)
