"""Examples of image styles."""

from typing import Any
from uuid import uuid4

import pytest

from horde.users.rules import ANONYMOUS_KEY
from tests.styles.support import made, shown
from tests.support import Account, Horde, assert_refused, in_threads, unchanged


@pytest.fixture
def style(horde: Horde, painter: Account) -> str:
    return made(horde, painter)


def add(horde: Horde, key: Account | str | None, style: str, **fields: Any) -> Any:
    return horde.call("POST", f"/styles/image/{style}/example", key, json=fields)


def added(horde: Horde, key: Account, style: str, name: str, **fields: Any) -> str:
    """The id of a new example."""
    response = add(horde, key, style, url=f"https://example.com/{name}", **fields)
    assert response.status_code == 200, response.json
    assert response.json == {"id": response.json["id"], "message": "OK", "warnings": []}
    return str(response.json["id"])


def listed(horde: Horde, style: str) -> list[tuple[str, bool]]:
    """The name of each example, and whether it is the primary one."""
    examples = shown(horde, style)["examples"]
    assert sum(example["primary"] for example in examples) == bool(examples)
    return [(example["url"].rpartition("/")[2], example["primary"]) for example in examples]


def test_one_is_primary(horde: Horde, painter: Account, style: str) -> None:
    first = added(horde, painter, style, "a", primary=False)
    assert listed(horde, style) == [("a", True)]
    added(horde, painter, style, "b")
    second = added(horde, painter, style, "c", primary=True)
    assert listed(horde, style) == [("a", False), ("b", False), ("c", True)]
    path = f"/styles/image/{style}/example"
    assert horde.call("DELETE", f"{path}/{second}", painter).json == {"message": "OK"}
    assert listed(horde, style) == [("a", True), ("b", False)]
    assert horde.call("DELETE", f"{path}/{first}", painter).json == {"message": "OK"}
    assert listed(horde, style) == [("b", True)]


def test_the_first_may_say_so(horde: Horde, painter: Account, style: str) -> None:
    added(horde, painter, style, "a", primary=True)
    assert listed(horde, style) == [("a", True)]


def test_changing(horde: Horde, painter: Account, moderator: Account, style: str) -> None:
    first, second = (added(horde, painter, style, name) for name in "ab")
    path = f"/styles/image/{style}/example"

    def patch(example: str, key: Account = painter, **fields: Any) -> Any:
        return horde.call("PATCH", f"{path}/{example}", key, json=fields)

    assert patch(first, url="https://example.com/c").json["id"] == first
    assert patch(first, url="https://example.com/c").status_code == 200
    assert patch(second, primary=False).status_code == patch(first, primary=None).status_code == 200
    assert listed(horde, style) == [("c", True), ("b", False)]
    assert patch(second, moderator, primary=True).status_code == 200
    assert listed(horde, style) == [("c", False), ("b", True)]
    with unchanged(horde.platform):
        assert_refused(patch(second, primary=False), 400, "BadRequest", "primary")
        assert_refused(patch(first, url="https://example.com/b"), 400, "ExampleURLAlreadyInUse")
        assert_refused(patch(first, url="http://example.com/b"), 400, "BadRequest", "https")


def test_who_may_not(horde: Horde, painter: Account, stranger: Account, style: str) -> None:
    example = added(horde, painter, style, "a")
    path, body = f"/styles/image/{style}/example", {"url": "https://example.com/b"}
    with unchanged(horde.platform):
        for method, where in (
            ("POST", path),
            ("PATCH", f"{path}/{example}"),
            ("DELETE", f"{path}/{example}"),
        ):
            assert "apikey" in horde.call(method, where, json=body).json["errors"]
            assert_refused(horde.call(method, where, "x" * 22, json=body), 401, "InvalidAPIKey")
            for key in (stranger, ANONYMOUS_KEY):
                assert_refused(horde.call(method, where, key, json=body), 403, "Forbidden")
            for other in (str(uuid4()), "abc"):
                gone = where.replace(style, other)
                assert_refused(horde.call(method, gone, painter, json=body), 404, "StyleNotFound")


def test_examples_of_other_styles(horde: Horde, painter: Account, stranger: Account, style: str) -> None:
    theirs = made(horde, stranger)
    example = added(horde, stranger, theirs, "a")
    for method in ("PATCH", "DELETE"):
        for other in (example, str(uuid4()), "abc"):
            response = horde.call(method, f"/styles/image/{style}/example/{other}", painter, json={})
            assert_refused(response, 404, "StyleExampleNotFound")
    assert listed(horde, theirs) == [("a", True)]


def test_what_is_refused(horde: Horde, painter: Account, style: str) -> None:
    for number in range(4):
        for url in (None, "", "http://example.com", "ftp://x"):
            assert_refused(
                add(horde, painter, style, **({"url": url} if url else {})), 400, "BadRequest", "https"
            )
        added(horde, painter, style, str(number))
        if number < 3:
            again = add(horde, painter, style, url=f"https://example.com/{number}")
            assert_refused(again, 400, "ExampleURLAlreadyInUse")
    with unchanged(horde.platform):
        assert_refused(add(horde, painter, style, url="https://example.com/x"), 403, "TooManyStyleExamples")
    text = made(horde, painter, "text")
    assert_refused(add(horde, painter, text, url="https://example.com/x"), 400, "BadRequest", "image")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " https://example.com",
        "HTTPS://example.com",
        "https:example.com",
        "https://",
        "https:///a.webp",
        "https://?a",
        "https://example.com/a b",
        "https://example.com/a\nSet-Cookie: x",
        "data:image/webp;base64,AAAA",
    ],
)
def test_what_is_no_address(horde: Horde, painter: Account, style: str, url: str) -> None:
    example = added(horde, painter, style, "a")
    path = f"/styles/image/{style}/example"
    with unchanged(horde.platform):
        assert_refused(add(horde, painter, style, url=url), 400, "BadRequest", "https")
        changed = horde.call("PATCH", f"{path}/{example}", painter, json={"url": url})
        assert_refused(changed, 400, "BadRequest", "https")


def test_long_addresses(horde: Horde, painter: Account, style: str) -> None:
    url = "https://example.com/" + "x" * 10_000
    response = add(horde, painter, style, url=url)
    assert (response.status_code, list(response.json["errors"])) == (400, ["url"])
    assert add(horde, painter, style, url=url[:2000]).status_code == 200


def test_many_at_once(horde: Horde, painter: Account, style: str) -> None:
    def send(number: int) -> int:
        body = {"url": f"https://example.com/{number}", "primary": True}
        client = horde.client.application.test_client()
        headers = {"apikey": painter.key}
        return int(
            client.post(f"/api/v2/styles/image/{style}/example", json=body, headers=headers).status_code
        )

    codes = in_threads(2, send) + in_threads(2, lambda number: send(number + 2))
    assert set(codes) <= {200, 429}
    assert len(listed(horde, style)) == codes.count(200) > 0
