"""Pops that wait: the answer comes as soon as there is a job, and nothing is lost or held meanwhile."""

import math
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde.app import create_app
from horde.generation import sweep
from horde.generation.wakeups import Wakeups
from horde.image import jobs, routes
from horde.image.schemas import PopInputStable
from horde.platform.http import Connection
from horde.users.rules import Role
from tests.support import (
    AGENT,
    MODEL,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    counted_statements,
    forget,
    scalar,
)

LONG = 30
"""Seconds that nobody waits for unless something is wrong."""
STEP = 0.02
ANYTHING = "SELECT EXISTS"
"""How whoever is woken begins to search."""


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def waiting_of(horde: Horde) -> Wakeups:
    found: Wakeups = horde.client.application.extensions["horde_wakeups"]
    return found


@contextmanager
def waiting(
    horde: Horde, pool: ThreadPoolExecutor, owner: Account, *names: str, **fields: Any
) -> Iterator[list[Future[TestResponse]]]:
    """Workers that wait for a job while the block runs; it must end their waiting."""
    bell = waiting_of(horde)
    before = bell.waiters
    calls = [pool.submit(horde.pop, owner, name, **{"wait": LONG} | fields) for name in names]
    until(lambda: bell.waiters == before + len(names))
    yield calls


def worker_ids(horde: Horde) -> list[str]:
    """All workers that there are."""
    return list(scalar(horde.platform, "SELECT array_agg(CAST(id AS text)) FROM workers"))


def until(condition: Any) -> None:
    """Return once `condition` holds."""
    event = threading.Event()
    for _ in range(int(LONG / STEP)):
        if condition():
            return
        event.wait(STEP)
    raise AssertionError("it never came about")


class TestBeingWoken:
    def test_a_new_request_is_handed_out_at_once(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        with waiting(horde, pool, owner, "first") as (call,):
            horde.asked(prompt="worth waiting for")
            answer = call.result(LONG)
        assert answer.json["payload"]["prompt"] == "worth waiting for"
        assert waiting_of(horde).waiters == 0

    def test_as_many_as_there_is_work(self, horde: Horde, pool: ThreadPoolExecutor, owner: Account) -> None:
        with waiting(horde, pool, owner, "one", "two", "three") as calls:
            horde.asked(params={"n": 2})
            until(lambda: sum(call.done() for call in calls) == 2)
            until(lambda: waiting_of(horde).waiters == 1)
            horde.asked()
            ids = [call.result(LONG).json["ids"] for call in calls]
        assert len({job for each in ids for job in each}) == 3

    def test_all_at_once(self, horde: Horde, pool: ThreadPoolExecutor, owner: Account) -> None:
        """Those who find the request in somebody else's hands try again."""
        with waiting(horde, pool, owner, *map(str, range(12))) as calls, not_rechecking(horde):
            horde.asked(owner, params={"n": 12})
            assert all(call.result(LONG).json["ids"] for call in calls)

    def test_what_is_given_back(self, horde: Horde, pool: ThreadPoolExecutor, owner: Account) -> None:
        request = horde.asked()
        job = horde.popped(owner, "careless")["id"]
        with waiting(horde, pool, owner, "careful") as (call,):
            horde.submit(owner, job, state="faulted")
            assert call.result(LONG).json["ids"]
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        with waiting(horde, pool, owner, "quick") as (call,):
            assert sweep.abort_overdue_jobs(horde.platform) == 1
            assert call.result(LONG).json["ids"]
        assert horde.check(request)["restarted"] == 2

    def test_only_those_who_could_do_it(self, horde: Horde, pool: ThreadPoolExecutor, owner: Account) -> None:
        names = ("other model", "small", "tame", "avoided", "able")
        offers: dict[str, dict[str, Any]] = {
            "other model": {"models": [SDXL]},
            "small": {"max_pixels": 64 * 64},
            "tame": {"nsfw": False},
        }
        bell = waiting_of(horde)
        calls = {
            name: pool.submit(horde.pop, owner, name, **{"wait": LONG, **offers.get(name, {})})
            for name in names
        }
        until(lambda: bell.waiters == len(names))
        avoided = str(scalar(horde.platform, "SELECT id FROM workers WHERE name = 'avoided'"))
        horde.asked(owner, workers=[avoided], worker_blacklist=True)
        assert calls.pop("able").result(LONG).json["ids"]
        until(lambda: bell.waiters == len(calls))
        horde.asked(owner, workers=[avoided])
        assert calls.pop("avoided").result(LONG).json["ids"]
        until(lambda: bell.waiters == len(calls))
        for fields in ({"models": [SDXL]}, {"params": {"width": 64, "height": 64}}, {"nsfw": False}):
            horde.asked(owner, **fields)
        assert all(call.result(LONG).json["ids"] for call in calls.values())

    def test_whoever_cannot_take_it_passes_it_on(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        with waiting(horde, pool, owner, "delicate", blacklist=["ugly"]) as (delicate,):
            with waiting(horde, pool, owner, "hardy") as (hardy,):
                horde.asked(prompt="an ugly duckling")
                assert hardy.result(LONG).json["ids"]
            horde.asked(prompt="a swan")
            assert delicate.result(LONG).json["ids"]

    def test_a_lost_call_is_made_good(self, horde: Horde, pool: ThreadPoolExecutor, owner: Account) -> None:
        with waiting(horde, pool, owner, "patient") as (call,):
            horde.platform.local.put("announcements pause", LONG, True)
            horde.asked()
            assert call.result(LONG).json["ids"]

    def test_without_valkey(self, horde: Horde, pool: ThreadPoolExecutor) -> None:
        with another_process(horde, redis_url="redis://127.0.0.1:1/0") as cut_off:
            owner = cut_off.account(Role.TRUSTED)
            offer = {"name": "stubborn", "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 512 * 512}

            def pop(wait: float) -> TestResponse:
                return cut_off.client.post(
                    "/api/v2/generate/pop", headers={"apikey": owner.key}, json={**offer, "wait": wait}
                )

            assert pop(0.1).json["ids"] == []
            call = pool.submit(pop, LONG)
            until(lambda: waiting_of(cut_off).waiters == 1)
            horde.asked()
            assert call.result(LONG).json["ids"]
            waiting_of(cut_off).close()


@contextmanager
def not_rechecking(*hordes: Horde) -> Iterator[None]:
    """Nobody is held against the snapshot of the queue inside, so that only calls wake workers."""
    for horde in hordes:
        waiting_of(horde)._recheck_at = math.inf
    yield
    for horde in hordes:
        waiting_of(horde)._recheck_at = 0.0


class TestSeveralProcesses:
    def test_one_of_them_wakes_a_worker_for_a_result(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        with another_process(horde) as other, waiting(horde, pool, owner, "here") as (here,):
            with waiting(other, pool, owner, "there") as (there,), not_rechecking(horde, other):
                with counted_statements() as sent:
                    horde.asked()
                    until(lambda: here.done() or there.done())
                    threading.Event().wait(0.5)  # for one that was woken in vain, which asks too
                assert len([statement for statement in sent if ANYTHING in statement]) == 1
                horde.asked()
                assert here.result(LONG).json["ids"] != there.result(LONG).json["ids"]
            waiting_of(other).close()

    @pytest.mark.parametrize("n", [1, 3])
    def test_what_one_of_them_cannot_do_another_one_does(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account, n: int
    ) -> None:
        tame, wild = ([f"{what} {number}" for number in range(n)] for what in ("tame", "wild"))
        with another_process(horde) as other, waiting(horde, pool, owner, *tame, blacklist=["ugly"]) as tamed:
            with waiting(other, pool, owner, *wild) as wilder, not_rechecking(horde, other):
                horde.asked(prompt="an ugly duckling", params={"n": n})
                assert all(call.result(LONG).json["ids"] for call in wilder)
                horde.asked(prompt="a swan", params={"n": n})
                assert all(call.result(LONG).json["ids"] for call in tamed)
            waiting_of(other).close()


class TestMatches:
    """Where workers serve, of those who name them, only whom they name too."""

    @pytest.mark.parametrize("processes", [1, 2])
    def test_the_one_that_matches_is_called(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account, processes: int
    ) -> None:
        sender, names = horde.account(), ["first", "second", "third"]
        matching: dict[str, Any] = {"priority_usernames": [sender.alias]}
        option = {"require_matched_targeting": True}
        with another_process(horde, **option) as here, another_process(horde, **option) as elsewhere:
            there = here if processes == 1 else elsewhere
            with waiting(here, pool, owner, *names) as calls:
                with waiting(there, pool, owner, "matches", **matching) as (matches,):
                    ids = worker_ids(horde)
                    with not_rechecking(here, elsewhere):
                        here.asked(sender, workers=ids, prompt="for a friend")
                        assert matches.result(LONG).json["payload"]["prompt"] == "for a friend"
                until(lambda: waiting_of(here).waiters == len(names))
                here.asked(owner, workers=ids, params={"n": len(names)})
                assert all(call.result(LONG).json["ids"] for call in calls)
            waiting_of(here).close()
            waiting_of(elsewhere).close()

    def test_those_who_do_not_match_go_on_waiting(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        with another_process(horde, require_matched_targeting=True) as process:
            with waiting(process, pool, owner, "faithful") as (call,):
                request = process.asked(workers=worker_ids(horde))
                process.asked(prompt="for everybody")
                assert call.result(LONG).json["payload"]["prompt"] == "for everybody"
                assert process.check(request)["waiting"] == 1
            waiting_of(process).close()


class TestEnding:
    def test_when_the_time_is_over_it_is_told_why(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[SDXL])
        forget(horde.platform)
        answer = horde.pop(owner, wait=0.2)
        assert (answer.status_code, answer.json["ids"], answer.json["skipped"]["models"]) == (200, [], 1)

    def test_nothing_is_held_meanwhile(self, horde: Horde, pool: ThreadPoolExecutor, owner: Account) -> None:
        with waiting(horde, pool, owner, *map(str, range(8))) as calls:
            assert horde.platform.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            assert horde.platform.reader.pool.checkedout() == 0  # type: ignore[attr-defined]
            heartbeat = horde.call("GET", "/status/heartbeat").json
            assert (heartbeat["active_count"], heartbeat["queue"]) == (0, 0)
            horde.asked(owner, params={"n": 8})
            assert all(call.result(LONG).json["ids"] for call in calls)

    def test_whoever_has_hung_up_takes_nothing(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        bell = waiting_of(horde)
        offer = PopInputStable(name="gone", models=[MODEL], bridge_agent=AGENT, max_pixels=2**20, wait=LONG)
        gone = pool.submit(jobs.pop, horde.platform, owner.key, "192.0.2.1", offer, bell, lambda: True)
        until(lambda: bell.waiters == 1)
        with waiting(horde, pool, owner, "there") as (there,):
            horde.asked()
            assert there.result(LONG).json["ids"]
        assert gone.result(LONG)["ids"] == []

    def test_a_worker_that_is_put_into_maintenance(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        with waiting(horde, pool, owner, "tired") as (call,):
            change(horde.platform, "UPDATE workers SET maintenance = true")
            request = horde.asked()
            assert_refused(call.result(LONG), 403, "WorkerMaintenance", "maintenance mode")
        assert horde.check(request)["waiting"] == 1
        assert_refused(horde.pop(owner, "tired", wait=LONG), 403, "WorkerMaintenance", "maintenance mode")

    def test_when_very_many_wait_others_do_not(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those who wait hold their connections, of which a process takes only so many."""
        monkeypatch.setattr(routes, "MOST_WAITING", 2)
        with waiting(horde, pool, owner, "one", "two") as calls:
            third = pool.submit(horde.pop, owner, "three", wait=LONG)
            assert third.result(LONG / 3).json["ids"] == []
            horde.asked(params={"n": 2})
            assert all(call.result(LONG).json["ids"] for call in calls)

    def test_an_owner_who_is_flagged_meanwhile(
        self, horde: Horde, pool: ThreadPoolExecutor, owner: Account
    ) -> None:
        with waiting(horde, pool, owner, "suspect") as (call,):
            change(
                horde.platform,
                "INSERT INTO user_roles (user_id, role) VALUES (:id, 'flagged')",
                id=owner.id,
            )
            request = horde.asked()
            assert call.result(LONG).status_code == 403
        assert horde.check(request)["waiting"] == 1

    def test_a_server_that_stops_lets_everybody_go(self, horde: Horde, pool: ThreadPoolExecutor) -> None:
        with another_process(horde) as stopping:
            owner = stopping.account(Role.TRUSTED)
            bell = waiting_of(stopping)
            with waiting(stopping, pool, owner, "one", "two") as calls:
                bell.close()
                assert [call.result(LONG).json["ids"] for call in calls] == [[], []]
            assert stopping.pop(owner, "late", wait=LONG).json["ids"] == []
        with another_process(horde) as stopping:
            over = False
            bell = waiting_of(stopping)
            bell.start(lambda: over)
            with waiting(stopping, pool, owner, "three") as (call,):
                over = True
                assert call.result(LONG).json["ids"] == []
            bell.close()


@pytest.mark.parametrize("wait", [-1, 30.1, "x", None, True])
def test_how_long_a_worker_may_wait(horde: Horde, owner: Account, wait: Any) -> None:
    response = horde.pop(owner, wait=wait)
    assert response.status_code == 400
    assert "wait" in response.json["errors"]


def test_without_waiting_nobody_is_noted(horde: Horde, owner: Account) -> None:
    app = create_app(horde.platform.settings)
    process = Horde(app.test_client(), app.extensions["horde"])
    assert process.pop(owner).json["ids"] == []
    assert app.extensions["horde_wakeups"]._listener is None
    process.platform.close()


def test_whether_a_client_has_hung_up(horde: Horde) -> None:
    app = horde.client.application
    ours, theirs = socket.socketpair()
    with app.test_request_context(environ_overrides={"gunicorn.socket": ours}):
        connection = Connection()
    assert not connection.hung_up()
    theirs.send(b"GET")
    assert not connection.hung_up()
    assert ours.recv(3) == b"GET"
    theirs.close()
    assert connection.hung_up()
    connection.take_no_more()
    ours.close()
    assert connection.hung_up()
    connection.take_no_more()
    with app.test_request_context():
        assert not Connection().hung_up()
