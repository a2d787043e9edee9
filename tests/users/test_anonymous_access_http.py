"""A horde that serves nobody without an account: the key that everybody knows is as unknown as any other."""

from collections.abc import Iterator
from typing import Any

import pytest

from horde.users import service as users
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    counted_statements,
    unchanged,
)

NOBODY = "no account has this key"
ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def closed(horde: Horde) -> Iterator[Horde]:
    """The horde, served by a process with anonymous access turned off."""
    with another_process(horde, anonymous_access=False) as process:
        yield process


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(amount=1000, username="Owner")


def with_keys(horde: Horde) -> list[tuple[str, str]]:
    """Method and path of every call that may be sent with an API key."""
    paths: dict[str, dict[str, Any]] = horde.client.get("/api/swagger.json").json["paths"]
    return [
        (method.upper(), path.removeprefix("/v2"))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method in ("get", "post", "put", "patch", "delete")
        and any(each["name"] == "apikey" for each in operation.get("parameters", ()))
    ]


def without_message(content: Any) -> Any:
    return {**content, "message": ""} if "rc" in content else content


def test_every_call_takes_it_for_an_unknown_key(closed: Horde, owner: Account) -> None:
    calls = with_keys(closed)
    assert len(calls) > 40
    for method, path in calls:
        filled = "/".join(
            (str(owner.id) if part == "{user_id}" else ID) if part.startswith("{") else part
            for part in path.split("/")
        )
        answers = [closed.call(method, filled, key, json={}) for key in (ANONYMOUS_KEY, NOBODY)]
        anonymous, unknown = [(each.status_code, without_message(each.json)) for each in answers]
        assert anonymous == unknown, (method, path)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/generate/async", {"prompt": "a lighthouse"}),
        ("POST", "/generate/async", {"prompt": "a lighthouse", "dry_run": True}),
        ("POST", "/generate/pop", {"name": "worker", "models": ["stable_diffusion"]}),
        ("GET", "/users/0", None),
        ("PUT", "/users/0", {"contact": "me@example.com"}),
        ("DELETE", "/users/0", None),
        ("PUT", "/sharedkeys", {}),
        ("POST", "/kudos/transfer", {"username": "1", "amount": 1}),
        ("POST", "/kudos/award", {"username": "1", "amount": 1}),
        ("GET", "/users/0/ledger", None),
        ("POST", "/teams", {"name": "Night Owls"}),
        ("POST", "/collections", {"name": "mine", "styles": [ID]}),
        ("GET", "/users/education", None),
    ],
)
def test_it_is_told_to_register(closed: Horde, method: str, path: str, body: dict[str, Any] | None) -> None:
    with unchanged(closed.platform):
        assert_refused(closed.call(method, path, ANONYMOUS_KEY, json=body), 401, "InvalidAPIKey", "register")


def test_find_user(closed: Horde, owner: Account) -> None:
    assert_refused(closed.call("GET", "/find_user", ANONYMOUS_KEY), 404, "UserNotFound")
    assert closed.call("GET", "/find_user", owner).status_code == 200


def test_nobody_is_told_to_send_it(horde: Horde, closed: Horde) -> None:
    for process, told in ((horde, True), (closed, False)):
        errors = process.call("POST", "/generate/async", json={"prompt": "a"}).json["errors"]
        assert (ANONYMOUS_KEY in errors["apikey"]) is told
        assert (ANONYMOUS_KEY in process.client.get("/").text) is told


def test_whoever_has_an_account_notices_nothing(closed: Horde, owner: Account) -> None:
    request = closed.asked(owner)
    worker = closed.account(Role.TRUSTED)
    closed.submitted(worker, closed.popped(worker)["id"])
    assert closed.status(request)["done"] is True
    assert closed.call("GET", "/users/0").json["username"] == "Anonymous#0"


class TestSharedKeys:
    @pytest.fixture
    def key(self, horde: Horde, owner: Account) -> str:
        return str(horde.call("PUT", "/sharedkeys", owner, json={}).json["id"])

    def test_they_work(self, closed: Horde, key: str) -> None:
        closed.asked(key)
        assert closed.call("GET", "/find_user", key).status_code == 200

    def test_an_empty_one_makes_nobody_anonymous(self, horde: Horde, closed: Horde, key: str) -> None:
        change(closed.platform, "UPDATE shared_keys SET kudos = 0")
        with unchanged(closed.platform):
            assert_refused(closed.ask(key, allow_downgrade=True), 403, "SharedKeyEmpty")
        assert horde.ask(key, allow_downgrade=True).status_code == 202


def test_looking_it_up_costs_nothing(horde: Horde, closed: Horde) -> None:
    users.authenticate(horde.platform, ANONYMOUS_KEY)
    with counted_statements() as sent:
        assert users.authenticate(horde.platform, ANONYMOUS_KEY).anonymous
        closed.call("GET", "/users/0", ANONYMOUS_KEY)
    assert sent == []
