"""Which requests are taken, who may serve them, and what is set aside for them."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from horde.generation import sweep
from horde.kudos import service as ledger
from horde.kudos.rules import BURN, Entry
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    MODEL,
    SDXL,
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    scalar,
    unchanged,
)


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


def worker_ids(horde: Horde, owner: Account, *names: str) -> list[str]:
    """Workers of these names, registered by popping."""
    for name in names:
        horde.pop(owner, name)
    return [str(scalar(horde.platform, "SELECT id FROM workers WHERE name = :n", n=name)) for name in names]


class TestWorkers:
    def test_only_the_workers_asked_for_get_a_request(self, horde: Horde, owner: Account) -> None:
        first, second, _ = worker_ids(horde, owner, "first", "second", "third")
        horde.asked(workers=[first, second], params={"n": 2})
        assert horde.skipped(owner, "third") == {"worker_id": 1}
        assert horde.popped(owner, "second")["ids"]
        assert horde.popped(owner, "first")["ids"]

    def test_workers_to_avoid_do_not_get_a_request(self, horde: Horde, owner: Account) -> None:
        first, second, _ = worker_ids(horde, owner, "first", "second", "third")
        horde.asked(workers=[first, second], worker_blacklist=True)
        for name in ("first", "second"):
            assert horde.pop(owner, name).json["ids"] == []
        assert horde.popped(owner, "third")["ids"]

    def test_a_worker_that_is_avoided_is_told(self, horde: Horde, owner: Account) -> None:
        (first,) = worker_ids(horde, owner, "first")
        horde.asked(workers=[first], worker_blacklist=True)
        assert horde.skipped(owner, "first") == {"worker_id": 1}

    def test_avoiding_all_workers_leaves_nobody(self, horde: Horde, owner: Account) -> None:
        (first,) = worker_ids(horde, owner, "first")
        response = horde.ask(workers=[first], worker_blacklist=True)
        assert response.status_code == 202
        assert response.json["warnings"][0]["code"] == "NoAvailableWorker"
        assert not horde.check(response.json["id"])["is_possible"]

    @pytest.mark.parametrize("blacklist", [True, False])
    def test_unknown_workers_are_refused(self, horde: Horde, owner: Account, blacklist: bool) -> None:
        (known,) = worker_ids(horde, owner, "first")
        with unchanged(horde.platform):
            for unknown in (str(uuid4()), "first", "", "x" * 3000):
                response = horde.ask(workers=[known, unknown], worker_blacklist=blacklist)
                assert_refused(response, 404, "WorkerNotFound", "no worker", unknown[:60])

    def test_trusted_workers_only(self, horde: Horde, owner: Account) -> None:
        newcomer = horde.account()
        horde.asked(trusted_workers=True)
        assert horde.skipped(newcomer, "new") == {"untrusted": 1}
        assert horde.popped(owner)["ids"]

    def test_fast_workers_only(self, horde: Horde, owner: Account) -> None:
        worker_ids(horde, owner, "first", "slow")
        horde.asked(horde.account(amount=500), slow_workers=False)
        change(horde.platform, "UPDATE workers SET speed = 400000 WHERE name = 'slow'")
        assert horde.skipped(owner, "slow") == {"performance": 1}
        assert horde.popped(owner, "first")["ids"]

    def test_extra_slow_workers_are_for_those_who_accept_them(self, horde: Horde, owner: Account) -> None:
        horde.asked()
        assert horde.skipped(owner, extra_slow_worker=True) == {"performance": 1}
        request = horde.asked(extra_slow_workers=True, prompt="patience")
        job = horde.popped(owner, extra_slow_worker=True)
        assert job["payload"]["prompt"] == "patience"
        assert job["ttl"] == 450
        kept = scalar(
            horde.platform,
            "SELECT extract(epoch FROM expires - now()) FROM requests WHERE id = :id",
            id=request,
        )
        assert kept == pytest.approx(3600, abs=10)


class TestModels:
    def test_any_model_will_do(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[], params={"n": 2})
        assert horde.popped(owner, models=["Deliberate"])["model"] == "Deliberate"
        assert horde.popped(owner, models=[SDXL, MODEL])["model"] in (SDXL, MODEL)

    def test_one_of_several(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=["Deliberate", SDXL, "never heard of"])
        assert horde.skipped(owner, models=["Dreamshaper"]) == {"models": 1}
        assert horde.popped(owner, models=["Dreamshaper", SDXL])["model"] == SDXL

    def test_the_same_model_twice_is_once(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[MODEL, MODEL])
        assert horde.popped(owner)["model"] == MODEL

    def test_any_model_but_none_that_the_request_cannot_use(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[])
        assert horde.pop(owner, models=["stable_diffusion_inpainting"]).json["ids"] == []
        assert horde.popped(owner, models=["stable_diffusion_inpainting", MODEL])["model"] == MODEL


def test_pupils_get_safe_images_of_trusted_workers(horde: Horde, owner: Account) -> None:
    horde.asked(horde.account(Role.EDUCATION), nsfw=True, censor_nsfw=False, trusted_workers=False)
    assert horde.skipped(horde.account(), "new") == {"untrusted": 1}
    assert horde.popped(owner, nsfw=False)["payload"]["use_nsfw_censor"]


class TestConcurrency:
    def test_too_many_images_waiting(self, horde: Horde, owner: Account) -> None:
        user = horde.account()
        horde.asked(user, params={"n": 20})
        horde.asked(user, models=[SDXL], params={"n": 10})
        with unchanged(horde.platform):
            assert_refused(horde.ask(user), 429, "TooManyPrompts", "30", "wait")
        horde.asked(horde.account())
        horde.popped(owner, priority_usernames=[user.alias])
        horde.asked(user)
        assert_refused(horde.ask(user), 429, "TooManyPrompts")

    def test_cancelled_images_do_not_count(self, horde: Horde) -> None:
        user = horde.account()
        for _ in range(3):
            horde.cancel(horde.asked(user, params={"n": 20}))
        horde.asked(user, params={"n": 20})

    def test_more_at_once_than_may_ever_wait(self, horde: Horde) -> None:
        user = horde.account()
        change(horde.platform, "UPDATE users SET concurrency = 5 WHERE id = :id", id=user.id)
        assert_refused(horde.ask(user, params={"n": 6}), 429, "TooManyPrompts", "5")
        horde.asked(user, params={"n": 5})

    def test_the_anonymous_account_counts_per_model(self, horde: Horde) -> None:
        change(horde.platform, "UPDATE users SET concurrency = 3 WHERE id = 0")
        horde.asked(models=[MODEL, "Deliberate"], params={"n": 3})
        horde.asked(models=[SDXL], params={"n": 3})
        for models in ([MODEL], [SDXL, "Dreamshaper"], []):
            assert_refused(horde.ask(models=models), 429, "TooManyPrompts")
        horde.asked(models=["Dreamshaper"])


ANONYMOUS_PURSE = 3
"""Account id of the anonymous user's balance."""


def available(horde: Horde, payer: Account) -> Decimal:
    """What an account can still promise."""
    with horde.platform.read() as db:
        return ledger.available(db, payer.balance)


def drain(horde: Horde, purse: int) -> None:
    """Spend all that an account may."""
    with horde.platform.engine.begin() as db:
        spent = ledger.available(db, purse)
        ledger.post(db, uuid4(), "admin", [Entry(purse, -spent, "admin"), Entry(BURN, spent)])
    ledger.fold_all(horde.platform)


class TestUpfrontKudos:
    FAST = {"slow_workers": False, "params": {"n": 2}}

    @pytest.mark.parametrize(
        ("fields", "word"),
        [
            ({"slow_workers": False}, "slow_workers"),
            ({"params": {"width": 1024, "height": 1088}}, "1024x1088"),
            ({"params": {"steps": 41}}, "41 steps"),
            ({"params": {"steps": 21, "sampler_name": "k_heun"}}, "42 steps"),
            ({"params": {"steps": 11, "sampler_name": "lcm"}}, "11 steps"),
        ],
    )
    def test_those_who_cannot_pay_are_refused(self, horde: Horde, fields: dict[str, Any], word: str) -> None:
        poor = horde.account(amount=15)
        drain(horde, ANONYMOUS_PURSE)
        with unchanged(horde.platform):
            for key in (ANONYMOUS_KEY, poor):
                assert_refused(horde.ask(key, **fields), 403, "KudosUpfront", word, "kudos")
        assert horde.ask(horde.account(amount=500), **fields).status_code == 202

    def test_what_the_request_costs_is_set_aside_once(self, horde: Horde) -> None:
        payer = horde.account(amount=500, registered=True)
        cost = Decimal(str(horde.ask(payer, dry_run=True, **self.FAST).json["kudos"]))
        before = available(horde, payer)
        assert before == 475
        horde.asked(payer, **self.FAST)
        reserved = before - available(horde, payer)
        assert round(reserved) == cost
        ledger.fold_all(horde.platform)
        assert before - available(horde, payer) == reserved
        sweep.release_reservations(horde.platform)
        assert before - available(horde, payer) == reserved
        assert_books_balance(horde.platform)

    def test_nobody_can_promise_the_same_kudos_twice(self, horde: Horde) -> None:
        payer = horde.account(amount=14 + 100)
        accepted = 0
        while horde.ask(payer, **self.FAST).status_code == 202:
            accepted += 1
        assert accepted > 0
        price = (100 - available(horde, payer)) / accepted
        assert 0 <= available(horde, payer) < price
        assert_refused(horde.ask(payer, **self.FAST), 403, "KudosUpfront")
        horde.asked(payer, params={"n": 2})

    @pytest.mark.parametrize("end", ["delivered", "cancelled", "expired", "given up"])
    def test_what_is_left_is_released_at_the_end(self, horde: Horde, owner: Account, end: str) -> None:
        payer = horde.account(amount=500)
        horde.pop(owner)
        request = horde.asked(payer, **self.FAST)
        ends: dict[str, Callable[[], object]] = {
            "delivered": lambda: [horde.submitted(owner, horde.popped(owner)["id"]) for _ in range(2)],
            "cancelled": lambda: horde.cancel(request),
            "expired": lambda: (
                change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'"),
                sweep.expire_requests(horde.platform),
            ),
            "given up": lambda: (
                [horde.submitted(owner, horde.popped(owner)["id"], state="faulted") for _ in range(3)],
                sweep.release_reservations(horde.platform),
            ),
        }
        ends[end]()
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0
        ledger.fold_all(horde.platform)
        assert available(horde, payer) == horde.kudos(payer.balance) - 14
        assert_books_balance(horde.platform)

    def test_a_reservation_outlives_the_cancellation_of_jobs_under_way(
        self, horde: Horde, owner: Account
    ) -> None:
        payer = horde.account(amount=500)
        horde.pop(owner)
        request = horde.asked(payer, **self.FAST)
        job = horde.popped(owner)
        horde.cancel(request)
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 1
        horde.submitted(owner, job["id"])
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0


@pytest.mark.parametrize(
    ("fields", "status", "rc", "word"),
    [
        ({"style": "no such style"}, 404, "StyleNotFound", "no such style"),
        ({"style": str(uuid4())}, 404, "StyleNotFound", "style"),
    ],
)
def test_unknown_styles_are_refused(
    horde: Horde, fields: dict[str, Any], status: int, rc: str, word: str
) -> None:
    with unchanged(horde.platform):
        assert_refused(horde.ask(**fields), status, rc, word)
        assert_refused(horde.ask(dry_run=True, **fields), status, rc, word)
