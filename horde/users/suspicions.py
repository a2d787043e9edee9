"""What speaks against accounts and their workers."""

from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from horde.users.rules import Reason
from horde.users.tables import ANONYMOUS_ID, Suspicion


def report(db: Connection, user_id: int, reason: Reason, worker_id: UUID | None = None) -> None:
    """Note `reason` against an account, or against one of its workers and so against the account too.

    A step of its caller's transaction. Reasons that cannot repeat are noted once for the account and once for
    the worker. Nothing is noted of the anonymous account; what is noted of trusted ones has no consequences.
    """
    if user_id == ANONYMOUS_ID:
        return
    for culprit in {None, worker_id}:
        noted = insert(Suspicion).values(user_id=user_id, worker_id=culprit, reason=reason)
        db.execute(noted.on_conflict_do_nothing())
