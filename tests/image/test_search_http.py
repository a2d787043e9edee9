"""Searching the queue: what hides nothing, what costs nothing, and what happens when too many search."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from horde.image.search import MOST_TRIES, searching
from horde.users.rules import Role
from tests.support import FLUX, MODEL, PAINTER, SDXL, Account, Horde, counted_statements


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="Owner")


class TestRequestsThatAcceptEveryModel:
    """Which model would do is found out when a worker takes one; flux does not do `hires_fix`."""

    def test_those_that_no_model_suits_hide_nothing(self, horde: Horde, owner: Account) -> None:
        rich = horde.account(amount=100_000)
        for number in range(2 * MOST_TRIES):
            horde.asked(rich, models=[], params={"hires_fix": True, "steps": 10 + number})
        horde.asked(models=[], prompt="suited")
        found = [horde.pop(owner, models=[FLUX]).json["payload"].get("prompt") for _ in range(3)]
        assert "suited" in found

    def test_what_was_learnt_of_one_holds_for_all_alike(self, horde: Horde, owner: Account) -> None:
        rich = horde.account(amount=100_000)
        for number in range(20):
            horde.asked(rich, models=[], params={"hires_fix": True}, prompt=f"number {number}")
        horde.asked(prompt="suited", models=[])
        horde.pop(owner, models=[FLUX])
        horde.asked(prompt="suited", models=[])
        with counted_statements() as sent:
            assert horde.popped(owner, models=[FLUX])["payload"]["prompt"] == "suited"
        assert len(sent) <= 4

    def test_they_are_counted_under_what_is_in_the_way(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[], params={"hires_fix": True})
        assert horde.skipped(owner, models=[FLUX]) == {"models": 1}
        assert horde.skipped(owner, models=[FLUX], nsfw=False) == {"models": 1, "nsfw": 1}
        old = {"models": [FLUX], "bridge_agent": "AI Horde Worker reGen:8:x"}
        horde.asked(models=[])
        assert horde.skipped(owner, "old", **old) == {"models": 1, "bridge_version": 1}
        assert horde.skipped(owner, "painter", models=[PAINTER]) == {"models": 2}

    def test_many_steps_are_judged_by_the_model(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[], params={"steps": 31})
        assert horde.skipped(owner, limit_max_steps=True) == {"step_count": 1}
        assert horde.check(horde.asked(models=[], params={"steps": 30}))["is_possible"]


def test_the_model_with_the_fewest_reasons_counts(horde: Horde, owner: Account) -> None:
    steps = {"models": [FLUX, MODEL], "params": {"steps": 31}}
    horde.asked(**steps)
    old = {"bridge_agent": "AI Horde Worker reGen:8:x", "limit_max_steps": True}
    assert horde.skipped(owner, models=[FLUX, MODEL], **old) == {"step_count": 1}
    assert horde.skipped(owner, models=[SDXL], **old) == {"models": 1, "step_count": 1}


def test_what_an_owner_has_switched_off_is_no_matter_of_software(horde: Horde, owner: Account) -> None:
    horde.asked(params={"loras": [{"name": "1"}]})
    old = {"bridge_agent": "AI Horde Worker:13:x"}
    assert horde.skipped(owner, allow_lora=False, **old) == {"lora": 1}
    assert horde.skipped(owner, allow_lora=True, **old) == {"bridge_version": 1}


def test_models_that_nobody_knows_match_nothing(horde: Horde, owner: Account) -> None:
    horde.asked(models=["unheard of"])
    assert horde.skipped(owner, models=["unheard of", MODEL]) == {"models": 1}


def test_software_without_uploads_hears_of_it(horde: Horde, owner: Account) -> None:
    horde.asked(r2=True)
    assert horde.skipped(owner, bridge_agent="HordeAutoWebBridge:2:x") == {"bridge_version": 1}


def test_a_pop_of_an_idle_worker_is_one_statement(horde: Horde, owner: Account) -> None:
    for _ in range(3):
        horde.pop(owner)
    with counted_statements() as sent:
        assert horde.pop(owner).json["ids"] == []
    assert len(sent) == 1
    horde.asked()
    assert horde.popped(owner)["ids"]


def test_when_too_many_search_the_others_wait_for_their_turn(horde: Horde, owner: Account) -> None:
    horde.pop(owner)
    horde.asked()
    with ThreadPoolExecutor(1) as pool:
        with ExitStack() as stack:
            turns = [
                stack.enter_context(searching(horde.platform))
                for _ in range(horde.platform.settings.database_pool_size // 2)
            ]
            assert all(turns)
            answer = pool.submit(horde.pop, owner)
            with pytest.raises(TimeoutError):
                answer.result(0.3)
        assert answer.result().json["ids"]
