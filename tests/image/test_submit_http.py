"""Handing in results over HTTP, the ways in which that fails, and what workers are told then."""

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from werkzeug.test import TestResponse

from horde.generation import sweep
from horde.kudos import service as ledger
from horde.users.rules import Role
from tests.support import (
    WEBP,
    Account,
    Horde,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    change,
    count_rows,
    picture,
    scalar,
    unchanged,
)

CSAM = {"type": "censorship", "value": "csam"}
NSFW = {"type": "censorship", "value": "nsfw"}


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture
def payer(horde: Horde) -> Account:
    """Somebody who can pay."""
    return horde.account(amount=500, username="Payer")


@pytest.fixture
def job(horde: Horde, owner: Account, payer: Account) -> str:
    """The id of a job under way, of a request for one image in base64."""
    horde.asked(payer, r2=False)
    return str(horde.popped(owner)["id"])


def only_request(horde: Horde) -> str:
    return str(scalar(horde.platform, "SELECT id FROM requests"))


UNKNOWN = "00000000-0000-4000-8000-000000000000"


class TestResults:
    def test_other_formats_are_kept_as_webp(self, horde: Horde, owner: Account, job: str) -> None:
        png = picture(64, 32, "navy", "PNG")
        horde.submitted(owner, job, generation="data:image/png;base64," + base64.b64encode(png).decode())
        (image,) = horde.status(only_request(horde))["generations"]
        with Image.open(io.BytesIO(base64.b64decode(image["img"]))) as shown:
            assert (shown.format, shown.size) == ("WEBP", (64, 32))

    def test_a_picture_enlarged_four_times(self, horde: Horde, owner: Account) -> None:
        rich = horde.account(amount=100_000)
        horde.asked(
            rich, params={"width": 1600, "height": 1600, "post_processing": ["RealESRGAN_x4plus"]}, r2=False
        )
        target = io.BytesIO()
        Image.new("RGB", (6400, 6400)).save(target, "WEBP", lossless=True, method=0, quality=0)
        result = base64.b64encode(target.getvalue()).decode()
        assert horde.submitted(owner, horde.popped(owner)["id"], generation=result) > 0

    def test_an_uploaded_result_can_be_asked_for_in_base64(
        self, horde: Horde, owner: Account, job: str
    ) -> None:
        horde.platform.store.put(f"{job}.webp", WEBP)
        horde.submitted(owner, job, generation="R2")
        (image,) = horde.status(only_request(horde))["generations"]
        assert base64.b64decode(image["img"]) == WEBP

    def test_a_result_that_the_store_has_lost(self, horde: Horde, owner: Account, job: str) -> None:
        horde.submitted(owner, job)
        horde.platform.store.delete(f"{job}.webp")
        (image,) = horde.status(only_request(horde))["generations"]
        assert image["img"] == "N/A"

    @pytest.mark.parametrize("seed", [0, -1, 2**32, 2**63 - 1, 7.0])
    def test_the_seed_is_the_workers(self, horde: Horde, owner: Account, job: str, seed: float) -> None:
        horde.submitted(owner, job, seed=seed)
        assert horde.status(only_request(horde))["generations"][0]["seed"] == str(int(seed))

    @pytest.mark.parametrize(
        ("fields", "state"),
        [
            ({}, "ok"),
            ({"gen_metadata": [{"type": "lora", "value": "download_failed", "ref": "1"}]}, "ok"),
            ({"gen_metadata": [NSFW]}, "censored"),
            ({"state": "censored"}, "censored"),
            ({"gen_metadata": [NSFW, CSAM]}, "csam"),
            ({"state": "csam"}, "csam"),
            ({"state": "censored", "gen_metadata": [CSAM]}, "csam"),
        ],
    )
    def test_what_became_of_it(
        self, horde: Horde, owner: Account, payer: Account, job: str, fields: dict[str, Any], state: str
    ) -> None:
        before = horde.kudos(payer.balance)
        reward = horde.submitted(owner, job, **fields)
        assert reward > 1
        charged = before - horde.kudos(payer.balance)
        assert charged == 1 if state != "ok" else charged > 1
        assert float(horde.kudos(owner.balance)) == reward
        (image,) = horde.status(only_request(horde))["generations"]
        assert (image["state"], image["censored"]) == (state, state != "ok")
        assert image["gen_metadata"] == fields.get("gen_metadata", [])
        assert_books_balance(horde.platform)

    def test_software_earns_what_it_is_worth(self, horde: Horde, owner: Account) -> None:
        rewards = []
        for agent in (
            "AI Horde Worker reGen:13:x",
            "AI Horde Worker reGen:12:x",
            "SD-WebUI Stable Horde:1:x",
        ):
            horde.asked(r2=False)
            job = horde.popped(owner, agent[:20], bridge_agent=agent)["id"]
            rewards.append(horde.submitted(owner, job))
        assert rewards[1:] == [pytest.approx(rewards[0] * part, abs=0.01) for part in (0.9, 0.75)]

    def test_totals_of_people_and_workers(self, horde: Horde, owner: Account, payer: Account) -> None:
        horde.asked(payer, params={"n": 2, "steps": 10, "sampler_name": "k_heun"})
        reward = horde.submitted(owner, horde.popped(owner)["id"])
        horde.submitted(owner, horde.popped(owner)["id"], state="faulted")
        assert sweep.fold_records(horde.platform) == 2
        assert sweep.fold_records(horde.platform) == 0
        with horde.platform.read() as db:
            worker = db.exec_driver_sql(
                "SELECT fulfilments, uncompleted_jobs, contributions, kudos_generated FROM workers"
            ).one()
            people = db.exec_driver_sql("SELECT user_id, record, amount FROM user_records").all()
        pixelsteps = 512 * 512 * 20
        assert (*worker[:3], float(worker[3])) == (1, 1, pixelsteps, reward)
        assert sorted(people) == [
            (owner.id, "contribution", pixelsteps),
            (owner.id, "fulfillment", 1),
            (payer.id, "request", 1),
            (payer.id, "usage", pixelsteps),
        ]


class TestRefused:
    def test_a_second_time(self, horde: Horde, owner: Account, job: str) -> None:
        horde.submitted(owner, job)
        with unchanged(horde.platform):
            for fields in ({}, {"generation": "R2"}, {"state": "faulted"}, {"gen_metadata": [CSAM]}):
                assert_refused(horde.submit(owner, job, **fields), 400, "DuplicateGen", "already submitted")

    def test_by_another_account(self, horde: Horde, job: str) -> None:
        stranger = horde.account(Role.MODERATOR)
        with unchanged(horde.platform):
            for fields in ({}, {"state": "faulted"}):
                response = horde.submit(stranger, job, **fields)
                assert_refused(response, 403, "WrongCredentials", "another account")
            assert_refused(horde.submit("x" * 22, job), 401, "InvalidAPIKey", "key")

    @pytest.mark.parametrize(
        "job_id", ["00000000-0000-4000-8000-000000000000", "", "1", "x" * 36, "x" * 3000, "ffffffff" * 4]
    )
    def test_of_an_unknown_job(self, horde: Horde, owner: Account, job_id: str) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.submit(owner, job_id), 404, "InvalidJobID", "expired")

    @pytest.mark.parametrize(
        "generation",
        [
            "",
            "not base64",
            "é",
            "N/A",
            base64.b64encode(b"no picture").decode(),
            base64.b64encode(WEBP[:20]).decode(),
            base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(),
            "https://example.com/a.webp",
        ],
    )
    def test_of_what_is_no_picture(self, horde: Horde, owner: Account, job: str, generation: str) -> None:
        with unchanged(horde.platform):
            response = horde.submit(owner, job, generation=generation)
            assert_refused(response, 400, "ImageValidationFailed", "Image validation failed")
        assert horde.check(only_request(horde))["processing"] == 1
        assert horde.submitted(owner, job) > 0

    def test_without_a_result(self, horde: Horde, owner: Account, job: str) -> None:
        with unchanged(horde.platform):
            response = horde.call("POST", "/generate/submit", owner, json={"id": job, "seed": 1})
            assert_refused(response, 400, "ImageValidationFailed")

    def test_with_too_much_metadata(self, horde: Horde, owner: Account, job: str) -> None:
        entry = {"type": "information", "value": "see_ref", "ref": "1"}
        with unchanged(horde.platform):
            response = horde.submit(owner, job, gen_metadata=[entry] * 51)
            assert_refused(response, 400, "BadRequest", "50 entries")
        horde.submitted(owner, job, gen_metadata=[entry] * 50)
        assert horde.status(only_request(horde))["generations"][0]["gen_metadata"] == [entry] * 50


def let_expire(horde: Horde) -> None:
    """Let every job run out of time and every request out of its lifetime."""
    change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
    sweep.abort_overdue_jobs(horde.platform)
    change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
    change(horde.platform, "UPDATE jobs SET finished = now() - interval '1 hour'")
    sweep.expire_requests(horde.platform)


class TestLostJobs:
    def test_a_job_given_back_returns_to_the_queue(self, horde: Horde, owner: Account, job: str) -> None:
        assert horde.submitted(owner, job, state="faulted", generation="anything") == 0
        status = horde.status(only_request(horde))
        assert (status["restarted"], status["waiting"], status["processing"]) == (1, 1, 0)
        assert (status["done"], status["faulted"], status["generations"]) == (False, False, [])
        with unchanged(horde.platform):
            assert horde.submitted(owner, job, state="faulted") == 0
            assert_refused(horde.submit(owner, job), 400, "AbortedGen")
        assert horde.submitted(owner, horde.popped(owner)["id"]) > 0

    def test_the_third_time_the_request_is_given_up(
        self, horde: Horde, owner: Account, payer: Account
    ) -> None:
        request = horde.asked(payer, params={"n": 3})
        jobs = [horde.popped(owner)["id"] for _ in range(2)]
        horde.submitted(owner, jobs[0], state="faulted")
        for _ in range(2):
            assert not horde.check(request)["faulted"]
            horde.submitted(owner, horde.popped(owner)["id"], state="faulted")
        status = horde.check(request)
        # What is under way may still be delivered.
        assert (status["faulted"], status["done"], status["restarted"]) == (True, False, 3)
        assert (status["waiting"], status["wait_time"] > 0, status["is_possible"]) == (0, True, True)
        assert horde.skipped(owner) == {}
        assert horde.submitted(owner, jobs[1]) > 0
        assert horde.check(request)["done"]
        assert len(horde.status(request)["generations"]) == 1
        assert_books_balance(horde.platform)
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_a_late_result_is_taken_until_the_job_is_handed_out_again(
        self, horde: Horde, owner: Account, job: str
    ) -> None:
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        assert horde.submitted(owner, job) > 0
        assert sweep.abort_overdue_jobs(horde.platform) == 0

    def test_an_overdue_job_returns_to_the_queue(
        self, horde: Horde, owner: Account, payer: Account, job: str
    ) -> None:
        assert sweep.abort_overdue_jobs(horde.platform) == 0
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        assert sweep.abort_overdue_jobs(horde.platform) == 1
        with unchanged(horde.platform):
            assert_refused(horde.submit(owner, job), 400, "AbortedGen", "worker speed")
        status = horde.status(only_request(horde))
        assert (status["restarted"], status["waiting"]) == (1, 1)
        assert horde.kudos(payer.balance) == 499
        assert horde.submitted(owner, horde.popped(owner)["id"]) > 0

    def test_all_jobs_of_a_batch_can_be_overdue_at_once(self, horde: Horde, owner: Account) -> None:
        request = horde.asked(params={"n": 4})
        horde.popped(owner, amount=2)
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        assert sweep.abort_overdue_jobs(horde.platform) == 2
        assert horde.check(request)["waiting"] == 4
        assert len(horde.popped(owner, amount=4)["ids"]) == 4

    def test_a_job_of_an_expired_request_is_unknown(self, horde: Horde, owner: Account, job: str) -> None:
        let_expire(horde)
        assert count_rows(horde.platform)["requests"] == 0
        with unchanged(horde.platform):
            for fields in ({}, {"state": "faulted"}):
                assert_refused(horde.submit(owner, job, **fields), 404, "InvalidJobID")
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)


def _submit_duplicate(horde: Horde, owner: Account, job: str) -> TestResponse:
    horde.submitted(owner, job)
    return horde.submit(owner, job)


def _submit_aborted(horde: Horde, owner: Account, job: str) -> TestResponse:
    change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
    sweep.abort_overdue_jobs(horde.platform)
    return horde.submit(owner, job)


def _submit_expired(horde: Horde, owner: Account, job: str) -> TestResponse:
    let_expire(horde)
    return horde.submit(owner, job)


def _pop_in_maintenance(horde: Horde, owner: Account, job: str) -> TestResponse:
    change(horde.platform, "UPDATE workers SET maintenance = true")
    return horde.pop(owner)


@pytest.mark.parametrize(
    ("act", "fragments"),
    [
        (_submit_expired, ("Processing Job with ID", "does not exist")),
        (lambda horde, owner, job: horde.submit(owner, "1"), ("Processing Job with ID", "does not exist")),
        (_submit_duplicate, ("already submitted",)),
        (_submit_aborted, ("Please check your worker speed",)),
        (_pop_in_maintenance, ("maintenance mode",)),
        (lambda horde, owner, job: horde.pop(owner, models=[]), ("we cannot accept workers serving",)),
        (lambda horde, owner, job: horde.pop(horde.account()), ("Wrong credentials",)),
    ],
)
def test_the_words_that_deployed_workers_search_for(
    horde: Horde,
    owner: Account,
    job: str,
    act: Callable[[Horde, Account, str], TestResponse],
    fragments: tuple[str, ...],
) -> None:
    response = act(horde, owner, job)
    assert 400 <= response.status_code < 500
    assert response.json["rc"]
    for fragment in fragments:
        assert fragment in response.json["message"]


class TestOutcomes:
    """Each is told by a state of its own, never by how much was paid."""

    def test_work_of_no_value_is_taken_as_any_other(self, horde: Horde, owner: Account, job: str) -> None:
        change(horde.platform, "UPDATE jobs SET value = 0")
        assert horde.submitted(owner, job) == 0
        assert len(horde.status(only_request(horde))["generations"]) == 1
        assert_refused(horde.submit(owner, job), 400, "DuplicateGen")

    def test_in_maintenance_nothing_is_different(self, horde: Horde, owner: Account, job: str) -> None:
        change(horde.platform, "UPDATE workers SET maintenance = true")
        assert horde.submitted(owner, job) > 0
        with unchanged(horde.platform):
            assert_refused(horde.submit(owner, job), 400, "DuplicateGen")

    def test_given_back_it_is_not_delivered_whatever_else_is_said(
        self, horde: Horde, owner: Account, payer: Account, job: str
    ) -> None:
        assert horde.submitted(owner, job, state="faulted", gen_metadata=[CSAM, NSFW]) == 0
        status = horde.status(only_request(horde))
        assert (status["finished"], status["restarted"], status["waiting"]) == (0, 1, 1)
        assert scalar(horde.platform, "SELECT count(*) FROM problem_jobs") == 0
        assert horde.kudos(payer.balance) == 499

    def test_a_request_for_one_image_that_fails_twice_goes_on(
        self, horde: Horde, owner: Account, payer: Account
    ) -> None:
        request = horde.asked(payer)
        for lost in range(1, 3):
            job = horde.popped(owner)["id"]
            for _ in range(2):
                assert horde.submitted(owner, job, state="faulted") == 0
            shown = horde.check(request)
            assert (shown["restarted"], shown["waiting"], shown["done"]) == (lost, 1, False)
        assert horde.submitted(owner, horde.popped(owner)["id"]) > 0
        shown = horde.check(request)
        assert (shown["finished"], shown["done"], shown["faulted"]) == (1, True, False)

    def test_a_job_under_way_outlives_the_lifetime_of_its_request(
        self, horde: Horde, owner: Account, job: str
    ) -> None:
        change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
        assert sweep.expire_requests(horde.platform) == 0
        assert horde.submitted(owner, job) > 0
        assert len(horde.status(only_request(horde))["generations"]) == 1

    @pytest.mark.parametrize("overdue", [True, False])
    def test_a_cancelled_request_gets_nothing_back(
        self, horde: Horde, owner: Account, job: str, overdue: bool
    ) -> None:
        request = only_request(horde)
        horde.cancel(request)
        if overdue:
            change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
            sweep.abort_overdue_jobs(horde.platform)
        else:
            horde.submitted(owner, job, state="faulted")
        shown = horde.check(request)
        assert (shown["waiting"], shown["done"], shown["faulted"]) == (0, True, False)
        assert horde.pop(owner).json["ids"] == []

    def test_more_metadata_than_possible_is_refused_before_anything_else(self, horde: Horde) -> None:
        response = horde.submit("x" * 22, UNKNOWN, gen_metadata=[NSFW] * 51)
        assert_refused(response, 400, "BadRequest", "50 entries")
