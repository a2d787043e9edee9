"""Accounts that become trusted, and what they earned under evaluation.

Part of what the workers of a new account earn stays in its escrow. Whoever is trusted, for what they earned
or by a moderator's word, gets it.
"""

from sqlalchemy import text

from horde.kudos import service as ledger
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import MOST_SUSPICIONS, TRUST_DAYS, Role
from horde.users.tables import ANONYMOUS_ID

_DESERVING = text("""
    SELECT users.id FROM accounts escrow JOIN users ON users.id = escrow.user_id
    WHERE escrow.purpose = 'escrow' AND escrow.balance > :threshold
        AND users.id <> :anonymous AND users.created <= now() - make_interval(days => :days)
        AND NOT EXISTS (
            SELECT FROM user_roles WHERE user_id = users.id AND role IN ('trusted', 'flagged', 'deleted')
        )
        AND (SELECT count(*) FROM suspicions WHERE user_id = users.id AND worker_id IS NULL) < :most
""")
_HELD_BACK = text("""
    SELECT escrow.user_id FROM user_roles role
    JOIN accounts escrow ON escrow.user_id = role.user_id AND escrow.purpose = 'escrow'
    WHERE role.role = 'trusted' AND escrow.balance > 0
""")


def review(platform: Platform) -> int:
    """Make accounts trusted that have earned it, and give trusted ones what is left in their escrow.

    An account has earned it with more than `kudos_trust_threshold` folded kudos in its escrow, fewer than
    five suspicions and a week of age, unless moderators restrict it. It gets them with the role
    (`roles.change_roles`); what is left then was settled for the account as it had been. Returns how many
    have become trusted.
    """
    threshold = platform.settings.kudos_trust_threshold
    deserving = [] if threshold is None else _deserving(platform, threshold)
    for user_id in deserving:
        users.set_role(platform, user_id, Role.TRUSTED, True)
    with platform.read() as db:
        held_back = db.execute(_HELD_BACK).scalars().all()
    for user_id in held_back:
        with platform.engine.begin() as db:
            ledger.release_escrow(db, user_id)
    return len(deserving)


def _deserving(platform: Platform, threshold: int) -> list[int]:
    with platform.read() as db:
        found = db.execute(
            _DESERVING,
            {
                "threshold": threshold,
                "anonymous": ANONYMOUS_ID,
                "days": TRUST_DAYS,
                "most": MOST_SUSPICIONS,
            },
        )
        return list(found.scalars())
