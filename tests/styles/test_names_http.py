"""Odd names of styles, collections and their owners: all can be found by them."""

from typing import Any
from urllib.parse import quote

import pytest

from horde.users.rules import Role
from tests.styles.support import made
from tests.support import Account, Horde, assert_refused

NAMES = [
    "style",
    "collection",
    "Sea/sky",
    "/sea//sky/",
    "a%2Fb",
    "?x=1#y",
    "a:b",
    ":a",
    "a:",
    ":",
    "..",
    "1",
    "Über\u6d77 \U0001f30a",
    "a+b & <c>",
    "x#1",
    "1f0c2b1e-8a55-4a8e-9a5b-0d4d4a4d7c11",
]


def found(horde: Horde, name: str, what: str = "styles/image_by_name") -> Any:
    response = horde.call("GET", f"/{what}/{quote(name, safe='')}")
    return response.json.get("id", response.json.get("rc"))


@pytest.mark.parametrize("name", NAMES)
def test_names(horde: Horde, painter: Account, name: str) -> None:
    style = made(horde, painter, name=name, params={})
    body = {"name": name, "styles": [f"{painter.id}::{name}"]}
    collection = horde.call("POST", "/collections", painter, json=body).json["id"]
    for before in (f"{painter.alias}::style", f"style::{painter.id}", f"{painter.alias}", "style"):
        assert found(horde, f"{before}::{name}") == style
        assert horde.ask(style=f"{before}::{name}").status_code == 202
    shown = horde.call("GET", f"/collections/{collection}").json["styles"]
    assert shown == [{"name": f"{painter.alias}::style::{name}", "id": style}]
    for before in (f"{painter.alias}::collection", f"collection::{painter.id}", "collection"):
        assert found(horde, f"{before}::{name}", "collection_by_name") == collection
        assert horde.ask(style=f"{before}::{name}").status_code == 202
    if not name.startswith("/"):
        assert found(horde, name) == style
        assert found(horde, name, "collection_by_name") == collection


@pytest.mark.parametrize("username", ["a::b", "style", "collection::x", "x#7::style", "#", "::"])
def test_names_of_owners(horde: Horde, painter: Account, username: str) -> None:
    owner = horde.account(Role.TRUSTED, username=username)
    made(horde, painter)
    style = made(horde, owner)
    (entry,) = horde.call("GET", f"/users/{owner.id}").json["styles"]
    assert (entry["id"], found(horde, entry["name"])) == (style, style)


def test_ids_come_first(horde: Horde, painter: Account, stranger: Account) -> None:
    style = made(horde, painter)
    other = made(horde, stranger, name=style)
    assert found(horde, style) == found(horde, style.upper()) == style
    assert found(horde, f"{stranger.alias}::{style}") == found(horde, f"style::{style}") == other
    body = {"name": "Set", "styles": [style]}
    collection = horde.call("POST", "/collections", painter, json=body).json["id"]
    body["name"] = collection
    assert horde.call("POST", "/collections", painter, json=body).status_code == 200
    assert found(horde, collection, "collection_by_name") == collection
    assert found(horde, style, "collection_by_name") == "CollectionNotFound"
    assert found(horde, collection) == "StyleNotFound"


def test_of_another_kind(horde: Horde, painter: Account, stranger: Account) -> None:
    text = made(horde, painter, "text", name="Both")
    for name in ("Both", text, f"{painter.alias}::style::Both"):
        response = horde.call("GET", f"/styles/image_by_name/{quote(name)}")
        assert_refused(response, 400, "StyleGetMistmatch", "text")
    image = made(horde, stranger, name="Both")
    assert (found(horde, "Both"), found(horde, "Both", "styles/text_by_name")) == (image, text)


@pytest.mark.parametrize("path", ["styles/image_by_name", "styles/text_by_name", "collection_by_name"])
@pytest.mark.parametrize("name", ["%00", "a%00b", "x" * 5000, "::", "%FF", "%F0%9F", "%ED%A0%80"])
def test_what_no_name_can_be(horde: Horde, path: str, name: str) -> None:
    response = horde.call("GET", f"/{path}/{name}")
    assert response.status_code == (400 if "%00" in name else 404)
    assert response.json["rc"] in ("NulByteInPayload", "StyleNotFound", "CollectionNotFound")
