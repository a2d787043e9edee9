"""Gifts, awards, monthly kudos, styles, requests and results in any order, repeated and interrupted.

The books always balance, nobody gets below their floor by their own doing, and repeating a call changes
nothing.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import IntegrityError

from horde.generation import sweep
from horde.image import jobs, submissions, tracking
from horde.image.schemas import PopInputStable, SubmitInputStable
from horde.kudos import reconciliation
from horde.kudos import service as ledger
from horde.platform.errors import HordeError
from horde.users import monthly, transfers
from horde.users.kudos_schemas import KudosAwardInput, KudosTransferInput
from horde.users.rules import MODERATOR_MONTHLY_KUDOS, Role
from tests.support import (
    AGENT,
    MODEL,
    Account,
    Horde,
    account,
    assert_books_balance,
    change,
    contents,
    restore_rows,
    save_rows,
    scalar,
)
from tests.users.economy_requests import NOTHING, Asking

BOOKS = ("accounts", "ledger_events", "ledger_entries", "kudos_totals", "reservations", "shared_keys")
PEOPLE = ["giver", "asker", "careless", "artist", "worker"]
CAREFUL = ["giver", "asker", "worker"]
"""Those who spend nothing that they could not pay."""


@dataclass(frozen=True)
class Call:
    """A call that moved kudos; to repeat it, the same is sent once more."""

    repeat: Callable[[], object]


class Economy(Asking):
    """Somebody who only gives, two who ask (with and without proving that they can pay), somebody who only
    makes styles, and a worker's owner who moderates."""

    requests = Asking.requests
    calls = Bundle("calls")
    taken = Bundle("taken")

    def __init__(self, horde: Horde, counts: Counter[str]) -> None:
        super().__init__()
        self.platform = horde.platform
        self.counts = counts
        self.rows = save_rows(self.platform)
        self.admin = account(self.platform, Role.ADMIN)
        self.people: dict[str, Account] = {
            "giver": account(self.platform, amount=500),
            "asker": account(self.platform, Role.CUSTOMIZER, amount=500, registered=True),
            "careless": account(self.platform, Role.CUSTOMIZER, amount=60),
            "artist": account(self.platform, Role.CUSTOMIZER, amount=200),
            "worker": account(self.platform, Role.MODERATOR, amount=20),
        }
        self.moved: Counter[tuple[str, str]] = Counter()
        """Kudos that moved for other reasons than requests, by account and action."""

    @initialize()
    def a_worker_is_there(self) -> None:
        self.pop(1)

    # What people do

    @rule(
        target=calls,
        sender=st.sampled_from(PEOPLE),
        receiver=st.sampled_from(PEOPLE),
        amount=st.sampled_from([1, 5, 30, 200, 450, 486]),
        cooled=st.booleans(),
    )
    def give(self, sender: str, receiver: str, amount: int, cooled: bool) -> Call:
        if cooled:
            change(self.platform, "UPDATE ledger_entries SET created = created - interval '2 minutes'")
        wanted = KudosTransferInput(username=self.people[receiver].alias, amount=amount)
        call = partial(transfers.transfer, self.platform, self.people[sender].key, wanted, str(uuid4()))
        with self.platform.read() as db:
            available = ledger.available(db, self.people[sender].balance)
        try:
            assert call() == amount
        except HordeError as error:
            self.counts[f"transfer refused: {error.rc}"] += 1
            assert error.rc in ("KudosTransferToSelf", "TooFastKudosTransfers", "KudosTransferNotEnough")  # noqa: PT017
            assert error.rc != "KudosTransferNotEnough" or amount > available  # noqa: PT017
            return Call(lambda: None)
        self.counts["transfer"] += 1
        assert amount <= available
        assert sender != receiver
        self.moved[sender, "gifted"] -= amount
        self.moved[receiver, "received"] += amount
        return Call(call)

    @rule(target=calls, receiver=st.sampled_from(PEOPLE), amount=st.integers(-50, 50))
    def award(self, receiver: str, amount: int) -> Call:
        # Nobody's own doing: whoever is to stay above their floor by themselves is not fined.
        amount = abs(amount) if receiver in CAREFUL else amount
        wanted = KudosAwardInput(username=self.people[receiver].alias, amount=amount)
        call = partial(transfers.award, self.platform, self.admin.key, wanted, str(uuid4()))
        assert call() == amount
        self.counts["award"] += 1
        self.moved[receiver, "awarded"] += amount
        return Call(call)

    @rule(target=taken, amount=st.integers(1, 3))
    def take(self, amount: int) -> MultipleResults[str]:
        taken = self.pop(amount)
        return multiple(*taken, *[NOTHING] * (amount - len(taken)))

    def pop(self, amount: int) -> list[str]:
        offer = {"name": "worker", "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 4194304}
        wanted = PopInputStable.model_validate(offer | {"amount": amount})
        return list(jobs.pop(self.platform, self.people["worker"].key, "127.0.0.1", wanted)["ids"])

    @rule(amount=st.integers(1, 4))
    def work(self, amount: int) -> None:
        """What waits is done at once."""
        for job in self.pop(amount):
            self.deliver(job, "ok")

    @rule(target=calls, job=taken, state=st.sampled_from(["ok", "censored", "faulted"]))
    def deliver(self, job: str, state: str) -> Call:
        """Also a job that ended before, or whose request is gone: then nothing moves."""
        change(self.platform, "UPDATE jobs SET started = now() - interval '1 minute' WHERE id = :id", id=job)
        query = "SELECT state = 'processing' FROM jobs WHERE id = :id"
        under_way = scalar(self.platform, query, id=job)
        self.counts["submit" if under_way else "submit, too late"] += 1
        with self.settled(not under_way or state == "faulted"):
            self.submit(job, state)
        return Call(partial(self.submit, job, state))

    def submit(self, job: str, state: str) -> None:
        result = SubmitInputStable.model_validate({"id": job, "generation": "R2", "seed": 1, "state": state})
        try:
            submissions.submit(self.platform, self.people["worker"].key, result)
        except HordeError as error:
            assert error.rc in ("InvalidJobID", "DuplicateGen", "AbortedGen")  # noqa: PT017

    @rule(target=calls, request=requests)
    def cancel(self, request: str) -> Call:
        def call() -> None:
            try:
                tracking.cancel(self.platform, request)
            except HordeError as error:
                assert error.rc == "RequestNotFound"  # noqa: PT017

        self.counts["cancel"] += 1
        call()
        return Call(call)

    # What time does

    @rule(passes=st.booleans())
    def month(self, passes: bool) -> None:
        """The monthly kudos are paid again and again; sometimes a month goes by before."""
        if passes:
            change(
                self.platform,
                "UPDATE users SET monthly_kudos_last_received = "
                "monthly_kudos_last_received - interval '32 days'",
            )
        first = self.recurring() == 0
        paid = monthly.pay(self.platform)
        assert paid == (passes or first)
        self.counts["monthly kudos" if paid else "monthly kudos, not due"] += 1
        self.moved["worker", "recurring"] += paid * MODERATOR_MONTHLY_KUDOS
        assert monthly.pay(self.platform) == 0

    def recurring(self) -> int:
        return self.moved["worker", "recurring"]

    @rule(request=requests)
    def expire(self, request: str) -> None:
        for statement in (
            "UPDATE requests SET expires = now() - interval '1 second' WHERE id = :id",
            "UPDATE jobs SET finished = now() - interval '1 hour' "
            "WHERE request_id = :id AND state <> 'processing'",
        ):
            change(self.platform, statement, id=request)
        query = "SELECT coalesce(sum(amount), 0) FROM user_records WHERE record = 'request'"
        counted = scalar(self.platform, query)
        gone = sweep.expire_requests(self.platform)
        assert scalar(self.platform, query) == counted + gone
        self.counts["expiry"] += gone

    @rule(job=taken)
    def run_out_of_time(self, job: str) -> None:
        change(self.platform, "UPDATE jobs SET deadline = now() - interval '1 second' WHERE id = :id", id=job)
        self.counts["abortion"] += sweep.abort_overdue_jobs(self.platform)

    @rule(limit=st.sampled_from([1, 5, 1000]), all_of_it=st.booleans())
    def fold(self, limit: int, all_of_it: bool) -> None:
        while ledger.fold(self.platform, limit) and all_of_it:
            pass
        sweep.release_reservations(self.platform)
        if all_of_it:
            self.check_keys()

    # What goes wrong

    @rule(call=calls)
    def repeat(self, call: Call) -> None:
        """The answer got lost, and the same call comes again: nothing moves."""
        self.counts["repeated call"] += 1
        with self.settled():
            call.repeat()

    @rule(
        what=st.sampled_from(["give", "award", "ask", "month", "fold", "repair", "deliver"]),
        amount=st.integers(1, 40),
    )
    def crash(self, what: str, amount: int) -> None:
        """A call is interrupted in the middle of its transaction: it never happened."""
        to = self.people["careless"].alias
        if what == "repair":
            change(self.platform, "UPDATE accounts SET balance = balance + 1 WHERE purpose = 'burn'")
        if what == "month":
            change(self.platform, "UPDATE users SET monthly_kudos_last_received = NULL")
        job = next(iter(self.pop(1)), None) if what == "deliver" else None
        if job:
            change(self.platform, "UPDATE jobs SET started = now() - interval '1 minute'")
        actions: dict[str, Callable[[], object]] = {
            "give": lambda: transfers.transfer(
                self.platform, self.people["giver"].key, KudosTransferInput(username=to, amount=amount), None
            ),
            "award": lambda: transfers.award(
                self.platform, self.admin.key, KudosAwardInput(username=to, amount=amount), None
            ),
            "ask": lambda: self.request(self.people["careless"].key, "careless", 1),
            "month": lambda: monthly.pay(self.platform),
            "fold": lambda: ledger.fold(self.platform),
            "repair": lambda: reconciliation.repair(self.platform),
            "deliver": lambda: job and self.submit(job, "ok"),
        }
        with self.broken("ledger_entries"):
            before = contents(self.platform)
            try:
                actions[what]()
            except IntegrityError:
                self.counts[f"crash: {what}"] += 1
            except HordeError as error:
                self.counts[f"no crash, refused: {error.rc}"] += 1
            assert contents(self.platform) == before
        if what == "repair":
            assert len(reconciliation.repair(self.platform)) == 1
        if what == "month":
            self.moved["worker", "recurring"] += monthly.pay(self.platform) * MODERATOR_MONTHLY_KUDOS

    @contextmanager
    def settled(self, unmoved: bool = True) -> Any:
        """Inside, nothing happens to the books."""
        before = contents(self.platform) if unmoved else {}
        yield
        if unmoved:
            after = contents(self.platform)
            assert [table for table in BOOKS if after[table] != before[table]] == []

    # What always holds

    @invariant()
    def the_books_are_right(self) -> None:
        _, broken = ledger.check_books(self.platform)
        assert broken == {}
        drift = scalar(
            self.platform,
            "SELECT (SELECT sum(balance) FROM accounts) - "
            "(SELECT coalesce(sum(amount), 0) FROM ledger_entries WHERE folded)",
        )
        assert drift == 0
        assert scalar(self.platform, "SELECT coalesce(sum(amount), 0) FROM ledger_entries") == 0

    @invariant()
    def nobody_is_below_their_floor_by_their_own_doing(self) -> None:
        for name in CAREFUL:
            person = self.people[name]
            query = """
                SELECT count(*) FROM ledger_entries entry JOIN ledger_events event ON event.id = event_id
                WHERE account_id = :id AND kind = 'floor'"""
            assert scalar(self.platform, query, id=person.balance) == 0
            with self.platform.read() as db:
                assert ledger.available(db, person.balance) >= 0

    @invariant()
    def everything_moved_as_it_was_told(self) -> None:
        query = (
            "SELECT coalesce(sum(amount), 0) FROM ledger_entries WHERE account_id = :id AND action = :action"
        )
        for name, person in self.people.items():
            for action in ("gifted", "received", "awarded", "recurring", "donated", "styled"):
                booked = scalar(self.platform, query, id=person.balance, action=action)
                assert booked == self.moved[name, action], (name, action)

    @invariant()
    def work_brings_what_was_recorded(self) -> None:
        """What working moved is the sum of the rewards, job by job."""
        query = """
            SELECT coalesce(sum(amount), 0) FROM ledger_entries
            WHERE account_id = :id AND action = 'accumulated'"""
        rewards = scalar(self.platform, "SELECT coalesce(sum(kudos), 0) FROM generation_records")
        assert scalar(self.platform, query, id=self.people["worker"].balance) == rewards

    def teardown(self) -> None:
        ledger.fold_all(self.platform)
        reconciliation.repair(self.platform)
        ledger.fold_all(self.platform)
        self.check_keys()
        assert_books_balance(self.platform)
        restore_rows(self.platform, self.rows)


def test_the_economy_keeps_its_books(horde: Horde) -> None:
    counts: Counter[str] = Counter()
    run_state_machine_as_test(
        partial(Economy, horde, counts),
        settings=settings(
            max_examples=15,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for what, times in sorted(counts.items()):
        print(f"{times:6} {what}")  # noqa: T201 - shown with -s: what the machine has come to
