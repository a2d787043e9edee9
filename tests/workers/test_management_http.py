"""Changing and removing workers."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from horde.users import suspicions
from horde.users.rules import ANONYMOUS_KEY, Reason, Role
from tests.support import (
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    scalar,
    unchanged,
    wait_for_a_blocked_statement,
)

NOBODY = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of the worker 'worker'."""
    owner = horde.account(Role.TRUSTED, username="Owner")
    assert horde.pop(owner).status_code == 200
    return owner


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def team(horde: Horde) -> str:
    """The id of the team 'Night Owls', which has nothing to do with the others."""
    founder = horde.account(Role.TRUSTED)
    return str(horde.call("POST", "/teams", founder, json={"name": "Night Owls"}).json["id"])


def worker_id(horde: Horde, name: str = "worker") -> str:
    return str(horde.call("GET", f"/workers/name/{name}").json["id"])


def shown(horde: Horde, key: Account | None = None) -> dict[str, Any]:
    found: dict[str, Any] = horde.call("GET", f"/workers/{worker_id(horde)}", key).json
    return found


def put(horde: Horde, key: Account | str | None, **fields: Any) -> Any:
    """The answer to changing the worker 'worker'."""
    return horde.call("PUT", f"/workers/{worker_id(horde)}", key, json=fields)


class TestChanges:
    @pytest.mark.parametrize("who", ["owner", "moderator"])
    def test_owners_and_moderators_change_everything_at_once(
        self, horde: Horde, owner: Account, moderator: Account, team: str, who: str
    ) -> None:
        found = worker_id(horde)
        fields = {"maintenance": True, "info": " In the attic ", "name": " Attic GPU ", "team": team}
        response = put(horde, owner if who == "owner" else moderator, **fields)
        assert response.status_code == 200
        assert response.json == {
            "maintenance": True,
            "info": "In the attic",
            "name": "Attic GPU",
            "team": "Night Owls",
        }
        worker = horde.call("GET", f"/workers/{found}").json
        assert worker["maintenance_mode"] is True
        assert (worker["info"], worker["name"]) == ("In the attic", "Attic GPU")
        assert worker["team"] == {"id": team, "name": "Night Owls"}

    def test_only_what_was_changed_is_answered(self, horde: Horde, owner: Account) -> None:
        assert put(horde, owner, maintenance=False).json == {"maintenance": False}
        assert put(horde, owner, info="here").json == {"info": "here"}
        assert put(horde, owner, team="").json == {"team": "None"}
        assert put(horde, owner, unheard_of=1, info="there").json == {"info": "there"}

    def test_an_info_is_removed(self, horde: Horde, owner: Account) -> None:
        put(horde, owner, info="here")
        assert put(horde, owner, info="").json == {"info": ""}
        assert "info" not in shown(horde)

    def test_a_team_is_left(self, horde: Horde, owner: Account, team: str) -> None:
        put(horde, owner, team=team)
        assert horde.call("GET", f"/teams/{team}").json["worker_count"] == 1
        put(horde, owner, team="")
        assert shown(horde)["team"] == {"id": None, "name": None}
        assert horde.call("GET", "/teams").json[0]["worker_count"] == 0

    def test_moderators_pause(self, horde: Horde, owner: Account, moderator: Account) -> None:
        assert put(horde, moderator, paused=True).json == {"paused": True}
        assert shown(horde, moderator)["paused"] is True
        assert "paused" not in shown(horde, owner)
        assert put(horde, moderator, paused=False).json == {"paused": False}

    def test_own_values_may_be_sent_again(self, horde: Horde, owner: Account) -> None:
        """As a front end does that sends all of its form, whatever was allowed in the past."""
        change(horde.platform, "UPDATE workers SET name = 'shit happens', info = 'shit'")
        path = f"/workers/{worker_id(horde, 'shit happens')}"
        same = {"name": "shit happens", "info": "shit"}
        assert horde.call("PUT", path, owner, json=same).json == same
        horde.pop(owner, "art")
        path = f"/workers/{worker_id(horde, 'art')}"
        assert horde.call("PUT", path, owner, json={"name": "art"}).json == {"name": "art"}
        assert horde.call("PUT", path, owner, json={"name": "arts"}).json["errors"].keys() == {"name"}

    def test_masks(self, horde: Horde, owner: Account) -> None:
        response = horde.call(
            "PUT", f"/workers/{worker_id(horde)}", owner, {"X-Fields": "info"}, json={"info": "x", "team": ""}
        )
        assert response.json == {"info": "x"}


class TestMaintenance:
    def message(self, horde: Horde, owner: Account) -> str:
        response = horde.pop(owner)
        assert_refused(response, 403, "WorkerMaintenance", "maintenance mode")
        return str(response.json["message"])

    def test_the_worker_is_told(self, horde: Horde, owner: Account) -> None:
        put(horde, owner, maintenance=True, maintenance_msg="New fans are coming")
        assert self.message(horde, owner).endswith("New fans are coming")

    def test_the_message_is_reset(self, horde: Horde, owner: Account) -> None:
        put(horde, owner, maintenance=True, maintenance_msg="New fans are coming")
        put(horde, owner, maintenance=True)
        assert "New fans" not in self.message(horde, owner)
        put(horde, owner, maintenance=False)
        assert horde.pop(owner).status_code == 200

    def test_it_holds_from_the_next_pop_on(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        horde.asked()
        put(horde, owner, maintenance=True)
        assert_refused(horde.pop(owner), 403, "WorkerMaintenance")
        put(horde, owner, maintenance=False)
        assert horde.popped(owner)

    def test_other_processes_are_told(self, horde: Horde, owner: Account) -> None:
        """They listen to what the channel says; here it is read in their place."""
        with horde.platform.cache.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("horde:invalidate")
            channel.get_message(timeout=1)
            put(horde, owner, name="another name")
            told = set()
            while (message := channel.get_message(timeout=1)) is not None:
                told.add(message["data"].decode())
        assert {"worker:worker", "worker:another name", "online:image", "workers", "teams"} <= told


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "rc"),
        [
            ({"maintenance": True}, "NotOwner"),
            ({"info": "mine"}, "NotOwner"),
            ({"paused": True}, "NotModerator"),
            ({"name": "my worker"}, "NotModerator"),
            ({"team": ""}, "NotModerator"),
            ({"maintenance": True, "name": "my worker"}, "NotOwner"),
        ],
    )
    def test_others_may_not(self, horde: Horde, owner: Account, fields: dict[str, Any], rc: str) -> None:
        other = horde.account(Role.TRUSTED)
        with unchanged(horde.platform):
            for key in (other, ANONYMOUS_KEY):
                assert_refused(put(horde, key, **fields), 403, rc)

    def test_owners_may_not_pause(self, horde: Horde, owner: Account) -> None:
        with unchanged(horde.platform):
            assert_refused(put(horde, owner, paused=True), 403, "NotModerator")
            assert_refused(put(horde, owner, info="first", paused=False), 403, "NotModerator")

    @pytest.mark.parametrize("fields", [{"info": "x"}, {"name": "worker two"}, {"team": ""}])
    def test_anonymous_owns_no_workers(self, horde: Horde, owner: Account, fields: dict[str, Any]) -> None:
        change(horde.platform, "UPDATE workers SET owner_id = 0")
        assert_refused(put(horde, ANONYMOUS_KEY, **fields), 403, "AnonForbiddenWorker")

    @pytest.mark.parametrize(
        ("fields", "status", "rc"),
        [
            ({"info": "what a shit place"}, 400, "ProfaneWorkerInfo"),
            ({"name": "shit worker"}, 400, "ProfaneWorkerName"),
            ({"name": "taken"}, 400, "WorkerNameAlreadyExists"),
            ({"name": "\u200b" * 5}, 400, "BadRequest"),
            ({"team": NOBODY}, 404, "TeamNotFound"),
            ({"team": "nonsense"}, 404, "TeamNotFound"),
            ({}, 400, "NoWorkerModSelected"),
            ({"maintenance_msg": "away"}, 400, "NoWorkerModSelected"),
        ],
    )
    def test_what_cannot_be(
        self, horde: Horde, owner: Account, moderator: Account, fields: dict[str, Any], status: int, rc: str
    ) -> None:
        horde.pop(horde.account(), "taken")
        with unchanged(horde.platform):
            for key in (owner, moderator):
                assert_refused(put(horde, key, **fields), status, rc)

    @pytest.mark.parametrize(
        "refused", [{"name": "shit worker"}, {"name": "taken"}, {"team": NOBODY}, {"paused": True}]
    )
    def test_nothing_is_changed_when_anything_is_refused(
        self, horde: Horde, owner: Account, refused: dict[str, Any]
    ) -> None:
        horde.pop(owner, "taken")
        fields = {"maintenance": True, "maintenance_msg": "away", "info": "new", "name": "new name"}
        with unchanged(horde.platform):
            assert put(horde, owner, **fields | refused).status_code in (400, 403, 404)
        assert horde.pop(owner).status_code == 200

    def test_names_of_any_type_are_taken(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, "scribe")
        change(horde.platform, "UPDATE workers SET kind = 'text' WHERE name = 'scribe'")
        assert_refused(put(horde, owner, name="scribe"), 400, "WorkerNameAlreadyExists")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"maintenance": "yes"}, "maintenance"),
            ({"maintenance": None}, "maintenance"),
            ({"maintenance": True, "maintenance_msg": "x" * 301}, "maintenance_msg"),
            ({"info": "x" * 1001}, "info"),
            ({"name": "x" * 101}, "name"),
            ({"name": "  four "}, "name"),
            ({"team": "x" * 37}, "team"),
            ({"paused": 1}, "paused"),
        ],
    )
    def test_bodies_that_do_not_fit(
        self, horde: Horde, owner: Account, fields: dict[str, Any], field: str
    ) -> None:
        with unchanged(horde.platform):
            response = put(horde, owner, **fields)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}

    def test_the_order_of_checks(self, horde: Horde, owner: Account) -> None:
        path, unknown = f"/workers/{worker_id(horde)}", f"/workers/{NOBODY}"
        nothing: dict[str, Any] = {}
        for method in ("PUT", "DELETE"):
            body = {"json": nothing} if method == "PUT" else {}
            for bad in (unknown, "/workers/nonsense"):
                for key in (None, "no account has this", owner):
                    assert_refused(horde.call(method, bad, key, **body), 404, "WorkerNotFound")
            missing = horde.call(method, path, **body)
            assert missing.status_code == 400
            assert missing.json["errors"].keys() == {"apikey"}
            assert_refused(horde.call(method, path, "no account has this", **body), 401, "InvalidAPIKey")
        assert horde.call("PUT", unknown, owner, json={"name": 1}).json["errors"].keys() == {"name"}


class TestRaces:
    def test_of_two_that_want_a_name_one_gets_it(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, "second")
        with another_process(horde) as process, ThreadPoolExecutor(1) as pool:
            path = f"/workers/{worker_id(horde, 'second')}"
            with horde.platform.engine.begin() as db:
                db.execute(text("UPDATE workers SET name = 'wanted' WHERE name = 'worker'"))
                later = pool.submit(process.call, "PUT", path, owner, json={"name": "wanted"})
                wait_for_a_blocked_statement(horde.platform)
            assert_refused(later.result(), 400, "WorkerNameAlreadyExists")


class TestRenaming:
    def test_the_old_name_is_free(self, horde: Horde, owner: Account) -> None:
        old = worker_id(horde)
        assert put(horde, owner, name="renamed").json == {"name": "renamed"}
        assert horde.pop(owner, "renamed").status_code == 200
        assert worker_id(horde, "renamed") == old
        assert horde.pop(owner).status_code == 200
        assert worker_id(horde) != old

    def test_a_name_that_was_asked_for_before(self, horde: Horde, owner: Account) -> None:
        """That nobody had it is not kept."""
        old = worker_id(horde)
        assert_refused(horde.pop(owner, "renamed", models=["unknown"]), 400, "BadRequest")
        put(horde, owner, name="renamed")
        horde.pop(owner, "renamed")
        assert worker_id(horde, "renamed") == old


class TestRemoving:
    def remove(self, horde: Horde, key: Account | str | None) -> Any:
        return horde.call("DELETE", f"/workers/{worker_id(horde)}", key)

    @pytest.mark.parametrize("who", ["owner", "moderator"])
    def test_owners_and_moderators_remove(
        self, horde: Horde, owner: Account, moderator: Account, who: str
    ) -> None:
        found = worker_id(horde)
        response = self.remove(horde, owner if who == "owner" else moderator)
        assert (response.status_code, response.json) == (
            200,
            {"deleted_id": found, "deleted_name": "worker"},
        )
        assert_refused(horde.call("GET", f"/workers/{found}"), 404, "WorkerNotFound")
        assert horde.call("GET", "/workers").json == []
        assert horde.pop(owner).status_code == 200
        assert worker_id(horde) != found

    def test_others_may_not(self, horde: Horde, owner: Account) -> None:
        other = horde.account(Role.TRUSTED)
        with unchanged(horde.platform):
            for key in (other, ANONYMOUS_KEY):
                assert_refused(self.remove(horde, key), 403, "NotModerator")

    def test_anonymous_owns_no_workers(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE workers SET owner_id = 0")
        assert_refused(self.remove(horde, ANONYMOUS_KEY), 403, "AnonForbiddenWorker")

    def test_what_belongs_to_it_goes_and_the_kudos_stay(
        self, horde: Horde, owner: Account, moderator: Account, team: str
    ) -> None:
        found = worker_id(horde)
        put(horde, owner, team=team)
        horde.call("POST", "/workers/messages", owner, json={"message": "hello", "worker_id": found})
        with horde.platform.engine.begin() as db:
            uuid = scalar(horde.platform, "SELECT id FROM workers")
            suspicions.report(db, owner.id, Reason.UNREASONABLY_FAST, uuid)
        horde.asked()
        horde.submitted(owner, horde.popped(owner)["id"])
        earned = horde.kudos(owner.balance)
        assert earned > 0
        change(horde.platform, "DELETE FROM requests")
        assert self.remove(horde, owner).status_code == 200
        assert horde.kudos(owner.balance) == earned
        assert scalar(horde.platform, "SELECT count(*) FROM worker_messages") == 0
        assert scalar(horde.platform, "SELECT count(*) FROM suspicions WHERE worker_id IS NOT NULL") == 0
        assert horde.call("GET", f"/teams/{team}").json["worker_count"] == 0


class TestLocked:
    def assert_locked(self, horde: Horde, owner: Account) -> None:
        with unchanged(horde.platform):
            response = horde.call("DELETE", f"/workers/{worker_id(horde)}", owner)
            assert_refused(response, 423, "Locked", "20 minutes")
        assert 1190 <= int(response.headers["Retry-After"]) <= 1200

    def test_while_it_holds_a_job_or_has_delivered_one(self, horde: Horde, owner: Account) -> None:
        horde.asked()
        job = horde.popped(owner)["id"]
        self.assert_locked(horde, owner)
        horde.submitted(owner, job)
        self.assert_locked(horde, owner)

    def test_while_a_request_remembers_its_decoy(self, horde: Horde, owner: Account) -> None:
        """Registered anew under its old name, it would get the same request again."""
        horde.asked()
        change(horde.platform, "UPDATE workers SET paused = true")
        decoy = horde.popped(owner)["id"]
        self.assert_locked(horde, owner)
        horde.submitted(owner, decoy)
        self.assert_locked(horde, owner)

    @pytest.mark.parametrize("avoided", [True, False])
    def test_while_a_request_names_it(self, horde: Horde, owner: Account, avoided: bool) -> None:
        horde.pop(owner, "second", models=[SDXL])
        user = horde.account(amount=1000)
        request = horde.asked(user, workers=[worker_id(horde)], worker_blacklist=avoided)
        self.assert_locked(horde, owner)
        horde.cancel(request)
        self.assert_locked(horde, owner)
        change(horde.platform, "DELETE FROM requests")
        assert horde.call("DELETE", f"/workers/{worker_id(horde)}", owner).status_code == 200

    def test_not_by_requests_that_do_not_know_it(self, horde: Horde, owner: Account) -> None:
        horde.asked()
        horde.pop(owner, "second")
        assert horde.call("DELETE", f"/workers/{worker_id(horde)}", owner).status_code == 200
