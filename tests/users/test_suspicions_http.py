"""What is noted against accounts, and who sees how much it is."""

from uuid import UUID

import pytest

from horde.users import suspicions
from horde.users.rules import ANONYMOUS_KEY, Reason, Role
from tests.support import Account, Horde, change, scalar


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


def report(horde: Horde, user_id: int, reason: Reason, worker_id: UUID | None = None) -> None:
    with horde.platform.engine.begin() as db:
        suspicions.report(db, user_id, reason, worker_id)


def shown(horde: Horde, user: Account, key: Account | str) -> int | None:
    response = horde.call("GET", f"/users/{user.id}", key)
    assert response.status_code == 200
    count: int | None = response.json.get("suspicious")
    return count


def of_worker(horde: Horde, worker_id: UUID) -> int:
    return int(scalar(horde.platform, "SELECT count(*) FROM suspicions WHERE worker_id = :id", id=worker_id))


def worker_of(horde: Horde, owner: Account, name: str) -> UUID:
    horde.pop(owner, name)
    worker_id: UUID = scalar(horde.platform, "SELECT id FROM workers WHERE name = :name", name=name)
    return worker_id


def test_only_moderators_see_the_number(horde: Horde, moderator: Account) -> None:
    user = horde.account()
    assert shown(horde, user, moderator) == 0
    report(horde, user.id, Reason.CORRUPT_PROMPT)
    assert shown(horde, user, moderator) == 1
    for key in (user, ANONYMOUS_KEY, horde.account(Role.TRUSTED)):
        assert shown(horde, user, key) is None
    assert "suspicious" not in horde.call("GET", "/find_user", user).json


def test_most_reasons_are_noted_once(horde: Horde, moderator: Account) -> None:
    user, other = horde.account(), horde.account()
    for _ in range(3):
        report(horde, user.id, Reason.CORRUPT_PROMPT)
    report(horde, other.id, Reason.CORRUPT_PROMPT)
    assert (shown(horde, user, moderator), shown(horde, other, moderator)) == (1, 1)


def test_some_are_noted_each_time(horde: Horde, moderator: Account) -> None:
    user = horde.account()
    for reason in (Reason.UNREASONABLY_FAST, Reason.TOO_MANY_JOBS_ABORTED):
        report(horde, user.id, reason)
        report(horde, user.id, reason)
    assert shown(horde, user, moderator) == 4


def test_nothing_is_noted_of_anonymous(horde: Horde) -> None:
    report(horde, 0, Reason.CORRUPT_PROMPT)
    assert scalar(horde.platform, "SELECT count(*) FROM suspicions") == 0


def test_what_speaks_against_a_worker_speaks_against_its_owner(horde: Horde, moderator: Account) -> None:
    owner = horde.account(Role.TRUSTED)
    first, second = worker_of(horde, owner, "first"), worker_of(horde, owner, "second")
    for worker in (first, first, second):
        report(horde, owner.id, Reason.CORRUPT_PROMPT, worker)
    assert (of_worker(horde, first), of_worker(horde, second)) == (1, 1)
    assert shown(horde, owner, moderator) == 1
    report(horde, owner.id, Reason.UNREASONABLY_FAST, first)
    report(horde, owner.id, Reason.UNREASONABLY_FAST, first)
    assert (of_worker(horde, first), of_worker(horde, second)) == (3, 1)
    assert shown(horde, owner, moderator) == 3


def test_a_removed_worker_leaves_what_was_noted_of_its_owner(horde: Horde, moderator: Account) -> None:
    owner = horde.account(Role.TRUSTED)
    report(horde, owner.id, Reason.UNREASONABLY_FAST, worker_of(horde, owner, "first"))
    change(horde.platform, "DELETE FROM workers")
    assert scalar(horde.platform, "SELECT count(*) FROM suspicions") == 1
    assert shown(horde, owner, moderator) == 1
