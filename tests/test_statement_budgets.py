"""The five calls that carry the traffic send the database no more statements than the design allows.

What a process keeps for seconds (accounts, workers, counts of the queue) is there, as under load.
"""

from collections.abc import Callable
from typing import Any

import pytest

from horde.generation import snapshot
from horde.users.rules import ANONYMOUS_KEY, Role
from tests import support
from tests.support import (
    MODEL,
    SDXL,
    Account,
    Horde,
    assert_refused,
    counted_statements,
    forget,
    scalar,
)

ASYNC, POP_HIT, POP_MISS, SUBMIT, CHECK, STATUS = 6, 4, 2, 6, 1, 3


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of a trusted worker that has popped before; a leader counts the queue."""
    owner = horde.account(Role.TRUSTED, username="Owner")
    horde.pop(owner)
    snapshot.publish_places(horde.platform, "image")
    snapshot.publish_groups(horde.platform, "image")
    forget(horde.platform)
    horde.pop(owner)
    return owner


def statements(call: Callable[[], Any]) -> int:
    """How many statements a call sends."""
    with counted_statements() as sent:
        call()
    return len(sent)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"models": [MODEL, SDXL, "Deliberate"], "params": {"n": 5}},
        {"models": []},
        {"workers": True},
        {"workers": True, "worker_blacklist": True},
        {"slow_workers": False},
        {"slow_workers": False, "workers": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("anonymous", [True, False])
def test_async(horde: Horde, owner: Account, fields: dict[str, Any], anonymous: bool) -> None:
    key = ANONYMOUS_KEY if anonymous else horde.account(amount=10_000)
    if "workers" in fields:
        fields = fields | {"workers": [str(scalar(horde.platform, "SELECT id FROM workers"))]}
    horde.asked(key)
    assert 0 < statements(lambda: horde.asked(key, **fields)) <= ASYNC


def test_async_refused(horde: Horde, owner: Account) -> None:
    horde.asked()
    assert statements(lambda: horde.ask(params={"cfg_scale": 1.001})) == 1
    assert statements(lambda: horde.ask("x" * 22)) <= 1


def test_dry_run(horde: Horde, owner: Account) -> None:
    horde.asked()
    assert statements(lambda: horde.ask(dry_run=True)) == 0


@pytest.mark.parametrize(
    ("fields", "offer"),
    [
        ({}, {}),
        ({"models": []}, {}),
        ({"params": {"n": 6}}, {"amount": 6}),
        ({"prompt": "fair"}, {"blacklist": ["ugly"]}),
        ({"models": []}, {"priority_usernames": ["Anonymous#0"]}),
    ],
    ids=str,
)
def test_pop_hit(horde: Horde, owner: Account, fields: dict[str, Any], offer: dict[str, Any]) -> None:
    horde.pop(owner, **offer)
    horde.asked(**fields)
    horde.asked(**fields)
    with counted_statements() as sent:
        horde.popped(owner, **offer)
    assert 0 < len(sent) <= POP_HIT


def test_pop_hit_after_a_request_that_no_offered_model_suits(horde: Horde, owner: Account) -> None:
    offer = {"models": ["stable_diffusion_inpainting", "Deliberate"]}
    horde.pop(owner, **offer)
    horde.asked(models=[])
    assert 0 < statements(lambda: horde.popped(owner, **offer)) <= POP_HIT


@pytest.mark.parametrize(
    ("fields", "offer"),
    [
        (None, {}),
        ({"models": [SDXL]}, {}),
        ({"prompt": "ugly"}, {"blacklist": ["ugly"]}),
        ({"models": []}, {"models": ["stable_diffusion_inpainting"]}),
    ],
    ids=str,
)
def test_pop_miss(horde: Horde, owner: Account, fields: dict[str, Any] | None, offer: dict[str, Any]) -> None:
    for _ in range(3):
        if fields is not None:
            horde.asked(**fields)
    for _ in range(2):  # the first time, changed settings are stored
        assert horde.pop(owner, **offer).json["ids"] == []
    with counted_statements() as sent:
        assert horde.pop(owner, **offer).json["ids"] == []
    assert 0 < len(sent) <= POP_MISS


def test_pop_miss_in_maintenance(horde: Horde, owner: Account) -> None:
    support.change(horde.platform, "UPDATE workers SET maintenance = true")
    horde.asked()  # it is for others
    horde.pop(owner)
    with counted_statements() as sent:
        assert_refused(horde.pop(owner), 403, "WorkerMaintenance")
    assert 0 < len(sent) <= POP_MISS
    assert not [statement for statement in sent if "SKIP LOCKED" in statement]


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"generation": "R2"},
        {"state": "faulted"},
        {"gen_metadata": [{"type": "censorship", "value": "csam"}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("upfront", [True, False])
def test_submit(horde: Horde, owner: Account, result: dict[str, Any], upfront: bool) -> None:
    payer = horde.account(amount=1000)
    horde.asked(payer, slow_workers=not upfront)
    job = horde.popped(owner)["id"]
    assert 0 < statements(lambda: horde.submitted(owner, job, **result)) <= SUBMIT


def test_submit_refused(horde: Horde, owner: Account) -> None:
    horde.asked()
    job = horde.popped(owner)["id"]
    assert statements(lambda: horde.submit(owner, job, generation="?")) <= 1
    horde.submitted(owner, job)
    assert statements(lambda: horde.submit(owner, job)) <= 1
    assert statements(lambda: horde.submit(owner, "1")) == 0


@pytest.mark.parametrize("r2", [True, False])
def test_check_and_status(horde: Horde, owner: Account, r2: bool) -> None:
    request = horde.asked(params={"n": 3}, r2=r2)
    horde.check(request)
    for _ in range(3):
        assert 0 < statements(lambda: horde.check(request)) <= CHECK
        assert 0 < statements(lambda: horde.status(request)) <= STATUS
        horde.submitted(owner, horde.popped(owner)["id"])
    horde.cancel(request)
    assert 0 < statements(lambda: horde.check(request)) <= CHECK
    assert 0 < statements(lambda: horde.status(request)) <= STATUS
