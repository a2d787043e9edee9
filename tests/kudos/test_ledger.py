"""The ledger on a real database: posting, folding, promising, and proving the books."""

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from horde.kudos import service as ledger
from horde.kudos.rules import BURN, TREASURY, Entry, UnbalancedError, balanced
from horde.kudos.service import FOLD_LOCK
from horde.platform.runtime import Platform
from tests import support
from tests.support import (
    Account,
    Horde,
    account,
    assert_books_balance,
    change,
    count_rows,
    in_threads,
    scalar,
    unchanged,
)


@pytest.fixture
def platform(horde: Horde) -> Platform:
    return horde.platform


def post(
    platform: Platform, *entries: Entry, event_id: UUID | None = None, request_id: UUID | None = None
) -> bool:
    """Post an event, completed to balance, in a transaction of its own."""
    with platform.engine.begin() as db:
        return ledger.post(db, event_id or uuid4(), "test", balanced(list(entries)), request_id=request_id)


def balance(platform: Platform, account_id: int) -> Decimal:
    """What is folded into an account."""
    return Decimal(scalar(platform, "SELECT balance FROM accounts WHERE id = :id", id=account_id))


def effective(platform: Platform, account_id: int) -> Decimal:
    with platform.read() as db:
        return ledger.effective_balance(db, account_id)


def available(platform: Platform, account_id: int) -> Decimal:
    with platform.read() as db:
        return ledger.available(db, account_id)


def reserve(platform: Platform, account_id: int, amount: Decimal, request_id: UUID | None = None) -> bool:
    with platform.engine.begin() as db:
        ledger.lock_payer(db, account_id)
        return ledger.reserve(db, account_id, request_id or uuid4(), amount)


def release(platform: Platform, *request_ids: UUID) -> None:
    with platform.engine.begin() as db:
        ledger.release(db, request_ids)


class TestPost:
    def test_entries_must_balance(self, platform: Platform) -> None:
        user = account(platform)
        with unchanged(platform):
            for amounts in ((5, -4), (5,), (Decimal("0.005"), Decimal("-0.005"))):
                entries = [Entry(user.balance, Decimal(amount)) for amount in amounts]
                with pytest.raises(UnbalancedError), platform.engine.begin() as db:
                    ledger.post(db, uuid4(), "test", entries)

    def test_an_event_happens_once(self, platform: Platform) -> None:
        user = account(platform)
        event_id = uuid4()
        assert post(platform, Entry(user.balance, Decimal(5)), event_id=event_id)
        with unchanged(platform):
            assert not post(platform, Entry(user.balance, Decimal(7)), event_id=event_id)
        assert effective(platform, user.balance) == 5
        assert effective(platform, TREASURY) == -5

    def test_concurrent_duplicates_happen_once(self, platform: Platform) -> None:
        user = account(platform)
        event_id = uuid4()
        entry = Entry(user.balance, Decimal(5))
        posted = in_threads(8, lambda _: post(platform, entry, event_id=event_id))
        assert sorted(posted) == [False] * 7 + [True]
        assert effective(platform, user.balance) == 5

    def test_a_duplicate_of_what_is_rolled_back_happens(self, platform: Platform) -> None:
        user = account(platform)
        event_id = uuid4()
        entry = Entry(user.balance, Decimal(5))
        with platform.engine.connect() as db, ThreadPoolExecutor(1) as pool:
            ledger.post(db, event_id, "test", balanced([entry]))
            other = pool.submit(post, platform, entry, event_id=event_id)
            support.wait_for_a_blocked_statement(platform)
            db.rollback()
            assert other.result(timeout=10)
        assert effective(platform, user.balance) == 5


class TestFold:
    def test_balances_and_totals_are_sums(self, platform: Platform) -> None:
        user = account(platform, amount=100)
        post(platform, Entry(user.balance, Decimal("-7.25"), "accumulated"))
        post(platform, Entry(user.balance, Decimal("10.50"), "accumulated"), Entry(user.escrow, Decimal(3)))
        assert balance(platform, user.balance) == 100
        assert effective(platform, user.balance) == Decimal("103.25")
        assert ledger.fold_all(platform) == 5
        assert ledger.fold_all(platform) == 0
        assert balance(platform, user.balance) == effective(platform, user.balance) == Decimal("103.25")
        assert balance(platform, user.escrow) == 3
        with platform.read() as db:
            totals = db.execute(text("SELECT account_id, action, amount FROM kudos_totals")).all()
        assert sorted(totals) == [
            (user.balance, "accumulated", Decimal("3.25")),
            (user.balance, "admin", Decimal(100)),
        ]
        assert_books_balance(platform)

    @pytest.mark.parametrize(("registered", "floor"), [(True, 25), (False, 14)])
    def test_the_treasury_makes_floors_good(self, platform: Platform, registered: bool, floor: int) -> None:
        user = account(platform, amount=100, registered=registered)
        before = balance(platform, TREASURY)
        post(platform, Entry(user.balance, Decimal(-300), "accumulated"))
        ledger.fold_all(platform)
        assert balance(platform, user.balance) == floor
        assert balance(platform, TREASURY) - before == -(floor + 200)
        assert balance(platform, BURN) == 300
        assert scalar(platform, "SELECT count(*) FROM ledger_events WHERE kind = 'floor'") == 1
        assert_books_balance(platform)

    def test_the_anonymous_floor(self, platform: Platform) -> None:
        anonymous = scalar(platform, "SELECT id FROM accounts WHERE user_id = 0 AND purpose = 'balance'")
        post(platform, Entry(anonymous, Decimal("-49.50")))
        ledger.fold_all(platform)
        assert balance(platform, anonymous) == Decimal("-49.50")
        post(platform, Entry(anonymous, Decimal(-49)))
        ledger.fold_all(platform)
        assert balance(platform, anonymous) == -50
        assert_books_balance(platform)

    def test_batches(self, platform: Platform) -> None:
        users = [account(platform) for _ in range(5)]
        for user in users:
            post(platform, Entry(user.balance, Decimal(50)))
        folded = []
        while not folded or folded[-1]:
            folded.append(ledger.fold(platform, limit=3))
        assert sum(folded) == 10
        assert max(folded) == 3
        assert [balance(platform, user.balance) for user in users] == [50] * 5
        assert_books_balance(platform)

    def test_a_crash_leaves_all_or_nothing(self, platform: Platform) -> None:
        user = account(platform, amount=100)
        post(platform, Entry(user.balance, Decimal(-300), "accumulated"))
        change(platform, "ALTER TABLE ledger_events ADD CONSTRAINT crash CHECK (kind <> 'floor')")
        try:
            with unchanged(platform), pytest.raises(IntegrityError):
                ledger.fold(platform)
        finally:
            change(platform, "ALTER TABLE ledger_events DROP CONSTRAINT crash")
        assert effective(platform, user.balance) == -200
        ledger.fold_all(platform)
        assert balance(platform, user.balance) == 14
        assert_books_balance(platform)

    def test_one_fold_at_a_time(self, platform: Platform) -> None:
        user = account(platform)
        post(platform, Entry(user.balance, Decimal(50)))
        with platform.engine.begin() as db:
            db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": FOLD_LOCK})
            with unchanged(platform):
                assert ledger.fold(platform) == 0
        assert ledger.fold(platform) == 2

    def test_folds_and_posts_at_the_same_time(self, platform: Platform) -> None:
        users = [account(platform, amount=100) for _ in range(3)]

        def work(number: int) -> None:
            for turn in range(10):
                if number < 3:
                    ledger.fold(platform, limit=7)
                else:
                    user = users[(number + turn) % 3]
                    post(platform, Entry(user.balance, Decimal(number - 5)), Entry(user.escrow, Decimal(1)))

        in_threads(8, work)
        ledger.fold_all(platform)
        assert sum(balance(platform, user.balance) for user in users) == 300 + 10 * sum(range(-2, 3))
        assert sum(balance(platform, user.escrow) for user in users) == 50
        assert_books_balance(platform)


class TestPromises:
    def test_what_can_be_promised(self, platform: Platform) -> None:
        user = account(platform, amount=114)
        assert available(platform, user.balance) == 100
        post(platform, Entry(user.balance, Decimal(1000)))
        assert available(platform, user.balance) == 100
        ledger.fold_all(platform)
        assert available(platform, user.balance) == 1100
        post(platform, Entry(user.balance, Decimal(-30)))
        assert available(platform, user.balance) == 1070
        ledger.fold_all(platform)
        assert available(platform, user.balance) == 1070

    def test_a_debit_uses_up_the_reservation_of_its_request(self, platform: Platform) -> None:
        user = account(platform, amount=114)
        first, second = uuid4(), uuid4()
        assert reserve(platform, user.balance, Decimal(60), first)
        assert not reserve(platform, user.balance, Decimal("40.01"), second)
        assert reserve(platform, user.balance, Decimal(40), second)
        assert available(platform, user.balance) == 0
        post(platform, Entry(user.balance, Decimal(-25)), request_id=first)
        assert available(platform, user.balance) == 0
        ledger.fold_all(platform)
        assert available(platform, user.balance) == 0
        post(platform, Entry(user.balance, Decimal(-5)), request_id=first)
        assert available(platform, user.balance) == 0
        release(platform, first)
        assert available(platform, user.balance) == 30
        ledger.fold_all(platform)
        assert available(platform, user.balance) == 30
        release(platform, first, second)
        assert available(platform, user.balance) == 70

    def test_debits_beyond_the_reservation_count_in_full(self, platform: Platform) -> None:
        user = account(platform, amount=114)
        request = uuid4()
        reserve(platform, user.balance, Decimal(10), request)
        post(platform, Entry(user.balance, Decimal(-15)), request_id=request)
        assert available(platform, user.balance) == 85
        ledger.fold_all(platform)
        assert available(platform, user.balance) == 85
        assert scalar(platform, "SELECT remaining FROM reservations") == 0

    def test_nothing_is_set_aside_for_nothing(self, platform: Platform) -> None:
        user = account(platform)
        with unchanged(platform):
            assert reserve(platform, user.balance, Decimal(0))
            assert not reserve(platform, user.balance, Decimal("0.01"))

    def test_an_account_on_its_floor_can_promise_nothing(self, platform: Platform) -> None:
        user = account(platform, amount=25, registered=True)
        with unchanged(platform):
            assert available(platform, user.balance) == 0
            assert not reserve(platform, user.balance, Decimal("0.01"))

    def test_twenty_at_once_never_overspend(self, platform: Platform) -> None:
        user = account(platform, amount=1014)
        held = in_threads(20, lambda _: reserve(platform, user.balance, Decimal(90)))
        assert held.count(True) == 11
        assert available(platform, user.balance) == 10

    def test_nor_while_what_they_spend_is_folded(self, platform: Platform) -> None:
        """Every kudo can be promised once: none twice, and none is lost for good."""
        user = account(platform, amount=1014)
        stop = threading.Event()

        def spend(_: int) -> int:
            spent = 0
            while not stop.is_set():
                request = uuid4()
                if not reserve(platform, user.balance, Decimal(30), request):
                    return spent
                post(platform, Entry(user.balance, Decimal(-10)), request_id=request)
                assert available(platform, user.balance) >= 0
                post(platform, Entry(user.balance, Decimal(-20)), request_id=request)
                release(platform, request)
                spent += 30
            return spent

        def fold() -> None:
            while not stop.is_set():
                ledger.fold(platform, limit=5)

        folder = threading.Thread(target=fold)
        folder.start()
        try:
            spent = in_threads(20, spend)
        finally:
            stop.set()
            folder.join()
        assert sum(spent) == 990
        ledger.fold_all(platform)
        assert available(platform, user.balance) == 10
        assert scalar(platform, "SELECT count(*) FROM ledger_events WHERE kind = 'floor'") == 0
        assert_books_balance(platform)


def delivered_job(horde: Horde, payer: Account) -> str:
    """A job that was made and paid."""
    horde.asked(payer)
    job = str(horde.popped(payer)["id"])
    horde.submitted(payer, job)
    ledger.fold_all(horde.platform)
    return job


DAMAGES = {
    "events whose entries do not sum to zero": (
        "UPDATE ledger_entries SET amount = amount + 1 WHERE event_id = :unfolded AND line = 1"
    ),
    "entries without an event": "DELETE FROM ledger_events WHERE id = :unfolded",
    "events without entries": "DELETE FROM ledger_entries WHERE event_id = :unfolded",
    "entries on accounts that do not exist": (
        "UPDATE ledger_entries SET account_id = 999999 WHERE event_id = :unfolded AND line = 1"
    ),
    "balances that differ from the sum of their folded entries": (
        "UPDATE accounts SET balance = balance + 1 WHERE id = :purse"
    ),
    "balances below their floor": "UPDATE accounts SET floor = balance + 1 WHERE id = :purse",
    "reservations of requests that are gone": (
        "INSERT INTO reservations VALUES (gen_random_uuid(), :purse, 5, 5)"
    ),
    "reservations that hold something else than their requests have not spent": (
        "INSERT INTO reservations SELECT request_id, :purse, 5, 4 FROM jobs WHERE id = :job"
    ),
    "delivered jobs that nobody was paid for": (
        "INSERT INTO jobs SELECT gen_random_uuid(), request_id, worker_id, model, state, started, deadline, "
        "finished, seed, metadata, charged, reward, things, value FROM jobs WHERE id = :job"
    ),
}


class TestBooks:
    def test_they_are_right_at_first_and_in_use(self, horde: Horde) -> None:
        assert_books_balance(horde.platform)
        delivered_job(horde, horde.account(amount=500))
        counts, broken = ledger.check_books(horde.platform)
        rows = count_rows(horde.platform)
        assert broken == {}
        assert (counts["events"], counts["entries"]) == (rows["ledger_events"], rows["ledger_entries"])
        assert counts["events"] >= 3
        assert counts["unfolded entries"] == 0

    @pytest.mark.parametrize("rule", DAMAGES)
    def test_each_kind_of_damage_is_found(self, horde: Horde, rule: str) -> None:
        user = horde.account(amount=500)
        job = delivered_job(horde, user)
        unfolded = uuid4()
        post(horde.platform, Entry(user.balance, Decimal(-5)), event_id=unfolded)
        assert_books_balance(horde.platform)
        values = {"unfolded": unfolded, "purse": user.balance, "job": job}
        change(
            horde.platform,
            DAMAGES[rule],
            **{name: value for name, value in values.items() if f":{name}" in DAMAGES[rule]},
        )
        _, broken = ledger.check_books(horde.platform)
        assert broken.keys() == {rule}

    def test_a_lost_entry_of_a_folded_event_is_found(self, horde: Horde) -> None:
        user = horde.account(amount=500)
        change(horde.platform, "DELETE FROM ledger_entries WHERE account_id = :purse", purse=user.balance)
        _, broken = ledger.check_books(horde.platform)
        assert broken.keys() == {
            "events whose entries do not sum to zero",
            "balances that differ from the sum of their folded entries",
            "totals per action that differ from the sum of their folded entries",
        }

    def test_a_lost_event_of_a_delivered_job_is_found(self, horde: Horde) -> None:
        job = delivered_job(horde, horde.account(amount=500))
        change(horde.platform, "DELETE FROM ledger_events WHERE id = :job", job=job)
        _, broken = ledger.check_books(horde.platform)
        assert broken.keys() == {"entries without an event", "delivered jobs that nobody was paid for"}
