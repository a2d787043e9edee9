"""Awarding kudos, over HTTP: who may, to whom, and what moves."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from werkzeug.test import TestResponse

from horde.kudos import service as ledger
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import Account, Horde, assert_books_balance, assert_refused, unchanged

FLOOR = 14


@pytest.fixture
def receiver(horde: Horde) -> Account:
    return horde.account(amount=50, username="Receiver")


def award(
    horde: Horde, key: Account | str, to: str, amount: Any = 100, *, once: str | None = None
) -> TestResponse:
    headers = {"Idempotency-Key": once} if once else {}
    return horde.call("POST", "/kudos/award", key, headers, json={"username": to, "amount": amount})


class TestAward:
    @pytest.fixture
    def admin(self, horde: Horde) -> Account:
        return horde.account(Role.ADMIN, username="Admin")

    def test_an_award(self, horde: Horde, admin: Account, receiver: Account) -> None:
        assert award(horde, admin, receiver.alias, 25).json == {"awarded": 25.0}
        assert horde.kudos(receiver.balance) == 75
        ledger.fold_all(horde.platform)
        shown = horde.call("GET", f"/users/{receiver.id}").json["kudos_details"]
        assert (shown["admin"], shown["awarded"]) == (50, 25)
        assert_books_balance(horde.platform)

    def test_what_is_taken_away_leaves_the_floor(
        self, horde: Horde, admin: Account, receiver: Account
    ) -> None:
        assert award(horde, admin, receiver.alias, -60).json == {"awarded": -60.0}
        ledger.fold_all(horde.platform)
        assert horde.kudos(receiver.balance) == FLOOR
        assert_books_balance(horde.platform)

    def test_nothing(self, horde: Horde, admin: Account, receiver: Account) -> None:
        with unchanged(horde.platform):
            assert award(horde, admin, receiver.alias, 0).json == {"awarded": 0.0}

    def test_a_repeated_call_changes_nothing(self, horde: Horde, admin: Account, receiver: Account) -> None:
        award(horde, admin, receiver.alias, 25, once="a")
        with unchanged(horde.platform):
            assert award(horde, admin, str(receiver.id), 25, once="a").status_code == 200
            assert_refused(award(horde, admin, receiver.alias, 26, once="a"), 400, "IdempotencyKeyConflict")
        assert horde.kudos(receiver.balance) == 75

    @pytest.mark.parametrize(
        "roles", [(), (Role.MODERATOR,), (Role.TRUSTED,), (Role.SERVICE, Role.SPECIAL), (Role.EDUCATION,)]
    )
    def test_for_administrators(self, horde: Horde, receiver: Account, roles: tuple[Role, ...]) -> None:
        caller = horde.account(*roles)
        with unchanged(horde.platform):
            assert_refused(award(horde, caller, receiver.alias), 403, "NotAllowedAwards")

    def test_not_for_strangers(self, horde: Horde, receiver: Account) -> None:
        assert_refused(award(horde, ANONYMOUS_KEY, receiver.alias), 403, "NotAllowedAwards")
        assert_refused(award(horde, "no such key", receiver.alias), 401, "InvalidAPIKey")

    def test_not_by_deleted_accounts(self, horde: Horde, receiver: Account) -> None:
        caller = horde.account(Role.ADMIN, Role.DELETED)
        assert_refused(award(horde, caller, receiver.alias), 403, "DeletedUser")
        assert_refused(award(horde, horde.account(Role.DELETED), receiver.alias), 403, "DeletedUser")

    @pytest.mark.parametrize("to", ["nobody", "nobody#", "99999", str(UUID(int=7))])
    def test_nobody(self, horde: Horde, admin: Account, to: str) -> None:
        assert_refused(award(horde, admin, to), 400, "InvalidAwardUsername")

    def test_whom_not(self, horde: Horde, admin: Account) -> None:
        flagged, deleted = horde.account(Role.FLAGGED), horde.account(Role.DELETED)
        with unchanged(horde.platform):
            assert_refused(award(horde, admin, "Anonymous#0"), 400, "KudosAwardToAnon")
            assert_refused(award(horde, admin, flagged.alias), 400, "TargetAccountFlagged")
            assert_refused(award(horde, admin, deleted.alias), 400, "DeletedUser")

    @pytest.mark.parametrize("amount", [10**13, -(10**13), None, "lots"])
    def test_what_is_no_amount(self, horde: Horde, admin: Account, receiver: Account, amount: Any) -> None:
        response = award(horde, admin, receiver.alias, amount)
        assert response.status_code == 400
        assert "amount" in response.json["errors"]

    def test_amounts_are_exact(self, horde: Horde, admin: Account, receiver: Account) -> None:
        award(horde, admin, receiver.alias, 10**12)
        assert horde.kudos(receiver.balance) == Decimal(10**12 + 50)
