"""Finding what drifted from the entries, telling the operator, and repairing it by further entries."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from horde.kudos import reconciliation
from horde.kudos import service as ledger
from horde.kudos.reconciliation import Drift, EntriesDamagedError, Health
from horde.kudos.rules import TREASURY, Entry, balanced
from horde.platform.runtime import Platform
from tests.support import Account, Horde, assert_books_balance, change, in_threads, scalar, unchanged

BALANCE = "SELECT balance FROM accounts WHERE id = :id"


def damage(platform: Platform, account_id: int, amount: Any) -> None:
    """Change a balance as no entry does."""
    statement = "UPDATE accounts SET balance = balance + :amount WHERE id = :id"
    change(platform, statement, amount=amount, id=account_id)


def damage_total(platform: Platform, account_id: int, action: str, amount: Any) -> None:
    statement = """
        INSERT INTO kudos_totals (account_id, action, amount) VALUES (:id, :action, :amount)
        ON CONFLICT (account_id, action) DO UPDATE SET amount = kudos_totals.amount + excluded.amount"""
    change(platform, statement, id=account_id, action=action, amount=amount)


def total(platform: Platform, account_id: int, action: str) -> Decimal | None:
    query = "SELECT amount FROM kudos_totals WHERE account_id = :id AND action = :action"
    return scalar(platform, query, id=account_id, action=action)  # type: ignore[no-any-return]


def post(platform: Platform, user: Account, amount: int) -> None:
    """Award kudos that are yet to be folded."""
    with platform.engine.begin() as db:
        ledger.post(db, uuid4(), "test", balanced([Entry(user.balance, Decimal(amount), "awarded")]))


@pytest.fixture
def user(horde: Horde) -> Account:
    return horde.account(amount=500)


class TestRepair:
    def test_nothing_to_do(self, horde: Horde, user: Account) -> None:
        with unchanged(horde.platform):
            assert reconciliation.repair(horde.platform) == []

    @pytest.mark.parametrize("amount", ["1000.00", "-0.01", "-300.00"])
    def test_a_balance(self, horde: Horde, user: Account, amount: str) -> None:
        damage(horde.platform, user.balance, amount)
        assert reconciliation.repair(horde.platform) == [Drift(user.balance, None, Decimal(amount))]
        # From now on it is all in the books; with the next fold the balance is what it was.
        _, broken = ledger.check_books(horde.platform)
        assert broken == {}
        with unchanged(horde.platform):
            assert reconciliation.repair(horde.platform) == []
        ledger.fold_all(horde.platform)
        assert horde.kudos(user.balance) == 500
        assert_books_balance(horde.platform)

    def test_what_was_there_by_mistake_cannot_be_spent_any_more(self, horde: Horde, user: Account) -> None:
        damage(horde.platform, user.balance, 1000)
        reconciliation.repair(horde.platform)
        with horde.platform.read() as db:
            assert ledger.available(db, user.balance) == 500 - 14

    def test_a_total(self, horde: Horde, user: Account) -> None:
        damage_total(horde.platform, user.balance, "admin", 7)
        damage_total(horde.platform, user.balance, "gifted", -3)
        assert reconciliation.repair(horde.platform) == [
            Drift(user.balance, "admin", Decimal(7)),
            Drift(user.balance, "gifted", Decimal(-3)),
        ]
        ledger.fold_all(horde.platform)
        assert (
            total(horde.platform, user.balance, "admin"),
            total(horde.platform, user.balance, "gifted"),
        ) == (500, 0)
        assert horde.kudos(user.balance) == 500
        assert_books_balance(horde.platform)

    def test_a_total_that_was_lost(self, horde: Horde, user: Account) -> None:
        change(horde.platform, "DELETE FROM kudos_totals WHERE account_id = :id", id=user.balance)
        assert reconciliation.repair(horde.platform) == [Drift(user.balance, "admin", Decimal(-500))]
        ledger.fold_all(horde.platform)
        assert total(horde.platform, user.balance, "admin") == 500
        assert_books_balance(horde.platform)

    def test_system_accounts_too(self, horde: Horde, user: Account) -> None:
        damage(horde.platform, TREASURY, 12)
        assert reconciliation.repair(horde.platform) == [Drift(TREASURY, None, Decimal(12))]
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)

    def test_entries_are_only_added(self, horde: Horde, user: Account) -> None:
        query = "SELECT md5(string_agg(row::text, '|' ORDER BY row::text)) FROM ledger_entries row WHERE {}"
        before = scalar(horde.platform, query.format("true"))
        damage(horde.platform, user.balance, 1000)
        reconciliation.repair(horde.platform)
        ledger.fold_all(horde.platform)
        old = "event_id NOT IN (SELECT id FROM ledger_events WHERE kind = 'reconciliation')"
        assert scalar(horde.platform, query.format(old)) == before

    def test_eight_at_once_repair_it_once(self, horde: Horde, user: Account) -> None:
        damage(horde.platform, user.balance, 1000)

        def work(number: int) -> int:
            if number % 2:
                ledger.fold_all(horde.platform)
                return 0
            return len(reconciliation.repair(horde.platform))

        assert sum(in_threads(8, work)) == 1
        ledger.fold_all(horde.platform)
        assert horde.kudos(user.balance) == 500
        assert_books_balance(horde.platform)

    def test_a_crash_repairs_nothing_or_all(self, horde: Horde, user: Account) -> None:
        damage(horde.platform, user.balance, 1000)
        damage(horde.platform, user.escrow, 5)
        change(
            horde.platform,
            "ALTER TABLE ledger_entries ADD CONSTRAINT crash CHECK (abs(amount) <> 5) NOT VALID",
        )
        try:
            with unchanged(horde.platform), pytest.raises(IntegrityError):
                reconciliation.repair(horde.platform)
        finally:
            change(horde.platform, "ALTER TABLE ledger_entries DROP CONSTRAINT crash")
        assert len(reconciliation.repair(horde.platform)) == 2

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        damages=st.lists(
            st.tuples(
                st.sampled_from(["balance", "escrow"]),
                st.sampled_from([None, "admin", "awarded"]),
                st.decimals("-1000", "1000", places=2),
            ),
            max_size=5,
        ),
        pending=st.integers(0, 20),
        folded_between=st.booleans(),
    )
    def test_whatever_drifts_comes_back(
        self,
        horde: Horde,
        damages: list[tuple[str, str | None, Decimal]],
        pending: int,
        folded_between: bool,
    ) -> None:
        user = horde.account(amount=5000)
        for purse, action, amount in damages:
            if action is None:
                damage(horde.platform, getattr(user, purse), amount)
            else:
                damage_total(horde.platform, getattr(user, purse), action, amount)
        if pending:
            post(horde.platform, user, pending)
        if folded_between:
            ledger.fold_all(horde.platform)
        reconciliation.repair(horde.platform)
        ledger.fold_all(horde.platform)
        assert (horde.kudos(user.balance), horde.kudos(user.escrow)) == (5000 + pending, 0)
        assert total(horde.platform, user.balance, "admin") == 5000
        assert (total(horde.platform, user.balance, "awarded") or 0) == pending
        assert_books_balance(horde.platform)


class TestEntries:
    """Where entries are wrong themselves they do not tell what a balance should be: nothing is repaired."""

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM ledger_entries WHERE account_id = :purse",
            "UPDATE ledger_entries SET amount = amount + 1 WHERE account_id = :purse",
            "DELETE FROM ledger_events event USING ledger_entries entry WHERE event_id = event.id "
            "AND account_id = :purse",
            "UPDATE ledger_entries SET account_id = 999999 WHERE account_id = :purse",
            "INSERT INTO ledger_events (id, kind) SELECT gen_random_uuid(), 'test' WHERE :purse > 0",
        ],
    )
    def test_nothing_is_repaired(self, horde: Horde, user: Account, statement: str) -> None:
        other = horde.account(amount=100)
        damage(horde.platform, other.balance, 7)
        change(horde.platform, statement, purse=user.balance)
        with unchanged(horde.platform), pytest.raises(EntriesDamagedError):
            reconciliation.repair(horde.platform)

    def test_nor_while_a_delivered_job_is_unpaid(self, horde: Horde, user: Account) -> None:
        """An event that is gone as a whole leaves no other trace."""
        horde.asked(user)
        job = horde.popped(user)["id"]
        horde.submitted(user, job)
        ledger.fold_all(horde.platform)
        for table, column in (("ledger_entries", "event_id"), ("ledger_events", "id")):
            change(horde.platform, f"DELETE FROM {table} WHERE {column} = :job", job=job)
        with unchanged(horde.platform), pytest.raises(EntriesDamagedError, match="nobody was paid"):
            reconciliation.repair(horde.platform)

    def test_once_they_are_back_the_rest_is(self, horde: Horde, user: Account) -> None:
        change(
            horde.platform,
            "CREATE TABLE backup AS SELECT * FROM ledger_entries WHERE account_id = :purse",
            purse=user.balance,
        )
        try:
            change(horde.platform, "DELETE FROM ledger_entries WHERE account_id = :purse", purse=user.balance)
            damage(horde.platform, user.balance, 7)
            change(horde.platform, "INSERT INTO ledger_entries SELECT * FROM backup")
        finally:
            change(horde.platform, "DROP TABLE backup")
        assert reconciliation.repair(horde.platform) == [Drift(user.balance, None, Decimal(7))]
        ledger.fold_all(horde.platform)
        assert horde.kudos(user.balance) == 500
        assert_books_balance(horde.platform)

    @pytest.mark.parametrize(("folded", "wrong", "right"), [(False, 1100, 600), (True, 500, 600)])
    def test_entries_that_are_folded_twice_or_never(
        self, horde: Horde, user: Account, folded: bool, wrong: int, right: int
    ) -> None:
        """The entries are right, and what is folded from them is not."""
        post(horde.platform, user, 100)
        statement = "UPDATE ledger_entries SET folded = :folded WHERE account_id = :purse"
        change(horde.platform, statement, folded=folded, purse=user.balance)
        ledger.fold_all(horde.platform)
        assert scalar(horde.platform, BALANCE, id=user.balance) == wrong
        assert len(reconciliation.repair(horde.platform)) == 2  # the balance and its total
        ledger.fold_all(horde.platform)
        assert scalar(horde.platform, BALANCE, id=user.balance) == right
        with unchanged(horde.platform):
            assert reconciliation.repair(horde.platform) == []
        assert_books_balance(horde.platform)


class TestReservations:
    def test_those_of_requests_that_are_gone_are_given_back(self, horde: Horde, user: Account) -> None:
        request = horde.asked(user, slow_workers=False)
        statement = "INSERT INTO reservations SELECT gen_random_uuid(), :purse, 200, 150"
        change(horde.platform, statement, purse=user.balance)
        assert reconciliation.release_orphans(horde.platform) == 1
        assert str(scalar(horde.platform, "SELECT request_id FROM reservations")) == request
        with unchanged(horde.platform):
            assert reconciliation.release_orphans(horde.platform) == 0
        assert_books_balance(horde.platform)


class TestHealth:
    def test_of_an_idle_horde(self, horde: Horde) -> None:
        found = reconciliation.health(horde.platform)
        assert found == Health(0, 0, None, 0, Decimal(0), 0)

    def test_of_one_at_work(self, horde: Horde, user: Account) -> None:
        horde.asked(user, slow_workers=False, params={"n": 2})
        change(
            horde.platform, "UPDATE ledger_entries SET created = now() - interval '1 minute' WHERE NOT folded"
        )
        change(horde.platform, "UPDATE reservations SET created = now() - interval '1 hour'")
        found = reconciliation.health(horde.platform)
        reserved = scalar(horde.platform, "SELECT remaining FROM reservations")
        assert (found.unfolded, found.reservations, found.reserved) == (2, 1, reserved)
        assert found.unfolded_seconds == pytest.approx(60, abs=10)
        assert found.reservation_seconds == pytest.approx(3600, abs=10)
        assert found.folded_seconds == pytest.approx(0, abs=10)
        ledger.fold_all(horde.platform)
        assert reconciliation.health(horde.platform).unfolded == 0


class TestNightly:
    def test_once_a_day(self, horde: Horde, user: Account) -> None:
        assert reconciliation.last_check(horde.platform) is None
        assert reconciliation.check_nightly(horde.platform)
        assert not reconciliation.check_nightly(horde.platform)
        found = reconciliation.last_check(horde.platform)
        assert found is not None
        assert (found.entries, found.broken) == (2, {})
        change(horde.platform, "UPDATE books_checks SET created = created - interval '1 day'")
        assert reconciliation.check_nightly(horde.platform)
        assert scalar(horde.platform, "SELECT count(*) FROM books_checks") == 2

    def test_what_is_wrong_is_told_and_left_alone(
        self, horde: Horde, user: Account, capfd: pytest.CaptureFixture[str]
    ) -> None:
        damage(horde.platform, user.balance, 1000)
        assert reconciliation.check_nightly(horde.platform)
        found = reconciliation.last_check(horde.platform)
        assert found is not None
        assert found.broken == {"balances that differ from the sum of their folded entries": 1}
        assert horde.kudos(user.balance) == 1500
        assert scalar(horde.platform, "SELECT count(*) FROM ledger_events WHERE kind = 'reconciliation'") == 0

    def test_old_ones_are_forgotten(self, horde: Horde) -> None:
        reconciliation.check_nightly(horde.platform)
        change(horde.platform, "UPDATE books_checks SET created = created - interval '91 days'")
        reconciliation.check_nightly(horde.platform)
        assert scalar(horde.platform, "SELECT count(*) FROM books_checks") == 1
