"""What a shared key may spend: held before, charged by the fold, never twice and never too much."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from horde.kudos import service as ledger
from horde.kudos import shared_keys
from horde.kudos.rules import Entry as Movement
from horde.kudos.rules import SharedKeyFacts, balanced, check_usable
from horde.platform.errors import Forbidden, Unauthorized
from horde.platform.runtime import Platform
from tests.support import (
    Account,
    Horde,
    account,
    assert_books_balance,
    change,
    contents,
    counted_statements,
    in_threads,
    scalar,
    unchanged,
    wait_for_a_blocked_statement,
)

LIMITS = {"max_image_pixels": -1, "max_image_steps": -1, "max_text_tokens": -1}
NOW = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def platform(horde: Horde) -> Platform:
    return horde.platform


@pytest.fixture
def owner(platform: Platform) -> Account:
    return account(platform, amount=10_000)


def new_key(platform: Platform, owner: Account, kudos: int | str = 100) -> UUID:
    with platform.engine.begin() as db:
        values = {"name": None, "kudos": Decimal(kudos), "expires": None, **LIMITS}
        key = shared_keys.create(db, owner.balance, values, most=1000)
    assert key is not None
    return key


def found(platform: Platform, key: UUID) -> SharedKeyFacts:
    with platform.read() as db:
        facts = shared_keys.find(db, key)
    assert facts is not None
    return facts


def state(platform: Platform, key: UUID) -> tuple[Decimal, Decimal]:
    """What is left of a key, and what was spent with it."""
    facts = found(platform, key)
    return facts.kudos, facts.utilized


def hold(
    platform: Platform, owner: Account, key: UUID, amount: int | str, request: UUID | None = None
) -> bool:
    with platform.engine.begin() as db:
        ledger.lock_payer(db, owner.balance)
        return shared_keys.hold(db, key, request or uuid4(), Decimal(amount))


def note(platform: Platform, key: UUID, request: UUID) -> None:
    with platform.engine.begin() as db:
        shared_keys.note(db, key, request)


def charge(platform: Platform, owner: Account, request: UUID, amount: int | str) -> None:
    """A debit of a request."""
    entries = balanced([Movement(owner.balance, -Decimal(amount), "accumulated")])
    with platform.engine.begin() as db:
        ledger.post(db, uuid4(), "generation", entries, request_id=request)


def live_request(horde: Horde) -> UUID:
    """A request that waits; its own tax is the anonymous account's."""
    return UUID(horde.asked())


def end(platform: Platform, request: UUID) -> None:
    """The request waits no longer, and nobody works on it."""
    with platform.engine.begin() as db:
        db.execute(text("DELETE FROM queue WHERE request_id = :id"), {"id": request})
        db.execute(text("UPDATE requests SET n = 0, cancelled = true WHERE id = :id"), {"id": request})


def spending(platform: Platform, request: UUID) -> tuple[Decimal, Decimal] | None:
    with platform.read() as db:
        row = db.execute(
            text("SELECT hold, spent FROM shared_key_spending WHERE request_id = :id"), {"id": request}
        ).one_or_none()
    return None if row is None else (row.hold, row.spent)


class TestRules:
    def facts(self, kudos: str = "5", expires: datetime | None = None) -> SharedKeyFacts:
        return SharedKeyFacts(uuid4(), 1, None, Decimal(kudos), expires, -1, -1, -1, Decimal(0))

    @pytest.mark.parametrize("kudos", ["-1", "0.01", "5"])
    @pytest.mark.parametrize("expires", [None, NOW + timedelta(seconds=1)])
    def test_usable(self, kudos: str, expires: datetime | None) -> None:
        check_usable(self.facts(kudos, expires), NOW)

    @pytest.mark.parametrize(
        ("kudos", "expires", "rc"),
        [
            ("0", None, "SharedKeyEmpty"),
            ("0.00", NOW - timedelta(days=1), "SharedKeyEmpty"),
            ("5", NOW, "SharedKeyExpired"),
            ("-1", NOW - timedelta(days=1), "SharedKeyExpired"),
        ],
    )
    def test_not_usable(self, kudos: str, expires: datetime | None, rc: str) -> None:
        with pytest.raises(Forbidden) as refusal:
            check_usable(self.facts(kudos, expires), NOW)
        assert (refusal.value.rc, refusal.value.status) == (rc, 403)

    @given(cost=st.decimals(0, 10_000, places=2), kudos=st.decimals(0, 10_000, places=2))
    def test_what_it_covers(self, cost: Decimal, kudos: Decimal) -> None:
        assert self.facts(str(kudos)).covers(cost) == (cost <= kudos)
        assert self.facts("-1").covers(cost)


class TestFold:
    def test_debits_reach_the_key(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner), uuid4()
        assert hold(platform, owner, key, 40, request)
        charge(platform, owner, request, "10.25")
        charge(platform, owner, request, "0.50")
        assert state(platform, key) == (100, 0)
        ledger.fold_all(platform)
        assert state(platform, key) == (Decimal("89.25"), Decimal("10.75"))
        assert spending(platform, request) == (40, Decimal("10.75"))
        assert_books_balance(platform)

    def test_keys_and_requests_are_kept_apart(self, platform: Platform, owner: Account) -> None:
        first, second, other = (new_key(platform, owner) for _ in range(3))
        requests = [uuid4() for _ in range(4)]
        for key, request in zip((first, first, second), requests, strict=False):
            assert hold(platform, owner, key, 10, request)
        for amount, request in enumerate(requests, start=1):
            charge(platform, owner, request, amount)
        ledger.fold_all(platform)
        assert state(platform, first) == (97, 3)
        assert state(platform, second) == (97, 3)
        assert state(platform, other) == (100, 0)
        assert_books_balance(platform)

    def test_only_the_owners_purse_counts(self, platform: Platform, owner: Account) -> None:
        key, request, somebody = new_key(platform, owner), uuid4(), account(platform, amount=100)
        assert hold(platform, owner, key, 10, request)
        charge(platform, somebody, request, 7)
        with platform.engine.begin() as db:  # the treasury pays a reward that nobody was charged for
            entries = balanced([Movement(somebody.balance, Decimal(9), "accumulated")])
            ledger.post(db, uuid4(), "generation", entries, request_id=request)
        ledger.fold_all(platform)
        assert state(platform, key) == (100, 0)
        assert_books_balance(platform)

    def test_never_below_zero_but_always_counted(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner, 20), uuid4()
        assert hold(platform, owner, key, 15, request)
        for total in (12, 24, 36):
            charge(platform, owner, request, 12)
            ledger.fold_all(platform)
            assert state(platform, key) == (max(0, 20 - total), total)
        assert_books_balance(platform)

    def test_no_limit_stays_no_limit(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner, -1), uuid4()
        assert hold(platform, owner, key, 5_000_000, request)
        charge(platform, owner, request, 30)
        ledger.fold_all(platform)
        assert state(platform, key) == (-1, 30)

    def test_noted_requests_are_charged(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner, 5), uuid4()
        assert not hold(platform, owner, key, 15, request)
        note(platform, key, request)
        charge(platform, owner, request, 15)
        ledger.fold_all(platform)
        assert state(platform, key) == (0, 15)

    def test_a_deleted_key_is_no_hindrance(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner), uuid4()
        assert hold(platform, owner, key, 10, request)
        with platform.engine.begin() as db:
            shared_keys.remove(db, key)
        charge(platform, owner, request, 10)
        ledger.fold_all(platform)
        assert scalar(platform, "SELECT balance FROM accounts WHERE id = :id", id=owner.balance) == 9990
        assert_books_balance(platform)

    def test_batches_smaller_than_an_event(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner), uuid4()
        assert hold(platform, owner, key, 50, request)
        for _ in range(5):
            charge(platform, owner, request, 3)
        while ledger.fold(platform, limit=1):
            _, broken = ledger.check_books(platform)
            assert broken == {}
        assert state(platform, key) == (85, 15)

    def test_a_fold_that_dies_is_as_if_it_never_was(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner), uuid4()
        assert hold(platform, owner, key, 50, request)
        charge(platform, owner, request, 30)
        before = contents(platform)
        with ThreadPoolExecutor(1) as pool, platform.engine.connect() as db:
            db.execute(text("SELECT FROM shared_keys WHERE id = :id FOR UPDATE"), {"id": key})
            folding = pool.submit(ledger.fold, platform)
            wait_for_a_blocked_statement(platform)
            with platform.read() as other:
                other.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
                    )
                )
            with pytest.raises(OperationalError):
                folding.result()
            db.rollback()
        assert contents(platform) == before
        ledger.fold_all(platform)
        ledger.fold_all(platform)
        assert state(platform, key) == (70, 30)
        assert_books_balance(platform)

    def test_many_folds_at_once(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner, 1000), uuid4()
        assert hold(platform, owner, key, 500, request)
        for _ in range(30):
            charge(platform, owner, request, 3)
        in_threads(6, lambda _: [ledger.fold(platform, limit=4) for _ in range(10)])
        ledger.fold_all(platform)
        assert state(platform, key) == (910, 90)
        assert_books_balance(platform)

    def test_a_new_limit_is_kept_while_debits_fold(self, platform: Platform, owner: Account) -> None:
        key, request = new_key(platform, owner), uuid4()
        assert hold(platform, owner, key, 50, request)
        charge(platform, owner, request, 30)
        with ThreadPoolExecutor(1) as pool:
            with platform.engine.begin() as db:
                shared_keys.change(db, key, {"kudos": 500})
                folding = pool.submit(ledger.fold, platform)
                wait_for_a_blocked_statement(platform)
            folding.result()
        assert state(platform, key) == (470, 30)


class TestHold:
    def test_up_to_the_last_kudo(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        key = new_key(platform, owner, 100)
        requests = [live_request(horde) for _ in range(2)]
        assert hold(platform, owner, key, 60, requests[0])
        with unchanged(platform):
            assert not hold(platform, owner, key, "40.01")
        assert hold(platform, owner, key, 40, requests[1])
        assert not hold(platform, owner, key, "0.01")
        assert state(platform, key) == (100, 0)

    def test_what_was_spent_is_not_counted_twice(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        key, request = new_key(platform, owner, 100), live_request(horde)
        assert hold(platform, owner, key, 60, request)
        charge(platform, owner, request, 25)
        for _ in range(2):
            assert not hold(platform, owner, key, "40.01")
            ledger.fold_all(platform)
        assert state(platform, key) == (75, 25)
        assert hold(platform, owner, key, 40)

    def test_more_spent_than_held(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        key, request = new_key(platform, owner, 100), live_request(horde)
        assert hold(platform, owner, key, 10, request)
        charge(platform, owner, request, 25)
        for _ in range(2):
            assert not hold(platform, owner, key, "75.01")
            ledger.fold_all(platform)
        assert hold(platform, owner, key, 75)

    def test_an_ended_request_holds_nothing_but_what_it_owes(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        key, request = new_key(platform, owner, 100), live_request(horde)
        assert hold(platform, owner, key, 60, request)
        charge(platform, owner, request, 25)
        end(platform, request)
        for _ in range(2):
            assert not hold(platform, owner, key, "75.01")
            ledger.fold_all(platform)
        assert hold(platform, owner, key, 75)

    def test_a_request_lives_while_somebody_works_on_it(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        key, request = new_key(platform, owner, 100), live_request(horde)
        worker = horde.account()
        assert hold(platform, owner, key, 60, request)
        job = horde.popped(worker)["id"]
        assert scalar(platform, "SELECT n FROM requests WHERE id = :id", id=request) == 0
        assert not hold(platform, owner, key, 60)
        horde.submitted(worker, job)
        assert hold(platform, owner, key, 60)

    def test_other_keys_do_not_count(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        first, second = (new_key(platform, owner, 100) for _ in range(2))
        assert hold(platform, owner, first, 100, live_request(horde))
        assert hold(platform, owner, second, 100, live_request(horde))

    def test_what_unlimited_keys_hold_counts_once_they_are_limited(
        self, horde: Horde, owner: Account
    ) -> None:
        platform = horde.platform
        key = new_key(platform, owner, -1)
        for _ in range(2):
            assert hold(platform, owner, key, 400, live_request(horde))
        change(platform, "UPDATE shared_keys SET kudos = 1000")
        assert not hold(platform, owner, key, 201)
        assert hold(platform, owner, key, 200)

    def test_a_deleted_key(self, platform: Platform, owner: Account) -> None:
        for action in (lambda: hold(platform, owner, uuid4(), 1), lambda: note(platform, uuid4(), uuid4())):
            with unchanged(platform), pytest.raises(Unauthorized) as refusal:
                action()
            assert refusal.value.rc == "InvalidAPIKey"

    def test_a_statement_each(self, platform: Platform, owner: Account) -> None:
        key = new_key(platform, owner, 100)
        with platform.engine.begin() as db, counted_statements() as sent:
            shared_keys.hold(db, key, uuid4(), Decimal(1))
            shared_keys.note(db, key, uuid4())
        assert len(sent) == 2

    def test_rolled_back_with_the_request(self, platform: Platform, owner: Account) -> None:
        key = new_key(platform, owner, 100)
        with unchanged(platform), suppress(Forbidden), platform.engine.begin() as db:
            ledger.lock_payer(db, owner.balance)
            assert shared_keys.hold(db, key, uuid4(), Decimal(100))
            raise Forbidden("Something else is wrong.")
        assert hold(platform, owner, key, 100)

    def test_requests_at_once_never_exceed_the_key(self, horde: Horde, owner: Account) -> None:
        """While debits fold under them, requests in twelve threads hold, are charged and end."""
        platform = horde.platform
        key = new_key(platform, owner, 500)
        requests = [live_request(horde) for _ in range(60)]
        stop = threading.Event()

        def spend(number: int) -> int:
            held = 0
            for request in requests[number::12]:
                if hold(platform, owner, key, 30, request):
                    held += 1
                    charge(platform, owner, request, 10)
                    charge(platform, owner, request, 20)
                    end(platform, request)
            return held

        def fold() -> None:
            while not stop.is_set():
                ledger.fold(platform, limit=7)
                shared_keys.forget_spending(platform)

        folding = threading.Thread(target=fold)
        folding.start()
        try:
            held = in_threads(12, spend)
        finally:
            stop.set()
            folding.join()
        ledger.fold_all(platform)
        assert sum(held) == 16
        assert state(platform, key) == (20, 480)
        assert_books_balance(platform)


class TestForgetting:
    def test_only_what_can_be_charged_no_more(self, horde: Horde, owner: Account) -> None:
        platform = horde.platform
        key = new_key(platform, owner, 100)
        lives, owes, ended = (live_request(horde) for _ in range(3))
        gone = uuid4()
        ledger.fold_all(platform)
        for request in (lives, owes, ended, gone):
            assert hold(platform, owner, key, 10, request)
        charge(platform, owner, owes, 10)
        end(platform, owes)
        end(platform, ended)
        assert shared_keys.forget_spending(platform) == 2
        assert spending(platform, lives) == (10, 0)
        assert spending(platform, owes) == (10, 0)
        ledger.fold_all(platform)
        assert state(platform, key) == (90, 10)
        assert shared_keys.forget_spending(platform) == 1
        assert spending(platform, lives) == (10, 0)
        end(platform, lives)
        assert shared_keys.forget_spending(platform) == 1
        assert shared_keys.forget_spending(platform) == 0
        assert_books_balance(platform)


DAMAGES = {
    "requests whose shared key was not charged what they were": (
        "UPDATE shared_key_spending SET spent = spent - 1"
    ),
    "shared keys that show less than was spent with them": "UPDATE shared_keys SET utilized = utilized - 1",
}


@pytest.mark.parametrize("rule", DAMAGES)
def test_each_kind_of_damage_is_found(platform: Platform, owner: Account, rule: str) -> None:
    key, request = new_key(platform, owner), uuid4()
    assert hold(platform, owner, key, 40, request)
    charge(platform, owner, request, 10)
    ledger.fold_all(platform)
    assert_books_balance(platform)
    change(platform, DAMAGES[rule])
    _, broken = ledger.check_books(platform)
    assert broken.keys() == {rule}


def test_an_account_never_gets_more_keys_than_it_may(platform: Platform, owner: Account) -> None:
    def create(_: int) -> UUID | None:
        with platform.engine.begin() as db:
            values = {"name": None, "kudos": 1, "expires": None, **LIMITS}
            return shared_keys.create(db, owner.balance, values, most=3)

    assert len([key for key in in_threads(10, create) if key]) == 3
    assert scalar(platform, "SELECT count(*) FROM shared_keys") == 3
