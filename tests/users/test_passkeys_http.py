"""Services that say for whom they call, and those who only claim to."""

from collections.abc import Iterator

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from horde.platform.errors import HordeError
from horde.platform.http import Area, Resource, answer, direct_address, init_http, limited, user_address
from horde.platform.http.requests import proxy_address
from horde.platform.runtime import Platform
from horde.users import passkeys
from horde.users import service as users
from horde.users.rules import Role
from tests.support import Account, Horde, counted_statements, forget, scalar

PEER, PERSON = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def platform(horde: Horde) -> Platform:
    return horde.platform


@pytest.fixture
def service(horde: Horde) -> Account:
    return horde.account(Role.SERVICE, username="Service")


@pytest.fixture
def passkey(platform: Platform, service: Account) -> str:
    return passkeys.new_passkey(platform, service.id)


@pytest.fixture
def client(platform: Platform) -> Iterator[FlaskClient]:
    """Calls routes that tell what the server sees of their caller."""
    area = Area()

    @area.route("/whence")
    class Whence(Resource):
        def get(self) -> Response:
            return answer({"direct": direct_address(), "user": user_address(), "proxy": proxy_address()})

    @area.route("/rare")
    class Rare(Resource):
        @limited("1/hour", key="path")
        def get(self) -> Response:
            return answer({})

    app = Flask(__name__, static_folder=None)
    init_http(app, platform, [area])
    with app.test_client() as client:
        yield client


def whence(client: FlaskClient, passkey: str | None, proxied_for: str | None) -> dict[str, str | None]:
    headers = {"Proxy-Authorization": passkey, "Proxied-For": proxied_for}
    response = client.get(
        "/api/v2/whence",
        headers={name: value for name, value in headers.items() if value is not None},
        environ_base={"REMOTE_ADDR": PEER},
    )
    assert response.status_code == 200, response.data
    return dict(response.json)


DIRECT = {"direct": PEER, "user": PEER, "proxy": None}


class TestAddresses:
    @pytest.mark.parametrize(
        ("sent", "seen"),
        [
            (PERSON, PERSON),
            (f" {PERSON} ", PERSON),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
            ("::ffff:198.51.100.7", PERSON),
            ("fe80::1%eth0", "fe80::1"),
        ],
    )
    def test_a_service_is_believed(self, client: FlaskClient, passkey: str, sent: str, seen: str) -> None:
        assert whence(client, passkey, sent) == {"direct": PEER, "user": seen, "proxy": PEER}

    @pytest.mark.parametrize(
        "sent",
        [
            None,
            "",
            "garbage",
            "198.51.100.7, 203.0.113.5",
            "198.51.100.7:80",
            "198.51.100.0/24",
            "[2001:db8::1]",
            "127.1",
            "1" * 5000,
            "198.51.100.7'; DROP TABLE users",
        ],
    )
    def test_what_is_no_address_is_ignored(self, client: FlaskClient, passkey: str, sent: str | None) -> None:
        assert whence(client, passkey, sent) == DIRECT

    def test_a_service_that_calls_for_itself_is_no_proxy(self, client: FlaskClient, passkey: str) -> None:
        assert whence(client, passkey, PEER) == DIRECT

    def test_without_a_passkey_nobody_is_believed(self, client: FlaskClient, passkey: str) -> None:
        assert whence(client, None, PERSON) == DIRECT
        assert whence(client, "", PERSON) == DIRECT

    def test_unknown_passkeys_are_ignored(
        self, client: FlaskClient, platform: Platform, service: Account, passkey: str
    ) -> None:
        stored = scalar(platform, "SELECT proxy_passkey_hash FROM users WHERE id = :id", id=service.id)
        guesses = (
            "guess",
            "x" * 22,
            passkey[:-1],
            passkey + "x",
            passkey.swapcase(),
            f"Basic {passkey}",
            stored,
            service.key,
            "*",
            "é",
            "y" * 5000,
        )
        for guess in guesses:
            assert whence(client, guess, PERSON) == DIRECT

    def test_before_there_is_any_passkey_nobody_is_believed(self, client: FlaskClient) -> None:
        for guess in ("", "None", "x" * 22):
            assert whence(client, guess, PERSON) == DIRECT

    def test_unknown_passkeys_are_told_once_and_not_logged(self, client: FlaskClient) -> None:
        with capture_logs() as logs:
            for _ in range(3):
                whence(client, "a secret of somebody", PERSON)
        assert [each["event"] for each in logs] == ["unknown proxy passkey ignored"]
        assert logs[0]["address"] == PEER
        assert "secret" not in str(logs)

    def test_calls_without_the_header_cost_nothing(
        self, client: FlaskClient, platform: Platform, passkey: str
    ) -> None:
        with counted_statements() as sent:
            whence(client, None, None)
            whence(client, None, PERSON)
            whence(client, passkey, None)
        assert sent == []

    def test_passkeys_are_read_once_in_five_seconds(self, client: FlaskClient, passkey: str) -> None:
        with counted_statements() as sent:
            for guess in (passkey, "a guess", passkey, "another guess"):
                whence(client, guess, PERSON)
        assert len(sent) == 1


class TestVoidPasskeys:
    @pytest.mark.parametrize("role", [Role.FLAGGED, Role.DELETED])
    def test_bad_accounts(
        self, client: FlaskClient, platform: Platform, service: Account, passkey: str, role: Role
    ) -> None:
        users.set_role(platform, service.id, role, True)
        forget(platform)
        assert whence(client, passkey, PERSON) == DIRECT
        users.set_role(platform, service.id, role, False)
        forget(platform)
        assert whence(client, passkey, PERSON)["user"] == PERSON

    def test_an_account_that_is_no_service_any_more(
        self, client: FlaskClient, platform: Platform, service: Account, passkey: str
    ) -> None:
        users.set_role(platform, service.id, Role.SERVICE, False)
        forget(platform)
        assert whence(client, passkey, PERSON) == DIRECT

    def test_a_replaced_one(
        self, client: FlaskClient, platform: Platform, service: Account, passkey: str
    ) -> None:
        new = passkeys.new_passkey(platform, service.id)
        assert new != passkey
        assert whence(client, passkey, PERSON) == DIRECT
        assert whence(client, new, PERSON)["user"] == PERSON


class TestMaking:
    def test_it_looks_like_an_api_key_and_is_not_stored(
        self, platform: Platform, service: Account, passkey: str
    ) -> None:
        assert len(passkey) == 22
        row = scalar(platform, "SELECT users::text FROM users WHERE id = :id", id=service.id)
        assert passkey not in row
        assert passkeys.proxy_user(platform, passkey) == service.id

    def test_each_service_has_its_own(self, horde: Horde, service: Account, passkey: str) -> None:
        other = horde.account(Role.SERVICE)
        others = passkeys.new_passkey(horde.platform, other.id)
        assert passkeys.proxy_user(horde.platform, others) == other.id
        assert passkeys.proxy_user(horde.platform, passkey) == service.id

    def test_only_services_get_one(self, horde: Horde) -> None:
        user = horde.account(Role.MODERATOR)
        for user_id, status, rc in (
            (user.id, 403, "NonServiceForbidden"),
            (0, 404, "UserNotFound"),
            (10**6, 404, "UserNotFound"),
        ):
            with pytest.raises(HordeError) as error:
                passkeys.new_passkey(horde.platform, user_id)
            assert (error.value.status, error.value.rc) == (status, rc)


def rare(client: FlaskClient, passkey: str, person: str) -> int:
    headers = {"Proxy-Authorization": passkey, "Proxied-For": person}
    return client.get("/api/v2/rare", headers=headers, environ_base={"REMOTE_ADDR": PEER}).status_code


def test_each_person_behind_a_service_has_limits_of_their_own(client: FlaskClient, passkey: str) -> None:
    assert [rare(client, passkey, person) for person in (PERSON, "203.0.113.5", PERSON)] == [200, 200, 429]


def test_liars_share_the_limit_of_their_address(client: FlaskClient, passkey: str) -> None:
    assert [rare(client, "a guess", person) for person in (PERSON, "203.0.113.5")] == [200, 429]


def test_a_request_is_stored_with_the_address_of_the_person(horde: Horde, passkey: str) -> None:
    stored = {}
    for key in (passkey, "a guess"):
        headers = {"Proxy-Authorization": key, "Proxied-For": PERSON}
        response = horde.call("POST", "/generate/async", "0000000000", headers, json={"prompt": "a fox"})
        assert response.status_code == 202, response.json
        stored[key] = scalar(
            horde.platform, "SELECT ipaddr FROM requests WHERE id = :id", id=response.json["id"]
        )
    assert stored == {passkey: PERSON, "a guess": "127.0.0.1"}
