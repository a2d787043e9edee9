"""Fifty callers at the same moment: nobody gets more into the queue, or pays for more, than they may."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    FLUX,
    MODEL,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    change,
    forget,
    in_threads,
    scalar,
)

CALLERS = 50
ADDRESSES = [f"192.0.2.{number}" for number in range(CALLERS)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one of many requests."""

    status: int
    rc: str | None
    id: str | None
    n: int


@pytest.fixture(scope="module")
def module_crowd(shared_horde: Horde) -> Iterator[Horde]:
    with another_process(shared_horde, service_addresses=frozenset(ADDRESSES)) as process:
        yield process


@pytest.fixture
def crowd(horde: Horde, module_crowd: Horde) -> Horde:
    """A process that everybody calls from an address of their own, which rate limits do not stop."""
    forget(module_crowd.platform)
    return module_crowd


def ask_at_once(
    crowd: Horde, keys: Sequence[Account | str], numbers: Sequence[int], **fields: Any
) -> list[Answer]:
    """What happens if all `CALLERS` ask at the same moment, in turns with each key and number of images."""

    def ask(number: int) -> Answer:
        caller = Horde(crowd.client.application.test_client(), crowd.platform)
        n = numbers[number % len(numbers)]
        body = {"prompt": "a lighthouse", "params": {"n": n}, **fields}
        response = caller.call(
            "POST",
            "/generate/async",
            keys[number % len(keys)],
            json=body,
            environ_base={"REMOTE_ADDR": ADDRESSES[number]},
        )
        content = response.json
        return Answer(response.status_code, content.get("rc"), content.get("id"), n)

    return in_threads(CALLERS, ask)


def accepted(answers: Sequence[Answer], refusal: str = "TooManyPrompts") -> list[Answer]:
    """Those that were accepted; all others were refused as they should be."""
    taken = [answer for answer in answers if answer.status == 202]
    assert {(answer.status, answer.rc) for answer in answers if answer not in taken} <= {
        (429, "TooManyPrompts") if refusal == "TooManyPrompts" else (403, refusal)
    }
    return taken


def assert_queued(horde: Horde, taken: Sequence[Answer]) -> None:
    """What was accepted stands in the queue, each image once, and nothing else does."""
    with horde.platform.read() as db:
        rows = {str(row.id): (row.jobs, row.n) for row in db.execute(text("SELECT * FROM requests"))}
        assert_queue_consistent(db)
    assert rows == {answer.id: (answer.n, answer.n) for answer in taken}
    assert scalar(horde.platform, "SELECT count(*) FROM ledger_events WHERE kind = 'activation'") == len(
        taken
    )
    assert_books_balance(horde.platform)


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3, 4]], ids=["one each", "up to four each"])
def test_an_account_never_has_more_than_thirty_images_waiting(crowd: Horde, numbers: list[int]) -> None:
    user = crowd.account(amount=500)
    answers = ask_at_once(crowd, [user], numbers)
    taken = accepted(answers)
    waiting = sum(answer.n for answer in taken)
    assert waiting <= 30
    # Nothing was taken out of the queue, so whoever was refused would not fit in now either.
    assert all(waiting + answer.n > 30 for answer in answers if answer not in taken)
    assert_queued(crowd, taken)
    assert crowd.kudos(user.balance) == 500 - len(taken)


def test_other_accounts_do_not_count(crowd: Horde) -> None:
    users = [crowd.account(amount=500) for _ in range(2)]
    taken = accepted(ask_at_once(crowd, users, [1, 1]))
    assert len(taken) == CALLERS
    assert_queued(crowd, taken)


def test_images_that_workers_take_make_room(crowd: Horde) -> None:
    user, owner = crowd.account(amount=500), crowd.account(Role.TRUSTED)
    crowd.asked(user, params={"n": 20})
    before = [crowd.popped(owner)["id"] for _ in range(4)]
    answers = ask_at_once(crowd, [user], [2, 1, 3])
    waiting = 16 + sum(answer.n for answer in accepted(answers))
    assert scalar(crowd.platform, "SELECT sum(n) FROM requests") == waiting <= 30
    assert all(waiting + answer.n > 30 for answer in answers if answer.status != 202)
    assert scalar(crowd.platform, "SELECT count(*) FROM jobs") == len(before)
    assert_books_balance(crowd.platform)


def test_shared_keys_count_against_their_owner(crowd: Horde) -> None:
    owner = crowd.account(amount=500)
    shared = [
        crowd.call("PUT", "/sharedkeys", owner, json={"kudos": kudos}).json["id"] for kudos in (-1, 5000)
    ]
    answers = ask_at_once(crowd, [owner, *shared], [1, 3, 2, 1])
    taken = accepted(answers)
    waiting = sum(answer.n for answer in taken)
    assert waiting <= 30
    assert all(waiting + answer.n > 30 for answer in answers if answer not in taken)
    assert_queued(crowd, taken)
    assert scalar(crowd.platform, "SELECT count(DISTINCT user_id) FROM requests") == 1
    assert crowd.kudos(owner.balance) == 500 - len(taken)


class TestAnonymous:
    """Its callers do not wait for each other: a few too many may slip in, but nobody is refused too early."""

    def test_each_model_has_room_of_its_own(self, crowd: Horde) -> None:
        change(crowd.platform, "UPDATE users SET concurrency = 12 WHERE id = 0")
        for models in ([MODEL], [SDXL]):
            for _ in range(2):
                crowd.asked(models=models, params={"n": 3})
            answers = ask_at_once(crowd, [ANONYMOUS_KEY], [1, 2], models=models)
            assert 6 + sum(answer.n for answer in accepted(answers)) >= 12
            assert crowd.ask(models=models).json["rc"] == "TooManyPrompts"
        crowd.asked(models=["Dreamshaper"], params={"n": 12})
        with crowd.platform.read() as db:
            assert_queue_consistent(db)
        assert_books_balance(crowd.platform)

    def test_what_is_accepted_is_what_is_queued(self, crowd: Horde) -> None:
        taken = accepted(ask_at_once(crowd, [ANONYMOUS_KEY], [1, 2, 3, 4]))
        assert len(taken) == CALLERS
        assert_queued(crowd, taken)


def test_nobody_promises_the_same_kudos_twice(crowd: Horde) -> None:
    fields = {"slow_workers": False}
    cost = crowd.ask(dry_run=True, **fields).json["kudos"]
    payer = crowd.account(amount=14 + round(5.5 * cost))
    taken = accepted(ask_at_once(crowd, [payer], [1], **fields), "KudosUpfront")
    assert len(taken) == 5
    assert_queued(crowd, taken)
    reserved = scalar(crowd.platform, "SELECT sum(remaining) FROM reservations")
    assert reserved <= round(5.5 * cost)
    assert scalar(crowd.platform, "SELECT count(*) FROM reservations") == 5


@pytest.mark.parametrize("fault", ["settings", "kudos", "picture"])
def test_too_many_images_waiting_are_told_of_first(horde: Horde, fault: str) -> None:
    user = horde.account()
    change(horde.platform, "UPDATE users SET concurrency = 0 WHERE id = :id", id=user.id)
    fields: dict[str, Any] = {
        "settings": {"models": [FLUX], "model_requirements": "reject"},
        "kudos": {"slow_workers": False},
        "picture": {"source_image": "no picture"},
    }[fault]
    assert_refused(horde.ask(user, **fields), 429, "TooManyPrompts")
