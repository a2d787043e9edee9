"""Monthly kudos: for moderators, for supporters, and for whom administrators grant them."""

from typing import Any
from uuid import NAMESPACE_OID, uuid5

import structlog
from sqlalchemy import Row, text

from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced, kudos
from horde.platform.runtime import Platform
from horde.users.monthly_rules import due
from horde.users.rules import monthly_entitlement
from horde.users.tables import ANONYMOUS_ID

log = structlog.get_logger(__name__)

_ENTITLED = text("""
    SELECT id FROM users
    WHERE (
        monthly_kudos > 0
        OR EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'moderator')
        OR EXISTS (SELECT FROM supporters WHERE user_id = users.id AND kudos > 0)
    ) AND id <> :anonymous AND wiped IS NULL
        AND (monthly_kudos_last_received IS NULL OR monthly_kudos_last_received < now() - interval '28 days')
    ORDER BY id
""")
_LOCKED = text("""
    SELECT users.id, users.monthly_kudos, users.monthly_kudos_last_received, purse.id AS account,
        now() AS now, ARRAY(SELECT role FROM user_roles WHERE user_id = users.id) AS roles,
        (SELECT coalesce(sum(kudos), 0) FROM supporters WHERE user_id = users.id) AS supported
    FROM users JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
    WHERE users.id = :id AND users.wiped IS NULL
    FOR NO KEY UPDATE OF users
""")
_RECEIVED = text("UPDATE users SET monthly_kudos_last_received = :received WHERE id = :id")


def pay(platform: Platform) -> int:
    """Pay everybody the monthly kudos that are due to them; returns how many accounts got some.

    It is one transaction per account: the date of the last payment moves together with the kudos. So a crash
    loses nothing, and whoever runs this twice pays nobody twice.
    """
    with platform.read() as db:
        entitled = db.execute(_ENTITLED, {"anonymous": ANONYMOUS_ID}).scalars().all()
    return sum(_pay(platform, user_id) for user_id in entitled)


def _pay(platform: Platform, user_id: int) -> bool:
    with platform.engine.begin() as db:
        user: Row[Any] | None = db.execute(_LOCKED, {"id": user_id}).one_or_none()
        if user is None:
            return False
        received = due(user.monthly_kudos_last_received, user.now)
        amount = monthly_entitlement(user.monthly_kudos, user.roles, int(user.supported))
        if received is None or amount <= 0:
            return False
        event_id = uuid5(NAMESPACE_OID, f"monthly kudos of {user.id}: {received.isoformat()}")
        entries = balanced([Entry(user.account, kudos(amount), "recurring")])
        paid = ledger.post(db, event_id, "monthly", entries)
        db.execute(_RECEIVED, {"id": user.id, "received": received})
    log.info("monthly kudos paid", user=user_id, amount=amount)
    return paid
