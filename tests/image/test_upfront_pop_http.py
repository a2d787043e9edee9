"""Workers that serve only who can pay already."""

from decimal import Decimal

import pytest

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import SDXL, Account, Horde, change, forget, scalar

FLOOR = 14
"""Of pseudonymous accounts."""


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(username="Owner")


def refused(horde: Horde, owner: Account, **offer: object) -> dict[str, int]:
    return horde.skipped(owner, require_upfront_kudos=True, **offer)


def served(horde: Horde, owner: Account, **offer: object) -> bool:
    forget(horde.platform)
    return bool(horde.pop(owner, require_upfront_kudos=True, **offer).json["ids"])


def test_who_has_nothing_waits_for_others(horde: Horde, owner: Account) -> None:
    for key in (horde.account(), ANONYMOUS_KEY):
        horde.asked(key)
    assert refused(horde, owner) == {"kudos": 2}
    assert horde.popped(owner)["ids"]


def test_the_rich_are_served_past_the_poor(horde: Horde, owner: Account) -> None:
    horde.asked(horde.account(amount=15), prompt="poor")
    horde.asked(horde.account(amount=500), prompt="rich")
    forget(horde.platform)
    answer = horde.popped(owner, require_upfront_kudos=True)
    assert answer["payload"]["prompt"] == "rich"
    assert refused(horde, owner) == {"kudos": 1}


@pytest.mark.parametrize("models", [["stable_diffusion"], [SDXL, "stable_diffusion"], []])
def test_one_image_must_be_affordable_above_the_floor(
    horde: Horde, owner: Account, models: list[str]
) -> None:
    payer = horde.account(amount=1000)
    quote = horde.ask(payer, models=models, params={"n": 3}, dry_run=True).json["kudos"]
    horde.asked(payer, models=models, params={"n": 3})
    cost = Decimal(scalar(horde.platform, "SELECT options ->> 'kudos' FROM requests"))
    assert quote == round(1 + 3 * cost)
    owed = 1  # for having asked
    for missing in (Decimal("0.01"), Decimal(0)):
        balance = FLOOR + cost + owed - missing
        change(
            horde.platform,
            "UPDATE accounts SET balance = :balance WHERE id = :id",
            balance=balance,
            id=payer.balance,
        )
        assert served(horde, owner) == (not missing)


def test_whom_it_does_not_concern(horde: Horde) -> None:
    owner, friend, trusted = horde.account(), horde.account(), horde.account(Role.TRUSTED)
    for key, prompt in ((trusted, "trusted"), (friend, "friend"), (owner, "owner")):
        horde.asked(key, prompt=prompt)
    prompts = set()
    for _ in range(3):
        forget(horde.platform)
        answer = horde.popped(owner, require_upfront_kudos=True, priority_usernames=[friend.alias])
        prompts.add(answer["payload"]["prompt"])
    assert prompts == {"trusted", "friend", "owner"}


def test_what_is_reserved_is_paid(horde: Horde, owner: Account) -> None:
    payer = horde.account(amount=1000)
    horde.asked(payer, slow_workers=False)
    reserved = scalar(horde.platform, "SELECT remaining FROM reservations")
    change(
        horde.platform,
        "UPDATE accounts SET balance = :balance WHERE id = :id",
        balance=FLOOR + 1 + reserved,
        id=payer.balance,
    )
    horde.asked(payer)
    assert served(horde, owner)
    assert refused(horde, owner) == {"kudos": 1}


def test_words_and_kudos_are_both_counted(horde: Horde, owner: Account) -> None:
    horde.asked(prompt="ugly")
    horde.asked(prompt="fair")
    assert refused(horde, owner, blacklist=["ugly"]) == {"blacklist": 1, "kudos": 2}


def test_it_holds_for_the_present_pop_only(horde: Horde, owner: Account) -> None:
    horde.asked()
    assert refused(horde, owner) == {"kudos": 1}
    assert horde.popped(owner)["ids"]
