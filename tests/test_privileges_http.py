"""Who may call what: every operation of the API, called by everybody from nobody to an administrator.

The table below says of each operation whom it serves; an operation that is not in it fails a test.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from flask.testing import FlaskClient

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import MODEL, Account, Horde, Rows, forget, restore_rows, save_rows, scalar

EVERYBODY = ("nobody", "unknown", "anonymous", "stranger", "deleted", "owner", "moderator", "admin")
"""`unknown` sends a key that no account has, `owner` owns what the path names, `admin` only has that role."""
KEYS = ("anonymous", "stranger", "deleted", "owner", "moderator", "admin")
LIVING = ("stranger", "owner", "moderator", "admin")
TRUSTED = ("owner", "moderator")
OWNER = ("owner",)
OWNER_OR_MODERATOR = ("owner", "moderator")
MODERATOR = ("moderator",)
ADMIN = ("admin",)
NO_WRONG_KEY = tuple(who for who in EVERYBODY if who != "unknown")
IMAGE_STYLE = {"name": "another", "prompt": "{p}, oil{np}", "models": [MODEL]}
TEXT_STYLE = {"name": "another", "prompt": "{p} and so on", "models": ["a model"]}
EXAMPLE = {"url": "https://example.org/another.webp"}
REQUEST = {"prompt": "a lighthouse"}
POP = {"name": "new", "models": [MODEL], "bridge_agent": "test:1:test", "max_pixels": 4194304}
SCHOOL = {"institution": "A school", "contact": "teacher@example.org", "purpose": "Drawing lessons"}
FILTER = {"regex": "ugly", "filter_type": 10, "description": "Ugly things"}
TIMEOUT = {"ipaddr": "192.0.2.7", "hours": 1}
AWARD = {"username": "{stranger}", "amount": 1}

SERVES: dict[str, tuple[tuple[str, ...], Any]] = {
    "GET /v2/collections": (EVERYBODY, None),
    "POST /v2/collections": (LIVING, {"name": "another", "styles": ["{style}"]}),
    "GET /v2/collections/{collection}": (EVERYBODY, None),
    "PATCH /v2/collections/{collection}": (OWNER, {"info": "changed"}),
    "DELETE /v2/collections/{collection}": (OWNER_OR_MODERATOR, None),
    "GET /v2/collection_by_name/set": (EVERYBODY, None),
    "GET /v2/documents/privacy": (EVERYBODY, None),
    "GET /v2/documents/sponsors": (EVERYBODY, None),
    "GET /v2/documents/terms": (EVERYBODY, None),
    "GET /v2/filters": (MODERATOR, None),
    "PUT /v2/filters": (MODERATOR, FILTER),
    "POST /v2/filters": (MODERATOR, REQUEST),
    "GET /v2/filters/regex": (MODERATOR, None),
    "GET /v2/filters/{filter}": (MODERATOR, None),
    "PATCH /v2/filters/{filter}": (MODERATOR, {"description": "changed"}),
    "DELETE /v2/filters/{filter}": (MODERATOR, None),
    "GET /v2/find_user": (KEYS, None),
    "POST /v2/generate/async": (tuple(who for who in KEYS if who != "deleted"), REQUEST),
    "GET /v2/generate/check/{request}": (EVERYBODY, None),
    "GET /v2/generate/status/{request}": (EVERYBODY, None),
    "DELETE /v2/generate/status/{request}": (EVERYBODY, None),
    "POST /v2/generate/rate/{request}": ((), {"ratings": [{"id": "{request}", "rating": 5}]}),
    "POST /v2/generate/pop": (LIVING, POP),
    "POST /v2/generate/submit": (OWNER, {"id": "{job}", "generation": "R2", "seed": 1, "state": "faulted"}),
    "POST /v2/kudos/award": (ADMIN, AWARD),
    "POST /v2/kudos/transfer": (LIVING, {"username": "{other}", "amount": 1}),
    "PUT /v2/operations/block_worker_ipaddr/{worker}": (MODERATOR, {"days": 1}),
    "DELETE /v2/operations/block_worker_ipaddr/{worker}": (MODERATOR, None),
    "GET /v2/operations/ipaddr": (MODERATOR, None),
    "POST /v2/operations/ipaddr": (MODERATOR, TIMEOUT),
    "DELETE /v2/operations/ipaddr": (MODERATOR, {"ipaddr": "192.0.2.7"}),
    "GET /v2/operations/ipaddr/192.0.2.7": (MODERATOR, None),
    "PUT /v2/sharedkeys": (LIVING, {"name": "another"}),
    "GET /v2/sharedkeys/{sharedkey}": (EVERYBODY, None),
    "PATCH /v2/sharedkeys/{sharedkey}": (OWNER, {"kudos": 7}),
    "DELETE /v2/sharedkeys/{sharedkey}": (OWNER, None),
    "GET /v2/stats/img/models": (EVERYBODY, None),
    "GET /v2/stats/img/totals": (EVERYBODY, None),
    "GET /v2/stats/text/models": (EVERYBODY, None),
    "GET /v2/stats/text/totals": (EVERYBODY, None),
    "GET /v2/status/heartbeat": (EVERYBODY, None),
    "GET /v2/status/models": (EVERYBODY, None),
    "GET /v2/status/models/stable_diffusion": (EVERYBODY, None),
    "GET /v2/status/modes": (("nobody", "moderator"), None),
    "PUT /v2/status/modes": (MODERATOR, {"raid_mode": True}),
    "GET /v2/status/news": (EVERYBODY, None),
    "GET /v2/status/performance": (EVERYBODY, None),
    "GET /v2/styles/image": (EVERYBODY, None),
    "POST /v2/styles/image": (TRUSTED, IMAGE_STYLE),
    "GET /v2/styles/image/{style}": (EVERYBODY, None),
    "PATCH /v2/styles/image/{style}": (OWNER, {"nsfw": True}),
    "DELETE /v2/styles/image/{style}": (OWNER_OR_MODERATOR, None),
    "POST /v2/styles/image/{style}/example": (OWNER_OR_MODERATOR, EXAMPLE),
    "PATCH /v2/styles/image/{style}/example/{example}": (OWNER_OR_MODERATOR, EXAMPLE),
    "DELETE /v2/styles/image/{style}/example/{example}": (OWNER_OR_MODERATOR, None),
    "GET /v2/styles/image_by_name/painting": (EVERYBODY, None),
    "GET /v2/styles/text": (EVERYBODY, None),
    "POST /v2/styles/text": (TRUSTED, TEXT_STYLE),
    "GET /v2/styles/text/{text}": (EVERYBODY, None),
    "PATCH /v2/styles/text/{text}": (OWNER, {"nsfw": True}),
    "DELETE /v2/styles/text/{text}": (OWNER_OR_MODERATOR, None),
    "GET /v2/styles/text_by_name/story": (EVERYBODY, None),
    "GET /v2/teams": (EVERYBODY, None),
    "POST /v2/teams": (TRUSTED, {"name": "another", "info": "Another team"}),
    "GET /v2/teams/{team}": (NO_WRONG_KEY, None),
    "PATCH /v2/teams/{team}": (OWNER_OR_MODERATOR, {"info": "changed"}),
    "DELETE /v2/teams/{team}": (OWNER_OR_MODERATOR, None),
    "GET /v2/users": (EVERYBODY, None),
    "POST /v2/users/education": (("stranger", "moderator", "admin"), SCHOOL),
    "GET /v2/users/education": (KEYS, None),
    "GET /v2/users/education/{application}": (OWNER_OR_MODERATOR, None),
    "PATCH /v2/users/education/{application}": (MODERATOR, {"granted": False}),
    "GET /v2/users/{user}": (NO_WRONG_KEY, None),
    "PUT /v2/users/{user}": (OWNER_OR_MODERATOR, {"public_workers": True}),
    "DELETE /v2/users/{user}": (OWNER_OR_MODERATOR, None),
    "GET /v2/users/{user}/ledger": (OWNER_OR_MODERATOR, None),
    "GET /v2/users/{user}/role_changes": (MODERATOR, None),
    "GET /v2/workers": (EVERYBODY, None),
    "GET /v2/workers/messages": (KEYS, None),
    "POST /v2/workers/messages": (OWNER_OR_MODERATOR, {"worker_id": "{worker}", "message": "hello"}),
    "GET /v2/workers/messages/{message}": (EVERYBODY, None),
    "DELETE /v2/workers/messages/{message}": (MODERATOR, None),
    "GET /v2/workers/name/worker": (EVERYBODY, None),
    "GET /v2/workers/{worker}": (EVERYBODY, None),
    "PUT /v2/workers/{worker}": (OWNER_OR_MODERATOR, {"info": "changed"}),
    "DELETE /v2/workers/{idle}": (OWNER_OR_MODERATOR, None),
}
"""Method and path, with what stands for ids in braces; whom it serves; and the body that is sent."""


class World(NamedTuple):
    """A horde with one of everything, whose ids are `names`, and everybody's keys."""

    horde: Horde
    keys: dict[str, str | None]
    names: dict[str, str]
    rows: Rows


@pytest.fixture(scope="module")
def world(shared_horde: Horde) -> Iterator[World]:
    horde = shared_horde
    forget(horde.platform)
    empty = save_rows(horde.platform)
    accounts: dict[str, Account] = {
        "stranger": horde.account(amount=100),
        "owner": horde.account(Role.TRUSTED, amount=100),
        "moderator": horde.account(Role.MODERATOR, amount=100),
        "admin": horde.account(Role.ADMIN, amount=100),
        "deleted": horde.account(amount=100),
    }
    other = horde.account(username="Other")
    horde.call("DELETE", f"/users/{accounts['deleted'].id}", accounts["deleted"])
    keys = {"nobody": None, "unknown": "x" * 22, "anonymous": ANONYMOUS_KEY}
    names = _one_of_everything(horde, accounts)
    names |= {"stranger": accounts["stranger"].alias, "other": other.alias, "user": str(accounts["owner"].id)}
    rows = save_rows(horde.platform)
    yield World(horde, keys | {who: each.key for who, each in accounts.items()}, names, rows)
    restore_rows(horde.platform, empty)


def _one_of_everything(horde: Horde, accounts: dict[str, Account]) -> dict[str, str]:
    owner, moderator = accounts["owner"], accounts["moderator"]

    def made(method: str, path: str, json: Any, key: Account = owner) -> str:
        response = horde.call(method, path, key, json=json)
        assert response.status_code in (200, 201, 202), (path, response.json)
        return str(response.json["id"])

    style = made("POST", "/styles/image", IMAGE_STYLE | {"name": "painting"})
    horde.pop(owner, "idle")
    names = {"request": horde.asked(), "job": horde.popped(owner)["id"]}
    query = "SELECT id FROM workers WHERE name = 'worker'"
    worker = str(scalar(horde.platform, query))
    return names | {
        "style": style,
        "example": made("POST", f"/styles/image/{style}/example", {"url": "https://example.org/a.webp"}),
        "text": made("POST", "/styles/text", TEXT_STYLE | {"name": "story"}),
        "collection": made("POST", "/collections", {"name": "set", "styles": [style]}),
        "filter": made("PUT", "/filters", FILTER | {"regex": "hideous"}, moderator),
        "sharedkey": made("PUT", "/sharedkeys", {"name": "friends"}),
        "team": made("POST", "/teams", {"name": "team", "info": "A team of workers"}),
        "application": made("POST", "/users/education", SCHOOL),
        "worker": worker,
        "idle": str(scalar(horde.platform, query.replace("'worker'", "'idle'"))),
        "message": made("POST", "/workers/messages", {"worker_id": worker, "message": "hello"}, moderator),
    }


def _filled_in(given: Any, names: dict[str, str]) -> Any:
    if isinstance(given, dict):
        return {name: _filled_in(value, names) for name, value in given.items()}
    if isinstance(given, list):
        return [_filled_in(value, names) for value in given]
    return (
        re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[0]), given)
        if isinstance(given, str)
        else given
    )


@pytest.mark.parametrize("operation", SERVES)
def test_an_operation_serves_whom_it_is_for(world: World, operation: str) -> None:
    method, template = operation.split(" ")
    served, content = SERVES[operation]
    path, content = _filled_in(template, world.names).removeprefix("/v2"), _filled_in(content, world.names)
    values: dict[str, Any] = {"query_string" if method == "GET" else "json": content} if content else {}
    answers = {}
    for who, key in world.keys.items():
        response = world.horde.call(method, path, key, **values)
        answers[who] = response.status_code
        assert response.status_code < 500, (who, response.json)
        if response.status_code >= 400:
            assert response.json["message"], who
        if method != "GET" and response.status_code < 300:
            restore_rows(world.horde.platform, world.rows)
    assert {who for who, status in answers.items() if status < 300} == set(served), answers
    assert answers["nobody"] in (400, 401) or "nobody" in served, answers
    assert answers["unknown"] in (401, 404) or "unknown" in served, answers


def test_no_operation_is_left_out(client: FlaskClient) -> None:
    document = client.get("/api/swagger.json").json
    assert document is not None
    published = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method in ("get", "put", "post", "patch", "delete")
    }
    listed = {re.sub(r"\{\w+\}", "{}", operation) for operation in SERVES}
    for operation in published:
        pattern = re.escape(re.sub(r"\{\w+\}", "{}", operation)).replace(r"\{\}", "[^/]+")
        assert any(re.fullmatch(pattern, each) for each in listed), operation
    assert len(published) == len(SERVES)
