"""Calls that people repeat, as they did not hear the answer: what these move moves once."""

from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from sqlalchemy import Connection, text

from horde.platform.errors import BadRequest
from horde.platform.ids import new_id

_DETAIL = text("SELECT detail FROM ledger_events WHERE id = :id")


def event_id(kind: str, user_id: int, idempotency_key: str | None) -> UUID:
    """The same for every call of one user that sends the same key; without a key always another."""
    if not idempotency_key:
        return new_id()
    return uuid5(NAMESPACE_OID, f"{kind} of {user_id}: {idempotency_key}")


def happened(db: Connection, event: UUID, detail: Mapping[str, Any]) -> bool:
    """Whether the event was posted before. Raises `IdempotencyKeyConflict` (400) if it was another one.

    The caller holds a lock of whoever calls, so that two calls with one key come one after the other.
    """
    row = db.execute(_DETAIL, {"id": event}).one_or_none()
    if row is None:
        return False
    if row.detail != detail:
        raise BadRequest(
            "This idempotency key was used before, for another amount or another account. Send a new key "
            "with everything that is to happen for itself.",
            "IdempotencyKeyConflict",
        )
    return True
