"""Rules about accounts."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum

ANONYMOUS_KEY = "0000000000"
"""The published key of the anonymous account."""

EDUCATION_CONCURRENCY = 200
LONGEST_USERNAME = 30
WIPED_USERNAME = "<wiped>"
WIPE_DAYS = 30
"""Accounts can be wiped that were marked as deleted, and last active, so long ago."""
MODERATOR_MONTHLY_KUDOS = 300_000

MOST_SHARED_KEYS = 3
MOST_SHARED_KEYS_OF_ROLE = {"trusted": 10, "education": 1000}


MOST_SUSPICIONS = 5
"""So many suspicions pause a worker and keep an account from becoming trusted."""
TRUST_DAYS = 7
"""Younger accounts do not become trusted by themselves."""


class Role(StrEnum):
    """What moderators may grant an account; administrators make moderators, and only the operator makes
    administrators."""

    ADMIN = "admin"
    MODERATOR = "moderator"
    TRUSTED = "trusted"
    FLAGGED = "flagged"
    CUSTOMIZER = "customizer"
    VPN = "vpn"
    SPECIAL = "special"
    SERVICE = "service"
    EDUCATION = "education"
    DELETED = "deleted"


class Reason(IntEnum):
    """Why an account or a worker is suspicious; the numbers are published."""

    PROFANE_WORKER_NAME = 2
    UNSAFE_ADDRESS = 3
    EXTREME_SIZE = 4
    UNREASONABLY_FAST = 5
    CORRUPT_PROMPT = 8
    TOO_MANY_JOBS_ABORTED = 9


def key_hash(secret: bytes, api_key: str) -> str:
    """What is stored of an API key or passkey: the hexadecimal SHA-256 of the horde's secret and the key."""
    return hashlib.sha256(secret + api_key.encode()).hexdigest()


def same_text(left: str, right: str) -> bool:
    """Compare secrets without telling by the time taken where they differ."""
    return hmac.compare_digest(left.encode(), right.encode())


def with_implied(roles: set[Role]) -> set[Role]:
    """`roles` and those that they bring along: moderators are trusted."""
    return roles | {Role.TRUSTED} if Role.MODERATOR in roles else roles


def roles_after(roles: Iterable[Role], changes: Iterable[tuple[Role, bool]]) -> set[Role]:
    """The roles of an account that holds `roles` once `changes` are made one after another.

    True grants a role, with those that it brings along; False takes away the one role.
    """
    held = set(roles)
    for role, granted in changes:
        held = held | with_implied({role}) if granted else held - {role}
    return held


def concurrency_after(
    concurrency: int, kept: int | None, before: Iterable[Role], after: Iterable[Role]
) -> tuple[int, int | None]:
    """How many results may wait at once when an account's roles change, and what to keep for later.

    Whoever becomes an educator gets 200 for a class, unless it has more already; what it had is kept. That
    comes back (`kept`) when the role is taken away.
    """
    was, becomes = Role.EDUCATION in before, Role.EDUCATION in after
    if becomes and not was:
        return max(concurrency, EDUCATION_CONCURRENCY), concurrency
    if was and not becomes:
        return concurrency if kept is None else kept, None
    return concurrency, kept


def monthly_entitlement(grant: int, roles: Iterable[str], supported: int = 0) -> int:
    """Kudos that an account gets every month.

    It is what administrators granted, what moderators get, and what it gets for supporting the horde.
    """
    return grant + (MODERATOR_MONTHLY_KUDOS if Role.MODERATOR in roles else 0) + supported


def earliest_wipe(marked: datetime, last_active: datetime) -> datetime:
    """When an account that was `marked` as deleted may be wiped."""
    return max(marked, last_active) + timedelta(days=WIPE_DAYS)


def one_line(given: str) -> str:
    """A name or address as it is stored: plain text on one line, single spaces, nothing invisible."""
    shown = "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in given)
    return " ".join(shown.split())


def most_shared_keys(roles: Iterable[str]) -> int:
    """How many shared keys an account may have: the most that any of its roles allows."""
    return max([MOST_SHARED_KEYS, *(MOST_SHARED_KEYS_OF_ROLE.get(role, 0) for role in roles)])


@dataclass(frozen=True, slots=True)
class UserFacts:
    """What the other rooms need to know of an account; may be some seconds old."""

    id: int
    username: str
    balance_account: int
    escrow_account: int
    balance: Decimal
    """Folded kudos; for the order of the queue, not for admission."""
    roles: frozenset[str]
    concurrency: int
    worker_invited: int
    external_id: str
    supporter: bool = False
    """Whether its owner gives money for this horde at present."""

    @property
    def alias(self) -> str:
        """The unique name `username#id`."""
        return f"{self.username}#{self.id}"

    @property
    def anonymous(self) -> bool:
        """Whether this is the account that everybody shares."""
        return self.id == 0

    def has(self, role: Role) -> bool:
        """Whether the account holds `role`."""
        return role in self.roles

    @property
    def trusted(self) -> bool:
        """Whether moderators vouch for the account."""
        return Role.TRUSTED in self.roles
