"""Shared keys over HTTP: making, showing, changing and deleting them, and asking with them."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.kudos import service as ledger
from horde.platform.errors import Forbidden, Unauthorized
from horde.users import shared_keys
from horde.users.rules import ANONYMOUS_KEY, Role, most_shared_keys
from tests.support import (
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_refused,
    change,
    counted_statements,
    forget,
    scalar,
    unchanged,
)

DEFAULTS = {
    "name": "",
    "kudos": 5000,
    "max_image_pixels": -1,
    "max_image_steps": -1,
    "max_text_tokens": -1,
    "utilized": 0,
}
UNKNOWN = "0b0e2a5c-9d3f-4c11-8a57-3f6d1f1c7b90"
NO_KEYS = [UNKNOWN, "abc", "-1", UNKNOWN + "0", UNKNOWN[:-1] + "g", "0" * 36]


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(amount=1000, username="Owner")


def made(horde: Horde, owner: Account, **fields: Any) -> dict[str, Any]:
    """A new key."""
    response = horde.call("PUT", "/sharedkeys", owner, json=fields)
    assert response.status_code == 200, response.json
    return dict(response.json)


def shown(horde: Horde, key: dict[str, Any]) -> dict[str, Any]:
    response = horde.call("GET", f"/sharedkeys/{key['id']}")
    assert response.status_code == 200, response.json
    return dict(response.json)


def patch(horde: Horde, owner: Account, key: dict[str, Any], **fields: Any) -> dict[str, Any]:
    response = horde.call("PATCH", f"/sharedkeys/{key['id']}", owner, json=fields)
    assert response.status_code == 200, response.json
    assert shown(horde, key) == response.json
    return dict(response.json)


def days_left(key: dict[str, Any]) -> float:
    return (parsedate_to_datetime(key["expiry"]).replace(tzinfo=UTC) - datetime.now(UTC)) / timedelta(days=1)


class TestMaking:
    def test_what_artbot_sends(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner, name="For friends", kudos=300)
        assert key == DEFAULTS | {
            "id": key["id"],
            "username": owner.alias,
            "name": "For friends",
            "kudos": 300,
        }
        assert str(UUID(key["id"])) == key["id"]
        assert shown(horde, key) == key

    @pytest.mark.parametrize(
        "values", [{}, {"json": {}}, {"data": b"", "content_type": "text/plain"}, {"data": b"kudos=4"}]
    )
    def test_everything_is_optional(self, horde: Horde, owner: Account, values: dict[str, Any]) -> None:
        response = horde.call("PUT", "/sharedkeys", owner, **values)
        assert response.status_code == 200, response.json
        assert response.json == DEFAULTS | {"id": response.json["id"], "username": owner.alias}

    def test_all_limits(self, horde: Horde, owner: Account) -> None:
        limits = {"kudos": -1, "max_image_pixels": 0, "max_image_steps": 500, "max_text_tokens": 4096}
        key = made(horde, owner, **limits, expiry=30, name="x", unknown=[1])
        assert limits.items() <= key.items()
        assert key["name"] == "x"
        assert key["expiry"].endswith(" -0000")
        assert days_left(key) == pytest.approx(30, abs=0.001)

    def test_whole_numbers_may_come_as_text_and_as_floats(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner, kudos="25", max_image_steps=30.0)
        assert (key["kudos"], key["max_image_steps"]) == (25, 30)

    @pytest.mark.parametrize("expiry", [-1, 0])
    def test_without_an_end(self, horde: Horde, owner: Account, expiry: int) -> None:
        assert "expiry" not in made(horde, owner, expiry=expiry)

    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("kudos", -2),
            ("kudos", 50_000_001),
            ("kudos", 1.5),
            ("kudos", "many"),
            ("kudos", None),
            ("kudos", 2**63),
            ("expiry", -2),
            ("expiry", 10**9),
            ("max_image_pixels", -2),
            ("max_image_pixels", 4_194_305),
            ("max_image_steps", -2),
            ("max_image_steps", 501),
            ("max_text_tokens", -2),
            ("max_text_tokens", 4097),
            ("name", "x" * 256),
            ("name", 5),
        ],
    )
    def test_what_does_not_fit(
        self, horde: Horde, owner: Account, method: str, field: str, value: Any
    ) -> None:
        path = "/sharedkeys" if method == "PUT" else f"/sharedkeys/{UNKNOWN}"
        response = horde.call(method, path, owner, json={field: value})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}

    def test_a_name_with_nul(self, horde: Horde, owner: Account) -> None:
        response = horde.call("PUT", "/sharedkeys", owner, json={"name": "a\0b"})
        assert_refused(response, 400, "NulByteInPayload")

    def test_who_may_not(self, horde: Horde) -> None:
        with unchanged(horde.platform):
            response = horde.call("PUT", "/sharedkeys", json={})
            assert response.status_code == 400
            assert response.json["errors"].keys() == {"apikey"}
            assert_refused(horde.call("PUT", "/sharedkeys", "nobody", json={}), 401, "InvalidAPIKey")
            assert_refused(horde.call("PUT", "/sharedkeys", ANONYMOUS_KEY, json={}), 403, "AnonForbidden")
        deleted = horde.account(Role.DELETED)
        with unchanged(horde.platform):
            assert_refused(horde.call("PUT", "/sharedkeys", deleted, json={}), 403, "DeletedUser")

    def test_a_shared_key_is_no_api_key(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)["id"]
        for method, path in (
            ("PUT", "/sharedkeys"),
            ("PATCH", f"/sharedkeys/{key}"),
            ("DELETE", f"/sharedkeys/{key}"),
            ("GET", f"/users/{owner.id}"),
        ):
            assert_refused(horde.call(method, path, key), 401, "InvalidAPIKey")

    @pytest.mark.parametrize(
        ("roles", "most"), [((), 3), ((Role.TRUSTED,), 10), ((Role.MODERATOR, Role.VPN), 10)]
    )
    def test_as_many_as_an_account_may_have(self, horde: Horde, roles: tuple[Role, ...], most: int) -> None:
        owner = horde.account(*roles)
        keys = [made(horde, owner) for _ in range(most)]
        with unchanged(horde.platform):
            assert_refused(horde.call("PUT", "/sharedkeys", owner, json={}), 403, "Forbidden", str(most))
        horde.call("DELETE", f"/sharedkeys/{keys[0]['id']}", owner)
        made(horde, owner)

    @given(roles=st.sets(st.sampled_from(sorted(Role))))
    def test_the_most_of_any_role(self, roles: set[Role]) -> None:
        most = 1000 if Role.EDUCATION in roles else 10 if Role.TRUSTED in roles else 3
        assert most_shared_keys(roles) == most

    def test_a_tight_rate(self, horde: Horde) -> None:
        def put() -> int:
            return horde.client.put("/api/v2/sharedkeys", headers={"apikey": "nobody"}).status_code

        horde.call("GET", "/find_user")  # forgets what was counted
        assert [put() for _ in range(6)] == [401] * 5 + [429]


class TestShowing:
    @pytest.mark.parametrize("key", NO_KEYS)
    def test_no_key(self, horde: Horde, owner: Account, key: str) -> None:
        for method in ("GET", "PATCH", "DELETE"):
            response = horde.call(method, f"/sharedkeys/{key}", owner)
            assert_refused(response, 401, "InvalidAPIKey", "no such shared key")

    def test_what_was_spent(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        change(horde.platform, "UPDATE shared_keys SET kudos = 4899.70, utilized = 100.30")
        assert (shown(horde, key)["kudos"], shown(horde, key)["utilized"]) == (4900, 100)
        change(horde.platform, "UPDATE shared_keys SET kudos = 0.01")
        assert shown(horde, key)["kudos"] == 1
        change(horde.platform, "UPDATE shared_keys SET kudos = 0")
        assert shown(horde, key)["kudos"] == 0

    def test_fields_can_be_chosen(self, horde: Horde, owner: Account) -> None:
        response = horde.call("GET", f"/sharedkeys/{made(horde, owner)['id']}", headers={"X-Fields": "kudos"})
        assert response.json == {"kudos": 5000}


class TestChanging:
    def test_only_what_is_sent(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner, name="For friends", kudos=300, expiry=5, max_image_steps=20)
        assert patch(horde, owner, key, id="ignored", name="For all", kudos=10) == key | {
            "name": "For all",
            "kudos": 10,
        }
        assert patch(horde, owner, key, max_image_steps=-1, max_text_tokens=80, max_image_pixels=7) == key | {
            "name": "For all",
            "kudos": 10,
            "max_image_steps": -1,
            "max_text_tokens": 80,
            "max_image_pixels": 7,
        }
        assert patch(horde, owner, key, name="")["name"] == ""

    def test_the_end(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        assert days_left(patch(horde, owner, key, expiry=3)) == pytest.approx(3, abs=0.001)
        assert days_left(patch(horde, owner, key, expiry=0)) == pytest.approx(0, abs=0.001)
        caller = shared_keys.identify(horde.platform, key["id"])
        assert caller.key is not None
        with pytest.raises(Forbidden) as refusal:
            shared_keys.check_usable(caller.key)
        assert refusal.value.rc == "SharedKeyExpired"
        assert "expiry" not in patch(horde, owner, key, expiry=-1)

    def test_what_was_spent_stays(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        change(horde.platform, "UPDATE shared_keys SET kudos = 0, utilized = 5000")
        assert patch(horde, owner, key, kudos=100) == key | {"kudos": 100, "utilized": 5000}

    def test_nothing(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        with unchanged(horde.platform):
            for values in ({}, {"json": {}}, {"json": {"id": key["id"], "utilized": 0}}):
                response = horde.call("PATCH", f"/sharedkeys/{key['id']}", owner, **values)
                assert_refused(response, 400, "NoSharedKeyModSelected", "kudos")

    @pytest.mark.parametrize("method", ["PATCH", "DELETE"])
    def test_who_may_not(self, horde: Horde, owner: Account, method: str) -> None:
        path = f"/sharedkeys/{made(horde, owner)['id']}"
        moderator = horde.account(Role.MODERATOR)
        with unchanged(horde.platform):
            response = horde.call(method, path)
            assert response.status_code == 400
            assert response.json["errors"].keys() == {"apikey"}
            assert_refused(horde.call(method, path, "nobody"), 401, "InvalidAPIKey", "account")
            unknown = horde.call(method, f"/sharedkeys/{UNKNOWN}", "nobody")
            assert_refused(unknown, 401, "InvalidAPIKey", "shared")
            assert_refused(horde.call(method, path, moderator), 403, "Forbidden", "owner")
            assert_refused(horde.call(method, path, ANONYMOUS_KEY), 403, "Forbidden", "owner")


class TestDeleting:
    def test_it_is_gone(self, horde: Horde, owner: Account) -> None:
        key, other = made(horde, owner), made(horde, owner)
        assert shared_keys.identify(horde.platform, key["id"]).key is not None
        response = horde.call("DELETE", f"/sharedkeys/{key['id']}", owner)
        assert (response.status_code, response.json) == (200, {"message": "OK"})
        assert_refused(horde.call("GET", f"/sharedkeys/{key['id']}"), 401, "InvalidAPIKey")
        assert_refused(horde.call("DELETE", f"/sharedkeys/{key['id']}", owner), 401, "InvalidAPIKey")
        assert_refused(horde.call("GET", "/find_user", key["id"]), 404, "UserNotFound")
        with pytest.raises(Unauthorized):
            shared_keys.identify(horde.platform, key["id"])
        assert horde.call("GET", "/find_user", owner).json["sharedkey_ids"] == [other["id"]]

    def test_requests_stay(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        request = horde.asked(key["id"])
        assert horde.call("DELETE", f"/sharedkeys/{key['id']}", owner).status_code == 200
        worker = horde.account(Role.TRUSTED)
        horde.submitted(worker, horde.popped(worker)["id"])
        ledger.fold_all(horde.platform)
        assert horde.check(request)["finished"] == 1
        assert horde.kudos(owner.balance) < 995
        assert_books_balance(horde.platform)


class TestFindUser:
    @pytest.mark.parametrize("ruin", ["", "kudos = 0", "expires = now() - interval '1 day'"])
    def test_the_owner_as_anybody_sees_them(self, horde: Horde, owner: Account, ruin: str) -> None:
        key = made(horde, owner, name="For friends")
        if ruin:
            change(horde.platform, f"UPDATE shared_keys SET {ruin}")
        response = horde.call("GET", "/find_user", key["id"])
        assert response.status_code == 200
        public = horde.call("GET", f"/users/{owner.id}").json
        public["account_age"] = response.json["account_age"]
        assert response.json == public | {"username": f"{owner.alias} (Shared Key: For friends)"}
        assert not response.json.keys() & {"message", "sharedkey_ids", "contact"}

    def test_a_key_without_a_name(self, horde: Horde, owner: Account) -> None:
        response = horde.call("GET", "/find_user", made(horde, owner)["id"])
        assert response.json["username"] == f"{owner.alias} (Shared Key)"

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_no_key(self, horde: Horde, key: str) -> None:
        assert_refused(horde.call("GET", "/find_user", key), 404, "UserNotFound")

    def test_ids_are_for_owners_and_moderators(self, horde: Horde, owner: Account) -> None:
        assert horde.call("GET", "/find_user", owner).json["sharedkey_ids"] == []
        ids = [made(horde, owner)["id"] for _ in range(3)]
        made(horde, horde.account())
        path = f"/users/{owner.id}"
        for seen in (
            horde.call("GET", "/find_user", owner),
            horde.call("GET", path, owner),
            horde.call("GET", path, horde.account(Role.MODERATOR)),
        ):
            assert seen.json["sharedkey_ids"] == ids
        for seen in (horde.call("GET", path), horde.call("GET", path, horde.account())):
            assert "sharedkey_ids" not in seen.json


class TestIdentifying:
    def test_an_api_key_costs_what_it_always_did(self, horde: Horde, owner: Account) -> None:
        forget(horde.platform)
        with counted_statements() as sent:
            caller = shared_keys.identify(horde.platform, owner.key)
        assert (caller.user.id, caller.key, len(sent)) == (owner.id, None, 1)
        with counted_statements() as sent:
            shared_keys.identify(horde.platform, owner.key)
            assert shared_keys.identify(horde.platform, ANONYMOUS_KEY).user.anonymous
        assert len(sent) == 1

    def test_a_shared_key_stands_for_its_owner(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner, kudos=300, max_image_pixels=512, max_image_steps=20, max_text_tokens=80)
        caller = shared_keys.identify(horde.platform, key["id"])
        assert caller.key is not None
        assert caller.user.id == caller.key.user_id == owner.id
        facts = caller.key
        assert (str(facts.id), facts.kudos, facts.expires, facts.empty) == (key["id"], 300, None, False)
        assert (facts.max_image_pixels, facts.max_image_steps, facts.max_text_tokens) == (512, 20, 80)
        with counted_statements() as sent:
            assert shared_keys.identify(horde.platform, key["id"]) == caller
        assert sent == []
        with pytest.raises(Unauthorized):
            shared_keys.identify(horde.platform, key["id"].upper())

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_an_unknown_key(self, horde: Horde, key: str) -> None:
        with pytest.raises(Unauthorized) as refusal:
            shared_keys.identify(horde.platform, key)
        assert refusal.value.rc == "InvalidAPIKey"

    def test_changes_are_seen_at_once(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        shared_keys.identify(horde.platform, key["id"])
        patch(horde, owner, key, kudos=0)
        caller = shared_keys.identify(horde.platform, key["id"])
        assert caller.key is not None
        assert caller.key.empty
        with pytest.raises(Forbidden) as refusal:
            shared_keys.check_usable(caller.key)
        assert refusal.value.rc == "SharedKeyEmpty"

    def test_changes_elsewhere_are_announced(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner)
        with (
            another_process(horde) as other,
            horde.platform.cache.pubsub(ignore_subscribe_messages=True) as channel,
        ):
            channel.subscribe("horde:invalidate")
            channel.get_message(timeout=1)
            patch(other, owner, key, kudos=0)
            message = channel.get_message(timeout=5)
            while message is not None and message["data"].decode() != f"sharedkey:{key['id']}":
                message = channel.get_message(timeout=5)
            assert message is not None


class TestAsking:
    def test_the_owner_pays_and_the_key_counts(self, horde: Horde, owner: Account) -> None:
        key = made(horde, owner, kudos=300)
        request = horde.asked(key["id"], params={"n": 2})
        assert scalar(horde.platform, "SELECT user_id FROM requests") == owner.id
        assert request in horde.call("GET", "/find_user", owner).json["active_generations"]["image"]
        worker = horde.account(Role.TRUSTED)
        for _ in range(2):
            horde.submitted(worker, horde.popped(worker)["id"])
        ledger.fold_all(horde.platform)
        spent = 1000 - horde.kudos(owner.balance)
        assert spent > 10
        assert scalar(horde.platform, "SELECT utilized FROM shared_keys") == spent
        assert scalar(horde.platform, "SELECT kudos FROM shared_keys") == 300 - spent
        assert shown(horde, key)["utilized"] == round(spent)
        assert_books_balance(horde.platform)

    def test_no_more_than_the_key_has(self, horde: Horde, owner: Account) -> None:
        cost = horde.ask(owner, dry_run=True).json["kudos"]
        key = made(horde, owner, kudos=int(cost * 2.5))
        for _ in range(2):
            horde.asked(key["id"])
        with unchanged(horde.platform):
            assert_refused(horde.ask(key["id"]), 403, "SharedKeyInsufficientKudos")
        horde.asked(key["id"], allow_downgrade=True)

    @pytest.mark.parametrize(
        ("ruin", "rc"),
        [("kudos = 0", "SharedKeyEmpty"), ("expires = now() - interval '1 day'", "SharedKeyExpired")],
    )
    def test_keys_that_are_used_up(self, horde: Horde, owner: Account, ruin: str, rc: str) -> None:
        key = made(horde, owner)["id"]
        change(horde.platform, f"UPDATE shared_keys SET {ruin}")
        with unchanged(horde.platform):
            assert_refused(horde.ask(key), 403, rc)

    @pytest.mark.parametrize("key", [UNKNOWN, UNKNOWN.upper()])
    def test_unknown_keys(self, horde: Horde, key: str) -> None:
        assert_refused(horde.ask(key), 401, "InvalidAPIKey")
