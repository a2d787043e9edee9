"""New owners become trusted for what they earn, and get what was held back."""

from collections.abc import Iterator
from decimal import Decimal
from uuid import uuid4

import pytest

from horde.image import jobs, submissions
from horde.image.schemas import PopInputStable, SubmitInputStable
from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced
from horde.users import management, trust
from horde.users import service as users
from horde.users.management_schemas import ModifyUserInput
from horde.users.rules import Role
from tests.support import (
    AGENT,
    MODEL,
    Account,
    Horde,
    another_process,
    assert_books_balance,
    change,
    in_threads,
    scalar,
    unchanged,
)

THRESHOLD = 10


@pytest.fixture
def trusting(horde: Horde) -> Iterator[Horde]:
    """The horde, where accounts become trusted above a threshold."""
    with another_process(horde, kudos_trust_threshold=THRESHOLD) as process:
        yield process


@pytest.fixture
def owner(horde: Horde) -> Account:
    """An account of a week."""
    owner = horde.account(username="Owner")
    change(horde.platform, "UPDATE users SET created = now() - interval '7 days' WHERE id = :id", id=owner.id)
    return owner


def earn(horde: Horde, owner: Account, escrow: Decimal | str) -> None:
    """Let so much reach an account's escrow."""
    entries = balanced([Entry(owner.escrow, Decimal(escrow))])
    with horde.platform.engine.begin() as db:
        assert ledger.post(db, uuid4(), "test", entries)


def trusted(horde: Horde, owner: Account) -> bool:
    return bool(horde.call("GET", f"/users/{owner.id}").json["trusted"])


def purses(horde: Horde, owner: Account) -> tuple[Decimal, Decimal]:
    return horde.kudos(owner.balance), horde.kudos(owner.escrow)


def review(horde: Horde) -> int:
    ledger.fold_all(horde.platform)
    promoted = trust.review(horde.platform)
    assert trust.review(horde.platform) == 0
    ledger.fold_all(horde.platform)
    assert trust.review(horde.platform) == 0
    assert_books_balance(horde.platform)
    return promoted


def test_above_the_threshold(trusting: Horde, owner: Account) -> None:
    trusting.pop(owner)
    change(trusting.platform, "UPDATE workers SET paused = true")
    trusting.pop(owner)
    earn(trusting, owner, "10.00")
    assert review(trusting) == 0
    earn(trusting, owner, "0.01")
    assert not trusted(trusting, owner)
    assert review(trusting) == 1
    assert trusted(trusting, owner)
    # The first kudos to reach a purse lift it to its floor.
    assert purses(trusting, owner) == (14, 0)
    assert not scalar(trusting.platform, "SELECT paused FROM workers")
    query = "SELECT amount FROM kudos_totals WHERE account_id = :id AND action = 'accumulated'"
    assert scalar(trusting.platform, query, id=owner.balance) == Decimal("10.01")
    request = trusting.asked()
    trusting.popped(owner)
    assert trusting.check(request)["processing"] == 1


def test_what_a_worker_earns_leads_there(trusting: Horde, owner: Account) -> None:
    payer = trusting.account(amount=10_000)
    earned = Decimal(0)
    while not trusted(trusting, owner):
        assert earned < 1000
        trusting.asked(payer, trusted_workers=False)
        job = trusting.popped(owner)["id"]
        # Nobody is that fast; whoever is too often is not trusted.
        change(trusting.platform, "UPDATE jobs SET started = now() - interval '1 minute'")
        earned += Decimal(str(trusting.submitted(owner, job)))
        review(trusting)
    assert purses(trusting, owner)[1] == 0
    assert earned <= purses(trusting, owner)[0] <= earned + 14
    trusting.asked(payer, trusted_workers=True)
    job = trusting.popped(owner)["id"]
    before = trusting.kudos(owner.balance)
    reward = trusting.submitted(owner, job)
    assert float(trusting.kudos(owner.balance) - before) == pytest.approx(reward)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET created = now() - interval '6 days 23 hours' WHERE id = :id",
        "INSERT INTO suspicions (user_id, reason) SELECT :id, 5 FROM generate_series(1, 5)",
        "INSERT INTO user_roles (user_id, role) VALUES (:id, 'flagged')",
        "INSERT INTO user_roles (user_id, role) VALUES (:id, 'deleted')",
    ],
)
def test_not_these(trusting: Horde, owner: Account, statement: str) -> None:
    earn(trusting, owner, "100")
    change(trusting.platform, statement, id=owner.id)
    assert review(trusting) == 0
    assert (trusted(trusting, owner), purses(trusting, owner)[1]) == (False, 100)


def test_four_suspicions_are_forgiven(trusting: Horde, owner: Account) -> None:
    earn(trusting, owner, "100")
    change(
        trusting.platform,
        "INSERT INTO suspicions (user_id, reason) SELECT :id, 5 FROM generate_series(1, 4)",
        id=owner.id,
    )
    assert review(trusting) == 1


def test_without_a_threshold_nobody(horde: Horde, owner: Account) -> None:
    earn(horde, owner, "1000000")
    assert review(horde) == 0
    assert not trusted(horde, owner)


def test_by_hand(horde: Horde, owner: Account) -> None:
    earn(horde, owner, "3.33")
    ledger.fold_all(horde.platform)
    users.set_role(horde.platform, owner.id, Role.TRUSTED, True)
    # What is on its way when the account becomes trusted follows.
    review(horde)
    earn(horde, owner, "1.11")
    review(horde)
    assert purses(horde, owner)[1] == 0
    query = "SELECT amount FROM kudos_totals WHERE account_id = :id AND action = 'accumulated'"
    assert scalar(horde.platform, query, id=owner.balance) == Decimal("4.44")


def test_several_at_once_release_it_once(trusting: Horde, owner: Account) -> None:
    earn(trusting, owner, "100")
    ledger.fold_all(trusting.platform)
    in_threads(4, lambda _: trust.review(trusting.platform))
    ledger.fold_all(trusting.platform)
    assert purses(trusting, owner)[1] == 0
    query = "SELECT amount FROM kudos_totals WHERE account_id = :id AND action = 'accumulated'"
    assert scalar(trusting.platform, query, id=owner.balance) == 100
    assert_books_balance(trusting.platform)


def promotions(horde: Horde) -> int:
    return int(scalar(horde.platform, "SELECT count(*) FROM ledger_events WHERE kind = 'promotion'"))


def test_a_moderators_word_moves_it_at_once_and_nobody_elses(horde: Horde, owner: Account) -> None:
    moderator, other = horde.account(Role.MODERATOR), horde.account(Role.TRUSTED)
    earn(horde, owner, "3.33")
    earn(horde, other, "5")
    ledger.fold_all(horde.platform)
    earn(horde, owner, "1.11")
    for _ in range(2):
        response = horde.call("PUT", f"/users/{owner.id}", moderator, json={"trusted": True})
        assert response.status_code == 200, response.json
        assert purses(horde, owner) == (Decimal("4.44"), 0)
    assert purses(horde, other) == (0, 5)
    assert promotions(horde) == 1


def test_role_and_kudos_move_together_or_not_at_all(horde: Horde, owner: Account) -> None:
    moderator = horde.account(Role.MODERATOR)
    earn(horde, owner, "100")
    change(horde.platform, "ALTER TABLE ledger_events ADD CONSTRAINT crash CHECK (kind <> 'promotion')")
    try:
        with unchanged(horde.platform):
            response = horde.call("PUT", f"/users/{owner.id}", moderator, json={"trusted": True})
            assert response.status_code == 500
    finally:
        change(horde.platform, "ALTER TABLE ledger_events DROP CONSTRAINT crash")
    assert not trusted(horde, owner)


def test_everybody_at_once_promotes_once(trusting: Horde, owner: Account) -> None:
    """Moderators, the server's rule and the operator at the same moment."""
    moderator, platform = trusting.account(Role.MODERATOR), trusting.platform
    earn(trusting, owner, "100")
    ledger.fold_all(platform)
    wanted = ModifyUserInput.model_validate({"trusted": True})

    def promote(number: int) -> None:
        if number % 4 == 0:
            trust.review(platform)
        elif number % 4 == 1:
            users.set_role(platform, owner.id, Role.TRUSTED, True)
        elif number % 4 == 2:
            management.change_user(platform, moderator.key, str(owner.id), wanted)
        else:
            ledger.fold_all(platform)

    in_threads(16, promote)
    ledger.fold_all(platform)
    trust.review(platform)
    assert promotions(trusting) == 1
    assert purses(trusting, owner) == (100, 0)
    query = "SELECT count(*) FROM role_changes WHERE user_id = :id AND role = 'trusted'"
    assert scalar(platform, query, id=owner.id) == 1
    assert_books_balance(platform)


def test_while_a_job_is_settled_for_the_account_as_it_was(trusting: Horde, owner: Account) -> None:
    platform = trusting.platform
    trusting.asked(trusting.account(amount=1000))
    offer = {"name": "worker", "models": [MODEL], "bridge_agent": AGENT}
    job = jobs.pop(platform, owner.key, "127.0.0.1", PopInputStable.model_validate(offer))["id"]
    earn(trusting, owner, "100")
    kept = users.authenticate(platform, owner.key)
    assert review(trusting) == 1
    platform.local.put(f"key:{users.key_hash(platform.secret, owner.key)}", 60, kept)
    result = SubmitInputStable.model_validate({"id": job, "generation": "R2", "seed": 1})
    submissions.submit(platform, owner.key, result)
    assert purses(trusting, owner)[1] > 0
    review(trusting)
    assert purses(trusting, owner)[1] == 0
