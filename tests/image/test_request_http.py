"""Asking for images over HTTP, from the request to its pictures or its cancellation."""

import base64
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from horde.generation import sweep
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    PICTURE,
    WEBP,
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    change,
    forget,
    scalar,
    unchanged,
)


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of a trusted worker."""
    return horde.account(Role.TRUSTED, username="Owner")


def counts(answer: dict[str, Any]) -> tuple[int, int, int]:
    """Finished, processing and waiting results."""
    return answer["finished"], answer["processing"], answer["waiting"]


def test_an_image_by_address(horde: Horde, owner: Account) -> None:
    horde.pop(owner)
    request = horde.asked(prompt="a lighthouse", params={"seed": "42", "steps": 8})
    waiting = horde.check(request)
    assert counts(waiting) == (0, 0, 1)
    assert (waiting["done"], waiting["is_possible"], waiting["queue_position"]) == (False, True, 1)
    job = horde.popped(owner)
    assert job["ids"] == [job["id"]]
    assert (job["payload"]["prompt"], job["payload"]["seed"], job["payload"]["ddim_steps"]) == (
        "a lighthouse",
        "42",
        8,
    )
    assert counts(horde.check(request)) == (0, 1, 0)
    assert horde.fetch("PUT", job["r2_upload"], WEBP).status_code == 200
    assert horde.submitted(owner, job["id"], generation="R2", seed=42) > 0
    done = horde.status(request)
    assert counts(done) == (1, 0, 0)
    assert (done["done"], done["faulted"], done["wait_time"], done["queue_position"]) == (True, False, 0, 0)
    (image,) = done["generations"]
    assert horde.fetch("GET", image.pop("img")).data == WEBP
    worker = scalar(horde.platform, "SELECT id FROM workers")
    assert image == {
        "id": job["id"],
        "seed": "42",
        "model": "stable_diffusion",
        "worker_id": str(worker),
        "worker_name": "worker",
        "censored": False,
        "gen_metadata": [],
        "state": "ok",
    }


def test_an_image_in_base64(horde: Horde, owner: Account) -> None:
    request = horde.asked(r2=False)
    job = horde.popped(owner)
    assert (job["r2_upload"], job["r2_uploads"]) == (None, None)
    horde.submitted(owner, job["id"], generation=PICTURE)
    (image,) = horde.status(request)["generations"]
    assert base64.b64decode(image["img"]) == WEBP


def test_several_images_one_after_another(horde: Horde, owner: Account) -> None:
    request = horde.asked(params={"n": 3})
    delivered = []
    for finished in range(3):
        assert counts(horde.check(request)) == (finished, 0, 3 - finished)
        job = horde.popped(owner)
        assert counts(horde.check(request)) == (finished, 1, 2 - finished)
        assert not horde.check(request)["done"]
        horde.submitted(owner, job["id"])
        delivered.append(job["id"])
    status = horde.status(request)
    assert [image["id"] for image in status["generations"]] == delivered
    assert status["done"]
    assert horde.skipped(owner) == {}


def test_progress_is_the_same_in_check_and_status(horde: Horde, owner: Account) -> None:
    request = horde.asked(params={"n": 2})
    horde.submitted(owner, horde.popped(owner)["id"])
    status, check = horde.status(request), horde.check(request)
    assert {name: status[name] for name in check} == check
    assert set(status) - set(check) == {"generations", "shared"}


def test_what_is_quoted_is_charged_and_shown(horde: Horde, owner: Account) -> None:
    payer = horde.account(amount=500)
    fields = {"params": {"n": 2, "steps": 25}}
    quoted = horde.ask(payer, **fields, dry_run=True).json["kudos"]
    request = horde.asked(payer, **fields)
    for _ in range(2):
        horde.submitted(owner, horde.popped(owner)["id"])
    spent = Decimal(500) - horde.kudos(payer.balance)
    assert spent > 3
    assert round(spent) == quoted == horde.status(request)["kudos"]
    assert_books_balance(horde.platform)


def test_only_the_activation_is_charged_for_what_nobody_makes(horde: Horde) -> None:
    payer = horde.account(amount=500)
    request = horde.asked(payer)
    assert horde.kudos(payer.balance) == 499
    assert horde.cancel(request)["kudos"] == 1
    assert horde.kudos(payer.balance) == 499


def test_half_of_an_untrusted_owners_reward_waits_in_escrow(horde: Horde, owner: Account) -> None:
    newcomer = horde.account()
    for worker, name in ((newcomer, "new"), (owner, "trusted")):
        horde.asked()
        reward = Decimal(str(horde.submitted(worker, horde.popped(worker, name)["id"])))
        purses = horde.kudos(worker.balance), horde.kudos(worker.escrow)
        assert sum(purses) == reward
        assert purses[1] == (0 if worker is owner else pytest.approx(reward / 2, abs=Decimal("0.01")))


def test_a_dry_run_tells_the_price_and_does_nothing(horde: Horde) -> None:
    payer = horde.account(amount=100)
    with unchanged(horde.platform):
        for key in (ANONYMOUS_KEY, payer):
            response = horde.ask(key, dry_run=True, params={"n": 4}, slow_workers=False)
            assert response.status_code == 200
            assert response.json.keys() == {"kudos"}
            assert response.json["kudos"] > 4
    assert_refused(horde.ask("x" * 22, dry_run=True), 401, "InvalidAPIKey")


def test_there_is_no_such_request(horde: Horde) -> None:
    for request_id in (str(uuid4()), "0", "%00", "a" * 36, "{}", "😀", "1" * 5000):
        for method, call in (("GET", "check"), ("GET", "status"), ("DELETE", "status")):
            response = horde.call(method, f"/generate/{call}/{request_id}")
            assert_refused(response, 404, "RequestNotFound", "no image request")


def test_a_cancelled_request_hands_out_nothing_more(horde: Horde, owner: Account) -> None:
    request = horde.asked(params={"n": 3})
    job = horde.popped(owner)
    assert counts(horde.cancel(request)) == (0, 1, 2)
    for _ in range(2):
        again = horde.cancel(request)
        assert (counts(again), again["done"]) == ((0, 1, 0), False)
    assert horde.skipped(owner) == {}
    assert horde.submitted(owner, job["id"]) > 0
    status = horde.status(request)
    assert (counts(status), status["done"], status["faulted"]) == ((1, 0, 0), True, False)
    assert [image["id"] for image in status["generations"]] == [job["id"]]
    assert_books_balance(horde.platform)


@pytest.mark.parametrize("loss", ["faulted", "overdue"])
def test_a_job_lost_after_cancelling_is_not_queued_again(horde: Horde, owner: Account, loss: str) -> None:
    request = horde.asked(params={"n": 2})
    job = horde.popped(owner)
    horde.cancel(request)
    if loss == "faulted":
        assert horde.submitted(owner, job["id"], state="faulted") == 0
    else:
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        assert sweep.abort_overdue_jobs(horde.platform) == 1
    status = horde.status(request)
    assert (counts(status), status["restarted"], status["done"]) == ((0, 0, 0), 1, True)
    assert horde.skipped(owner) == {}
    with horde.platform.read() as db:
        assert_queue_consistent(db)


def test_a_cancelled_request_without_jobs_is_done(horde: Horde) -> None:
    request = horde.asked()
    horde.cancel(request)
    status = horde.check(request)
    assert (status["done"], status["faulted"], status["wait_time"], status["queue_position"]) == (
        True,
        False,
        0,
        0,
    )


def test_the_queue_serves_the_rich_first_and_equals_in_turn(horde: Horde, owner: Account) -> None:
    first, second = horde.asked(), horde.asked()
    rich = horde.asked(horde.account(amount=10_000))
    forget(horde.platform)
    assert [horde.check(request)["queue_position"] for request in (rich, first, second)] == [1, 2, 3]
    for request in (rich, first, second):
        horde.popped(owner)
        assert counts(horde.check(request)) == (0, 1, 0)
        assert horde.check(request)["queue_position"] == 0


def test_without_an_able_worker_the_request_waits_and_says_so(horde: Horde, owner: Account) -> None:
    horde.pop(owner, allow_lora=False)
    forget(horde.platform)
    plain = horde.ask()
    assert plain.json.keys() == {"id", "kudos"}
    lora = horde.ask(params={"loras": [{"name": "12345"}]})
    assert lora.status_code == 202
    assert lora.json["warnings"] == [{"code": "NoAvailableWorker", "message": lora.json["message"]}]
    assert horde.check(plain.json["id"])["is_possible"]
    assert not horde.check(lora.json["id"])["is_possible"]
    change(horde.platform, "UPDATE workers SET allow_lora = true")
    assert horde.check(lora.json["id"])["is_possible"]
    change(horde.platform, "UPDATE workers SET last_seen = now() - interval '6 minutes'")
    assert not horde.check(plain.json["id"])["is_possible"]


def test_the_wait_is_never_zero_before_the_end(horde: Horde, owner: Account) -> None:
    request = horde.asked(params={"n": 2, "width": 64, "height": 64, "steps": 1})
    assert horde.check(request)["wait_time"] > 0
    jobs = [horde.popped(owner)["id"]]
    forget(horde.platform)
    assert horde.check(request)["wait_time"] > 0
    change(horde.platform, "UPDATE workers SET speed = 1e12")
    assert horde.check(request)["wait_time"] > 0
    jobs.append(horde.popped(owner)["id"])
    assert horde.check(request)["wait_time"] > 0
    for job in jobs:
        assert not horde.check(request)["done"]
        horde.submitted(owner, job)
    assert horde.check(request)["wait_time"] == 0


def test_the_wait_grows_with_the_work_ahead(horde: Horde, owner: Account) -> None:
    horde.pop(owner)
    waits = []
    for request in [horde.asked(params={"n": 5, "steps": 40}) for _ in range(3)]:
        forget(horde.platform)
        waits.append(horde.check(request)["wait_time"])
    assert waits[0] < waits[1] < waits[2]


def test_seeds(horde: Horde, owner: Account) -> None:
    def seeds(**params: Any) -> list[str]:
        horde.asked(params={"n": 2} | params)
        return [horde.popped(owner)["payload"]["seed"] for _ in range(2)]

    assert seeds(seed="abc") == ["6513249", "6513249"]
    assert seeds(seed="abc", seed_variation=3) == ["6513255", "6513252"]
    assert seeds(seed="-5") == [str(int.from_bytes(b"-5", "little"))] * 2
    random, other = seeds(seed="")
    assert random != other
    first, second = map(int, seeds(seed_variation=7))
    assert first - second == 7


def test_what_the_worker_receives(horde: Horde, owner: Account) -> None:
    horde.asked(
        prompt="a boat ### fog",
        nsfw=False,
        params={
            "steps": 12,
            "seed": "7",
            "cfg_scale": 3.25,
            "sampler_name": "k_dpmpp_2m",
            "tis": [{"name": "7808"}],
            "loras": [],
            "control_type": "",
            "unknown": 1,
        },
        also_unknown=True,
    )
    job = horde.popped(owner)
    assert job["payload"] == {
        "prompt": "a boat ### fog",
        "ddim_steps": 12,
        "n_iter": 1,
        "seed": "7",
        "cfg_scale": 3.25,
        "sampler_name": "k_dpmpp_2m",
        "karras": True,
        "width": 512,
        "height": 512,
        "tiling": False,
        "hires_fix": False,
        "transparent": False,
        "image_is_control": False,
        "return_control_map": False,
        "tis": [{"name": "7808", "strength": 1.0}],
        "use_nsfw_censor": True,
    }
    assert (job["model"], job["ttl"], job["skipped"], job["messages"]) == ("stable_diffusion", 150, {}, [])


def test_an_expired_request_is_gone_with_its_images(horde: Horde, owner: Account) -> None:
    payer = horde.account(amount=500)
    request = horde.asked(payer, params={"n": 2})
    horde.submitted(owner, horde.popped(owner)["id"])
    spent = horde.kudos(payer.balance)
    assert sweep.expire_requests(horde.platform) == 0
    change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
    assert horde.skipped(owner) == {}
    change(horde.platform, "UPDATE jobs SET finished = now() - interval '1 hour'")
    assert sweep.expire_requests(horde.platform) == 1
    assert_refused(horde.call("GET", f"/generate/status/{request}"), 404, "RequestNotFound")
    assert scalar(horde.platform, "SELECT count(*) FROM jobs") == 0
    assert scalar(horde.platform, "SELECT count(*) FROM queue") == 0
    assert horde.kudos(payer.balance) == spent
    assert_books_balance(horde.platform)


def test_a_request_is_kept_while_a_job_is_under_way(horde: Horde, owner: Account) -> None:
    request = horde.asked()
    job = horde.popped(owner)
    change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
    assert sweep.expire_requests(horde.platform) == 0
    assert horde.submitted(owner, job["id"]) > 0
    assert sweep.expire_requests(horde.platform) == 0
    assert len(horde.status(request)["generations"]) == 1


class TestCancellingWithAKey:
    """Where the operator wants to know who cancels."""

    @pytest.fixture
    def strict(self, horde: Horde) -> Iterator[Horde]:
        with another_process(horde, cancel_needs_key=True) as strict:
            yield strict

    def test_nobody_else_cancels(self, strict: Horde) -> None:
        request = strict.asked(strict.account())
        path, stranger = f"/generate/status/{request}", strict.account()
        with unchanged(strict.platform):
            assert_refused(strict.call("DELETE", path), 401, "InvalidAPIKey", "apikey")
            assert_refused(strict.call("DELETE", path, "x" * 22), 401, "InvalidAPIKey")
            assert_refused(strict.call("DELETE", path, stranger), 403, "NotOwner")
            assert_refused(strict.call("DELETE", path, ANONYMOUS_KEY), 403, "NotOwner")
            assert_refused(strict.call("DELETE", "/generate/status/x", stranger), 404, "RequestNotFound")

    def test_its_sender_and_moderators_cancel(self, strict: Horde) -> None:
        sender, moderator = strict.account(), strict.account(Role.MODERATOR)
        for owner, caller in ((sender, sender), (sender, moderator), (ANONYMOUS_KEY, ANONYMOUS_KEY)):
            request = strict.asked(owner)
            assert strict.call("DELETE", f"/generate/status/{request}", caller).status_code == 200
            assert strict.check(request)["done"]
