"""Logging in with an account elsewhere, at a provider of the tests' own; and the captcha."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from pydantic import SecretStr
from werkzeug.test import TestResponse

from horde.web import oauth
from tests.https_server import HttpsServer, reply
from tests.support import Horde, another_process, count_rows, make_settings, scalar, unchanged
from tests.web.browser import Visitor, shown_key
from tests.web.conftest import Elsewhere

PREFIXES = {"google": "g_", "discord": "d_", "github": "gh_"}
NAMES = sorted(PREFIXES)


@pytest.fixture
def visitor(own: Horde) -> Visitor:
    return Visitor.of(own)


def state_of(response: TestResponse) -> str:
    assert response.status_code == 302, response.text
    return parse_qs(urlsplit(response.location).query)["state"][0]


def log_in(visitor: Visitor, name: str = "github", return_to: str = "account") -> TestResponse:
    state = state_of(visitor.get(f"/{name}/{return_to}"))
    return visitor.get(f"/{name}/{name}/authorized", query_string={"code": "c", "state": state})


def test_only_those_that_are_configured(
    horde: Horde, provider: Elsewhere, secrets: dict[str, object]
) -> None:
    visitor = Visitor.of(horde)
    for name in NAMES:
        assert visitor.get(f"/{name}/register").status_code == 404
    assert "Log in with" not in visitor.get("/register").text
    github = {name: value for name, value in secrets.items() if name.startswith("github")}
    with another_process(horde, **github) as other:
        html = Visitor.of(other).get("/register").text
        assert 'href="/github/register"' in html
        assert "Google" not in html


@pytest.mark.parametrize("name", NAMES)
def test_register_and_come_back(own: Horde, visitor: Visitor, provider: Elsewhere, name: str) -> None:
    assert log_in(visitor, name, "transfer").location == "/register"
    key = shown_key(visitor.fill("/register", username="Ada").text)
    assert scalar(own.platform, "SELECT external_id FROM users WHERE username = 'Ada'") == (
        f"{PREFIXES[name]}4711"
    )
    assert not own.call("GET", "/find_user", key).json["pseudonymous"]
    again = Visitor.of(own)
    assert log_in(again, name, "transfer").location == "/transfer"
    assert "Ada#" in again.get("/transfer").text
    assert 'value="Ada"' in again.get("/register").text
    new = shown_key(again.fill("/register", username="Ada L.").text)
    assert own.call("GET", "/find_user", key).status_code == 404
    assert own.call("GET", "/find_user", new).json["username"].startswith("Ada L.#")
    assert scalar(own.platform, "SELECT count(*) FROM users WHERE username LIKE 'Ada%'") == 1


def test_one_account_for_each_login(own: Horde, provider: Elsewhere) -> None:
    visitors = [Visitor.of(own) for _ in range(2)]
    for visitor in visitors:
        assert log_in(visitor).location == "/register"
    answers = [visitor.fill("/register", username="Ada") for visitor in visitors]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert "have an account already" in answers[1].text


@pytest.mark.parametrize("name", ["GOOGLE_CLIENT_SECRET", "GLOOGLE_CLIENT_SECRET"])
def test_both_names_of_a_setting(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_CLIENT_ID", "id")
    monkeypatch.setenv(name, "hidden")
    settings = make_settings(tmp_path)
    assert oauth.PROVIDERS["google"].keys(settings) == ("id", "hidden")
    assert [provider.name for provider in oauth.configured(settings)] == ["google"]
    assert "hidden" not in repr(settings)


def test_what_the_provider_is_told(own: Horde, visitor: Visitor, provider: Elsewhere) -> None:
    start = visitor.get("/github/register")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(start.location).query).items()}
    assert asked["client_id"] == "github-client_id"
    assert asked["redirect_uri"] == "http://localhost/github/github/authorized"
    visitor.get("/github/github/authorized", query_string={"code": "c", "state": asked["state"]})
    told = parse_qs(provider.received[0].body.decode())
    assert told["code"] == ["c"]
    assert told["client_secret"] == ["github-client_secret"]
    assert create_s256_code_challenge(told["code_verifier"][0]) == asked["code_challenge"]


def test_a_new_session(visitor: Visitor, provider: Elsewhere) -> None:
    state = state_of(visitor.get("/github/register"))
    before = visitor.cookie
    visitor.get("/github/github/authorized", query_string={"code": "c", "state": state})
    assert visitor.cookie != before


class TestStates:
    def refused(self, visitor: Visitor, provider: Elsewhere, name: str, state: str) -> None:
        path = f"/{name}/{name}/authorized"
        with unchanged(visitor.horde.platform):
            response = visitor.get(path, query_string={"code": "c", "state": state})
        assert response.status_code == 400
        assert provider.received == []
        assert visitor.get("/account").status_code == 303

    @pytest.mark.parametrize("state", ["", "x"])
    def test_none_of_ours(self, visitor: Visitor, provider: Elsewhere, state: str) -> None:
        visitor.get("/github/register")
        self.refused(visitor, provider, "github", state)

    def test_of_another_visitor(self, own: Horde, visitor: Visitor, provider: Elsewhere) -> None:
        """Somebody who is made to come back with an attacker's code must not end up in that account."""
        state = state_of(Visitor.of(own).get("/github/register"))
        visitor.get("/github/register")
        self.refused(visitor, provider, "github", state)

    def test_of_another_provider(self, visitor: Visitor, provider: Elsewhere) -> None:
        self.refused(visitor, provider, "google", state_of(visitor.get("/github/register")))

    def test_used_before(self, own: Horde, visitor: Visitor, provider: Elsewhere) -> None:
        state = state_of(visitor.get("/github/register"))
        cookie = visitor.cookie
        assert cookie
        visitor.get("/github/github/authorized", query_string={"code": "c", "state": state})
        visitor.client.set_cookie("horde", cookie, domain="localhost")
        provider.received.clear()
        self.refused(visitor, provider, "github", state)


@pytest.mark.parametrize("number", ["", None, True, "anon", "<wiped>", -1, 1.5, "1" * 41, {}, "4711 "])
def test_numbers_that_are_none(visitor: Visitor, provider: Elsewhere, number: object) -> None:
    provider.number = number
    with unchanged(visitor.horde.platform):
        assert log_in(visitor).status_code == 400
    assert visitor.get("/account").status_code == 303


def test_the_provider_refuses(visitor: Visitor, provider: Elsewhere) -> None:
    provider.token = 400
    response = log_in(visitor)
    assert response.status_code == 400
    assert "did not confirm" in response.text


def test_broken_off(visitor: Visitor, provider: Elsewhere) -> None:
    visitor.get("/github/register")
    response = visitor.get("/github/github/authorized?error=access_denied")
    assert response.status_code == 400
    assert provider.received == []


@pytest.mark.parametrize("page", ["evil", "//evil.example", "https://evil.example", "%2F%2Fevil.example"])
def test_nowhere_but_to_our_own_pages(visitor: Visitor, page: str) -> None:
    response = visitor.get(f"/github/{page}")
    assert response.status_code in (404, 308)
    assert "evil.example" not in urlsplit(response.headers.get("Location", "")).netloc


def test_logins_at_the_same_time_keep_their_pages(own: Horde, provider: Elsewhere) -> None:
    visitor = Visitor.of(own)
    log_in(visitor)
    visitor.fill("/register", username="Ada")
    one, two = Visitor.of(own), Visitor.of(own)
    states = [state_of(one.get("/github/transfer")), state_of(two.get("/github/account"))]
    places = [
        visitor.get("/github/github/authorized", query_string={"code": "c", "state": state}).location
        for visitor, state in zip((one, two), states, strict=True)
    ]
    assert places == ["/transfer", "/account"]


class TestCaptcha:
    @pytest.fixture
    def guarded(
        self, horde: Horde, elsewhere: HttpsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Iterator[Visitor]:

        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(elsewhere.ca_file))
        elsewhere.received.clear()
        values = {
            "recaptcha_site_key": "site",
            "recaptcha_secret_key": SecretStr("secret"),
            "captcha_check": elsewhere.url("/check"),
        }
        with another_process(horde, **values) as other:
            yield Visitor.of(other)

    def test_the_page(self, guarded: Visitor) -> None:
        response = guarded.get("/register")
        assert 'data-sitekey="site"' in response.text
        policy = response.headers["Content-Security-Policy"]
        assert "script-src https://www.google.com https://www.gstatic.com" in policy
        assert "unsafe" not in policy
        assert "script-src" not in guarded.get("/").headers["Content-Security-Policy"]

    def test_solved(self, guarded: Visitor, elsewhere: HttpsServer) -> None:
        elsewhere.answer = reply(200, b'{"success": true}')
        response = guarded.fill("/register", username="x", **{"g-recaptcha-response": "answer"})
        assert response.status_code == 200
        asked = parse_qs(elsewhere.received[0].body.decode())
        assert asked == {"secret": ["secret"], "response": ["answer"], "remoteip": ["127.0.0.1"]}

    @pytest.mark.parametrize(
        ("status", "content"),
        [(200, b'{"success": false}'), (200, b"[]"), (200, b"x"), (500, b'{"success": true}'), (302, b"")],
    )
    def test_not_solved(self, guarded: Visitor, elsewhere: HttpsServer, status: int, content: bytes) -> None:
        elsewhere.answer = reply(status, content, Location="https://www.example.com/")
        before = count_rows(guarded.horde.platform)["users"]
        response = guarded.fill("/register", username="x")
        assert response.status_code == 400
        assert "captcha" in response.text
        assert count_rows(guarded.horde.platform)["users"] == before
