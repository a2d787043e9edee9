"""Administrators who send a change of kudos again, as they did not hear the answer, move nothing twice."""

from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde.kudos import service as ledger
from horde.users.rules import Role
from tests.support import Account, Horde, assert_books_balance, assert_refused, in_threads, scalar, unchanged


@pytest.fixture
def admin(horde: Horde) -> Account:
    return horde.account(Role.ADMIN, Role.MODERATOR, username="Admin")


@pytest.fixture
def user(horde: Horde) -> Account:
    return horde.account(amount=100, username="User")


def put(horde: Horde, admin: Account, user: Account, once: str | None, **fields: Any) -> TestResponse:
    headers = {} if once is None else {"Idempotency-Key": once}
    return horde.call("PUT", f"/users/{user.id}", admin, headers, json=fields)


def changed(horde: Horde, admin: Account, user: Account, once: str | None, **fields: Any) -> dict[str, Any]:
    """What an accepted change answers."""
    response = put(horde, admin, user, once, **fields)
    assert response.status_code == 200, response.json
    return dict(response.json)


@pytest.mark.parametrize(
    "fields",
    [
        {"kudos": 50},
        {"kudos": -50},
        {"kudos": 50.9},
        {"monthly_kudos": 500},
        {"monthly_kudos": -500},
        {"kudos": 50, "monthly_kudos": 500},
        {"kudos": -50, "monthly_kudos": -500, "concurrency": 40},
    ],
)
def test_nothing_moves_twice(horde: Horde, admin: Account, user: Account, fields: dict[str, Any]) -> None:
    changed(horde, admin, user, None, monthly_kudos=2000)
    first = changed(horde, admin, user, "once", **fields)
    with unchanged(horde.platform):
        for _ in range(3):
            assert changed(horde, admin, user, "once", **fields) == first
    for once in ("another time", None, None):
        assert changed(horde, admin, user, once, **fields) != first
    ledger.fold_all(horde.platform)
    assert_books_balance(horde.platform)


def test_the_answer_says_what_is_stored_by_now(horde: Horde, admin: Account, user: Account) -> None:
    assert changed(horde, admin, user, "once", kudos=5, monthly_kudos=3) == {
        "new_kudos": 108,
        "monthly_kudos": 3,
    }
    changed(horde, admin, user, None, kudos=10, monthly_kudos=20)
    with unchanged(horde.platform):
        again = changed(horde, admin, user, "once", kudos=5, monthly_kudos=3)
    assert again == {"new_kudos": 138, "monthly_kudos": 23}


@pytest.mark.parametrize("first", [{"kudos": 50}, {"monthly_kudos": 50}, {"monthly_kudos": -50}])
@pytest.mark.parametrize(
    "second",
    [
        {"kudos": 51},
        {"kudos": 0},
        {"monthly_kudos": 51},
        {"kudos": 50, "monthly_kudos": 50},
        {"kudos": 51, "contact": "me@example.com"},
    ],
)
def test_a_key_stands_for_one_change(
    horde: Horde, admin: Account, user: Account, first: dict[str, int], second: dict[str, Any]
) -> None:
    changed(horde, admin, user, "once", **first)
    with unchanged(horde.platform):
        assert_refused(put(horde, admin, user, "once", **second), 400, "IdempotencyKeyConflict", "key")


def test_a_key_stands_for_one_account(horde: Horde, admin: Account, user: Account) -> None:
    other = horde.account(username="Other")
    changed(horde, admin, user, "once", kudos=50)
    with unchanged(horde.platform):
        assert_refused(put(horde, admin, other, "once", kudos=50), 400, "IdempotencyKeyConflict")


def test_everybody_has_keys_of_their_own(horde: Horde, admin: Account, user: Account) -> None:
    second = horde.account(Role.ADMIN)
    changed(horde, admin, user, "once", kudos=50)
    assert changed(horde, second, user, "once", kudos=50) == {"new_kudos": 200}
    award = {"username": str(user.id), "amount": 50}
    response = horde.call("POST", "/kudos/award", admin, {"Idempotency-Key": "once"}, json=award)
    assert response.json == {"awarded": 50}


def test_other_fields_are_set_every_time(horde: Horde, admin: Account, user: Account) -> None:
    changed(horde, admin, user, "once", kudos=50, concurrency=40)
    changed(horde, admin, user, None, concurrency=60)
    again = changed(horde, admin, user, "once", kudos=50, concurrency=40)
    assert again == {"new_kudos": 150, "concurrency": 40}
    for value in ("first@example.com", "second@example.com"):
        assert changed(horde, admin, user, "no kudos", contact=value) == {"contact": value}


def test_what_was_refused_has_not_happened(horde: Horde, admin: Account, user: Account) -> None:
    moderator = horde.account(Role.MODERATOR)
    with unchanged(horde.platform):
        assert_refused(put(horde, moderator, user, "once", kudos=50), 403, "NotAdmin")
        assert_refused(
            put(horde, admin, user, "once", kudos=50, username="holy shit"), 400, "ProfaneUserName"
        )
    assert changed(horde, admin, user, "once", kudos=50) == {"new_kudos": 150}


@pytest.mark.parametrize("once", ["x" * 8000, "", "ünïcode ✓".encode().decode("latin-1"), "a b\tc"])
def test_any_text_will_do(horde: Horde, admin: Account, user: Account, once: str) -> None:
    changed(horde, admin, user, once, kudos=50)
    answer = changed(horde, admin, user, once, kudos=50)
    assert answer == {"new_kudos": 150 if once else 200}


def test_several_at_once(horde: Horde, admin: Account, user: Account) -> None:
    other = horde.account(amount=100)
    answers = in_threads(
        8,
        lambda number: (
            put(horde, admin, (user, other)[number % 2], "once", kudos=50, monthly_kudos=7).status_code
        ),
    )
    assert sorted(answers) == [200] * 4 + [400] * 4
    assert horde.kudos(user.balance) + horde.kudos(other.balance) == 257
    assert scalar(horde.platform, "SELECT sum(monthly_kudos) FROM users") == 7
    ledger.fold_all(horde.platform)
    assert_books_balance(horde.platform)


def test_the_books_say_who_took_a_monthly_grant_away(horde: Horde, admin: Account, user: Account) -> None:
    changed(horde, admin, user, None, monthly_kudos=500)
    before = horde.kudos(user.balance)
    changed(horde, admin, user, None, monthly_kudos=-200)
    assert horde.kudos(user.balance) == before
    query = "SELECT detail FROM ledger_events WHERE kind = 'monthly' ORDER BY created DESC LIMIT 1"
    assert scalar(horde.platform, query) == {
        "by": admin.id,
        "to": user.id,
        "kudos": 0,
        "monthly_kudos": -200,
    }


def test_it_is_published(horde: Horde) -> None:
    operation = horde.client.get("/api/swagger.json").json["paths"]["/v2/users/{user_id}"]["put"]
    header = next(each for each in operation["parameters"] if each["name"] == "Idempotency-Key")
    assert (header["in"], header.get("required", False)) == ("header", False)
