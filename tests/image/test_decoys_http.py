"""What paused workers get: answers that look like any other, of which nothing comes."""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from horde.generation import sweep
from horde.kudos import service as ledger
from horde.users.rules import Role
from horde.workers import conduct
from tests.support import (
    MODEL,
    SDXL,
    WEBP,
    Account,
    Horde,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    change,
    contents,
    files,
    scalar,
)


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of a worker that is paused, and of any number that are not."""
    owner = horde.account(Role.TRUSTED, username="Owner")
    horde.pop(owner)
    pause(horde)
    return owner


@pytest.fixture
def payer(horde: Horde) -> Account:
    return horde.account(amount=1000, username="Payer")


def pause(horde: Horde, paused: bool = True) -> None:
    change(horde.platform, "UPDATE workers SET paused = :paused WHERE name = 'worker'", paused=paused)


UNTOUCHED = (
    *("requests", "queue", "reservations", "ledger_events", "ledger_entries", "accounts", "outbox"),
    *("generation_records", "problem_jobs", "suspicions", "user_records", "workers", "files"),
)


@contextmanager
def only_jobs_change(horde: Horde) -> Iterator[None]:
    """What runs inside leaves no trace but in the table of jobs."""
    before = contents(horde.platform)
    yield
    after = contents(horde.platform)
    assert {name: after[name] for name in UNTOUCHED} == {name: before[name] for name in UNTOUCHED}


def overdue(horde: Horde) -> None:
    change(
        horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second' WHERE state = 'processing'"
    )


class TestHandedOut:
    @pytest.mark.parametrize(
        "fields",
        [{}, {"models": []}, {"params": {"seed": "7"}}, {"slow_workers": False}, {"r2": False}],
        ids=str,
    )
    def test_it_looks_like_any_job(
        self, horde: Horde, owner: Account, payer: Account, fields: dict[str, Any]
    ) -> None:
        request = horde.asked(payer, **fields)
        before = horde.check(request)
        with only_jobs_change(horde):
            decoy = horde.popped(owner)
        assert {**horde.check(request), "wait_time": 0} == {**before, "wait_time": 0}
        real = horde.popped(owner, "another")
        assert decoy.keys() == real.keys()
        assert {**decoy["payload"], "seed": ""} == {**real["payload"], "seed": ""}
        for name in ("ttl", "model", "skipped", "source_image", "source_processing"):
            assert decoy[name] == real[name]
        assert (decoy["r2_upload"] is None) == (real["r2_upload"] is None)
        assert decoy["ids"] == [decoy["id"]] != real["ids"]

    def test_there_is_one_only(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer, params={"n": 5})
        decoy = horde.popped(owner, amount=5)
        assert (len(decoy["ids"]), decoy["payload"]["n_iter"]) == (1, 1)
        assert len(horde.popped(owner, "another", amount=5)["ids"]) == 5

    def test_never_again_of_the_same_request(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer, prompt="first", params={"n": 2})
        horde.asked(payer, prompt="second")
        assert [horde.popped(owner)["payload"]["prompt"] for _ in range(2)] == ["first", "second"]
        assert horde.skipped(owner) == {}
        pause(horde, False)
        assert horde.skipped(owner) == {}
        horde.asked(payer, prompt="third")
        assert horde.popped(owner)["payload"]["prompt"] == "third"
        assert horde.popped(owner, "another")["payload"]["prompt"] == "first"

    def test_the_owner_is_served(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer, prompt="somebody else's")
        mine = horde.asked(owner, prompt="mine")
        job = horde.popped(owner)
        assert job["payload"]["prompt"] == "mine"
        assert horde.check(mine)["processing"] == 1
        assert horde.submitted(owner, job["id"]) > 0
        assert horde.check(mine)["finished"] == 1

    def test_friends_come_first_and_get_nothing(self, horde: Horde, owner: Account, payer: Account) -> None:
        friend = horde.account()
        horde.asked(payer)
        request = horde.asked(friend, prompt="a friend's")
        decoy = horde.popped(owner, priority_usernames=[friend.alias])
        assert decoy["payload"]["prompt"] == "a friend's"
        assert horde.check(request)["processing"] == 0

    def test_in_maintenance_there_are_none(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer)
        change(horde.platform, "UPDATE workers SET maintenance = true")
        assert_refused(horde.pop(owner), 403, "WorkerMaintenance")

    def test_nobody_counts_on_it(self, horde: Horde, owner: Account, payer: Account) -> None:
        request = horde.asked(payer)
        assert not horde.check(request)["is_possible"]
        horde.popped(owner)
        shown = horde.check(request)
        assert (shown["is_possible"], shown["processing"], shown["waiting"]) == (False, 0, 1)
        assert horde.check(horde.asked(owner))["is_possible"]


class TestHandedIn:
    @pytest.mark.parametrize(
        "result",
        [
            {},
            {"generation": "R2"},
            {"state": "censored"},
            {"state": "csam"},
            {"gen_metadata": [{"type": "censorship", "value": "csam"}]},
        ],
        ids=str,
    )
    def test_nothing_comes_of_it(
        self, horde: Horde, owner: Account, payer: Account, result: dict[str, Any]
    ) -> None:
        request = horde.asked(
            payer, slow_workers=False, webhook="https://example.com/results", models=[MODEL, SDXL]
        )
        decoy, usual = horde.popped(owner), horde.popped(owner, "another")["id"]
        assert horde.fetch("PUT", decoy["r2_upload"], WEBP).status_code == 200
        with only_jobs_change(horde):
            reward = horde.submitted(owner, decoy["id"], **result)
            assert_refused(horde.submit(owner, decoy["id"], **result), 400, "DuplicateGen")
            assert sweep.fold_records(horde.platform) == sweep.measure_speeds(horde.platform) == 0
        status = horde.status(request)
        assert (status["finished"], status["processing"], status["generations"]) == (0, 1, [])
        assert reward == horde.submitted(owner, usual)
        assert [image["id"] for image in horde.status(request)["generations"]] == [usual]
        assert horde.check(request)["done"]
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)

    def test_who_may_hand_it_in(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer)
        decoy = horde.popped(owner)["id"]
        assert_refused(horde.submit(payer, decoy), 403, "WrongCredentials")
        assert_refused(horde.submit("x" * 22, decoy), 401, "InvalidAPIKey")

    def test_what_is_no_picture_is_refused(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer)
        decoy = horde.popped(owner)["id"]
        for generation in ("", base64.b64encode(b"no picture").decode()):
            response = horde.submit(owner, decoy, generation=generation)
            assert_refused(response, 400, "ImageValidationFailed")
        assert horde.submitted(owner, decoy) > 0
        assert not files(horde.platform)

    def test_faulted_or_overdue_ones_harm_nobody(self, horde: Horde, owner: Account, payer: Account) -> None:
        """Three of each would end a request, and 21 put the worker into maintenance."""
        requests = [horde.asked(payer) for _ in range(24)]
        for count in range(24):
            decoy = horde.popped(owner)["id"]
            with only_jobs_change(horde):
                if count % 2:
                    assert horde.submitted(owner, decoy, state="faulted") == 0
                    assert horde.submitted(owner, decoy, state="faulted") == 0
                else:
                    overdue(horde)
                    assert sweep.abort_overdue_jobs(horde.platform) == 0
                assert_refused(horde.submit(owner, decoy), 400, "AbortedGen", "worker speed")
        assert sweep.fold_records(horde.platform) == conduct.judge_dropped_jobs(horde.platform) == 0
        for request in requests:
            shown = horde.check(request)
            assert (shown["waiting"], shown["restarted"], shown["faulted"]) == (1, 0, False)
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_many_of_one_request(self, horde: Horde, owner: Account, payer: Account) -> None:
        request = horde.asked(payer, params={"n": 2})
        for name in ("worker", "second", "third", "fourth"):
            horde.pop(owner, name, models=[SDXL])
            change(horde.platform, "UPDATE workers SET paused = true")
            horde.submitted(owner, horde.popped(owner, name)["id"], state="faulted")
        job = horde.popped(owner, "real")["id"]
        horde.submitted(owner, job, state="faulted")
        shown = horde.check(request)
        assert (shown["waiting"], shown["restarted"], shown["faulted"]) == (2, 1, False)


class TestAfterwards:
    def test_a_decoy_keeps_no_request(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer, slow_workers=False)
        decoy = horde.popped(owner)["id"]
        change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
        assert sweep.expire_requests(horde.platform) == 1
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0
        assert_refused(horde.submit(owner, decoy), 404, "InvalidJobID", "does not exist")

    def test_nor_what_is_reserved(self, horde: Horde, owner: Account, payer: Account) -> None:
        request = horde.asked(payer, slow_workers=False)
        horde.popped(owner)
        horde.cancel(request)
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0
        change(horde.platform, "UPDATE requests SET n = 0")
        assert sweep.release_reservations(horde.platform) == 0

    def test_nor_its_picture(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer)
        decoy, real = horde.popped(owner), horde.popped(owner, "another")
        for job in (decoy, real):
            horde.fetch("PUT", job["r2_upload"], WEBP)
        change(horde.platform, "UPDATE requests SET created = now() - interval '1 day'")
        for file in files(horde.platform):
            os.utime(file, (0, 0))
        assert sweep.delete_old_pictures(horde.platform) == 1
        assert {file.name for file in files(horde.platform)} == {f"{real['id']}.webp"}
