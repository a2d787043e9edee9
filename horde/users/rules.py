"""Rules about accounts."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum, StrEnum

ANONYMOUS_KEY = "0000000000"
"""The published key of the anonymous account."""

EDUCATION_CONCURRENCY = 200

MOST_SHARED_KEYS = 3
MOST_SHARED_KEYS_OF_ROLE = {"trusted": 10, "education": 1000}


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


def concurrency_for(roles: set[Role], concurrency: int) -> int:
    """Requests that may wait at once: at least 200 for an educator's class."""
    return max(concurrency, EDUCATION_CONCURRENCY) if Role.EDUCATION in roles else concurrency


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
