"""Styles that several people change at the same moment."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from horde.image.style_schemas import ModelStylePatchStable
from horde.image.styling import IMAGE
from horde.platform.errors import HordeError
from horde.styles import service, using
from horde.users import shared_keys
from horde.users.rules import Role
from horde.users.shared_key_schemas import SharedKeyInput
from tests.styles.support import STYLE, made, shared_key, shown
from tests.support import (
    FLUX,
    SDXL,
    Account,
    Horde,
    assert_refused,
    change,
    in_threads,
    scalar,
    wait_for_a_blocked_statement,
)

HELD = {
    table: text(f"SELECT FROM {table} WHERE id = CAST(:id AS uuid) FOR UPDATE")
    for table in ("styles", "shared_keys")
}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def later(
    pool: ThreadPoolExecutor, horde: Horde, method: str, path: str, key: Account, **fields: Any
) -> "Future[Any]":
    """The answer to a call that waits for what the test holds."""
    client = horde.client.application.test_client()
    headers = {"apikey": key.key}
    return pool.submit(client.open, f"/api/v2{path}", method=method, json=fields, headers=headers)


def test_changes_that_do_not_fit_together(horde: Horde, painter: Account, pool: ThreadPoolExecutor) -> None:
    style = made(horde, painter, params={})
    with horde.platform.engine.begin() as db:
        db.execute(HELD["styles"], {"id": style})
        sent = [
            later(pool, horde, "PATCH", f"/styles/image/{style}", painter, **fields)
            for fields in ({"models": [FLUX]}, {"params": {"hires_fix": True}})
        ]
        wait_for_a_blocked_statement(horde.platform, statements=2)
    answers = sorted((each.result() for each in sent), key=lambda answer: answer.status_code)
    assert answers[0].status_code == 200
    assert_refused(answers[1], 400, "HiResMismatch")
    found = shown(horde, style)
    assert (found["models"], found.get("params")) in (
        ([FLUX], None),
        (STYLE["models"], {"hires_fix": True}),
    )


def test_changing_what_is_deleted_meanwhile(horde: Horde, painter: Account, pool: ThreadPoolExecutor) -> None:
    key, style = shared_key(horde, painter), made(horde, painter)
    path = f"/styles/image/{style}"
    with horde.platform.engine.begin() as db:
        db.execute(HELD["shared_keys"], {"id": key})
        sent = later(pool, horde, "PATCH", path, painter, sharedkey=key)
        wait_for_a_blocked_statement(horde.platform)
        assert horde.call("DELETE", path, painter).status_code == 200
    assert_refused(sent.result(), 404, "StyleNotFound")
    assert "style_only" not in horde.call("GET", f"/sharedkeys/{key}").json


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_attaching_a_key_that_is_deleted_meanwhile(
    horde: Horde, painter: Account, pool: ThreadPoolExecutor, method: str
) -> None:
    key, style = shared_key(horde, painter), made(horde, painter)
    path = "/styles/image" if method == "POST" else f"/styles/image/{style}"
    with horde.platform.engine.begin() as db:
        db.execute(text("DELETE FROM shared_keys WHERE id = CAST(:id AS uuid)"), {"id": key})
        sent = later(pool, horde, method, path, painter, **STYLE | {"name": "New", "sharedkey": key})
        wait_for_a_blocked_statement(horde.platform)
    assert_refused(sent.result(), 400, "SharedKeyInvalid")
    assert shown(horde, style)["name"] == STYLE["name"]


def test_one_that_is_made_private_is_not_put_together(
    horde: Horde, painter: Account, stranger: Account, pool: ThreadPoolExecutor
) -> None:
    style = made(horde, painter)
    with horde.platform.engine.begin() as db:
        db.execute(HELD["styles"], {"id": style})
        sent = later(pool, horde, "POST", "/collections", stranger, name="Set", styles=[style])
        wait_for_a_blocked_statement(horde.platform)
        db.execute(text("UPDATE styles SET public = false"))
    assert_refused(sent.result(), 400, "BadRequest", "no style")


def test_nobody_waits_for_each_other(horde: Horde) -> None:
    """Keys are attached and freed, and uses counted, all at once: no call is given up as a deadlock."""
    owner = horde.account(Role.TRUSTED)
    keys = [shared_key(horde, owner) for _ in range(2)]
    made_of = [made(horde, owner, name=name) for name in "abc"]
    use = "INSERT INTO style_uses (style_id, kind) SELECT id, 'image' FROM styles ORDER BY random()"
    outcomes = []

    def work(number: int) -> None:
        for step in range(15):
            key, style = keys[(number + step) % 2], made_of[(number * 2 + step) % 3]
            try:
                match number % 3:
                    case 0:
                        wanted = ModelStylePatchStable(sharedkey=key, models=[SDXL])
                        service.change_style(horde.platform, IMAGE, owner.key, style, wanted)
                    case 1:
                        freed = SharedKeyInput(style_only=False)
                        shared_keys.change_key(horde.platform, owner.key, key, freed)
                    case _:
                        change(horde.platform, use)
                        using.fold_uses(horde.platform)
            except HordeError as error:
                outcomes.append(error.rc)

    in_threads(6, work)
    assert outcomes == []
    using.fold_uses(horde.platform)
    assert scalar(horde.platform, "SELECT sum(use_count) FROM styles") == 2 * 15 * 3
    bound = "SELECT count(*) FROM styles JOIN shared_keys key ON key.id = shared_key_id WHERE NOT style_only"
    assert scalar(horde.platform, bound) == 0
