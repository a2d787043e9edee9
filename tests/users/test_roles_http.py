"""Roles: what granting and taking them away brings along, and who sees who did it."""

from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced, kudos
from horde.users import passkeys, trust
from horde.users import service as users
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    in_threads,
    scalar,
    unchanged,
)

ROLES = ["trusted", "flagged", "customizer", "vpn", "service", "education", "special"]


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def admin(horde: Horde) -> Account:
    return horde.account(Role.ADMIN, username="Admin")


@pytest.fixture
def user(horde: Horde) -> Account:
    return horde.account(username="User")


def put(horde: Horde, key: Account, user: Account, **fields: Any) -> dict[str, Any]:
    """What an accepted change of `user` answers."""
    response = horde.call("PUT", f"/users/{user.id}", key, json=fields)
    assert response.status_code == 200, response.json
    return dict(response.json)


def shown(horde: Horde, user: Account, key: Account) -> dict[str, Any]:
    return dict(horde.call("GET", f"/users/{user.id}", key).json)


def noted(horde: Horde, user: Account, key: Account, query: str = "") -> list[tuple[Any, ...]]:
    """Role, from, to and who of each change, the latest first."""
    response = horde.call("GET", f"/users/{user.id}/role_changes{query}", key)
    assert response.status_code == 200, response.json
    return [(each["role"], each["from"], each["to"], each["changed_by"]) for each in response.json]


class TestStored:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.dictionaries(st.sampled_from(ROLES), st.booleans(), min_size=1), max_size=4))
    def test_what_is_answered_is_what_is_stored(
        self, horde: Horde, moderator: Account, calls: list[dict[str, bool]]
    ) -> None:
        user = horde.account()
        held: dict[str, bool] = dict.fromkeys(ROLES, False)
        for fields in calls:
            answer = put(horde, moderator, user, **fields)
            held |= fields
            assert {name: answer[name] for name in fields} == fields
            assert {name: shown(horde, user, moderator)[name] for name in ROLES} == held
        assert shown(horde, user, moderator)["concurrency"] == (200 if held["education"] else 30)

    def test_moderators_are_trusted(self, horde: Horde, admin: Account, user: Account) -> None:
        assert put(horde, admin, user, moderator=True) == {"moderator": True}
        assert shown(horde, user, admin)["trusted"] is True
        assert put(horde, admin, user, moderator=False) == {"moderator": False}
        assert shown(horde, user, admin)["trusted"] is True

    def test_in_the_order_of_the_fields(self, horde: Horde, user: Account) -> None:
        both = horde.account(Role.ADMIN, Role.MODERATOR)
        answer = put(horde, both, user, trusted=False, moderator=True)
        assert answer == {"moderator": True, "trusted": False}
        assert shown(horde, user, both)["trusted"] is False

    def test_they_count_at_once(self, horde: Horde, admin: Account, user: Account) -> None:
        path = f"/users/{horde.account().id}"
        fields = {"concurrency": 5}
        assert_refused(horde.call("PUT", path, user, json=fields), 403, "NotModerator")
        put(horde, admin, user, moderator=True)
        assert horde.call("PUT", path, user, json=fields).status_code == 200
        put(horde, admin, user, moderator=False)
        assert_refused(horde.call("PUT", path, user, json=fields), 403, "NotModerator")


class TestTrust:
    def test_it_pays_what_was_held_back_and_resumes_workers(
        self, horde: Horde, moderator: Account, user: Account
    ) -> None:
        horde.pop(user)
        change(horde.platform, "UPDATE workers SET paused = true")
        assert horde.call("GET", "/workers/name/worker", moderator).json["paused"] is True
        with horde.platform.engine.begin() as db:
            ledger.post(db, uuid4(), "test", balanced([Entry(user.escrow, kudos("33.33"))]))
        ledger.fold_all(horde.platform)
        assert put(horde, moderator, user, trusted=True) == {"trusted": True}
        assert not scalar(horde.platform, "SELECT bool_or(paused) FROM workers")
        assert horde.call("GET", "/workers/name/worker", moderator).json["paused"] is False
        assert (horde.kudos(user.escrow), horde.kudos(user.balance)) == (0, kudos("33.33"))
        assert trust.review(horde.platform) == 0
        ledger.fold_all(horde.platform)
        assert shown(horde, user, moderator)["kudos_details"]["accumulated"] == 33.33
        assert_books_balance(horde.platform)

    def test_pauses_of_trusted_accounts_last(self, horde: Horde, moderator: Account, user: Account) -> None:
        horde.pop(user)
        change(horde.platform, "UPDATE workers SET paused = true")
        put(horde, moderator, user, vpn=True, education=True)
        assert scalar(horde.platform, "SELECT paused FROM workers")

    def test_refused_it_resumes_nothing(self, horde: Horde, user: Account) -> None:
        horde.pop(user)
        change(horde.platform, "UPDATE workers SET paused = true")
        with unchanged(horde.platform):
            response = horde.call("PUT", f"/users/{user.id}", user, json={"trusted": True})
            assert_refused(response, 403, "NotModerator")


class TestEducation:
    def test_what_there_was_before_comes_back(self, horde: Horde, moderator: Account, user: Account) -> None:
        put(horde, moderator, user, concurrency=45)
        assert put(horde, moderator, user, education=True) == {"education": True, "concurrency": 200}
        assert put(horde, moderator, user, education=True) == {"education": True}
        assert put(horde, moderator, user, education=False) == {"education": False, "concurrency": 45}
        assert put(horde, moderator, user, education=False) == {"education": False}
        assert shown(horde, user, moderator)["concurrency"] == 45

    def test_whoever_had_more_keeps_it(self, horde: Horde, moderator: Account, user: Account) -> None:
        put(horde, moderator, user, concurrency=300)
        assert put(horde, moderator, user, education=True) == {"education": True}
        assert put(horde, moderator, user, education=False) == {"education": False}
        assert shown(horde, user, moderator)["concurrency"] == 300

    def test_a_number_in_the_same_call_counts(self, horde: Horde, moderator: Account, user: Account) -> None:
        answer = put(horde, moderator, user, education=True, concurrency=120)
        assert answer == {"education": True, "concurrency": 120}
        assert put(horde, moderator, user, education=False) == {"education": False, "concurrency": 30}

    def test_granted_by_other_ways(self, horde: Horde, moderator: Account, user: Account) -> None:
        users.set_role(horde.platform, user.id, Role.EDUCATION, True)
        assert shown(horde, user, moderator)["concurrency"] == 200
        put(horde, moderator, user, education=False)
        assert shown(horde, user, moderator)["concurrency"] == 30
        school = horde.account(Role.EDUCATION)
        assert shown(horde, school, moderator)["concurrency"] == 200
        users.set_role(horde.platform, school.id, Role.EDUCATION, False)
        assert shown(horde, school, moderator)["concurrency"] == 30

    def test_what_was_not_noted_stays(self, horde: Horde, moderator: Account, user: Account) -> None:
        put(horde, moderator, user, education=True)
        change(horde.platform, "UPDATE users SET concurrency_before_education = NULL, concurrency = 210")
        put(horde, moderator, user, education=False)
        assert shown(horde, user, moderator)["concurrency"] == 210


class TestAudit:
    def test_who_when_from_and_to(
        self, horde: Horde, admin: Account, moderator: Account, user: Account
    ) -> None:
        put(horde, moderator, user, vpn=True, flagged=False)
        put(horde, moderator, user, vpn=True)
        put(horde, admin, user, moderator=True)
        users.set_role(horde.platform, user.id, Role.SPECIAL, True)
        put(horde, moderator, user, vpn=False, trusted=True)
        horde.call("DELETE", f"/users/{horde.account().id}", moderator)
        assert noted(horde, user, moderator) == [
            ("vpn", True, False, moderator.alias),
            ("special", False, True, None),
            ("trusted", False, True, admin.alias),
            ("moderator", False, True, admin.alias),
            ("vpn", False, True, moderator.alias),
        ]
        first = horde.call("GET", f"/users/{user.id}/role_changes", moderator).json[0]
        assert first["created"].endswith("-0000")
        assert parsedate_to_datetime(first["created"])

    def test_deletion_and_undoing_it(self, horde: Horde, moderator: Account, user: Account) -> None:
        horde.call("DELETE", f"/users/{user.id}", user)
        put(horde, moderator, user, undelete=True)
        assert noted(horde, user, moderator) == [
            ("deleted", True, False, moderator.alias),
            ("deleted", False, True, user.alias),
        ]

    def test_those_an_account_began_with(self, horde: Horde, moderator: Account) -> None:
        assert {each[0] for each in noted(horde, moderator, moderator)} == {"moderator", "trusted"}

    def test_what_is_refused_is_not_noted(self, horde: Horde, moderator: Account, user: Account) -> None:
        horde.call("PUT", f"/users/{user.id}", moderator, json={"vpn": True, "contact": "holy shit"})
        assert noted(horde, user, moderator) == []

    def test_pages(self, horde: Horde, moderator: Account, user: Account) -> None:
        for number in range(30):
            users.set_role(horde.platform, user.id, Role.VPN, number % 2 == 0)
            users.set_role(horde.platform, user.id, Role.SPECIAL, number % 2 == 0)
        assert len(noted(horde, user, moderator)) == 50
        assert len(noted(horde, user, moderator, "?page=2")) == 10
        assert noted(horde, user, moderator, "?page=3") == []
        assert horde.call("GET", f"/users/{user.id}/role_changes?page=0", moderator).status_code == 400

    def test_for_moderators_only(self, horde: Horde, admin: Account, user: Account) -> None:
        path = f"/users/{user.id}/role_changes"
        for key in (user, admin, ANONYMOUS_KEY, horde.account(Role.TRUSTED)):
            assert_refused(horde.call("GET", path, key), 403, "NotModerator")
        assert_refused(horde.call("GET", path, "nobody's"), 401, "InvalidAPIKey")
        assert "apikey" in horde.call("GET", path).json["errors"]

    def test_no_such_account(self, horde: Horde, moderator: Account) -> None:
        for number in ("x", "999999"):
            response = horde.call("GET", f"/users/{number}/role_changes", moderator)
            assert_refused(response, 404, "UserNotFound")


class TestPasskeysEnd:
    @pytest.mark.parametrize("fields", [{"service": False}, {"flagged": True}])
    def test_with_the_role(
        self, horde: Horde, moderator: Account, user: Account, fields: dict[str, bool]
    ) -> None:
        platform = horde.platform
        put(horde, moderator, user, service=True)
        passkey = put(horde, moderator, user, generate_proxy_passkey=True)["proxy_passkey"]
        assert passkeys.proxy_user(platform, passkey) == user.id
        put(horde, moderator, user, **fields)
        assert passkeys.proxy_user(platform, passkey) is None


def test_other_processes_are_told(horde: Horde, moderator: Account, user: Account) -> None:
    """They listen to what the channel says; here it is read in their place."""
    with horde.platform.cache.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("horde:invalidate")
        channel.get_message(timeout=1)
        put(horde, moderator, user, vpn=True)
        told = set()
        while (message := channel.get_message(timeout=1)) is not None:
            told.add(message["data"].decode())
    digest = users.key_hash(horde.platform.secret, user.key)
    assert told >= {f"user:{user.id}", f"key:{digest}", "users"}


def test_several_moderators_at_once(horde: Horde, moderator: Account, user: Account) -> None:
    """Whoever comes later sees what the first one did: nothing is noted twice, nothing is forgotten."""
    in_threads(6, lambda _: put(horde, moderator, user, education=True))
    assert noted(horde, user, moderator) == [("education", False, True, moderator.alias)]
    in_threads(6, lambda number: put(horde, moderator, user, education=False, vpn=number % 2 == 0))
    assert shown(horde, user, moderator)["concurrency"] == 30
