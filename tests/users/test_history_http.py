"""Where an account's kudos came from and went, over HTTP: what is told, to whom, and page by page."""

import re
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced
from horde.users import monthly
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import Account, Horde, assert_refused, change, counted_statements


def page(horde: Horde, key: Account | str, of: Account | int, **query: Any) -> dict[str, Any]:
    number = of.id if isinstance(of, Account) else of
    response = horde.call("GET", f"/users/{number}/ledger", key, query_string=query)
    assert response.status_code == 200, response.json
    return dict(response.json)


def told(horde: Horde, of: Account) -> list[tuple[str, str | None, float, float, str | None]]:
    """All that an account's owner is told, oldest first."""
    found = page(horde, of, of)["movements"]
    return [
        (move["kind"], move.get("action"), move["amount"], move["escrow"], move.get("counterpart"))
        for move in reversed(found)
    ]


def post(horde: Horde, account: Account, amount: int | Decimal, escrow: int = 0) -> None:
    entries = balanced(
        [Entry(account.balance, Decimal(amount), "admin"), Entry(account.escrow, Decimal(escrow))]
    )
    with horde.platform.engine.begin() as db:
        ledger.post(db, uuid4(), "test", entries)


class TestWhatIsTold:
    def test_gifts_awards_and_grants(self, horde: Horde) -> None:
        ada = horde.account(amount=500, username="Ada")
        bob = horde.account(Role.ADMIN, username="Bob")
        horde.call("POST", "/kudos/transfer", ada, json={"username": bob.alias, "amount": 100})
        horde.call("POST", "/kudos/award", bob, json={"username": ada.alias, "amount": 7})
        change(horde.platform, "UPDATE users SET monthly_kudos = 30 WHERE id = :id", id=ada.id)
        monthly.pay(horde.platform)
        assert told(horde, ada) == [
            ("admin", "admin", 500, 0, None),
            ("transfer", "gifted", -100, 0, bob.alias),
            ("award", "awarded", 7, 0, None),
            ("monthly", "recurring", 30, 0, None),
        ]
        assert told(horde, bob) == [("transfer", "received", 100, 0, ada.alias)]

    def test_requests_and_their_results(self, horde: Horde) -> None:
        payer, worker = horde.account(amount=500), horde.account(username="Worker")
        request = horde.asked(payer)
        job = horde.popped(worker)["id"]
        change(horde.platform, "UPDATE jobs SET started = now() - interval '1 minute'")
        reward = horde.submitted(worker, job)
        ledger.fold_all(horde.platform)
        kinds = ("admin", "activation", "generation")
        spent = told(horde, payer)
        assert tuple(move[0] for move in spent) == kinds
        assert [move[2] for move in spent[:2]] == [500, -1]
        assert spent[2][1:4:2] == ("accumulated", 0)
        assert sum(move[2] for move in spent) == float(horde.kudos(payer.balance))
        earned = told(horde, worker)
        assert earned[0][0] == "generation"
        assert earned[0][2] + earned[0][3] == pytest.approx(reward)
        assert earned[1] == ("floor", None, pytest.approx(14 - earned[0][2]), 0, None)
        shown = horde.call("GET", f"/users/{worker.id}/ledger", worker).data.decode()
        assert request not in shown
        assert job not in shown

    def test_the_first_half_of_an_event_says_as_much_as_the_other(self, horde: Horde) -> None:
        ada = horde.account()
        post(horde, ada, 5, escrow=6)
        assert told(horde, ada) == [("test", "admin", 5, 6, None)]

    def test_nothing_yet(self, horde: Horde) -> None:
        ada = horde.account()
        assert page(horde, ada, ada) == {"movements": []}


class TestPages:
    def test_one_after_another(self, horde: Horde) -> None:
        ada = horde.account()
        for amount in range(1, 8):
            post(horde, ada, amount)
        first = page(horde, ada, ada, limit=3)
        second = page(horde, ada, ada, limit=3, before=first["next"])
        post(horde, ada, 99)
        third = page(horde, ada, ada, limit=3, before=second["next"])
        shown = [[move["amount"] for move in each["movements"]] for each in (first, second, third)]
        assert shown == [[7, 6, 5], [4, 3, 2], [1]]
        assert "next" not in third

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(limit=st.integers(1, 6), moments=st.lists(st.integers(0, 3), max_size=12))
    def test_everything_is_shown_once(self, horde: Horde, limit: int, moments: list[int]) -> None:
        """Also what happened in the same microsecond."""
        ada = horde.account()
        for amount, moment in enumerate(moments, start=1):
            post(horde, ada, amount, escrow=amount % 2)
            change(
                horde.platform,
                "UPDATE ledger_entries SET created = to_timestamp(:moment) FROM ledger_events event "
                "WHERE event.id = event_id AND event_id = (SELECT event_id FROM ledger_entries "
                "WHERE account_id = :account AND amount = :amount)",
                moment=1_700_000_000 + moment,
                account=ada.balance,
                amount=amount,
            )
        seen, query = [], {"limit": limit}
        while True:
            found = page(horde, ada, ada, **query)
            assert len(found["movements"]) <= limit
            seen += [move["amount"] for move in found["movements"]]
            if "next" not in found:
                break
            query["before"] = found["next"]
        assert sorted(seen) == list(range(1, len(moments) + 1))
        assert [moments[int(amount) - 1] for amount in seen] == sorted(moments, reverse=True)

    @pytest.mark.parametrize(
        "query",
        [
            {"limit": 0},
            {"limit": 101},
            {"limit": "x"},
            {"before": ""},
            {"before": "yesterday"},
            {"before": "1.2.3"},
            {"before": "9" * 18 + ".1"},
        ],
    )
    def test_there_is_no_such_page(self, horde: Horde, query: dict[str, Any]) -> None:
        ada = horde.account()
        response = horde.call("GET", f"/users/{ada.id}/ledger", ada, query_string=query)
        assert response.status_code == 400
        assert response.json["errors"].keys() == query.keys()

    @pytest.mark.parametrize("before", ["0.0", "9" * 17 + ".9999"])
    def test_the_ends_of_time(self, horde: Horde, before: str) -> None:
        ada = horde.account()
        assert page(horde, ada, ada, before=before) == {"movements": []}

    def test_a_long_history_costs_no_more_than_a_short_one(self, horde: Horde) -> None:
        """It is read from one index, page by page."""
        ada = horde.account()
        change(
            horde.platform,
            "WITH event AS (INSERT INTO ledger_events (id, kind) "
            "SELECT gen_random_uuid(), 'test' FROM generate_series(1, 5000) RETURNING id) "
            "INSERT INTO ledger_entries (event_id, line, account_id, amount, created) "
            "SELECT id, line, CASE line WHEN 1 THEN :account ELSE 1 END, 3 - 2 * line, now() - random() * "
            "interval '1 year' FROM event, generate_series(1, 2) line",
            account=ada.balance,
        )
        change(horde.platform, "ANALYZE ledger_entries")
        with counted_statements() as statements:
            page(horde, ada, ada)
        (statement,) = [each for each in statements if "WITH moved" in each]
        values = {
            "purse": ada.balance,
            "escrow": ada.escrow,
            "until": "infinity",
            "skip": 0,
            "limit": 51,
            "most": 51,
        }
        with horde.platform.read() as db:
            plan = "\n".join(db.exec_driver_sql("EXPLAIN ANALYZE " + statement, values).scalars())
        assert plan.count("ix_ledger_entries_history") == 2
        assert max(int(rows) for rows in re.findall(r"actual time=\S+ rows=(\d+)", plan)) < 200


class TestWhoIsTold:
    @pytest.mark.parametrize("roles", [(), (Role.TRUSTED,), (Role.ADMIN,), (Role.SERVICE, Role.EDUCATION)])
    def test_not_others(self, horde: Horde, roles: tuple[Role, ...]) -> None:
        ada, other = horde.account(), horde.account(*roles)
        assert_refused(horde.call("GET", f"/users/{ada.id}/ledger", other), 403, "NotUserOrMod")

    def test_moderators(self, horde: Horde) -> None:
        ada, moderator = horde.account(amount=5), horde.account(Role.MODERATOR)
        assert page(horde, moderator, ada) == page(horde, ada, ada)
        assert page(horde, moderator, 0) == {"movements": []}

    def test_not_strangers(self, horde: Horde) -> None:
        ada = horde.account()
        for user_id in (ada.id, 0):
            refused = horde.call("GET", f"/users/{user_id}/ledger", ANONYMOUS_KEY)
            assert_refused(refused, 403, "NotUserOrMod")
        assert_refused(horde.call("GET", f"/users/{ada.id}/ledger", "no such key"), 401, "InvalidAPIKey")
        assert horde.call("GET", f"/users/{ada.id}/ledger").status_code == 400

    @pytest.mark.parametrize("user_id", ["99999", "x", "-1", "1x", "9" * 30])
    def test_nobodys(self, horde: Horde, user_id: str) -> None:
        moderator = horde.account(Role.MODERATOR)
        assert_refused(horde.call("GET", f"/users/{user_id}/ledger", moderator), 404, "UserNotFound")
