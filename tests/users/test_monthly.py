"""Monthly kudos: when they are due, to whom, and that nobody gets them twice."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from horde.kudos import service as ledger
from horde.users import monthly
from horde.users.monthly_rules import due, month_after
from horde.users.rules import MODERATOR_MONTHLY_KUDOS, Role
from tests.support import Account, Horde, assert_books_balance, change, in_threads, scalar, unchanged

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


class TestDue:
    @pytest.mark.parametrize(
        ("moment", "following"),
        [
            ("2025-01-15", "2025-02-15"),
            ("2025-01-31", "2025-02-28"),
            ("2024-01-30", "2024-02-29"),
            ("2025-12-31", "2026-01-31"),
        ],
    )
    def test_a_month_later(self, moment: str, following: str) -> None:
        assert month_after(datetime.fromisoformat(moment)) == datetime.fromisoformat(following)

    @given(now=MOMENTS)
    def test_never_received(self, now: datetime) -> None:
        assert due(None, now) == now

    @given(last=MOMENTS, seconds=st.integers(0, 10**9))
    def test_one_month_at_most_and_no_drift(self, last: datetime, seconds: int) -> None:
        now = last + timedelta(seconds=seconds)
        received = due(last, now)
        assert (received is None) == (now <= month_after(last))
        if received is not None:
            assert last < received < now <= month_after(received)
            assert due(received, now) is None
            assert received.time() == last.time()
            assert received.day == last.day or last.day > 28

    @given(last=MOMENTS, gaps=st.lists(st.integers(1, 90), max_size=40))
    def test_never_more_payments_than_months(self, last: datetime, gaps: list[int]) -> None:
        begun, now, paid = last, last, 0
        for gap in gaps:
            now += timedelta(days=gap)
            if received := due(last, now):
                last, paid = received, paid + 1
        assert paid <= (now.year - begun.year) * 12 + now.month - begun.month


def grant(horde: Horde, account: Account, amount: int) -> None:
    statement = "UPDATE users SET monthly_kudos = :amount WHERE id = :id"
    change(horde.platform, statement, amount=amount, id=account.id)


def received(horde: Horde, account: Account, age: str) -> None:
    statement = "UPDATE users SET monthly_kudos_last_received = now() - CAST(:age AS interval) WHERE id = :id"
    change(horde.platform, statement, age=age, id=account.id)


def support(horde: Horde, account: Account, source: str, amount: int) -> None:
    statement = "INSERT INTO supporters (source, user_id, kudos) VALUES (:source, :id, :amount)"
    change(horde.platform, statement, source=source, id=account.id, amount=amount)


def recurring(horde: Horde, account: Account) -> float:
    ledger.fold_all(horde.platform)
    assert_books_balance(horde.platform)
    return float(horde.call("GET", f"/users/{account.id}").json["kudos_details"]["recurring"])


@pytest.fixture
def granted(horde: Horde) -> Account:
    """An account that is granted 1000 kudos a month."""
    account = horde.account(amount=100)
    grant(horde, account, 1000)
    return account


class TestPay:
    def test_who_gets_how_much(self, horde: Horde) -> None:
        plain, moderator, all_in_one = (
            horde.account(),
            horde.account(Role.MODERATOR),
            horde.account(Role.MODERATOR),
        )
        grant(horde, all_in_one, 7)
        support(horde, all_in_one, "patreon", 150_000)
        support(horde, all_in_one, "stripe", 20_000)
        assert monthly.pay(horde.platform) == 2
        assert [recurring(horde, account) for account in (plain, moderator, all_in_one)] == [
            0,
            MODERATOR_MONTHLY_KUDOS,
            MODERATOR_MONTHLY_KUDOS + 170_007,
        ]
        shown = horde.call("GET", f"/users/{all_in_one.id}", moderator).json["monthly_kudos"]
        assert shown["amount"] == MODERATOR_MONTHLY_KUDOS + 170_007
        assert shown["last_received"]

    def test_once_a_month(self, horde: Horde, granted: Account) -> None:
        assert monthly.pay(horde.platform) == 1
        with unchanged(horde.platform):
            assert monthly.pay(horde.platform) == 0
        received(horde, granted, "1 month -1 minute")
        assert monthly.pay(horde.platform) == 0
        received(horde, granted, "1 month 1 minute")
        assert monthly.pay(horde.platform) == 1
        with unchanged(horde.platform):
            assert monthly.pay(horde.platform) == 0
        assert recurring(horde, granted) == 2000

    def test_missed_months_are_skipped(self, horde: Horde, granted: Account) -> None:
        received(horde, granted, "7 months 3 days")
        assert [monthly.pay(horde.platform) for _ in range(3)] == [1, 0, 0]
        assert recurring(horde, granted) == 1000
        query = "SELECT monthly_kudos_last_received > now() - interval '1 month' FROM users WHERE id = :id"
        assert scalar(horde.platform, query, id=granted.id)

    def test_eight_at_once_pay_once(self, horde: Horde, granted: Account) -> None:
        assert sum(in_threads(8, lambda _: monthly.pay(horde.platform))) == 1
        received(horde, granted, "2 months")
        assert sum(in_threads(8, lambda _: monthly.pay(horde.platform))) == 1
        assert recurring(horde, granted) == 2000

    @pytest.mark.parametrize(
        ("table", "check"),
        [
            ("ledger_events", "kind <> 'monthly'"),
            ("users", "monthly_kudos_last_received IS NULL"),
        ],
    )
    def test_a_crash_pays_nothing_or_all(
        self, horde: Horde, granted: Account, table: str, check: str
    ) -> None:
        change(horde.platform, f"ALTER TABLE {table} ADD CONSTRAINT crash CHECK ({check})")
        try:
            with unchanged(horde.platform), pytest.raises(IntegrityError):
                monthly.pay(horde.platform)
        finally:
            change(horde.platform, f"ALTER TABLE {table} DROP CONSTRAINT crash")
        assert [monthly.pay(horde.platform) for _ in range(2)] == [1, 0]
        assert recurring(horde, granted) == 1000

    def test_a_payment_whose_date_was_lost_is_not_repeated(self, horde: Horde, granted: Account) -> None:
        """As if a backup of the accounts, but not of the books, had been put back."""
        received(horde, granted, "2 months")
        before = scalar(
            horde.platform, "SELECT monthly_kudos_last_received FROM users WHERE monthly_kudos > 0"
        )
        assert monthly.pay(horde.platform) == 1
        change(
            horde.platform,
            "UPDATE users SET monthly_kudos_last_received = :before WHERE id = :id",
            before=before,
            id=granted.id,
        )
        assert [monthly.pay(horde.platform) for _ in range(2)] == [0, 0]
        assert recurring(horde, granted) == 1000

    def test_not_to_nobody(self, horde: Horde, granted: Account) -> None:
        change(
            horde.platform,
            "UPDATE users SET monthly_kudos = 1000, wiped = now() WHERE id = :id",
            id=granted.id,
        )
        change(horde.platform, "UPDATE users SET monthly_kudos = 1000 WHERE id = 0")
        assert monthly.pay(horde.platform) == 0
