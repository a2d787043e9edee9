"""Requesters see who works on their request."""

import pytest

from horde.users.rules import Role
from tests.support import Account, Horde, change, scalar


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="Owner")


def test_every_job_under_way_is_shown_with_its_worker(horde: Horde, owner: Account) -> None:
    request = horde.asked(params={"n": 4})
    assert "processing_by" not in horde.status(request)
    first = horde.popped(owner, "Attic GPU", amount=2)["ids"]
    horde.popped(owner, "Cellar GPU")
    change(
        horde.platform,
        "UPDATE jobs SET started = now() - interval '12.5 seconds' WHERE id = ANY(CAST(:ids AS uuid[]))",
        ids=first,
    )
    ids = {
        name: str(scalar(horde.platform, "SELECT id FROM workers WHERE name = :name", name=name))
        for name in ("Attic GPU", "Cellar GPU")
    }
    attic = {"worker_id": ids["Attic GPU"], "worker_name": "Attic GPU", "seconds": 12}
    status = horde.status(request)
    assert status["processing_by"][:2] == [attic, attic]
    assert [each["worker_name"] for each in status["processing_by"][2:]] == ["Cellar GPU"]
    assert status["processing_by"][2]["seconds"] < 12
    assert status["processing"] == 3
    assert "processing_by" not in horde.check(request)
    horde.submitted(owner, first[0])
    horde.submit(owner, first[1], state="faulted")
    assert [each["worker_name"] for each in horde.status(request)["processing_by"]] == ["Cellar GPU"]
    cancelled = horde.cancel(request)
    assert [each["worker_name"] for each in cancelled["processing_by"]] == ["Cellar GPU"]
    assert len(cancelled["generations"]) == 1


def test_decoys_are_not_shown(horde: Horde, owner: Account) -> None:
    request = horde.asked()
    horde.pop(owner)
    change(horde.platform, "UPDATE workers SET paused = true")
    other = horde.asked()
    assert horde.popped(owner)["ids"]
    assert all("processing_by" not in horde.status(each) or each == request for each in (request, other))
    assert "processing_by" not in horde.status(other)


def test_who_has_left_the_horde_since(horde: Horde, owner: Account) -> None:
    request = horde.asked()
    horde.popped(owner, "here today")
    change(horde.platform, "DELETE FROM workers")
    (shown,) = horde.status(request)["processing_by"]
    assert shown["worker_name"] == "unknown"
