"""Rules of the kudos books. All amounts are kudos with two decimals."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from uuid import UUID

from horde.platform.errors import Forbidden

TREASURY = 1
"""Account from which kudos are minted (rewards that nobody paid for) and floors are made good."""
BURN = 2
"""Account that receives what is taken out of circulation (taxes, surcharges)."""

CENT = Decimal("0.01")
ZERO = Decimal("0.00")


def kudos(amount: Decimal | int | str) -> Decimal:
    """`amount` rounded half-even to two decimals, the precision of the books."""
    return Decimal(amount).quantize(CENT, rounding=ROUND_HALF_EVEN)


class AccountClass(StrEnum):
    """How an account came to be; it decides the floor."""

    ANONYMOUS = "anonymous"
    PSEUDONYMOUS = "pseudonymous"
    REGISTERED = "registered"


FLOORS = {
    AccountClass.ANONYMOUS: Decimal(-50),
    AccountClass.PSEUDONYMOUS: Decimal(14),
    AccountClass.REGISTERED: Decimal(25),
}


def account_class(external_id: str) -> AccountClass:
    """The class of the account that `external_id` vouches for: `anon`, a UUID, or a login provider's id."""
    if external_id == "anon":
        return AccountClass.ANONYMOUS
    try:
        UUID(external_id)
    except ValueError:
        return AccountClass.REGISTERED
    return AccountClass.PSEUDONYMOUS


@dataclass(frozen=True, slots=True)
class Entry:
    """A movement on one account; `action` is the key of `kudos_details` that it counts under."""

    account_id: int
    amount: Decimal
    action: str | None = None


class UnbalancedError(ValueError):
    """The entries of an event do not sum to zero: a programming error, never a user's."""


def check_balanced(entries: Sequence[Entry]) -> None:
    """Raise `UnbalancedError` unless the entries sum to zero and none is finer than a hundredth."""
    if sum((e.amount for e in entries), ZERO) != 0 or any(e.amount != kudos(e.amount) for e in entries):
        raise UnbalancedError(repr(entries))


def balanced(entries: Sequence[Entry]) -> list[Entry]:
    """`entries` with the system account that makes them sum to zero.

    What is paid and not received is burnt; what is received and not paid comes from the treasury.
    Entries of zero are left out.
    """
    moving = [entry for entry in entries if entry.amount]
    surplus = -sum((entry.amount for entry in moving), ZERO)
    if surplus > 0:
        moving.append(Entry(BURN, surplus))
    elif surplus < 0:
        moving.append(Entry(TREASURY, surplus))
    return moving


def reward_entries(
    balance_account: int, escrow_account: int, reward: Decimal, *, trusted: bool
) -> list[Entry]:
    """How the reward for a job reaches a worker's owner: half of it stays in escrow until trusted."""
    escrowed = ZERO if trusted else kudos(reward / 2)
    return [
        Entry(balance_account, reward - escrowed, "accumulated"),
        Entry(escrow_account, escrowed, None),
    ]


def floor_adjustment(balance: Decimal, floor: Decimal | None) -> Decimal:
    """Kudos that must be added so that `balance` does not end below `floor`; zero when it does not."""
    if floor is None or balance >= floor:
        return ZERO
    return floor - balance


UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class SharedKeyFacts:
    """A key with which others spend its owner's kudos, as of some moment.

    `UNLIMITED` stands for no limit in `kudos` and in the three limits of a single result.
    """

    id: UUID
    user_id: int
    """The owner, who pays."""
    name: str | None
    kudos: Decimal
    """What may still be spent."""
    expires: datetime | None
    max_image_pixels: int
    """Width times height."""
    max_image_steps: int
    max_text_tokens: int
    utilized: Decimal
    """What was spent so far."""
    style_only: bool = False
    """Whether it only pays for requests with a style that it is attached to."""

    @property
    def empty(self) -> bool:
        """Whether nothing may be spent any more."""
        return self.kudos == 0

    def covers(self, cost: Decimal) -> bool:
        """Whether a request that is expected to cost this much may be made with the key."""
        return self.kudos == UNLIMITED or cost <= self.kudos

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now


def check_usable(key: SharedKeyFacts, now: datetime) -> None:
    """Whether requests may be made with a shared key.

    Raises, with 403, `SharedKeyEmpty`, `SharedKeyExpired` or `SharedKeyAssignedStyles`.
    """
    if key.empty:
        raise Forbidden(
            "All kudos of this shared key are spent. Ask its owner to raise its limit, or use another key.",
            "SharedKeyEmpty",
        )
    if key.expired(now):
        raise Forbidden(
            "This shared key has expired. Ask its owner to prolong it, or use another key.",
            "SharedKeyExpired",
        )
    if key.style_only:
        raise Forbidden(
            "This shared key only pays for requests with its owner's styles. Name such a style, or use "
            "another key.",
            "SharedKeyAssignedStyles",
        )
