"""Whatever happens to requests and in whatever order: no result is lost and the books stay right."""

from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from horde.generation import sweep
from horde.image import jobs, service, submissions, tracking
from horde.image.admission import Sender
from horde.image.schemas import GenerationInputStable, PopInputStable, SubmitInputStable
from horde.kudos import service as ledger
from horde.platform.errors import BadRequest, HordeError, NotFound
from horde.users.rules import ANONYMOUS_KEY, Role
from horde.workers import conduct
from tests.support import (
    AGENT,
    MODEL,
    Account,
    Horde,
    account,
    assert_books_balance,
    assert_queue_consistent,
    change,
    restore_rows,
    save_rows,
    scalar,
)

WEALTH = 1000
GIVEN_UP_AFTER = 3


@dataclass
class Request:
    """What the test knows of a request."""

    id: str
    left: int
    finished: int = 0
    lost: int = 0
    under_way: set[str] = field(default_factory=set)
    cancelled: bool = False
    alive: bool = True

    @property
    def given_up(self) -> bool:
        return self.lost >= GIVEN_UP_AFTER and not self.cancelled

    def lose(self, job: str) -> None:
        """A job comes to nothing."""
        self.under_way.remove(job)
        self.lost += 1
        self.left = 0 if self.cancelled or self.lost >= GIVEN_UP_AFTER else self.left + 1


@dataclass
class Job:
    """What the test knows of a job."""

    id: str
    owner: Account
    request: Request


class Loop(RuleBasedStateMachine):
    """Requests of a rich, a poor and the anonymous account, served by a trusted and a new owner."""

    requests = Bundle("requests")
    jobs = Bundle("jobs")

    def __init__(self, horde: Horde) -> None:
        super().__init__()
        self.platform = horde.platform
        self.rows = save_rows(self.platform)
        self.owners = [account(self.platform, Role.TRUSTED, amount=WEALTH), account(self.platform)]
        self.payers = {
            "rich": account(self.platform, amount=WEALTH, registered=True).key,
            "poor": account(self.platform, amount=30).key,
            "anonymous": ANONYMOUS_KEY,
        }
        self.known: dict[str, Request] = {}
        self.rewards = [Decimal(0), Decimal(0)]
        self.paused = [False, False]
        self.fooled: list[set[str]] = [set(), set()]
        """Ids of the requests of which each owner's worker got a decoy."""
        self.dropped = [0, 0]

    @initialize(target=requests, payer=st.sampled_from(["rich", "poor", "anonymous"]))
    def ask_first(self, payer: str) -> Request | MultipleResults[Request]:
        """There is always something to do."""
        return self.ask(payer, n=4, upfront=False)

    @rule(
        target=requests,
        payer=st.sampled_from(["rich", "poor", "anonymous"]),
        n=st.integers(1, 4),
        upfront=st.booleans(),
    )
    def ask(self, payer: str, n: int, upfront: bool) -> Request | MultipleResults[Request]:
        wanted = GenerationInputStable.model_validate(
            {"prompt": "a lighthouse", "params": {"n": n}, "slow_workers": not upfront}
        )
        try:
            answer = service.submit_request(
                self.platform, Sender(self.payers[payer], "127.0.0.1", "test:1:test"), wanted
            )
        except HordeError as error:
            assert error.rc in ("KudosUpfront", "TooManyPrompts")  # noqa: PT017 - a possible outcome
            return multiple()
        request = self.known[answer["id"]] = Request(answer["id"], n)
        return request

    @rule(target=jobs, owner=st.integers(0, 1), amount=st.integers(1, 3))
    def pop(self, owner: int, amount: int) -> MultipleResults[Job]:
        offer = PopInputStable.model_validate(
            {
                "name": f"worker of {self.owners[owner].alias}",
                "models": [MODEL],
                "bridge_agent": AGENT,
                "max_pixels": 4194304,
                "amount": amount,
            }
        )
        answer = jobs.pop(self.platform, self.owners[owner].key, "127.0.0.1", offer)
        waiting = [
            request.id
            for request in self.known.values()
            if request.left and request.id not in self.fooled[owner]
        ]
        if not answer["ids"]:
            assert waiting == []
            return multiple()
        found = scalar(self.platform, "SELECT request_id FROM jobs WHERE id = :id", id=answer["id"])
        assert str(found) in waiting
        request = self.known[str(found)]
        if self.paused[owner]:
            assert len(answer["ids"]) == 1
            self.fooled[owner].add(request.id)
            return multiple()
        assert 1 <= len(answer["ids"]) <= min(amount, request.left)
        assert not request.under_way & set(answer["ids"])
        request.left -= len(answer["ids"])
        request.under_way |= set(answer["ids"])
        return multiple(*(Job(job, self.owners[owner], request) for job in answer["ids"]))

    def submit(self, job: Job, state: str) -> float:
        # Workers that were as fast as this test would be paused.
        change(
            self.platform, "UPDATE jobs SET started = now() - interval '1 minute' WHERE id = :id", id=job.id
        )
        result = SubmitInputStable.model_validate(
            {"id": job.id, "generation": "R2", "seed": 1, "state": state}
        )
        return submissions.submit(self.platform, job.owner.key, result)

    @rule(job=jobs, state=st.sampled_from(["ok", "censored", "csam", "faulted"]))
    def end(self, job: Job, state: str) -> None:
        """Submit a job, which may have ended before or be forgotten."""
        request = job.request
        if job.id in request.under_way:
            reward = self.submit(job, state)
            if state == "faulted":
                assert reward == 0
                request.lose(job.id)
                self.dropped[self.owners.index(job.owner)] += 1
            else:
                assert reward > 0
                request.under_way.remove(job.id)
                request.finished += 1
                self.rewards[self.owners.index(job.owner)] += Decimal(str(reward))
            return
        try:
            assert self.submit(job, state) == 0
        except NotFound as error:
            assert (error.rc, request.alive) == ("InvalidJobID", False)  # noqa: PT017
        except BadRequest as error:
            assert error.rc in ("DuplicateGen", "AbortedGen")  # noqa: PT017
        else:
            assert state == "faulted"

    @rule(job=jobs)
    def run_out_of_time(self, job: Job) -> None:
        under_way = job.id in job.request.under_way
        change(
            self.platform, "UPDATE jobs SET deadline = now() - interval '1 second' WHERE id = :id", id=job.id
        )
        assert sweep.abort_overdue_jobs(self.platform) == under_way
        if under_way:
            job.request.lose(job.id)
            self.dropped[self.owners.index(job.owner)] += 1

    @rule(owner=st.integers(0, 1), paused=st.booleans())
    def pause(self, owner: int, paused: bool) -> None:
        change(
            self.platform,
            "UPDATE workers SET paused = :paused WHERE owner_id = :id",
            paused=paused,
            id=self.owners[owner].id,
        )
        # One that has not registered yet is not paused either.
        query = "SELECT count(*) FROM workers WHERE owner_id = :id AND paused"
        self.paused[owner] = bool(scalar(self.platform, query, id=self.owners[owner].id))

    @rule(owner=st.integers(0, 1), state=st.sampled_from(["ok", "csam", "faulted", "overdue"]))
    def end_decoys(self, owner: int, state: str) -> None:
        """A worker hands in all that it got for show, or lets it run out of time."""
        with self.platform.read() as db:
            open_decoys = db.exec_driver_sql(
                "SELECT jobs.id FROM jobs JOIN workers ON workers.id = worker_id "
                "WHERE decoy AND state = 'processing' AND owner_id = %s",
                (self.owners[owner].id,),
            ).scalars()
            ids = [str(job) for job in open_decoys]
        if state == "overdue":
            change(self.platform, "UPDATE jobs SET deadline = now() - interval '1 second' WHERE decoy")
            assert sweep.abort_overdue_jobs(self.platform) == 0
            return
        for job in ids:
            result = {"id": job, "generation": "R2", "seed": 1, "state": state}
            reward = submissions.submit(
                self.platform, self.owners[owner].key, SubmitInputStable.model_validate(result)
            )
            assert (reward == 0) == (state == "faulted")

    @rule(request=requests)
    def cancel(self, request: Request) -> None:
        if not request.alive:
            with pytest.raises(NotFound):
                tracking.cancel(self.platform, request.id)
            return
        tracking.cancel(self.platform, request.id)
        if not request.given_up:
            request.cancelled = True
        request.left = 0

    @rule(request=consumes(requests))
    def expire(self, request: Request) -> None:
        """Let a request's lifetime end; it goes unless a job of it is under way."""
        if not request.alive:
            return
        change(
            self.platform,
            "UPDATE requests SET expires = now() - interval '1 second' WHERE id = :id",
            id=request.id,
        )
        change(
            self.platform,
            "UPDATE jobs SET finished = now() - interval '1 hour' "
            "WHERE request_id = :id AND state <> 'processing'",
            id=request.id,
        )
        request.alive = bool(request.under_way)
        assert sweep.expire_requests(self.platform) == (not request.alive)
        if request.alive:
            change(
                self.platform,
                "UPDATE requests SET expires = now() + interval '1 hour' WHERE id = :id",
                id=request.id,
            )
        else:
            del self.known[request.id]

    @rule(limit=st.sampled_from([1, 5, 1000]))
    def fold(self, limit: int) -> None:
        while ledger.fold(self.platform, limit):
            pass
        below = scalar(
            self.platform,
            "SELECT count(*) FROM accounts "
            "WHERE balance < floor AND id IN (SELECT account_id FROM ledger_entries)",
        )
        assert below == 0

    @rule()
    def sweep(self) -> None:
        sweep.release_reservations(self.platform)
        sweep.fold_records(self.platform)
        sweep.close_empty_lanes(self.platform)
        ended = [request for request in self.known.values() if not request.left and not request.under_way]
        for request in ended:
            query = "SELECT count(*) FROM reservations WHERE request_id = :id"
            assert scalar(self.platform, query, id=request.id) == 0

    @rule()
    def count_dropped_jobs(self) -> None:
        sweep.fold_records(self.platform)
        if max(self.dropped) <= conduct.MOST_DROPPED:
            assert conduct.judge_dropped_jobs(self.platform) == 0
        for owner, dropped in zip(self.owners, self.dropped, strict=True):
            query = "SELECT sum(uncompleted_jobs) FROM workers WHERE owner_id = :id"
            assert (scalar(self.platform, query, id=owner.id) or 0) == dropped

    @invariant()
    def the_books_are_right(self) -> None:
        _, broken = ledger.check_books(self.platform)
        assert broken == {}
        assert scalar(self.platform, "SELECT sum(balance) FROM accounts") == 0

    @invariant()
    def the_queue_is_consistent(self) -> None:
        with self.platform.read() as db:
            assert_queue_consistent(db)

    @invariant()
    def progress_adds_up(self) -> None:
        assert scalar(self.platform, "SELECT count(*) FROM requests") == len(self.known)
        for request in self.known.values():
            shown = tracking.check(self.platform, request.id, "192.0.2.1", "tests")
            assert (shown["finished"], shown["processing"], shown["waiting"], shown["restarted"]) == (
                request.finished,
                len(request.under_way),
                request.left,
                request.lost,
            )
            assert shown["faulted"] == request.given_up
            assert shown["done"] == (not (request.left or request.under_way))
            assert (shown["wait_time"] > 0) != shown["done"]

    @invariant()
    def owners_have_what_they_earned(self) -> None:
        with self.platform.read() as db:
            purses = [
                (ledger.effective_balance(db, owner.balance), ledger.effective_balance(db, owner.escrow))
                for owner in self.owners
            ]
        assert purses[0] == (WEALTH + self.rewards[0], 0)
        assert purses[1][1] <= self.rewards[1] / 2 + Decimal("0.5")
        # Folding the first reward lifts a new account to its floor.
        assert self.rewards[1] <= sum(purses[1]) <= self.rewards[1] + 14

    def teardown(self) -> None:
        ledger.fold_all(self.platform)
        assert_books_balance(self.platform)
        restore_rows(self.platform, self.rows)


def test_the_loop_keeps_its_books(horde: Horde) -> None:
    run_state_machine_as_test(
        partial(Loop, horde),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
