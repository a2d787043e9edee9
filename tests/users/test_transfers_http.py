"""Giving kudos away, over HTTP: every check, in its order, and what moves."""

import itertools
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from horde.kudos import service as ledger
from horde.users import transfers
from horde.users.kudos_schemas import KudosTransferInput
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    in_threads,
    scalar,
    unchanged,
)

FLOOR = 14
COOLED = "UPDATE ledger_entries SET created = created - interval '61 seconds'"


@pytest.fixture
def sender(horde: Horde) -> Account:
    return horde.account(amount=1014, username="Sender")


@pytest.fixture
def receiver(horde: Horde) -> Account:
    return horde.account(amount=50, username="Receiver")


def send(
    horde: Horde, key: Account | str, to: str, amount: Any = 100, *, once: str | None = None
) -> TestResponse:
    headers = {"Idempotency-Key": once} if once else {}
    return horde.call("POST", "/kudos/transfer", key, headers, json={"username": to, "amount": amount})


def sent(horde: Horde, key: Account, to: str, amount: Any = 100, *, once: str | None = None) -> float:
    response = send(horde, key, to, amount, once=once)
    assert response.status_code == 200, response.json
    return float(response.json["transferred"])


def details(horde: Horde, account: Account) -> dict[str, float]:
    ledger.fold_all(horde.platform)
    shown = horde.call("GET", f"/users/{account.id}").json["kudos_details"]
    return {action: amount for action, amount in shown.items() if amount}


def shared_key(horde: Horde, owner: Account, **fields: Any) -> str:
    response = horde.call("PUT", "/sharedkeys", owner, json={"kudos": 5000} | fields)
    assert response.status_code == 200, response.json
    return str(response.json["id"])


def limit_of(horde: Horde, key: str) -> int:
    return int(horde.call("GET", f"/sharedkeys/{key}").json["kudos"])


class TestTransfer:
    @pytest.mark.parametrize(
        "name", ["{alias}", "#{id}", "{id}", " {id} ", "Not their name#{id}", "a#b#{id}"]
    )
    def test_by_name_and_number(self, horde: Horde, sender: Account, receiver: Account, name: str) -> None:
        to = name.format(alias=receiver.alias, id=receiver.id)
        assert sent(horde, sender, to, 100) == 100
        assert horde.kudos(sender.balance) == 914
        assert horde.kudos(receiver.balance) == 150
        assert details(horde, sender) == {"admin": 1014, "gifted": -100}
        assert details(horde, receiver) == {"admin": 50, "received": 100}
        assert_books_balance(horde.platform)

    @pytest.mark.parametrize(("amount", "moved"), [(1, 1), (12.0, 12), (12.9, 12), ("12", 12), (1000, 1000)])
    def test_amounts(self, horde: Horde, sender: Account, receiver: Account, amount: Any, moved: int) -> None:
        assert sent(horde, sender, receiver.alias, amount) == moved
        assert horde.kudos(receiver.balance) == 50 + moved

    def test_a_hundred_unless_said_otherwise(self, horde: Horde, sender: Account, receiver: Account) -> None:
        response = horde.call("POST", "/kudos/transfer", sender, json={"username": receiver.alias})
        assert response.json == {"transferred": 100.0}

    def test_gifts_to_places_of_education_are_donations(self, horde: Horde, sender: Account) -> None:
        school = horde.account(Role.EDUCATION, username="School")
        sent(horde, sender, school.alias, 100)
        assert details(horde, sender) == {"admin": 1014, "donated": -100}
        assert details(horde, school) == {"received": 100}

    @pytest.mark.parametrize("limit", [5000, 0])
    def test_to_a_shared_key_whose_limit_grows(
        self, horde: Horde, sender: Account, receiver: Account, limit: int
    ) -> None:
        key = shared_key(horde, receiver, kudos=limit)
        assert sent(horde, sender, key, 100) == 100
        assert limit_of(horde, key) == limit + 100
        assert horde.kudos(receiver.balance) == 150

    def test_to_a_shared_key_without_a_limit(self, horde: Horde, sender: Account, receiver: Account) -> None:
        key = shared_key(horde, receiver, kudos=-1)
        sent(horde, sender, key, 100)
        assert limit_of(horde, key) == -1
        assert horde.kudos(receiver.balance) == 150

    def test_limit_and_kudos_grow_together_or_not_at_all(
        self, horde: Horde, sender: Account, receiver: Account
    ) -> None:
        key = shared_key(horde, receiver)
        change(horde.platform, "ALTER TABLE shared_keys ADD CONSTRAINT crash CHECK (kudos <= 5000)")
        try:
            with unchanged(horde.platform):
                assert send(horde, sender, key).status_code == 500
        finally:
            change(horde.platform, "ALTER TABLE shared_keys DROP CONSTRAINT crash")
        assert sent(horde, sender, key) == 100
        assert limit_of(horde, key) == 5100


FLAWS = [
    "InvalidAPIKey",
    "KudosTransferFromAnon",
    "InvalidTargetUsername",
    "IdempotencyKeyConflict",
    "SharedKeyExpired",
    "KudosTransferToAnon",
    "KudosTransferToSelf",
    "TooFastKudosTransfers",
    "FaultWhenKudosSending",
    "SourceAccountFlagged",
    "EducationCannotSendKudos",
    "FaultWhenKudosReceiving",
    "TargetAccountFlagged",
    "DeletedUser (receiver)",
    "DeletedUser (sender)",
    "NegativeKudosTransfer",
    "InvalidKudosTransferAmount",
    "KudosTransferNotEnough",
]
"""In the order of the checks."""


def grant(horde: Horde, account: Account, role: Role) -> None:
    change(
        horde.platform,
        "INSERT INTO user_roles (user_id, role) VALUES (:id, :role)",
        id=account.id,
        role=role.value,
    )


def suspect(horde: Horde, account: Account, times: int = 5) -> None:
    change(
        horde.platform,
        "INSERT INTO suspicions (user_id, reason) SELECT :id, 5 FROM generate_series(1, :times)",
        id=account.id,
        times=times,
    )


class Scene:
    """Somebody who wants to send kudos to somebody else, with `flaws`; of those that exclude one another the
    first counts."""

    def __init__(self, horde: Horde, *flaws: str) -> None:
        self.horde = horde
        self.sender = horde.account(amount=1014, username="Sender")
        self.receiver = horde.account(amount=1014, username="Receiver")
        self.once = "used before" if "IdempotencyKeyConflict" in flaws else None
        if self.once:
            sent(horde, self.sender, self.receiver.alias, 1, once=self.once)
            change(horde.platform, COOLED)
        if "TooFastKudosTransfers" in flaws:
            sent(horde, self.receiver, self.sender.alias, 1)
        self.to = self._to(flaws)
        for flaw, party, role in (
            ("SourceAccountFlagged", self.sender, Role.FLAGGED),
            ("EducationCannotSendKudos", self.sender, Role.EDUCATION),
            ("TargetAccountFlagged", self.receiver, Role.FLAGGED),
            ("DeletedUser (receiver)", self.receiver, Role.DELETED),
            ("DeletedUser (sender)", self.sender, Role.DELETED),
        ):
            if flaw in flaws:
                grant(horde, party, role)
        for flaw, party in (
            ("FaultWhenKudosSending", self.sender),
            ("FaultWhenKudosReceiving", self.receiver),
        ):
            if flaw in flaws:
                suspect(horde, party)
        keys = {"InvalidAPIKey": "no such key", "KudosTransferFromAnon": ANONYMOUS_KEY}
        self.key: Account | str = next((keys[flaw] for flaw in flaws if flaw in keys), self.sender)
        amounts = {
            "NegativeKudosTransfer": -1,
            "InvalidKudosTransferAmount": 0,
            "KudosTransferNotEnough": 10_000,
        }
        self.amount = next((amounts[flaw] for flaw in flaws if flaw in amounts), 100)

    def _to(self, flaws: tuple[str, ...]) -> str:
        if "InvalidTargetUsername" in flaws:
            return "nobody"
        if "SharedKeyExpired" in flaws:
            owner = self.sender if "KudosTransferToSelf" in flaws else self.receiver
            key = shared_key(self.horde, owner)
            change(self.horde.platform, "UPDATE shared_keys SET expires = now() - interval '1 second'")
            return key
        if "KudosTransferToAnon" in flaws:
            return "Anonymous#0"
        return self.sender.alias if "KudosTransferToSelf" in flaws else self.receiver.alias


class TestRefusals:
    @pytest.mark.parametrize("flaw", FLAWS)
    @pytest.mark.parametrize("alone", [True, False])
    def test_each_alone_and_before_all_later_ones(self, horde: Horde, flaw: str, alone: bool) -> None:
        self.refused(horde, flaw, *([] if alone else FLAWS[FLAWS.index(flaw) + 1 :]))

    @pytest.mark.parametrize(("flaw", "later"), list(itertools.combinations(FLAWS, 2)))
    def test_each_before_each_later_one(self, horde: Horde, flaw: str, later: str) -> None:
        self.refused(horde, flaw, later)

    def refused(self, horde: Horde, flaw: str, *later: str) -> None:
        scene = Scene(horde, flaw, *later)
        rc = flaw.split()[0]
        with unchanged(horde.platform):
            response = send(horde, scene.key, scene.to, scene.amount, once=scene.once)
        assert_refused(response, 401 if rc == "InvalidAPIKey" else 400, rc)
        assert_books_balance(horde.platform)

    @pytest.mark.parametrize(
        "to", ["", "#", "nobody#", "#-1", "nobody#1x", "99999", "9" * 30, "nobody#٣", str(UUID(int=8))]
    )
    def test_there_is_no_such_receiver(self, horde: Horde, sender: Account, to: str) -> None:
        with unchanged(horde.platform):
            assert_refused(send(horde, sender, to), 400, "InvalidTargetUsername")

    def test_a_wiped_account_is_none(self, horde: Horde, sender: Account, receiver: Account) -> None:
        change(horde.platform, "UPDATE users SET wiped = now() WHERE id = :id", id=receiver.id)
        assert_refused(send(horde, sender, receiver.alias), 400, "InvalidTargetUsername")

    def test_a_sender_who_was_wiped_just_now(self, horde: Horde, sender: Account, receiver: Account) -> None:
        sent(horde, sender, receiver.alias)
        with horde.platform.engine.begin() as db:
            db.exec_driver_sql("UPDATE users SET wiped = now() WHERE id = %s", (sender.id,))
        with unchanged(horde.platform):
            assert_refused(send(horde, sender, receiver.alias), 401, "InvalidAPIKey")

    def test_an_own_shared_key_is_oneself(self, horde: Horde, sender: Account) -> None:
        key = shared_key(horde, sender)
        assert_refused(send(horde, sender, key), 400, "KudosTransferToSelf")
        assert limit_of(horde, key) == 5000

    @pytest.mark.parametrize(
        "amount",
        [
            *("null", "[]", "{}", "true", str(2**70), "9" * 400, "NaN", "Infinity", "1e400", "-1e400"),
            *('"\u0665"', '"0x10"', '"1e3"', '""'),
        ],
    )
    def test_what_is_no_amount(self, horde: Horde, sender: Account, receiver: Account, amount: str) -> None:
        body = f'{{"username": "{receiver.alias}", "amount": {amount}}}'
        with unchanged(horde.platform):
            response = horde.call(
                "POST", "/kudos/transfer", sender, data=body.encode(), content_type="application/json"
            )
        assert response.status_code == 400
        assert "amount" in response.json.get("errors", {"amount": response.json["message"]})

    def test_a_receiver_is_required(self, horde: Horde, sender: Account) -> None:
        for values in ({"json": {"amount": 5}}, {"data": "username=x"}):
            response = horde.call("POST", "/kudos/transfer", sender, **values)
            assert response.status_code == 400
            assert "username" in response.json["errors"]

    def test_shared_keys_do_not_send(self, horde: Horde, sender: Account, receiver: Account) -> None:
        key = shared_key(horde, sender)
        assert_refused(send(horde, key, receiver.alias), 401, "InvalidAPIKey")

    def test_trusted_accounts_are_never_suspicious(self, horde: Horde) -> None:
        scene = Scene(horde)
        for account in (scene.sender, scene.receiver):
            suspect(horde, account)
            grant(horde, account, Role.TRUSTED)
        assert sent(horde, scene.sender, scene.to) == 100

    def test_four_suspicions_are_forgiven(self, horde: Horde) -> None:
        scene = Scene(horde)
        suspect(horde, scene.sender, 4)
        assert sent(horde, scene.sender, scene.to) == 100

    def test_after_a_minute_kudos_may_go_back(self, horde: Horde, sender: Account, receiver: Account) -> None:
        sent(horde, sender, receiver.alias)
        sent(horde, sender, receiver.alias)
        assert_refused(send(horde, receiver, sender.alias, 1), 400, "TooFastKudosTransfers")
        change(horde.platform, COOLED)
        assert sent(horde, receiver, sender.alias, 1) == 1

    def test_too_many_calls(self, horde: Horde, sender: Account, receiver: Account) -> None:
        body = {"username": receiver.alias, "amount": 1}
        answers = [
            horde.client.post("/api/v2/kudos/transfer", headers={"apikey": sender.key}, json=body)
            for _ in range(3)
        ]
        assert 429 in {response.status_code for response in answers}


class TestAvailable:
    def test_what_an_account_keeps_stays(self, horde: Horde, sender: Account, receiver: Account) -> None:
        assert_refused(send(horde, sender, receiver.alias, 1001), 400, "KudosTransferNotEnough", "1000")
        assert sent(horde, sender, receiver.alias, 1000) == 1000
        assert_refused(send(horde, sender, receiver.alias, 1), 400, "KudosTransferNotEnough")
        ledger.fold_all(horde.platform)
        assert horde.kudos(sender.balance) == FLOOR

    def test_what_came_just_now_cannot_be_sent_on(
        self, horde: Horde, sender: Account, receiver: Account
    ) -> None:
        third = horde.account(username="Third")
        sent(horde, sender, receiver.alias, 1000)
        assert_refused(send(horde, receiver, third.alias, 100), 400, "KudosTransferNotEnough")
        ledger.fold_all(horde.platform)
        assert sent(horde, receiver, third.alias, 100) == 100

    def test_what_a_request_may_still_cost_stays(
        self, horde: Horde, sender: Account, receiver: Account
    ) -> None:
        horde.asked(sender, params={"n": 4}, slow_workers=False)
        held = scalar(horde.platform, "SELECT amount FROM reservations")
        left = int(1000 - held)
        assert_refused(send(horde, sender, receiver.alias, left + 1), 400, "KudosTransferNotEnough")
        assert sent(horde, sender, receiver.alias, left) == left


class TestOnce:
    def test_a_repeated_call_changes_nothing(self, horde: Horde, sender: Account, receiver: Account) -> None:
        assert sent(horde, sender, receiver.alias, 100, once="a") == 100
        with unchanged(horde.platform):
            assert sent(horde, sender, str(receiver.id), 100, once="a") == 100
        assert sent(horde, sender, receiver.alias, 100, once="b") == 100
        assert horde.kudos(receiver.balance) == 250

    def test_also_after_it_would_be_refused(self, horde: Horde) -> None:
        scene = Scene(horde)
        sent(horde, scene.sender, scene.to, 1000, once="a")
        grant(horde, scene.receiver, Role.FLAGGED)
        suspect(horde, scene.sender)
        with unchanged(horde.platform):
            assert sent(horde, scene.sender, scene.to, 1000, once="a") == 1000

    def test_one_key_for_two_things(self, horde: Horde, sender: Account, receiver: Account) -> None:
        key, third = shared_key(horde, receiver), horde.account(username="Third")
        sent(horde, sender, receiver.alias, 100, once="a")
        with unchanged(horde.platform):
            for to, amount in ((receiver.alias, 99), (third.alias, 100), (key, 100)):
                assert_refused(send(horde, sender, to, amount, once="a"), 400, "IdempotencyKeyConflict")

    @pytest.mark.parametrize("once", ["x" * 8000, "\xe9\xff", "'; --", "award of 1: a", "a, b"])
    def test_any_text_is_a_key(self, horde: Horde, sender: Account, receiver: Account, once: str) -> None:
        for _ in range(2):
            assert sent(horde, sender, receiver.alias, 100, once=once) == 100
        assert horde.kudos(receiver.balance) == 150

    def test_everybody_has_keys_of_their_own(self, horde: Horde, sender: Account, receiver: Account) -> None:
        third = horde.account(amount=1000, username="Third")
        sent(horde, sender, receiver.alias, 100, once="a")
        sent(horde, third, receiver.alias, 100, once="a")
        assert horde.kudos(receiver.balance) == 250

    def test_a_refused_call_may_be_repeated(self, horde: Horde, sender: Account, receiver: Account) -> None:
        assert_refused(send(horde, sender, receiver.alias, 2000, once="a"), 400, "KudosTransferNotEnough")
        assert sent(horde, sender, receiver.alias, 500, once="a") == 500

    def test_twenty_at_once_move_it_once(self, horde: Horde, sender: Account, receiver: Account) -> None:
        wanted = KudosTransferInput(username=receiver.alias, amount=100)
        moved = in_threads(20, lambda _: transfers.transfer(horde.platform, sender.key, wanted, "a"))
        assert moved == [100] * 20
        assert horde.kudos(receiver.balance) == 150
        assert_books_balance(horde.platform)

    def test_browsers_may_send_the_header(self, horde: Horde) -> None:
        response = horde.call("OPTIONS", "/kudos/transfer")
        assert "Idempotency-Key" in response.headers["Access-Control-Allow-Headers"]


class TestAtOnce:
    def test_a_hundred_between_two_accounts(
        self, horde: Horde, sender: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both ways at the same time: nobody overdraws, nobody waits forever, and no kudo is lost."""
        monkeypatch.setattr(transfers, "COOL_DOWN_SECONDS", -3600)
        other = horde.account(amount=1014, username="Other")
        parties = [sender, other]

        def move(number: int) -> int:
            giver, taker = parties[number % 2], parties[1 - number % 2]
            wanted = KudosTransferInput(username=taker.alias, amount=30)
            try:
                return transfers.transfer(horde.platform, giver.key, wanted, None)
            except Exception as error:
                assert getattr(error, "rc", error) == "KudosTransferNotEnough"  # noqa: PT017
                return 0

        moved = in_threads(100, move)
        balances = [horde.kudos(party.balance) for party in parties]
        assert sum(balances) == 2028
        assert min(balances) >= FLOOR
        assert [moved[way::2].count(30) for way in (0, 1)] == [33, 33]
        assert horde.kudos(sender.balance) == 1014 - sum(moved[0::2]) + sum(moved[1::2])
        ledger.fold_all(horde.platform)
        assert scalar(horde.platform, "SELECT count(*) FROM ledger_events WHERE kind = 'floor'") == 0
        assert_books_balance(horde.platform)

    @pytest.mark.parametrize(
        ("once", "moved", "answered"), [(None, [33, 25], [33, 25]), ("the same", [1, 1], [50, 50])]
    )
    def test_a_hundred_calls_both_ways(
        self,
        horde: Horde,
        sender: Account,
        monkeypatch: pytest.MonkeyPatch,
        once: str | None,
        moved: list[int],
        answered: list[int],
    ) -> None:
        """Of 1000 kudos 33 times 30 or 25 times 40 can be given; with one key it is given once."""
        monkeypatch.setattr(transfers, "COOL_DOWN_SECONDS", -3600)
        parties, amounts = [sender, horde.account(amount=1014, username="Other")], [30, 40]

        def call(number: int) -> int:
            way = number % 2
            caller = Horde(horde.client.application.test_client(), horde.platform)
            response = send(caller, parties[way], parties[1 - way].alias, amounts[way], once=once)
            while response.status_code == 429:
                response = send(caller, parties[way], parties[1 - way].alias, amounts[way], once=once)
            if response.status_code != 200:
                assert_refused(response, 400, "KudosTransferNotEnough")
            return response.status_code

        answers = in_threads(100, call)
        assert [answers[way::2].count(200) for way in (0, 1)] == answered
        given = [times * amount for times, amount in zip(moved, amounts, strict=True)]
        assert horde.kudos(parties[0].balance) == 1014 - given[0] + given[1]
        assert horde.kudos(parties[1].balance) == 1014 - given[1] + given[0]
        ledger.fold_all(horde.platform)
        assert scalar(horde.platform, "SELECT count(*) FROM ledger_events WHERE kind = 'floor'") == 0
        assert_books_balance(horde.platform)

    def test_a_hundred_from_one_to_another(self, horde: Horde, sender: Account, receiver: Account) -> None:
        """33 of 30 kudos can be paid with 1000 that may be spent, while what is spent is folded."""
        wanted = KudosTransferInput(username=receiver.alias, amount=30)

        def move(number: int) -> int:
            if number % 10 == 0:
                ledger.fold(horde.platform, limit=7)
            try:
                return transfers.transfer(horde.platform, sender.key, wanted, None)
            except Exception as error:
                assert getattr(error, "rc", error) == "KudosTransferNotEnough"  # noqa: PT017
                return 0

        assert in_threads(100, move).count(30) == 33
        ledger.fold_all(horde.platform)
        assert horde.kudos(sender.balance) == 1014 - 990
        assert horde.kudos(receiver.balance) == 50 + 990
        assert_books_balance(horde.platform)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(amount=st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(-1e6, 1e6)))
def test_any_amount_moves_in_full_or_not_at_all(horde: Horde, amount: float) -> None:
    sender, receiver = horde.account(amount=514), horde.account(amount=20)
    moves = 1 <= int(amount) <= 500
    response = send(horde, sender, receiver.alias, amount)
    assert (response.status_code == 200) == moves, response.json
    assert horde.kudos(receiver.balance) == 20 + (int(amount) if moves else 0)
    assert horde.kudos(sender.balance) + horde.kudos(receiver.balance) == 534
