"""Accounts as anybody, their owners and moderators see them, and the list of all."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from sqlalchemy import text

from horde.generation import sweep
from horde.users import service as users
from horde.users.rules import ANONYMOUS_KEY, Role
from horde.users.schemas import UserDetails
from tests.support import Account, Horde, another_process, assert_refused, change, forget, scalar

PUBLIC = {
    "username", "id", "kudos", "kudos_details", "usage", "contributions", "records", "concurrency",
    "worker_invited", "moderator", "trusted", "flagged", "service", "education", "customizer", "deleted",
    "pseudonymous", "worker_count", "account_age", "styles",
}  # fmt: skip
OWNER = PUBLIC | {"worker_ids", "sharedkey_ids", "contact", "vpn", "special", "active_generations"}
MODERATOR = OWNER | {"evaluating_kudos", "monthly_kudos", "suspicious", "admin_comment"}
NOBODY = "no account has this key"


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Somebody with something in every field."""
    owner = horde.account(Role.VPN, username="Owner", amount=1000)
    horde.pop(owner)
    horde.call("PUT", "/sharedkeys", owner, json={})
    horde.asked(owner)
    change(
        horde.platform,
        "UPDATE users SET contact = 'owner@example.com', admin_comment = 'a note', monthly_kudos = 7,"
        " monthly_kudos_last_received = '2026-11-23 16:27:58+00' WHERE id = :id",
        id=owner.id,
    )
    return owner


def get(horde: Horde, user: Account | int | str, key: Account | str | None = None) -> dict[str, Any]:
    """GET users/{id} of an account that exists."""
    number = user.id if isinstance(user, Account) else user
    response = horde.call("GET", f"/users/{number}", key)
    assert response.status_code == 200, response.json
    return dict(response.json)


class TestPrivileges:
    def test_anybody(self, horde: Horde, owner: Account) -> None:
        stranger = horde.account(Role.TRUSTED, Role.ADMIN)
        for key in (None, ANONYMOUS_KEY, stranger):
            assert set(get(horde, owner, key)) == PUBLIC

    def test_the_owner(self, horde: Horde, owner: Account) -> None:
        shown = get(horde, owner, owner)
        assert set(shown) == OWNER
        assert shown == horde.call("GET", "/find_user", owner).json
        assert shown["contact"] == "owner@example.com"
        assert (shown["vpn"], shown["special"]) == (True, False)
        assert len(shown["worker_ids"]) == len(shown["sharedkey_ids"]) == shown["worker_count"] == 1
        assert len(shown["active_generations"]["image"]) == 1
        assert set(shown["active_generations"]) == {"image"}

    def test_moderators(self, horde: Horde, owner: Account, moderator: Account) -> None:
        shown = get(horde, owner, moderator)
        assert set(shown) == MODERATOR
        assert shown["admin_comment"] == "a note"
        assert (shown["suspicious"], shown["evaluating_kudos"]) == (0, 0)
        assert shown["monthly_kudos"]["amount"] == 7
        moment = parsedate_to_datetime(shown["monthly_kudos"]["last_received"])
        assert moment.replace(tzinfo=UTC) == datetime(2026, 11, 23, 16, 27, 58, tzinfo=UTC)

    def test_moderators_get_monthly_kudos(self, horde: Horde, moderator: Account) -> None:
        shown = get(horde, moderator, moderator)["monthly_kudos"]
        assert shown["amount"] > 0
        assert "last_received" not in shown

    def test_what_a_moderators_own_key_shows_in_find_user(self, horde: Horde, moderator: Account) -> None:
        assert set(horde.call("GET", "/find_user", moderator).json) < OWNER

    def test_owners_may_show_their_workers(self, horde: Horde, owner: Account) -> None:
        horde.call("PUT", f"/users/{owner.id}", owner, json={"public_workers": True})
        assert set(get(horde, owner)) == PUBLIC | {"worker_ids"}

    def test_a_fresh_account(self, horde: Horde) -> None:
        fresh = horde.account()
        shown = get(horde, fresh, fresh)
        assert set(shown) == OWNER - {"contact", "active_generations"}
        assert shown["usage"] == {"megapixelsteps": None, "requests": None}
        assert shown["contributions"] == {"megapixelsteps": None, "fulfillments": None}
        assert set(shown["kudos_details"].values()) == {0}
        assert len(shown["kudos_details"]) == 8
        assert {amount for record in shown["records"].values() for amount in record.values()} == {0}
        assert (shown["pseudonymous"], shown["concurrency"]) == (True, 30)
        assert 0 <= shown["account_age"] < 60
        assert get(horde, horde.account(registered=True))["pseudonymous"] is False

    def test_the_anonymous_account(self, horde: Horde, moderator: Account) -> None:
        horde.asked(ANONYMOUS_KEY)
        for key in (None, ANONYMOUS_KEY, moderator):
            assert "active_generations" not in get(horde, 0, key)
        assert set(get(horde, 0, ANONYMOUS_KEY)) == PUBLIC | {"worker_ids"}

    def test_alchemy_under_way_is_shown(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE requests SET kind = 'interrogation'")
        assert set(get(horde, owner, owner)["active_generations"]) == {"alchemy"}


class TestRefused:
    @pytest.mark.parametrize("number", ["999999", "-1", "x", "1.0", "²", "9" * 18, "9" * 40, "0x1", "%20"])
    @pytest.mark.parametrize("key", [None, ANONYMOUS_KEY])
    def test_no_such_account(self, horde: Horde, number: str, key: str | None) -> None:
        response = horde.call("GET", f"/users/{number}", key)
        assert_refused(response, 404, "UserNotFound")
        assert "did you mean" not in response.json["message"].lower()

    def test_an_unknown_key(self, horde: Horde, owner: Account) -> None:
        assert_refused(horde.call("GET", f"/users/{owner.id}", NOBODY), 401, "InvalidAPIKey")
        assert_refused(horde.call("GET", "/find_user", NOBODY), 404, "UserNotFound")
        assert_refused(horde.call("GET", "/find_user"), 401, "InvalidAPIKey")

    def test_success_never_looks_like_a_failure(self, horde: Horde, owner: Account) -> None:
        assert "message" not in horde.call("GET", "/find_user", owner).json


class TestFresh:
    """No view is kept, so that none can be out of date."""

    def test_roles_changed_elsewhere(self, horde: Horde, owner: Account) -> None:
        assert get(horde, owner)["trusted"] is False
        users.set_role(horde.platform, owner.id, Role.TRUSTED, True)
        assert get(horde, owner)["trusted"] is True

    def test_deletion(self, horde: Horde, owner: Account) -> None:
        horde.call("DELETE", f"/users/{owner.id}", owner)
        assert get(horde, owner)["deleted"] is True
        assert get(horde, owner, owner)["deleted"] is True


class TestList:
    def listed(self, horde: Horde, query: str = "") -> list[dict[str, Any]]:
        response = horde.call("GET", f"/users{query}")
        assert response.status_code == 200, response.json
        return list(response.json)

    def test_every_field_is_there(self, horde: Horde, owner: Account) -> None:
        shown = {each["id"]: each for each in self.listed(horde)}[owner.id]
        assert set(shown) == set(UserDetails.model_fields)
        hidden = set(UserDetails.model_fields) - PUBLIC
        assert {name: shown[name] for name in hidden} == dict.fromkeys(hidden) | {
            "active_generations": {},
            "monthly_kudos": {},
        }
        visible = get(horde, owner)
        assert {name: shown[name] for name in PUBLIC - {"account_age"}} == {
            name: visible[name] for name in PUBLIC - {"account_age"}
        }

    def test_a_key_shows_nothing_more(self, horde: Horde, owner: Account, moderator: Account) -> None:
        for key in (None, owner, moderator, NOBODY):
            assert horde.call("GET", "/users", key).json == self.listed(horde)

    def test_the_richest_or_the_oldest_first(self, horde: Horde) -> None:
        made = [horde.account(amount=100 + number * 7 % 30) for number in range(30)]
        forget(horde.platform)
        richest = self.listed(horde) + self.listed(horde, "?page=2")
        balances = [each["kudos"] for each in richest]
        assert balances == sorted(balances, reverse=True)
        assert self.listed(horde, "?sort=nonsense") == self.listed(horde, "?sort=kudos") == richest[:25]
        oldest = self.listed(horde, "?sort=age") + self.listed(horde, "?sort=age&page=2")
        assert [each["id"] for each in oldest] == [0, *(each.id for each in made)]
        assert {each["id"] for each in oldest} == {each["id"] for each in richest}

    def test_pages(self, horde: Horde) -> None:
        assert len(self.listed(horde)) == 1
        for page in (0, -1, -(2**40)):
            assert self.listed(horde, f"?page={page}") == self.listed(horde)
        for page in (2, 10_000, 10_001, 2**62):
            assert self.listed(horde, f"?page={page}") == []
        for page in ("x", "1.5", ""):
            response = horde.call("GET", f"/users?page={page}")
            assert response.status_code == 400
            assert "page" in response.json["errors"]

    def test_deleted_accounts_are_left_out_at_once(self, horde: Horde, owner: Account) -> None:
        assert owner.id in {each["id"] for each in self.listed(horde)}
        horde.call("DELETE", f"/users/{owner.id}", owner)
        assert owner.id not in {each["id"] for each in self.listed(horde)}
        horde.call("PUT", f"/users/{owner.id}", owner, json={"undelete": True})
        assert owner.id in {each["id"] for each in self.listed(horde)}

    def test_masks(self, horde: Horde) -> None:
        response = horde.call("GET", "/users", headers={"X-Fields": "id,username"})
        assert response.json == [{"id": 0, "username": "Anonymous#0"}]

    def test_pages_are_kept_for_some_seconds(self, horde: Horde, owner: Account) -> None:
        before = self.listed(horde)
        change_name = "UPDATE users SET username = 'changed behind our back' WHERE id = :id"
        with horde.platform.engine.begin() as db:
            db.execute(text(change_name), {"id": owner.id})
        assert self.listed(horde) == before
        with another_process(horde) as other:
            assert other.call("GET", "/users").json != before
        forget(horde.platform)
        assert self.listed(horde) != before


def test_last_activity_of_requesters_is_noted(horde: Horde, owner: Account) -> None:
    """Who has work done is active, and cannot be wiped."""
    worker = horde.account(Role.TRUSTED)
    job = horde.popped(worker, "another worker")["id"]
    change(horde.platform, "UPDATE users SET last_active = '2020-01-01'")
    horde.submitted(worker, job)
    sweep.fold_records(horde.platform)
    query = "SELECT array_agg(id ORDER BY id) FROM users WHERE last_active > now() - interval '1 minute'"
    assert scalar(horde.platform, query) == [owner.id, worker.id]
