"""Collections over HTTP: making, showing, listing, changing, deleting and using them."""

from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from horde.styles import using
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.styles.support import made, shared_key, shown
from tests.support import SDXL, Account, Horde, assert_refused, change, forget, scalar, unchanged


def post(horde: Horde, key: Account | str | None, **fields: Any) -> Any:
    return horde.call("POST", "/collections", key, json={"name": "Set"} | fields)


def put_together(horde: Horde, key: Account, *styles: str, **fields: Any) -> str:
    """The id of a new collection."""
    response = post(horde, key, styles=list(styles), **fields)
    assert response.status_code == 200, response.json
    assert response.json == {"id": response.json["id"], "message": "OK", "warnings": []}
    return str(response.json["id"])


def collection(horde: Horde, collection_id: str) -> dict[str, Any]:
    response = horde.call("GET", f"/collections/{collection_id}")
    assert response.status_code == 200, response.json
    return dict(response.json)


@pytest.fixture
def member(horde: Horde) -> Account:
    """Somebody without any role."""
    return horde.account(amount=100, username="Member")


class TestMaking:
    def test_anybody_may(self, horde: Horde, painter: Account, member: Account) -> None:
        oil, ink = made(horde, painter), made(horde, painter, name="Ink")
        made_of = [oil, "Ink", f"{painter.alias}::style::Oil"]
        new = put_together(horde, member, *made_of, info="good ones")
        assert collection(horde, new) == {
            "id": new,
            "name": "Set",
            "type": "image",
            "info": "good ones",
            "public": True,
            "styles": [
                {"name": f"{painter.alias}::style::Oil", "id": oil},
                {"name": f"{painter.alias}::style::Ink", "id": ink},
            ],
            "use_count": 0,
            "creator": member.alias,
        }

    def test_of_text_styles(self, horde: Horde, painter: Account, member: Account) -> None:
        made(horde, painter, "text")
        assert collection(horde, put_together(horde, member, "Bard"))["type"] == "text"

    def test_who_may_not(self, horde: Horde, painter: Account) -> None:
        styles = [made(horde, painter)]
        gone = horde.account(Role.DELETED)
        with unchanged(horde.platform):
            assert "apikey" in post(horde, None, styles=styles).json["errors"]
            assert_refused(post(horde, "x" * 22, styles=styles), 401, "InvalidAPIKey")
            assert_refused(post(horde, gone, styles=styles), 403, "DeletedUser")
            assert_refused(post(horde, ANONYMOUS_KEY, styles=styles), 403, "StylesAnonForbidden")

    def test_what_is_refused(self, horde: Horde, painter: Account, member: Account) -> None:
        oil = made(horde, painter)
        bard, private = made(horde, painter, "text"), made(horde, painter, name="p", public=False)
        put_together(horde, member, oil, name="taken")
        for fields, rc, word in (
            ({"styles": []}, "BadRequest", "style"),
            ({}, "BadRequest", "style"),
            ({"styles": [oil, "none"]}, "BadRequest", "none"),
            ({"styles": [str(uuid4())]}, "BadRequest", "no style"),
            ({"styles": [oil, bard]}, "StyleMismatch", "images"),
            ({"styles": ["Oil", "Bard"]}, "StyleMismatch", "images"),
            ({"styles": [private]}, "BadRequest", "no style"),
            ({"styles": [f"{painter.alias}::p"]}, "BadRequest", "no style"),
            ({"styles": [oil], "name": "taken"}, "BadRequest", "taken"),
            ({"styles": [oil], "name": "a::b"}, "BadRequest", "::"),
            ({"styles": [oil], "name": "holy shit"}, "BadRequest", "profane"),
            ({"styles": [oil], "info": "holy shit"}, "BadRequest", "profane"),
        ):
            with unchanged(horde.platform):
                assert_refused(post(horde, member, **fields), 400, rc, word)
        missing = horde.call("POST", "/collections", member, json={"styles": [oil]})
        assert list(missing.json["errors"]) == ["name"]
        put_together(horde, painter, private, name="taken")


class TestShowing:
    def test_unknown_ones(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter)
        for path in ("collections/abc", f"collections/{uuid4()}", f"collections/{style}"):
            assert_refused(horde.call("GET", f"/{path}"), 404, "CollectionNotFound")
        for name in ("Oil", "style::Oil", f"{painter.alias}::style::Oil", "a::b::c::d"):
            response = horde.call("GET", f"/collection_by_name/{quote(name)}")
            assert_refused(response, 404, "CollectionNotFound")

    def test_names(self, horde: Horde, painter: Account, member: Account) -> None:
        made(horde, painter)
        mine, theirs = put_together(horde, member, "Oil"), put_together(horde, painter, "Oil")
        for name, expected in (
            ("Set", mine),
            ("collection::Set", mine),
            (f"{painter.alias}::Set", theirs),
            (f"{painter.id}::collection::Set", theirs),
            (f"collection::{member.alias}::Set", mine),
        ):
            assert horde.call("GET", f"/collection_by_name/{quote(name)}").json["id"] == expected

    def test_the_list(self, horde: Horde, painter: Account, member: Account) -> None:
        made(horde, painter)
        made(horde, painter, "text")
        first, second = put_together(horde, member, "Oil"), put_together(horde, member, "Bard", name="b")
        put_together(horde, member, "Oil", name="hidden", public=False)
        change(horde.platform, "UPDATE collections SET use_count = 5 WHERE id = :id", id=second)

        def listed(query: str = "") -> list[str]:
            return [each["id"] for each in horde.call("GET", f"/collections?{query}").json]

        assert listed() == listed("page=0&type=all") == [second, first]
        assert listed("sort=age") == [first, second]
        assert (listed("type=image"), listed("type=text"), listed("page=2")) == ([first], [second], [])
        assert_refused(horde.call("GET", "/collections?sort=best"), 400, "BadRequest", "sort")
        assert_refused(horde.call("GET", "/collections?type=video"), 400, "BadRequest", "type")


class TestChanging:
    def test_only_what_is_sent(self, horde: Horde, painter: Account, member: Account) -> None:
        made(horde, painter)
        ink = made(horde, painter, name="Ink")
        own = made(horde, painter, name="own", public=False)
        new = put_together(horde, member, "Oil")
        expected = collection(horde, new)
        for fields in ({"name": "New"}, {"info": "x"}, {"public": False}, {"info": ""}, {"name": None}):
            assert horde.call("PATCH", f"/collections/{new}", member, json=fields).json["id"] == new
            expected |= {key: value for key, value in fields.items() if value is not None}
            assert collection(horde, new) == expected
        assert horde.call("PATCH", f"/collections/{new}", member, json={"styles": [ink]}).status_code == 200
        assert [style["id"] for style in collection(horde, new)["styles"]] == [ink]
        refused = horde.call("PATCH", f"/collections/{new}", member, json={"styles": [own]})
        assert_refused(refused, 400, "BadRequest")

    def test_what_is_refused(
        self, horde: Horde, painter: Account, member: Account, moderator: Account
    ) -> None:
        made(horde, painter)
        made(horde, painter, "text")
        new = put_together(horde, member, "Oil")
        put_together(horde, member, "Oil", name="taken")

        def patch(key: Account | str, where: str = new, **fields: Any) -> Any:
            return horde.call("PATCH", f"/collections/{where}", key, json=fields)

        with unchanged(horde.platform):
            assert_refused(patch("x" * 22, info="x"), 401, "InvalidAPIKey")
            for key in (painter, moderator, ANONYMOUS_KEY):
                assert_refused(patch(key, info="x"), 403, "Forbidden")
            for where in ("abc", str(uuid4())):
                assert_refused(patch(member, where, info="x"), 404, "CollectionNotFound")
            assert_refused(patch(member, styles=["Bard"]), 400, "StyleMismatch")
            assert_refused(patch(member, styles=["Bard", "Oil"]), 400, "StyleMismatch")
            assert_refused(patch(member, styles=[]), 400, "BadRequest")
            assert_refused(patch(member, name="taken", styles=["Oil"]), 400, "BadRequest", "taken")

    def test_styles_that_become_private_leave_others_collections(
        self, horde: Horde, painter: Account, member: Account
    ) -> None:
        made_of = [made(horde, painter), made(horde, painter, name="Ink")]
        theirs, own = put_together(horde, member, *made_of), put_together(horde, painter, *made_of)
        answer = horde.call("PATCH", f"/styles/image/{made_of[0]}", painter, json={"public": False})
        assert answer.status_code == 200
        assert [style["id"] for style in collection(horde, theirs)["styles"]] == made_of[1:]
        assert [style["id"] for style in collection(horde, own)["styles"]] == made_of

    def test_very_many_styles(self, horde: Horde, painter: Account, member: Account) -> None:
        style = made(horde, painter)
        new = put_together(horde, member, *[style] * 1000)
        assert len(collection(horde, new)["styles"]) == 1
        with unchanged(horde.platform):
            response = post(horde, member, styles=[style] * 10_000, name="b")
            assert (response.status_code, list(response.json["errors"])) == (400, ["styles"])
            for styles in (["x" * 100_000], [f"{style}::x"], ["::" * 1000]):
                assert_refused(post(horde, member, styles=styles, name="b"), 400, "BadRequest")


class TestDeleting:
    def test_owners_and_moderators(
        self, horde: Horde, painter: Account, member: Account, moderator: Account
    ) -> None:
        style = made(horde, painter)
        for key in (member, moderator):
            path = f"/collections/{put_together(horde, member, style)}"
            assert_refused(horde.call("DELETE", path, "x" * 22), 401, "InvalidAPIKey")
            assert_refused(horde.call("DELETE", path, ANONYMOUS_KEY), 403, "StylesAnonForbidden")
            assert_refused(horde.call("DELETE", path, painter), 403, "Forbidden")
            assert horde.call("DELETE", path, key).json == {"message": "OK"}
            assert_refused(horde.call("DELETE", path, key), 404, "CollectionNotFound")
        assert shown(horde, style)["id"] == style


class TestUsing:
    def test_one_of_them_is_taken(self, horde: Horde, painter: Account, member: Account) -> None:
        styles = [made(horde, painter, name=name, models=[name], params={}) for name in ("a", "b")]
        new = put_together(horde, member, *styles, name="Bag")
        names = ["Bag", new, "collection::Bag", f"{member.alias}::collection::Bag"]
        for number in range(20):
            assert horde.ask(style=names[number % 4], params={"n": 1}).status_code == 202
        using.fold_uses(horde.platform)
        counts = [shown(horde, style)["use_count"] for style in styles]
        assert sum(counts) == collection(horde, new)["use_count"] == 20
        assert min(counts) > 0
        models = scalar(horde.platform, "SELECT count(DISTINCT models) FROM requests")
        assert models == 2
        assert horde.call("GET", f"/users/{painter.id}").json["records"]["style"]["image"] == 20
        assert horde.call("GET", f"/users/{member.id}").json["records"]["style"]["image"] == 0

    def test_styles_come_before_collections(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter, name="Set", models=[SDXL], params={})
        other = made(horde, painter, name="other", params={})
        put_together(horde, painter, other)
        horde.asked(style="Set")
        using.fold_uses(horde.platform)
        assert shown(horde, style)["use_count"] == 1

    def test_a_key_of_the_style_taken(self, horde: Horde, painter: Account, member: Account) -> None:
        rich = horde.account(Role.TRUSTED, amount=500)
        new = put_together(horde, member, made(horde, rich, params={}, sharedkey=shared_key(horde, rich)))
        before = horde.kudos(member.balance)
        horde.asked(member, style=new)
        assert horde.kudos(member.balance) == before
        assert horde.kudos(rich.balance) < 500

    def test_none_is_left(self, horde: Horde, painter: Account, member: Account) -> None:
        style = made(horde, painter)
        new = put_together(horde, member, style)
        horde.call("DELETE", f"/styles/image/{style}", painter)
        assert collection(horde, new)["styles"] == []
        forget(horde.platform)
        with unchanged(horde.platform):
            assert_refused(horde.ask(style=new), 404, "StyleNotFound")

    def test_of_texts(self, horde: Horde, painter: Account) -> None:
        new = put_together(horde, painter, made(horde, painter, "text"))
        assert_refused(horde.ask(style=new), 400, "StyleMismatch")
