"""Sessions, the account page, new keys, giving kudos away, and schools."""

import re

import pytest

from horde.users.rules import Role
from tests.support import Account, Horde, change, count_rows, forget, scalar, unchanged
from tests.web.browser import Visitor, shown_key, token


@pytest.fixture
def visitor(horde: Horde) -> Visitor:
    return Visitor.of(horde)


@pytest.fixture
def me(horde: Horde) -> Account:
    return horde.account(amount=1000, username="Ada")


class TestSessions:
    def test_log_in_and_out(self, visitor: Visitor, me: Account) -> None:
        assert visitor.get("/account").location == "/login?next=account"
        response = visitor.log_in(me.key)
        assert (response.status_code, response.location) == (303, "/account")
        assert me.alias in visitor.get("/account").text
        assert visitor.fill("/account", "/logout").location == "/"
        assert visitor.cookie is None
        assert visitor.get("/account").status_code == 303

    def test_the_cookie(self, visitor: Visitor, me: Account) -> None:
        response = visitor.log_in(me.key)
        cookie = response.headers["Set-Cookie"]
        for part in ("HttpOnly", "SameSite=Lax", "Path=/"):
            assert part in cookie
        assert "Secure" not in cookie  # nobody could log in over plain http
        assert me.key not in cookie
        assert visitor.cookie
        kept = scalar(visitor.horde.platform, "SELECT api_key_hash FROM users WHERE id = :id", id=me.id)
        assert kept not in cookie

    def test_nothing_secret_is_kept(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        cookie = (visitor.cookie or "").encode()
        for name in horde.platform.cache.scan_iter("session:*"):
            kept = horde.platform.cache.get(name) or b""
            assert me.key.encode() not in kept
            assert cookie not in name + kept

    def test_a_new_token_with_every_login(self, visitor: Visitor, me: Account) -> None:
        visitor.get("/login")
        seen = {visitor.cookie}
        for _ in range(2):
            visitor.log_in(me.key)
            assert visitor.cookie not in seen
            seen.add(visitor.cookie)

    def test_fixation(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        attacker = Visitor.of(horde)
        attacker.get("/login")
        planted = attacker.cookie
        assert planted
        visitor.client.set_cookie("horde", planted, domain="localhost")
        assert visitor.log_in(me.key).status_code == 303
        assert visitor.cookie != planted
        assert attacker.get("/account").status_code == 303

    def test_a_token_of_before_the_login_is_void(self, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        before = visitor.cookie
        assert before
        visitor.log_in(me.key)
        visitor.client.set_cookie("horde", before, domain="localhost")
        assert visitor.get("/account").status_code == 303

    def test_a_cookie_kept_after_logging_out(self, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        kept = visitor.cookie
        assert kept
        visitor.fill("/account", "/logout")
        visitor.client.set_cookie("horde", kept, domain="localhost")
        assert visitor.get("/account").status_code == 303

    @pytest.mark.parametrize("cookie", ["", "x", "x" * 43, "ä" * 43, "x" * 2000])
    def test_cookies_that_nobody_gave(self, visitor: Visitor, cookie: str) -> None:
        visitor.client.set_cookie("horde", cookie, domain="localhost")
        assert visitor.get("/account").status_code == 303

    @pytest.mark.parametrize("key", ["", "x", "0000000000", "00000000-0000-0000-0000-000000000000"])
    def test_keys_that_open_nothing(self, visitor: Visitor, key: str) -> None:
        assert visitor.log_in(key).status_code in (400, 401)
        assert visitor.get("/account").status_code == 303

    @pytest.mark.parametrize(
        "address", ["https://evil.example", "//evil.example", "/\\evil.example", "/account", "login"]
    )
    def test_nowhere_but_to_our_own_pages(self, visitor: Visitor, me: Account, address: str) -> None:
        html = visitor.get("/login", query_string={"next": address}).text
        assert "evil" not in html
        response = visitor.send(
            "/login", {"form_token": token(html, "/login"), "api_key": me.key, "next": address}
        )
        assert response.location == "/account"

    def test_back_to_where_it_began(self, visitor: Visitor, me: Account) -> None:
        assert visitor.fill("/login", api_key=me.key, next="transfer").location == "/transfer"


class TestAccount:
    def test_what_it_shows(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        assert horde.pop(me, "Attic GPU").status_code == 200
        visitor.log_in(me.key)
        html = visitor.get("/account").text
        assert "1,000" in html
        assert "Attic GPU" in html
        assert "an administrator&#39;s doing" in html

    def test_page_by_page(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        other = horde.account()
        for amount in range(1, 31):
            sent = {"username": other.alias, "amount": amount}
            assert horde.call("POST", "/kudos/transfer", me, json=sent).status_code == 200
        visitor.log_in(me.key)
        shown: list[str] = []
        path: str | None = "/account"
        while path:
            html = visitor.get(path).text
            shown += re.findall(r'<td class="amount">(-[\d.]+)</td>', html)
            found = re.search(r'href="(/account\?before=[^"]+)"', html)
            path = found[1] if found else None
        assert shown == [f"-{amount}.00" for amount in range(30, 0, -1)]
        assert visitor.get("/account?before=nonsense").status_code == 200

    def test_names_are_nothing_but_text(self, horde: Horde, visitor: Visitor) -> None:
        user = horde.account(username="<script>x</script>")
        assert horde.pop(user, "<script>worker</script>").status_code == 200
        visitor.log_in(user.key)
        assert "&lt;script&gt;worker" in visitor.get("/account").text
        for path in ("/account", "/transfer", "/education"):
            html = visitor.get(path).text
            assert "<script" not in html
            assert "&lt;script&gt;" in html


class TestNewKey:
    def test_the_old_one_is_void(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        elsewhere = Visitor.of(horde)
        for one in (visitor, elsewhere):
            one.log_in(me.key)
        response = visitor.fill("/account", "/account/key", sure="yes")
        key = shown_key(response.text)
        assert key != me.key
        assert horde.call("GET", "/find_user", me).status_code == 404
        assert horde.call("GET", "/find_user", key).json["username"] == me.alias
        assert visitor.get("/account").status_code == 200
        assert elsewhere.get("/account").status_code == 303

    def test_not_by_accident(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        assert visitor.fill("/account", "/account/key").status_code == 400
        assert horde.call("GET", "/find_user", me).status_code == 200

    def test_a_form_of_a_session_that_is_over(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        form = visitor.token("/account", "/account/key")
        visitor.fill("/account", "/logout")
        with unchanged(horde.platform):
            response = visitor.send("/account/key", {"form_token": form, "sure": "yes"})
        assert response.status_code == 403

    def test_the_key_was_replaced_elsewhere(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        elsewhere = Visitor.of(horde)
        for one in (visitor, elsewhere):
            one.log_in(me.key)
        form = elsewhere.token("/account", "/account/key")
        visitor.fill("/account", "/account/key", sure="yes")
        with unchanged(horde.platform):
            response = elsewhere.send("/account/key", {"form_token": form, "sure": "yes"})
        assert response.location == "/login"


class TestTransfer:
    def test_logged_in(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        other = horde.account(username="Ben")
        visitor.log_in(me.key)
        response = visitor.fill("/transfer", username=other.alias, amount="100")
        assert response.status_code == 200
        assert f"100 kudos are now with {other.alias}" in response.text
        assert (horde.kudos(me.balance), horde.kudos(other.balance)) == (900, 100)

    def test_with_a_key(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        other = horde.account()
        response = visitor.fill("/transfer", src_api_key=me.key, username=str(other.id), amount="100")
        assert response.status_code == 200
        assert me.key not in response.text
        assert horde.kudos(me.balance) == 900

    def test_sent_again(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        other = horde.account()
        visitor.log_in(me.key)
        fields = {"form_token": visitor.token("/transfer"), "username": other.alias, "amount": "100"}
        assert visitor.send("/transfer", fields).status_code == 200
        assert visitor.send("/transfer", fields).status_code == 403
        assert horde.kudos(me.balance) == 900

    @pytest.mark.parametrize(
        "amount", ["-5", "0", "", "1.5", "1e3", "²", "٣", "+1", "1 000", "9" * 16, "9" * 15, "987"]
    )
    def test_amounts(self, horde: Horde, visitor: Visitor, me: Account, amount: str) -> None:
        other = horde.account()
        visitor.log_in(me.key)
        with unchanged(horde.platform):
            response = visitor.fill("/transfer", username=other.alias, amount=amount)
        assert response.status_code == 400
        assert 'role="alert"' in response.text

    @pytest.mark.parametrize("username", ["", "nobody", "99999", "x" * 300, "<b>"])
    def test_receivers(self, horde: Horde, visitor: Visitor, me: Account, username: str) -> None:
        visitor.log_in(me.key)
        with unchanged(horde.platform):
            assert visitor.fill("/transfer", username=username, amount="1").status_code == 400

    def test_no_such_key(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        for key, status in (("", 401), ("x", 401), ("0000000000", 400)):
            response = visitor.fill("/transfer", src_api_key=key, username=me.alias, amount="1")
            assert response.status_code == status

    def test_from_another_site(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        other = horde.account()
        visitor.log_in(me.key)
        with unchanged(horde.platform):
            sent = {"username": other.alias, "amount": "100"}
            assert visitor.send("/transfer", sent).status_code == 403
            sent["form_token"] = visitor.token("/transfer")
            assert visitor.send("/transfer", sent, Origin="https://evil.example").status_code == 403


SCHOOL = {
    "institution": "Harbour Street School",
    "website": "",
    "contact": "teacher@school.example",
    "purpose": "A class of 20 makes pictures for a story.",
}


class TestEducation:
    def test_apply_and_grant(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        response = visitor.fill("/education", **SCHOOL)
        assert "have your application" in response.text
        assert "<strong>open</strong>" in response.text
        moderator = Visitor.of(horde)
        moderator.log_in(horde.account(Role.MODERATOR).key)
        action = re.search(r'action="(/education/[^"]+)"', moderator.get("/education").text)
        assert action
        response = moderator.fill("/education", action[1], decision="grant", reason="Welcome")
        assert response.status_code == 200
        assert horde.call("GET", "/find_user", me).json["concurrency"] == 200
        assert "Welcome" in visitor.get("/education").text

    def test_refuse(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        visitor.fill("/education", **SCHOOL)
        moderator = Visitor.of(horde)
        moderator.log_in(horde.account(Role.MODERATOR).key)
        action = re.search(r'action="(/education/[^"]+)"', moderator.get("/education").text)
        assert action
        assert moderator.fill("/education", action[1], decision="refuse").status_code == 200
        forget(horde.platform)
        assert not horde.call("GET", "/find_user", me).json["education"]

    def test_neither_granted_nor_refused(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        visitor.fill("/education", **SCHOOL)
        moderator = Visitor.of(horde)
        moderator.log_in(horde.account(Role.MODERATOR).key)
        action = f"/education/{scalar(horde.platform, 'SELECT id FROM education_applications')}"
        for sent in ({}, {"decision": ""}, {"decision": "maybe"}):
            with unchanged(horde.platform):
                assert moderator.fill("/education", action, **sent).status_code == 400

    def test_only_who_may_sees_the_form(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        assert "Apply with" in visitor.get("/education").text
        visitor.fill("/education", **SCHOOL)
        assert "Apply with" not in visitor.get("/education").text
        moderator = Visitor.of(horde)
        moderator.log_in(horde.account(Role.MODERATOR).key)
        action = f"/education/{scalar(horde.platform, 'SELECT id FROM education_applications')}"
        moderator.fill("/education", action, decision="refuse", reason="Which school?")
        assert "Apply with" in visitor.get("/education").text
        visitor.fill("/education", **SCHOOL)
        query = "SELECT id FROM education_applications WHERE state = 'open'"
        moderator.fill("/education", f"/education/{scalar(horde.platform, query)}", decision="grant")
        html = visitor.get("/education").text
        assert "Apply with" not in html
        assert "Your account has this role" in html
        assert "Which school?" in html

    def test_moderators_find_what_waits_among_many(self, horde: Horde, visitor: Visitor) -> None:
        change(
            horde.platform,
            """
            INSERT INTO education_applications (id, user_id, institution, contact, purpose, state, created)
            SELECT gen_random_uuid(), :id, 'School ' || number, 'contact', 'a purpose of some length',
                CASE WHEN number = 1 THEN 'open' ELSE 'refused' END, now()
            FROM generate_series(1, 60) AS number
            """,
            id=horde.account().id,
        )
        visitor.log_in(horde.account(Role.MODERATOR).key)
        heading = re.compile(r"<h3>(School \d+)</h3>")
        assert heading.findall(visitor.get("/education").text) == ["School 1"]
        pages = [visitor.get(f"/education?show=all&page={number}").text for number in (1, 2, 3)]
        assert [len(heading.findall(page)) for page in pages] == [50, 10, 0]
        assert 'href="/education?show=all&amp;page=2">Earlier' in pages[0]
        assert 'href="/education?show=all&amp;page=1">Later' in pages[1]
        for odd in ("0", "-1", "x", "9" * 5000, "1e3"):
            assert visitor.get(f"/education?page={odd}").status_code == 200

    def test_lines_stay_lines(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        visitor.fill("/education", **SCHOOL | {"purpose": "A class makes pictures.\r\n\r\nFor a story."})
        kept = scalar(horde.platform, "SELECT purpose FROM education_applications")
        assert kept == "A class makes pictures.\n\nFor a story."

    def test_too_little_said(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        response = visitor.fill("/education", **SCHOOL | {"purpose": "art"})
        assert response.status_code == 400
        assert "purpose must be at least 10 characters" in response.text
        assert "Harbour Street School" in response.text
        assert count_rows(horde.platform)["education_applications"] == 0

    def test_twice(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        forms = [visitor.token("/education") for _ in range(2)]
        answers = [visitor.send("/education", {"form_token": form, **SCHOOL}) for form in forms]
        assert [answer.status_code for answer in answers] == [200, 400]
        assert count_rows(horde.platform)["education_applications"] == 1

    def test_others_see_and_decide_nothing(self, horde: Horde, visitor: Visitor, me: Account) -> None:
        visitor.log_in(me.key)
        visitor.fill("/education", **SCHOOL)
        other = Visitor.of(horde)
        other.log_in(horde.account().key)
        html = other.get("/education").text
        assert "Harbour" not in html
        application = scalar(horde.platform, "SELECT id::text FROM education_applications")
        form = token(html, "/education")
        response = other.send(f"/education/{application}", {"form_token": form, "decision": "grant"})
        assert response.status_code == 403
        assert scalar(horde.platform, "SELECT state FROM education_applications") == "open"
