"""Input that aims at others: at everybody's pops, at the cost of a search, at shared limits."""

import pytest

from horde.platform.http import ratelimit
from horde.users.rules import Role
from tests.support import Account, Horde, assert_refused, picture, scalar


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED)


@pytest.mark.parametrize("models", [["*"], ["stable_diffusion", "*"], [""]])
def test_no_model_name_gets_in_the_way_of_workers(horde: Horde, owner: Account, models: list[str]) -> None:
    horde.ask(models=models)
    plain = horde.asked()
    jobs = [horde.popped(owner)["id"]]
    while (answer := horde.pop(owner)).json["ids"]:
        jobs += answer.json["ids"]
    assert answer.status_code == 200
    assert horde.check(plain)["waiting"] == 0


def test_the_sign_for_any_model_is_no_model_name(horde: Horde) -> None:
    assert_refused(horde.ask(models=["*"]), 400, "BadRequest", "empty list")


def test_only_so_many_friends_count(horde: Horde, owner: Account) -> None:
    horde.asked(horde.account(amount=10_000), prompt="rich")
    friend = horde.account()
    horde.asked(friend, prompt="friend")
    strangers = [f"stranger#{number}" for number in range(1000, 1050)]
    late = horde.popped(owner, priority_usernames=[*strangers, friend.alias])
    assert late["payload"]["prompt"] == "rich"
    horde.asked(horde.account(amount=10_000), prompt="rich")
    early = horde.popped(owner, priority_usernames=[friend.alias, *strangers])
    assert early["payload"]["prompt"] == "friend"


def test_signed_urls_are_not_rate_limited(horde: Horde, owner: Account) -> None:
    horde.asked()
    url = horde.popped(owner)["r2_upload"]
    statuses = {horde.fetch("PUT", url, picture(8, 8)).status_code for _ in range(95)}
    assert statuses == {200}


def test_trusted_callers_addresses_get_the_relaxed_limits(horde: Horde, owner: Account) -> None:
    relaxed = "relaxed:127.0.0.1"
    horde.asked(horde.account(amount=100))
    assert not horde.platform.cache.exists(relaxed)
    horde.asked(owner)
    assert 0 < horde.platform.cache.ttl(relaxed) <= ratelimit.RELAXED_SECONDS
    assert scalar(horde.platform, "SELECT count(*) FROM requests") == 2
