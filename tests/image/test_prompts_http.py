"""Prompts that the operator's filters stop, and the addresses that they come from."""

import pytest

from horde.moderation.timeouts import TIMEOUTS
from horde.users.rules import Role
from tests.support import Account, Horde, assert_refused, forget, scalar


@pytest.fixture
def moderator(horde: Horde) -> Account:
    moderator = horde.account(Role.MODERATOR)
    for expression, kind, replacement in (("forbidden fruit", 10, "apple"), ("garden", 20, "")):
        new = {"regex": expression, "filter_type": kind, "description": "test", "replacement": replacement}
        assert horde.call("PUT", "/filters", moderator, json=new).status_code == 200
    forget(horde.platform)
    return moderator


def prompt_of(horde: Horde, request: str) -> str:
    return str(scalar(horde.platform, "SELECT prompt FROM requests WHERE id = :id", id=request))


def test_an_innocent_prompt_stays_as_it_is(horde: Horde, moderator: Account) -> None:
    for prompt in ("a (red:1.2) fox ### blurry", "forbidden fruit", "a garden"):
        assert prompt_of(horde, horde.asked(prompt=prompt)) == prompt


def test_a_suspicious_prompt_is_rewritten(horde: Horde, moderator: Account) -> None:
    stored = prompt_of(horde, horde.asked(prompt="forbidden fruit in a garden ### blurry"))
    positive, _, negative = stored.partition("###")
    assert "apple" in positive
    assert "forbidden" not in positive
    assert "blurry" in negative


def test_without_replacement_it_is_refused_and_the_address_kept_out(horde: Horde, moderator: Account) -> None:
    body = {"prompt": "forbidden fruit in a garden", "replacement_filter": False}
    assert_refused(horde.ask(**body), 400, "CorruptPrompt", "prompt")
    forget(horde.platform)
    assert_refused(horde.ask(prompt="a fox"), 403, "TimeoutIP", "address", "seconds")
    worker = horde.account(Role.TRUSTED)
    assert_refused(horde.pop(worker), 403, "TimeoutIP")
    assert scalar(horde.platform, "SELECT count(*) FROM requests") == 0


def test_programs_that_do_not_say_what_they_are_cannot_check_then(horde: Horde, moderator: Account) -> None:
    request = horde.asked()
    assert_refused(
        horde.ask(prompt="forbidden fruit in a garden", replacement_filter=False), 400, "CorruptPrompt"
    )
    forget(horde.platform)
    check = f"/generate/check/{request}"
    assert_refused(horde.call("GET", check), 403, "Forbidden", "Client-Agent")
    named = horde.client.get(f"/api/v2{check}", headers={"Client-Agent": "My Tool:1:me"})
    assert named.status_code == 200


def test_moderators_are_refused_too_but_not_kept_out(horde: Horde, moderator: Account) -> None:
    body = {"prompt": "forbidden fruit in a garden", "replacement_filter": False}
    assert_refused(horde.ask(moderator, **body), 400, "CorruptPrompt")
    assert horde.platform.cache.zcard(TIMEOUTS) == 0


def test_educators_prompts_are_always_rewritten(horde: Horde, moderator: Account) -> None:
    teacher = horde.account(Role.EDUCATION, Role.TRUSTED, amount=1000)
    body = {"prompt": "forbidden fruit in a garden", "replacement_filter": False}
    assert "apple" in prompt_of(horde, horde.asked(teacher, **body))
