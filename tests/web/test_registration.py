"""Getting an account, and what keeps others from getting it."""

import pytest

from horde.moderation import modes
from horde.users.rules import Role
from tests.support import Horde, another_process, count_rows, in_threads, scalar, unchanged
from tests.web.browser import Visitor, shown_key


@pytest.fixture
def visitor(horde: Horde) -> Visitor:
    return Visitor.of(horde)


def users(horde: Horde) -> int:
    return count_rows(horde.platform)["users"]


class TestRegister:
    def test_the_key_is_shown_once_and_works(self, horde: Horde, visitor: Visitor) -> None:
        response = visitor.fill("/register", username="  Zoë \t <b>x</b> ")
        assert response.status_code == 200
        key = shown_key(response.text)
        assert len(key) == 22
        found = horde.call("GET", "/find_user", key).json
        assert found["username"].startswith("Zoë <b>x</b>#")
        assert found["pseudonymous"]
        assert found["kudos"] == 0
        assert "&lt;b&gt;x&lt;/b&gt;" in response.text
        assert response.headers["Cache-Control"] == "no-store"
        for path in ("/register", "/account", "/transfer"):
            assert key not in visitor.get(path).text

    @pytest.mark.parametrize("name", ["", "   ", "x" * 31, "\u200b", "fucking x"])
    def test_names_that_do_not_do(self, horde: Horde, visitor: Visitor, name: str) -> None:
        before = users(horde)
        response = visitor.fill("/register", username=name)
        assert response.status_code == 400
        assert 'role="alert"' in response.text
        assert "<output" not in response.text
        assert users(horde) == before

    def test_the_name_stays_in_the_form(self, visitor: Visitor) -> None:
        assert f'value="{"x" * 31}"' in visitor.fill("/register", username="x" * 31).text

    def test_kept_out_addresses(self, horde: Horde, visitor: Visitor) -> None:
        moderator = horde.account(Role.MODERATOR)
        block = {"ipaddr": "127.0.0.1", "hours": 1}
        assert horde.call("POST", "/operations/ipaddr", moderator, json=block).status_code == 200
        before = users(horde)
        assert visitor.fill("/register", username="x").status_code == 403
        assert users(horde) == before

    def test_raid_mode(self, horde: Horde, visitor: Visitor) -> None:
        modes.set_modes(horde.platform, raid=True)
        with unchanged(horde.platform):
            response = visitor.fill("/register", username="x")
        assert response.status_code == 403
        assert "log in" in response.text

    def test_too_often_from_one_network(self, horde: Horde, visitor: Visitor) -> None:
        """Whoever has IPv6 has more addresses than anybody can count."""
        fields = [{"form_token": visitor.token("/register"), "username": "x"} for _ in range(6)]
        answers = [
            visitor.client.post(
                "/register",
                data=sent,
                headers={"Origin": visitor.base},
                environ_overrides={"REMOTE_ADDR": f"2001:db8:1:2::{number}"},
            ).status_code
            for number, sent in enumerate(fields, 1)
        ]
        assert answers == [200, 403, 403, 403, 403, 429]

    def test_too_often(self, horde: Horde, visitor: Visitor) -> None:
        fields = [{"form_token": visitor.token("/register"), "username": "x"} for _ in range(6)]
        headers = {"Origin": visitor.base}
        answers = [visitor.client.post("/register", data=sent, headers=headers) for sent in fields]
        assert [answer.status_code for answer in answers] == [200, 403, 403, 403, 403, 429]
        assert "too often" in answers[-1].text
        assert answers[-1].content_type == "text/html; charset=utf-8"


class TestForgery:
    """Nothing of this does anything."""

    @pytest.fixture(autouse=True)
    def _nothing_happens(self, horde: Horde) -> object:
        with unchanged(horde.platform):
            yield

    def refused(self, response: object) -> None:
        assert getattr(response, "status_code", 0) == 403
        assert "nothing was done" in getattr(response, "text", "")

    @pytest.mark.parametrize("token", ["", "x", "x.y.z"])
    def test_no_token_of_ours(self, visitor: Visitor, token: str) -> None:
        visitor.get("/register")
        self.refused(visitor.send("/register", {"username": "x", "form_token": token}))
        self.refused(visitor.send("/register", {"username": "x"}))

    def test_the_token_of_another_visitor(self, horde: Horde, visitor: Visitor) -> None:
        other = Visitor.of(horde)
        token = other.token("/register")
        visitor.get("/register")
        self.refused(visitor.send("/register", {"username": "x", "form_token": token}))

    def test_the_token_of_another_form(self, visitor: Visitor) -> None:
        token = visitor.token("/login")
        self.refused(visitor.send("/register", {"username": "x", "form_token": token}))

    def test_a_token_and_no_cookie(self, visitor: Visitor) -> None:
        token = visitor.token("/register")
        visitor.client.delete_cookie("horde", domain="localhost")
        self.refused(visitor.send("/register", {"username": "x", "form_token": token}))

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "http://localhost.evil.example",
            "http://localhost:81",
            "https://localhost",
            "null",
            "http://[",
            "//localhost",
            "http://localhost@evil.example",
        ],
    )
    def test_another_origin(self, visitor: Visitor, origin: str) -> None:
        fields = {"username": "x", "form_token": visitor.token("/register")}
        self.refused(visitor.send("/register", fields, Origin=origin))

    def test_another_referrer(self, visitor: Visitor) -> None:
        fields = {"username": "x", "form_token": visitor.token("/register")}
        self.refused(visitor.send("/register", fields, Origin="", Referer="https://evil.example/register"))
        self.refused(visitor.send("/register", fields, Origin=""))

    def test_everything_that_posts(self, visitor: Visitor) -> None:
        rules = visitor.client.application.url_map.iter_rules()
        paths = [rule.rule for rule in rules if rule.endpoint.startswith("web.") and "POST" in rule.methods]
        assert len(paths) >= 6
        for path in paths:
            self.refused(visitor.send(path.replace("<string:application_id>", "x"), {}))


def test_a_referrer_will_do(visitor: Visitor) -> None:
    fields = {"username": "x", "form_token": visitor.token("/register")}
    page = f"{visitor.base}/register"
    assert visitor.send("/register", fields, Origin="", Referer=page).status_code == 200


def test_a_form_that_is_sent_again(horde: Horde, visitor: Visitor) -> None:
    before = users(horde)
    fields = {"username": "x", "form_token": visitor.token("/register")}
    cookie = visitor.cookie
    assert cookie
    assert visitor.send("/register", fields).status_code == 200
    visitor.client.set_cookie("horde", cookie, domain="localhost")  # the visit that the form belongs to
    assert visitor.send("/register", fields).status_code == 403
    assert users(horde) == before + 1


def test_a_form_that_is_sent_many_times_at_once(horde: Horde, visitor: Visitor) -> None:
    before = users(horde)
    fields = {"username": "x", "form_token": visitor.token("/register")}
    headers = {"Origin": visitor.base, "Cookie": f"horde={visitor.cookie}"}

    def send(_number: int) -> int:
        client = visitor.client.application.test_client(use_cookies=False)
        return client.post("/register", data=fields, headers=headers).status_code

    assert sorted(in_threads(5, send)) == [200, 403, 403, 403, 403]
    assert users(horde) == before + 1


def test_behind_a_proxy_with_tls(horde: Horde) -> None:
    with another_process(horde, public_url="https://horde.example") as other:
        visitor = Visitor.of(other, "https://horde.example")
        inside = other.client.get("/register", base_url="http://127.0.0.1:7001")  # as a proxy may name us
        assert inside.headers["Set-Cookie"].startswith("__Host-horde=")
        response = visitor.fill("/register", username="x")
        assert response.status_code == 200
        cookie = response.headers["Set-Cookie"]
        assert cookie.startswith("__Host-horde=")
        for part in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
            assert part in cookie
        assert "Domain" not in cookie


def test_without_valkey(horde: Horde) -> None:
    with another_process(horde, redis_url="redis://127.0.0.1:1") as other:
        visitor = Visitor.of(horde)
        visitor.get("/register")
        client = other.client.application.test_client()
        assert client.get("/").status_code == 200
        client.set_cookie("horde", visitor.cookie or "")
        response = client.get("/register")
    assert response.status_code == 503
    assert "try again in a minute" in response.text


def test_forms_are_small(visitor: Visitor) -> None:
    fields = {"username": "x" * 100_000, "form_token": visitor.token("/register")}
    assert visitor.send("/register", fields).status_code == 413


def test_the_anonymous_account_is_not_touched(horde: Horde, visitor: Visitor) -> None:
    assert scalar(horde.platform, "SELECT api_key_hash IS NULL FROM users WHERE id = 0")
    response = visitor.log_in("0000000000")
    assert response.status_code == 400
