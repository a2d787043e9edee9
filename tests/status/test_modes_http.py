"""Switching the horde's modes, and what maintenance does to requests."""

import threading
from typing import Any

import pytest
from sqlalchemy import text

from horde.generation import sweep
from horde.moderation import modes
from horde.moderation.modes import Modes
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    counted_statements,
    in_threads,
    scalar,
    wait_for_a_blocked_statement,
)

PATH = "/status/modes"
PUBLIC = {"maintenance_mode": False, "invite_only_mode": False}


@pytest.fixture
def admin(horde: Horde) -> Account:
    """Somebody who may switch everything."""
    return horde.account(Role.ADMIN, Role.MODERATOR, username="Admin")


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


def switch(horde: Horde, key: Account, **values: Any) -> None:
    response = horde.call("PUT", PATH, key, json=values)
    assert (response.status_code, response.json) == (200, values)


class TestShowing:
    def test_anybody_sees_all_but_raid(self, horde: Horde, admin: Account) -> None:
        assert horde.call("GET", PATH).json == PUBLIC
        switch(horde, admin, raid_mode=True, invite_only_mode=True)
        assert horde.call("GET", PATH).json == {"maintenance_mode": False, "invite_only_mode": True}

    def test_moderators_see_all(self, horde: Horde, admin: Account, moderator: Account) -> None:
        assert horde.call("GET", PATH, moderator).json == PUBLIC | {"raid_mode": False}
        switch(horde, admin, raid_mode=True)
        assert horde.call("GET", PATH, moderator).json == PUBLIC | {"raid_mode": True}

    def test_nobody_else_sees_what_moderators_were_shown(self, horde: Horde, moderator: Account) -> None:
        for _ in range(2):
            assert "raid_mode" in horde.call("GET", PATH, moderator).json
            assert horde.call("GET", PATH).json == PUBLIC
            assert_refused(horde.call("GET", PATH, horde.account(Role.TRUSTED)), 403, "NotModerator")
            assert_refused(horde.call("GET", PATH, ANONYMOUS_KEY), 403, "NotModerator")
            assert_refused(horde.call("GET", PATH, "nobody's key"), 401, "InvalidAPIKey")

    def test_masks_hold_for_their_own_answer_alone(self, horde: Horde, moderator: Account) -> None:
        masked = horde.call("GET", PATH, moderator, {"X-Fields": "raid_mode"})
        assert masked.json == {"raid_mode": False}
        assert horde.call("GET", PATH).json == PUBLIC

    def test_asking_often_costs_nothing(self, horde: Horde) -> None:
        horde.call("GET", PATH)
        with counted_statements() as sent:
            horde.call("GET", PATH)
            modes.require_open(horde.platform)
        assert sent == []


class TestSwitching:
    def test_who_may(self, horde: Horde, admin: Account, moderator: Account) -> None:
        body = {"maintenance_mode": True}
        response = horde.call("PUT", PATH, json=body)
        assert (response.status_code, response.json["errors"].keys()) == (400, {"apikey"})
        assert_refused(horde.call("PUT", PATH, "nobody's key", json=body), 401, "InvalidAPIKey")
        for key in (ANONYMOUS_KEY, horde.account(Role.TRUSTED), moderator):
            assert_refused(horde.call("PUT", PATH, key, json=body), 403, "NotAdmin")
        pure_admin = horde.account(Role.ADMIN)
        for mode in ("raid_mode", "invite_only_mode"):
            for key in (ANONYMOUS_KEY, horde.account(Role.TRUSTED), pure_admin):
                assert_refused(horde.call("PUT", PATH, key, json={mode: True}), 403, "NotModerator")
        assert horde.call("GET", PATH, admin).json == PUBLIC | {"raid_mode": False}
        switch(horde, pure_admin, maintenance_mode=True)
        switch(horde, moderator, raid_mode=True, invite_only_mode=True)
        assert modes.modes(horde.platform) == Modes(maintenance=True, invite_only=True, raid=True)

    def test_nothing_is_saved_when_a_field_is_refused(self, horde: Horde, moderator: Account) -> None:
        everything = {"raid_mode": True, "maintenance_mode": True, "invite_only_mode": True}
        assert_refused(horde.call("PUT", PATH, moderator, json=everything), 403, "NotAdmin")
        assert_refused(horde.call("PUT", PATH, ANONYMOUS_KEY, json=everything), 403, "NotAdmin")
        body = {"raid_mode": True, "maintenance_mode": True}
        assert_refused(horde.call("PUT", PATH, horde.account(Role.ADMIN), json=body), 403, "NotModerator")
        assert horde.call("GET", PATH, moderator).json == PUBLIC | {"raid_mode": False}

    @pytest.mark.parametrize("body", [{}, {"other": True}])
    def test_something_must_be_given(self, horde: Horde, admin: Account, body: dict[str, Any]) -> None:
        assert_refused(horde.call("PUT", PATH, admin, json=body), 400, "NoHordeModSelected", "raid_mode")
        assert_refused(horde.call("PUT", PATH, admin), 400, "NoHordeModSelected")
        assert_refused(horde.call("PUT", PATH, admin, data={"raid_mode": 1}), 400, "NoHordeModSelected")

    @pytest.mark.parametrize("value", ["false", "true", 0, 1, None, []])
    @pytest.mark.parametrize("mode", ["maintenance_mode", "invite_only_mode", "raid_mode"])
    def test_only_booleans(self, horde: Horde, admin: Account, mode: str, value: Any) -> None:
        response = horde.call("PUT", PATH, admin, json={mode: value})
        assert (response.status_code, response.json["errors"].keys()) == (400, {mode})

    def test_modes_that_are_not_given_stay(self, horde: Horde, admin: Account) -> None:
        switch(horde, admin, raid_mode=True)
        switch(horde, admin, invite_only_mode=True)
        switch(horde, admin, raid_mode=False)
        assert modes.modes(horde.platform) == Modes(maintenance=False, invite_only=True, raid=False)

    def test_all_nodes_know(self, horde: Horde, admin: Account) -> None:
        switch(horde, admin, invite_only_mode=True)
        with another_process(horde) as other:
            assert other.call("GET", PATH).json["invite_only_mode"] is True


class TestMaintenance:
    def test_new_requests_are_refused(self, horde: Horde, admin: Account) -> None:
        switch(horde, admin, maintenance_mode=True)
        for fields in ({}, {"dry_run": True}):
            response = horde.ask(**fields)
            assert_refused(response, 400, "MaintenanceMode", "maintenance")
            assert int(response.headers["Retry-After"]) >= 59  # the rate limiter rounds it
        switch(horde, admin, maintenance_mode=False)
        horde.asked()

    def test_what_waits_ends_and_what_runs_is_finished(self, horde: Horde, admin: Account) -> None:
        worker, user = horde.account(Role.TRUSTED), horde.account(amount=10_000)
        started = horde.asked(user, params={"n": 3, "steps": 30, "width": 1024, "height": 1024})
        job = horde.popped(worker)
        waiting = [horde.asked(user), horde.asked(params={"n": 2})]
        switch(horde, admin, maintenance_mode=True)

        assert scalar(horde.platform, "SELECT count(*) FROM queue") == 0
        assert horde.pop(worker).json["ids"] == []
        for request in waiting:
            found = horde.check(request)
            assert (found["done"], found["waiting"], found["finished"]) == (True, 0, 0)
        assert horde.check(started)["processing"] == 1
        assert horde.submitted(worker, job["id"]) > 0
        found = horde.status(started)
        assert (found["done"], found["finished"], len(found["generations"])) == (True, 1, 1)

        sweep.release_reservations(horde.platform)
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0
        assert_books_balance(horde.platform)
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_a_lost_job_of_an_ended_request_is_not_handed_out_again(
        self, horde: Horde, admin: Account
    ) -> None:
        worker = horde.account(Role.TRUSTED)
        request = horde.asked(params={"n": 2})
        job = horde.popped(worker)
        switch(horde, admin, maintenance_mode=True)
        assert horde.submit(worker, job["id"], state="faulted").status_code == 200
        assert horde.check(request)["waiting"] == 0
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_more_requests_than_fit_into_one_step(
        self, horde: Horde, admin: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(modes, "BATCH", 2)
        for _ in range(5):
            horde.asked()
        switch(horde, admin, maintenance_mode=True)
        assert scalar(horde.platform, "SELECT count(*) FROM requests WHERE n > 0 OR NOT cancelled") == 0
        assert scalar(horde.platform, "SELECT count(*) FROM queue") == 0

    def test_a_request_that_comes_back_meanwhile_leaves_the_queue_too(
        self, horde: Horde, admin: Account
    ) -> None:
        request = horde.asked()
        done = threading.Thread(target=modes.set_modes, args=(horde.platform,), kwargs={"maintenance": True})
        with horde.platform.engine.begin() as db:
            # Its last place is taken, and given back.
            db.execute(text("UPDATE requests SET n = n WHERE id = :id"), {"id": request})
            db.execute(text("DELETE FROM queue WHERE request_id = :id"), {"id": request})
            db.execute(
                text("""
                    INSERT INTO queue (lane_id, rank, request_id, size)
                    SELECT lane, rank, id, size FROM requests, unnest(lanes) AS lane WHERE id = :id
                """),
                {"id": request},
            )
            done.start()
            wait_for_a_blocked_statement(horde.platform)
        done.join()
        assert scalar(horde.platform, "SELECT n FROM requests") == 0
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_while_workers_take_jobs(self, horde: Horde, admin: Account) -> None:
        worker = horde.account(Role.TRUSTED)
        horde.pop(worker)
        for _ in range(10):
            horde.asked(params={"n": 3})

        def work(number: int) -> list[str]:
            if number == 0:
                modes.set_modes(horde.platform, maintenance=True)
                return []
            client = Horde(horde.client.application.test_client(), horde.platform)
            return [job for _ in range(5) for job in client.pop(worker).json["ids"]]

        handed_out = [job for jobs in in_threads(4, work) for job in jobs]
        assert len(handed_out) == len(set(handed_out)) == scalar(horde.platform, "SELECT count(*) FROM jobs")
        assert scalar(horde.platform, "SELECT count(*) FROM queue") == 0
        with horde.platform.read() as db:
            assert_queue_consistent(db)
