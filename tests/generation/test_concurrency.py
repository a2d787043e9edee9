"""Many at once: nothing is handed out twice, paid twice, lost, or left standing in the queue."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Row, text

from horde.generation import settlement, sweep
from horde.image import jobs, service, submissions, tracking
from horde.image.admission import Sender
from horde.image.schemas import GenerationInputStable, PopInputStable, SubmitInputStable
from horde.kudos import service as ledger
from horde.platform.errors import BadRequest, Forbidden, HordeError
from horde.platform.runtime import Platform
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    AGENT,
    MODEL,
    Account,
    Horde,
    account,
    assert_books_balance,
    assert_queue_consistent,
    change,
    in_threads,
    scalar,
    wait_for_a_blocked_statement,
)

THREADS = 16


@pytest.fixture
def platform(horde: Horde) -> Platform:
    return horde.platform


@pytest.fixture
def owner(platform: Platform) -> Account:
    """Owner of sixteen trusted workers, `worker 0` and so on, which have popped before."""
    owner = account(platform, Role.TRUSTED, username="Owner")
    for number in range(THREADS):
        pop(platform, owner, number)
    return owner


def ask(platform: Platform, key: str = ANONYMOUS_KEY, *, n: int = 1, **fields: Any) -> str:
    """The id of a new request."""
    wanted = {"prompt": "a lighthouse", "params": {"n": n}} | fields
    sender = Sender(key, "127.0.0.1", "test:1:test")
    answer = service.submit_request(platform, sender, GenerationInputStable.model_validate(wanted))
    return str(answer["id"])


def pop(platform: Platform, owner: Account, number: int, amount: int = 1) -> list[str]:
    """The jobs that a worker gets."""
    offer = {
        "name": f"worker {number}",
        "models": [MODEL],
        "bridge_agent": AGENT,
        "max_pixels": 4194304,
        "amount": amount,
    }
    answer = jobs.pop(platform, owner.key, "127.0.0.1", PopInputStable.model_validate(offer))
    return list(answer["ids"])


def submit(platform: Platform, owner: Account, job: str, state: str = "ok") -> float:
    """The reward for an uploaded result."""
    result = {"id": job, "generation": "R2", "seed": 1, "state": state}
    return submissions.submit(platform, owner.key, SubmitInputStable.model_validate(result))


def waiting(platform: Platform) -> int:
    """Results that nobody has taken."""
    return int(scalar(platform, "SELECT coalesce(sum(n), 0) FROM requests"))


def assert_all_is_well(platform: Platform) -> None:
    with platform.read() as db:
        assert_queue_consistent(db)
    ledger.fold_all(platform)
    assert_books_balance(platform)


@pytest.mark.parametrize("amount", [1, 3])
def test_every_result_is_handed_out_once(platform: Platform, owner: Account, amount: int) -> None:
    requests = [ask(platform, n=1 + number % 5) for number in range(20)]
    assert waiting(platform) == 60

    def work(number: int) -> list[str]:
        taken: list[str] = []
        while waiting(platform):
            taken += pop(platform, owner, number, amount)
        return taken

    taken = [job for jobs in in_threads(THREADS, work) for job in jobs]
    assert len(taken) == len(set(taken)) == 60
    with platform.read() as db:
        handed_out = Counter(str(row) for row in db.execute(text("SELECT request_id FROM jobs")).scalars())
    assert handed_out == {request: 1 + number % 5 for number, request in enumerate(requests)}
    assert scalar(platform, "SELECT count(*) FROM queue") == 0
    assert_all_is_well(platform)


def test_a_result_submitted_by_many_hands_is_paid_once(platform: Platform, owner: Account) -> None:
    payer = account(platform, amount=500)
    ask(platform, payer.key)
    (job,) = pop(platform, owner, 0)

    def work(_: int) -> float:
        try:
            return submit(platform, owner, job)
        except BadRequest as error:
            assert error.rc == "DuplicateGen"  # noqa: PT017 - a possible outcome
            return 0.0

    rewards = in_threads(8, work)
    assert sorted(reward > 0 for reward in rewards) == [False] * 7 + [True]
    with platform.read() as db:
        assert float(ledger.effective_balance(db, owner.balance)) == max(rewards)
    assert scalar(platform, "SELECT count(*) FROM generation_records") == 1
    assert_all_is_well(platform)


def test_a_job_that_ends_in_many_ways_ends_once(platform: Platform, owner: Account) -> None:
    """Delivered, given back and overdue at the same moment."""
    for _ in range(6):
        request = ask(platform)
        (job,) = pop(platform, owner, 0)
        change(platform, "UPDATE jobs SET deadline = now() - interval '1 second'")

        def work(number: int, job: str = job) -> float:
            try:
                if number % 3 == 2:
                    return sweep.abort_overdue_jobs(platform)
                return submit(platform, owner, job, state=("ok", "faulted")[number % 3])
            except BadRequest as error:
                assert error.rc in ("DuplicateGen", "AbortedGen")  # noqa: PT017 - possible outcomes
                return 0.0

        in_threads(6, work)
        shown = tracking.check(platform, request, "192.0.2.1", "tests")
        assert shown["finished"] + shown["restarted"] == 1
        assert shown["waiting"] == shown["restarted"]
        tracking.cancel(platform, request)
    assert_all_is_well(platform)


def test_the_queue_is_right_after_everything_at_once(platform: Platform, owner: Account) -> None:
    payer = account(platform, amount=5000)
    requests = [ask(platform, payer.key, n=3, slow_workers=bool(number % 2)) for number in range(10)]
    requests += [ask(platform, n=5) for _ in range(10)]

    def work(number: int) -> None:
        choose = random.Random(number)
        if number == 0:
            for request in choose.sample(requests, 10):
                tracking.cancel(platform, request)
        elif number == 1:
            for _ in range(20):
                change(
                    platform, "UPDATE jobs SET deadline = now() WHERE random() < 0.3 AND state = 'processing'"
                )
                sweep.abort_overdue_jobs(platform)
        elif number == 2:
            for _ in range(20):
                sweep.expire_requests(platform)
                sweep.release_reservations(platform)
                ledger.fold(platform)
                sweep.fold_records(platform)
        else:
            for _ in range(15):
                for job in pop(platform, owner, number, amount=2):
                    try:
                        submit(platform, owner, job, state=choose.choice(["ok", "ok", "faulted", "csam"]))
                    except BadRequest as error:
                        assert error.rc == "AbortedGen"  # noqa: PT017 - a possible outcome

    in_threads(THREADS, work)
    for request in requests:
        shown = tracking.check(platform, request, "192.0.2.1", "tests")
        assert shown["processing"] == 0
        assert shown["done"] == (shown["waiting"] == 0)
    assert_all_is_well(platform)


def test_nobody_asks_for_more_than_may_wait(platform: Platform) -> None:
    user = account(platform)

    def work(_: int) -> bool:
        try:
            ask(platform, user.key, n=4)
        except HordeError as error:
            assert error.rc == "TooManyPrompts"  # noqa: PT017 - a possible outcome
            return False
        return True

    assert in_threads(THREADS, work).count(True) == 7
    assert waiting(platform) == 28
    assert_all_is_well(platform)


def test_nobody_spends_the_same_kudos_twice(platform: Platform) -> None:
    user = account(platform, amount=100)

    def work(_: int) -> bool:
        try:
            ask(platform, user.key, slow_workers=False)
        except Forbidden as error:
            assert error.rc == "KudosUpfront"  # noqa: PT017 - a possible outcome
            return False
        return True

    accepted = in_threads(THREADS, work).count(True)
    assert 0 < accepted < THREADS
    reserved = scalar(platform, "SELECT sum(amount) FROM reservations")
    assert 86 - reserved / accepted < reserved <= 86
    assert_all_is_well(platform)


class TestWhileAJobIsGivenBack:
    """Somebody waits for the request's row, and must see what its last holder left."""

    def test_the_request_is_cancelled(self, platform: Platform, owner: Account) -> None:
        request = ask(platform)
        (job,) = pop(platform, owner, 0)
        with platform.engine.connect() as db, ThreadPoolExecutor(1) as pool:
            assert settlement.lose(db, find_job(db, job), {})
            cancelling = pool.submit(tracking.cancel, platform, request)
            wait_for_a_blocked_statement(platform)
            db.commit()
            cancelling.result(timeout=10)
        assert pop(platform, owner, 0) == []
        assert_all_is_well(platform)

    def test_another_job_is_given_back(self, platform: Platform, owner: Account) -> None:
        request = ask(platform, n=3)
        taken = [job for _ in range(3) for job in pop(platform, owner, 0)]
        submit(platform, owner, taken[0], state="faulted")
        with platform.engine.connect() as db, ThreadPoolExecutor(1) as pool:
            assert settlement.lose(db, find_job(db, taken[1]), {})
            giving_back = pool.submit(submit, platform, owner, taken[2], "faulted")
            wait_for_a_blocked_statement(platform)
            db.commit()
            giving_back.result(timeout=10)
        assert tracking.check(platform, request, "192.0.2.1", "tests")["faulted"]
        assert_all_is_well(platform)


def find_job(db: Connection, job: str) -> Row[Any]:
    row = settlement.find_job(db, UUID(job), "image")
    assert row is not None
    return row


def test_a_lane_may_be_closed_while_somebody_queues_into_it(platform: Platform) -> None:
    tracking.cancel(platform, ask(platform))
    change(platform, "DELETE FROM requests")
    with platform.engine.connect() as db, ThreadPoolExecutor(1) as pool:
        # The sweep has deleted the empty lane and is about to commit.
        assert db.execute(text("DELETE FROM lanes")).rowcount == 1
        asking = pool.submit(ask, platform)
        wait_for_a_blocked_statement(platform)
        db.commit()
        assert asking.result(timeout=10)
    assert_all_is_well(platform)


def test_lanes_are_closed_when_nobody_needs_them(platform: Platform, owner: Account) -> None:
    ask(platform)
    assert sweep.close_empty_lanes(platform) == 0
    (job,) = pop(platform, owner, 0)
    assert sweep.close_empty_lanes(platform) == 0
    submit(platform, owner, job, state="faulted")
    assert_all_is_well(platform)
    change(platform, "DELETE FROM requests")
    assert sweep.close_empty_lanes(platform) == 1
