"""Messages to workers: writing, reading and removing them, and finding them in pops."""

from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from horde.app import TASKS
from horde.users.rules import ANONYMOUS_KEY, Role
from horde.workers import messages
from tests.support import (
    Account,
    Horde,
    assert_refused,
    change,
    counted_statements,
    forget,
    scalar,
    unchanged,
)

NOBODY = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of the worker 'worker'."""
    owner = horde.account(Role.TRUSTED, username="Owner")
    assert horde.pop(owner).status_code == 200
    return owner


@pytest.fixture
def other(horde: Horde) -> Account:
    """Owner of the worker 'another'."""
    other = horde.account(username="Other")
    assert horde.pop(other, "another").status_code == 200
    return other


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


def worker_id(horde: Horde, name: str = "worker") -> str:
    return str(horde.call("GET", f"/workers/name/{name}").json["id"])


def post(horde: Horde, key: Account | str | None, **fields: Any) -> Any:
    return horde.call("POST", "/workers/messages", key, json={"message": "hello"} | fields)


def sent(horde: Horde, key: Account, message: str = "hello", **fields: Any) -> str:
    """The id of a new message."""
    response = post(horde, key, message=message, **fields)
    assert response.status_code == 200, response.json
    return str(response.json["id"])


def listed(horde: Horde, key: Account | str, query: str = "") -> list[str]:
    """The texts that somebody is shown."""
    response = horde.call("GET", f"/workers/messages{query}", key)
    assert response.status_code == 200, response.json
    return [each["message"] for each in response.json]


def popped(horde: Horde, key: Account, name: str = "worker") -> list[str]:
    return [each["message"] for each in horde.pop(key, name).json["messages"]]


def expire(horde: Horde, message_id: str) -> None:
    change(
        horde.platform,
        "UPDATE worker_messages SET expires = now() - interval '1 second' WHERE id = :id",
        id=message_id,
    )


class TestWriting:
    def test_moderators_write_to_all(self, horde: Horde, moderator: Account) -> None:
        text = " <b>verbatim</b> & \u00e9 "
        response = post(horde, moderator, message=text)
        assert response.status_code == 200
        found = response.json
        assert found.keys() == {"id", "message", "origin", "expiry", "user_id", "created"}
        assert found["message"] == text
        assert found["origin"] == "AI Horde Moderators"
        assert found["user_id"] == str(moderator.id)
        created, expiry = (parsedate_to_datetime(found[key]) for key in ("created", "expiry"))
        assert (expiry - created).total_seconds() == 12 * 3600
        assert horde.call("GET", f"/workers/messages/{found['id']}").json == found

    def test_moderators_choose_worker_origin_and_expiry(
        self, horde: Horde, owner: Account, moderator: Account
    ) -> None:
        target = worker_id(horde)
        found = post(horde, moderator, worker_id=target, origin="The crew", expiry=720).json
        assert (found["worker_id"], found["origin"]) == (target, "The crew")
        created, expiry = (parsedate_to_datetime(found[key]) for key in ("created", "expiry"))
        assert (expiry - created).total_seconds() == 720 * 3600

    def test_owners_write_to_their_own(self, horde: Horde, owner: Account) -> None:
        found = post(horde, owner, worker_id=worker_id(horde), origin="AI Horde Moderators").json
        assert found["origin"] == found["user_id"] == str(owner.id)

    def test_each_is_a_new_one(self, horde: Horde, moderator: Account) -> None:
        first, second = (post(horde, moderator, message=text).json for text in ("first", "second"))
        assert first["id"] != second["id"]
        assert listed(horde, moderator) == ["second", "first"]

    def test_others_may_not(self, horde: Horde, owner: Account, other: Account) -> None:
        with unchanged(horde.platform):
            assert_refused(
                post(horde, other, worker_id=worker_id(horde)), 403, "MessagesOnlyOwnWorkers", "own workers"
            )
            assert_refused(post(horde, other), 403, "MessagesOnlyOwnWorkers")

    def test_the_order_of_checks(self, horde: Horde, owner: Account, moderator: Account) -> None:
        with unchanged(horde.platform):
            missing = post(horde, None, worker_id=NOBODY)
            assert missing.status_code == 400
            assert missing.json["errors"].keys() == {"apikey"}
            assert_refused(post(horde, "no account has this", worker_id=NOBODY), 401, "InvalidAPIKey")
            assert_refused(post(horde, ANONYMOUS_KEY, worker_id=NOBODY), 403, "AnonForbidden")
            for key in (owner, moderator):
                assert_refused(post(horde, key, worker_id=NOBODY), 404, "WorkerNotFound")
                assert_refused(post(horde, key, worker_id="x" * 36), 404, "WorkerNotFound")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"message": ""}, "message"),
            ({"message": "x" * 10241}, "message"),
            ({"worker_id": "x" * 35}, "worker_id"),
            ({"worker_id": None}, "worker_id"),
            ({"origin": ""}, "origin"),
            ({"origin": "x" * 256}, "origin"),
            ({"expiry": 0}, "expiry"),
            ({"expiry": 721}, "expiry"),
        ],
    )
    def test_bodies_that_do_not_fit(
        self, horde: Horde, moderator: Account, fields: dict[str, Any], field: str
    ) -> None:
        response = post(horde, moderator, **fields)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}

    def test_owners_have_ten_for_a_worker(self, horde: Horde, owner: Account, moderator: Account) -> None:
        target = worker_id(horde)
        ids = [sent(horde, owner, worker_id=target) for _ in range(10)]
        assert_refused(post(horde, owner, worker_id=target), 403, "Forbidden", "delete one")
        sent(horde, moderator, worker_id=target)
        expire(horde, ids[0])
        sent(horde, owner, worker_id=target)
        assert_refused(post(horde, owner, worker_id=target), 403, "Forbidden")
        horde.call("DELETE", f"/workers/messages/{ids[1]}", owner)
        sent(horde, owner, worker_id=target)


@pytest.fixture
def correspondence(horde: Horde, owner: Account, other: Account, moderator: Account) -> None:
    """Messages of and to everybody."""
    first, second = worker_id(horde), worker_id(horde, "another")
    sent(horde, moderator, "to all")
    sent(horde, moderator, "to owner's", worker_id=first)
    sent(horde, moderator, "to other's", worker_id=second)
    sent(horde, owner, "of owner", worker_id=first)
    sent(horde, other, "of other", worker_id=second)


@pytest.mark.usefixtures("correspondence")
class TestListing:
    def test_owners_see_theirs_and_those_to_their_workers(
        self, horde: Horde, owner: Account, other: Account
    ) -> None:
        assert listed(horde, owner) == ["of owner", "to owner's", "to all"]
        assert listed(horde, other) == ["of other", "to other's", "to all"]
        assert listed(horde, owner, f"?user_id={owner.id}") == listed(horde, owner)

    def test_everybody_else_sees_those_to_all(self, horde: Horde) -> None:
        for key in (ANONYMOUS_KEY, horde.account(Role.TRUSTED)):
            assert listed(horde, key) == ["to all"]
        assert listed(horde, ANONYMOUS_KEY, "?user_id=0") == ["to all"]

    def test_moderators_see_all(self, horde: Horde, moderator: Account, owner: Account) -> None:
        assert len(listed(horde, moderator)) == 5
        assert listed(horde, moderator, f"?user_id={owner.id}") == ["of owner", "to all"]
        assert listed(horde, moderator, f"?user_id={moderator.id}") == ["to other's", "to owner's", "to all"]

    def test_of_one_worker(self, horde: Horde, moderator: Account, owner: Account) -> None:
        mine, foreign = worker_id(horde), worker_id(horde, "another")
        assert listed(horde, owner, f"?worker_id={mine}") == ["of owner", "to owner's"]
        assert listed(horde, owner, f"?worker_id={foreign}") == []
        assert listed(horde, moderator, f"?worker_id={foreign}") == ["of other", "to other's"]
        assert listed(horde, moderator, f"?worker_id={mine}&user_id={owner.id}") == ["of owner"]
        for unknown in (NOBODY, "nonsense"):
            assert listed(horde, moderator, f"?worker_id={unknown}") == []

    def test_only_moderators_see_those_of_others(self, horde: Horde, owner: Account, other: Account) -> None:
        for key in (owner, ANONYMOUS_KEY):
            path = f"/workers/messages?user_id={other.id}"
            assert_refused(horde.call("GET", path, key), 403, "Forbidden")

    def test_validity(self, horde: Horde, moderator: Account) -> None:
        expire(horde, horde.call("GET", "/workers/messages", moderator).json[0]["id"])
        assert len(listed(horde, moderator)) == len(listed(horde, moderator, "?validity=active")) == 4
        assert listed(horde, moderator, "?validity=expired") == ["of other"]
        assert len(listed(horde, moderator, "?validity=all")) == 5

    def test_pages_hold_fifty(self, horde: Horde, moderator: Account) -> None:
        change(horde.platform, "DELETE FROM worker_messages")
        for number in range(51):
            sent(horde, moderator, str(number))
        assert listed(horde, moderator) == [str(number) for number in range(50, 0, -1)]
        assert listed(horde, moderator, "?page=2") == ["0"]
        assert listed(horde, moderator, "?page=3") == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("validity=old", "validity"),
            ("page=0", "page"),
            ("page=-1", "page"),
            ("page=x", "page"),
            (f"page={10**12}", "page"),
            ("user_id=x", "user_id"),
            (f"user_id={10**18}", "user_id"),
        ],
    )
    def test_queries_that_do_not_fit(self, horde: Horde, moderator: Account, query: str, field: str) -> None:
        response = horde.call("GET", f"/workers/messages?{query}", moderator)
        assert (response.status_code, response.json["rc"]) == (400, "BadRequest")
        assert response.json["errors"].keys() == {field}

    def test_a_key_is_needed(self, horde: Horde) -> None:
        assert horde.call("GET", "/workers/messages").json["errors"].keys() == {"apikey"}
        assert_refused(horde.call("GET", "/workers/messages", "no account has this"), 401, "InvalidAPIKey")


class TestRemoving:
    def path(self, message_id: str) -> str:
        return f"/workers/messages/{message_id}"

    @pytest.mark.parametrize("who", ["author", "moderator"])
    def test_authors_and_moderators_remove(
        self, horde: Horde, owner: Account, moderator: Account, who: str
    ) -> None:
        path = self.path(sent(horde, owner, worker_id=worker_id(horde)))
        assert horde.call("GET", path).status_code == 200
        response = horde.call("DELETE", path, owner if who == "author" else moderator)
        assert (response.status_code, response.json) == (200, {"message": "OK"})
        assert_refused(horde.call("GET", path), 404, "WorkerMessageNotFound")
        assert_refused(horde.call("DELETE", path, owner), 404, "WorkerMessageNotFound")

    def test_others_may_not(self, horde: Horde, owner: Account, other: Account, moderator: Account) -> None:
        path = self.path(sent(horde, moderator, worker_id=worker_id(horde)))
        with unchanged(horde.platform):
            for key in (owner, other, ANONYMOUS_KEY):
                assert_refused(horde.call("DELETE", path, key), 403, "Forbidden")

    @pytest.mark.parametrize("message_id", [NOBODY, "nonsense", "x" * 300])
    def test_unknown_messages(self, horde: Horde, moderator: Account, message_id: str) -> None:
        path = self.path(message_id)
        assert_refused(horde.call("GET", path), 404, "WorkerMessageNotFound")
        assert_refused(horde.call("DELETE", path, moderator), 404, "WorkerMessageNotFound")
        assert_refused(horde.call("DELETE", path, "no account has this"), 401, "InvalidAPIKey")
        assert horde.call("DELETE", path).json["errors"].keys() == {"apikey"}


class TestForgetting:
    def test_a_week_after_they_expired(self, horde: Horde, moderator: Account) -> None:
        for text, since in (("old", "7 days"), ("recent", "6 days 23 hours"), ("live", "-1 hour")):
            change(
                horde.platform,
                "UPDATE worker_messages SET expires = now() - CAST(:since AS interval) WHERE id = :id",
                since=since,
                id=sent(horde, moderator, text),
            )
        assert messages.purge(horde.platform) == 1
        assert listed(horde, moderator, "?validity=all") == ["live", "recent"]
        assert messages.purge(horde.platform) == 0

    def test_it_is_done_by_itself(self) -> None:
        assert messages.purge in [task.run for task in TASKS]


class TestWorkers:
    def test_pops_hold_those_to_the_worker_and_to_all(
        self, horde: Horde, owner: Account, other: Account, moderator: Account
    ) -> None:
        assert popped(horde, owner) == []
        sent(horde, moderator, "to all")
        sent(horde, moderator, "to it", worker_id=worker_id(horde))
        assert popped(horde, owner) == ["to all", "to it"]
        assert popped(horde, other, "another") == ["to all"]

    def test_with_and_without_a_job(self, horde: Horde, owner: Account, moderator: Account) -> None:
        message = post(horde, moderator, worker_id=worker_id(horde)).json
        expected = [{key: message[key] for key in ("id", "message", "origin", "expiry")}]
        assert horde.pop(owner).json["messages"] == expected
        horde.asked()
        assert horde.popped(owner)["messages"] == expected

    def test_removed_and_expired_ones_are_gone(
        self, horde: Horde, owner: Account, moderator: Account
    ) -> None:
        ids = [sent(horde, moderator, str(number), worker_id=worker_id(horde)) for number in range(3)]
        assert popped(horde, owner) == ["0", "1", "2"]
        horde.call("DELETE", f"/workers/messages/{ids[0]}", moderator)
        assert popped(horde, owner) == ["1", "2"]
        expire(horde, ids[1])
        assert popped(horde, owner) == ["2"]

    def test_what_is_kept_expires_too(self, horde: Horde, owner: Account, moderator: Account) -> None:
        sent(horde, moderator)
        change(horde.platform, "UPDATE worker_messages SET expires = now() + interval '200 milliseconds'")
        assert popped(horde, owner) == ["hello"]
        scalar(horde.platform, "SELECT pg_sleep(0.3)")
        assert popped(horde, owner) == []

    def test_the_database_is_not_asked_at_each_pop(
        self, horde: Horde, owner: Account, moderator: Account
    ) -> None:
        sent(horde, moderator)
        sent(horde, moderator, worker_id=worker_id(horde))
        horde.pop(owner)
        with counted_statements() as statements:
            assert len(popped(horde, owner)) == 2
        assert not [each for each in statements if "worker_messages" in each]

    def test_it_is_asked_once_for_workers_without_messages(
        self, horde: Horde, owner: Account, other: Account, moderator: Account
    ) -> None:
        sent(horde, moderator, worker_id=worker_id(horde))
        forget(horde.platform)
        with counted_statements() as statements:
            assert popped(horde, other, "another") == []
        assert len([each for each in statements if "worker_messages" in each]) == 1

    def test_they_are_shown_with_the_worker(
        self, horde: Horde, owner: Account, other: Account, moderator: Account
    ) -> None:
        sent(horde, moderator, "to all")
        message = post(horde, moderator, message="to it", worker_id=worker_id(horde)).json
        path = f"/workers/{worker_id(horde)}"
        for key in (owner, moderator):
            assert horde.call("GET", path, key).json["messages"] == [message]
            found = {each["name"]: each for each in horde.call("GET", "/workers", key).json}
            assert found["worker"]["messages"] == [message]
        assert found["another"]["messages"] == []
        assert "messages" not in horde.call("GET", path, other).json
        assert "messages" not in horde.call("GET", path).json
        horde.call("DELETE", f"/workers/messages/{message['id']}", moderator)
        assert horde.call("GET", path, owner).json["messages"] == []
        assert horde.call("GET", "/workers?name=worker", owner).json[0]["messages"] == []
