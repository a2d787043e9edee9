"""What speaks against accounts and their workers."""

from uuid import UUID

from sqlalchemy import Connection, text

from horde.generation.webhooks import Notice, notify
from horde.users.rules import MOST_SUSPICIONS, Reason
from horde.users.tables import ANONYMOUS_ID

# The worker is locked before its owner, as everybody does it. What the second part notes, the third does not
# see yet.
_REPORT = text("""
    WITH worker AS (
        SELECT id FROM workers WHERE id = CAST(:worker AS uuid) FOR NO KEY UPDATE
    ), noted AS (
        INSERT INTO suspicions (user_id, worker_id, reason)
        SELECT DISTINCT CAST(:user AS bigint), culprit, CAST(:reason AS smallint)
        FROM unnest(ARRAY[NULL, (SELECT id FROM worker)]) AS culprit
        WHERE CAST(:worker AS uuid) IS NULL OR EXISTS (SELECT FROM worker)
        ON CONFLICT DO NOTHING
        RETURNING worker_id
    ), counted AS (
        SELECT worker_id, 1 + (
            SELECT count(*) FROM suspicions WHERE worker_id = noted.worker_id
        ) AS suspicions
        FROM noted WHERE worker_id IS NOT NULL
    )
    UPDATE workers SET paused = true FROM counted
    WHERE workers.id = counted.worker_id AND counted.suspicions >= :most AND NOT paused
        AND NOT EXISTS (SELECT FROM user_roles WHERE user_id = workers.owner_id AND role = 'trusted')
    RETURNING workers.id, workers.name, counted.suspicions
""")


def report(db: Connection, user_id: int, reason: Reason, worker_id: UUID | None = None) -> bool:
    """Note `reason` against an account, or against one of its workers and so against the account too.

    A step of its caller's transaction. Reasons that cannot repeat are noted once for the account and once for
    the worker. Nothing is noted of the anonymous account, nor of a worker that is gone by now; what is noted
    of trusted ones has no consequences. A worker against which five reasons speak is paused and the operator
    told; True if that happened just now.
    """
    if user_id == ANONYMOUS_ID:
        return False
    values = {"user": user_id, "worker": worker_id, "reason": reason.value, "most": MOST_SUSPICIONS}
    paused = db.execute(_REPORT, values).one_or_none()
    if paused is None:
        return False
    notify(
        db,
        Notice.PAUSED,
        f"The worker '{paused.name}' ({paused.id}) of account {user_id} has been paused: {paused.suspicions} "
        f"reasons for suspicion, the last being {reason.name.lower().replace('_', ' ')}.",
    )
    return True
