"""Changing accounts: every field, by everybody, all at once or not at all."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from horde.generation import sweep
from horde.kudos import service as ledger
from horde.users import edit_rules
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    in_threads,
    scalar,
    unchanged,
)

ROLES = ["trusted", "flagged", "customizer", "vpn", "service", "education", "special"]
VALUES: dict[str, Any] = {
    "kudos": 100,
    "monthly_kudos": 100,
    "usage_multiplier": 2.5,
    "moderator": True,
    "concurrency": 77,
    "worker_invited": 9,
    **dict.fromkeys(ROLES, True),
    "reset_suspicion": True,
    "admin_comment": "a note of ours",
    "public_workers": True,
    "username": "Renamed",
    "contact": "me@example.com",
    "generate_proxy_passkey": True,
    "undelete": True,
}
"""A value that each field may have."""
ANSWERED = {
    "kudos": "new_kudos",
    "reset_suspicion": "new_suspicion",
    "generate_proxy_passkey": "proxy_passkey",
    "undelete": "undeleted",
}
WORDS = {
    "admin_comment": "ProfaneAdminComment",
    "username": "ProfaneUserName",
    "contact": "ProfaneUserContact",
}


class People:
    """Somebody of each kind, and the account that they try to change: a deleted service of 'owner'."""

    def __init__(self, horde: Horde) -> None:
        self.horde = horde
        self.owner = horde.account(Role.SERVICE, Role.DELETED, username="Owner")
        self.admin = horde.account(Role.ADMIN, username="Admin")
        self.moderator = horde.account(Role.MODERATOR, username="Moderator")
        self.stranger = horde.account(Role.TRUSTED, Role.SERVICE, username="Stranger")
        self.plain = horde.account(username="Plain")

    def key(self, who: str) -> Account | str:
        """The key of one of them."""
        found: Account | str = ANONYMOUS_KEY if who == "anonymous" else getattr(self, who)
        return found

    def put(self, who: str, user: Account | int | None = None, **fields: Any) -> TestResponse:
        """PUT users/{id}, by default of the owner."""
        number = user.id if isinstance(user, Account) else self.owner.id if user is None else user
        return self.horde.call("PUT", f"/users/{number}", self.key(who), json=fields)

    def changed(self, who: str, user: Account | int | None = None, **fields: Any) -> dict[str, Any]:
        """What an accepted change answers."""
        response = self.put(who, user, **fields)
        assert response.status_code == 200, response.json
        return dict(response.json)

    def shown(self, user: Account | int | None = None) -> dict[str, Any]:
        """The account as moderators see it."""
        number = user.id if isinstance(user, Account) else self.owner.id if user is None else user
        return dict(self.horde.call("GET", f"/users/{number}", self.moderator).json)


@pytest.fixture
def people(horde: Horde) -> People:
    return People(horde)


def allowed(name: str) -> set[str]:
    """Who may change a field."""
    if name in ("kudos", "monthly_kudos", "usage_multiplier", "moderator"):
        return {"admin"}
    if name in ("public_workers", "username", "contact", "generate_proxy_passkey", "undelete"):
        return {"owner", "moderator"}
    return {"moderator"}


class TestWhoMay:
    @pytest.mark.parametrize("who", ["owner", "admin", "moderator", "stranger", "anonymous"])
    @pytest.mark.parametrize("name", VALUES)
    def test_every_field_by_everybody(self, people: People, name: str, who: str) -> None:
        if who in allowed(name):
            answer = people.changed(who, **{name: VALUES[name]})
            expected = {ANSWERED.get(name, name)} | ({"concurrency"} if name == "education" else set())
            assert set(answer) == expected
            if name not in ("kudos", "generate_proxy_passkey", "reset_suspicion"):
                assert answer[ANSWERED.get(name, name)] == VALUES[name]
        else:
            with unchanged(people.horde.platform):
                rc = "NotAdmin" if allowed(name) == {"admin"} else "NotModerator"
                assert_refused(people.put(who, **{name: VALUES[name]}), 403, rc)

    @pytest.mark.parametrize("name", VALUES)
    def test_nobody_changes_the_shared_account_with_its_key(self, people: People, name: str) -> None:
        rc = {"admin": "NotAdmin", "moderator": "NotModerator"}.get(
            next(iter(allowed(name))) if len(allowed(name)) == 1 else "", "AnonForbiddenUserMod"
        )
        with unchanged(people.horde.platform):
            assert_refused(people.put("anonymous", 0, **{name: VALUES[name]}), 403, rc)

    def test_every_field_is_tried(self) -> None:
        assert set(VALUES) == set(edit_rules.FIELDS)

    def test_all_at_once(self, people: People) -> None:
        both = people.horde.account(Role.ADMIN, Role.MODERATOR)
        response = people.horde.call("PUT", f"/users/{people.owner.id}", both, json=VALUES)
        assert response.status_code == 200, response.json
        answer = response.json
        assert set(answer) == {ANSWERED.get(name, name) for name in VALUES}
        assert all(answer[name] is True for name in [*ROLES, "moderator", "undeleted", "public_workers"])
        shown = people.shown()
        for name in ("concurrency", "worker_invited", "admin_comment", "contact", "moderator", *ROLES):
            assert shown[name] == answer[name] == VALUES[name]
        assert shown["username"] == f"Renamed#{people.owner.id}"
        assert shown["deleted"] is False
        assert shown["kudos"] == answer["new_kudos"]
        assert_books_balance(people.horde.platform)


class TestChecks:
    @pytest.mark.parametrize("number", ["999999", "x", "-1", "9" * 40])
    @pytest.mark.parametrize("who", ["moderator", "anonymous"])
    def test_no_such_account(self, people: People, number: str, who: str) -> None:
        response = people.horde.call("PUT", f"/users/{number}", people.key(who), json={"trusted": True})
        assert_refused(response, 404, "UserNotFound")

    def test_an_unknown_key(self, people: People) -> None:
        path = f"/users/{people.owner.id}"
        assert_refused(people.horde.call("PUT", path, "nobody's", json={}), 401, "InvalidAPIKey")
        response = people.horde.call("PUT", "/users/999999", "nobody's", json={"trusted": True})
        assert_refused(response, 404, "UserNotFound")

    def test_no_key(self, people: People) -> None:
        response = people.horde.call("PUT", f"/users/{people.owner.id}", json={"trusted": True})
        assert response.status_code == 400
        assert "apikey" in response.json["errors"]

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"filtered": True},
            {"filtered": False},
            {"unheard_of": 1},
            {"reset_suspicion": False, "generate_proxy_passkey": False, "undelete": False},
        ],
    )
    @pytest.mark.parametrize("who", ["owner", "moderator", "stranger"])
    def test_nothing_to_change(self, people: People, fields: dict[str, Any], who: str) -> None:
        with unchanged(people.horde.platform):
            assert_refused(people.put(who, **fields), 400, "NoUserModSelected")

    def test_actions_are_only_done_when_they_are_true(self, people: People) -> None:
        answer = people.changed(
            "moderator",
            contact="you@example.com",
            undelete=False,
            generate_proxy_passkey=False,
            reset_suspicion=False,
        )
        assert answer == {"contact": "you@example.com"}
        assert people.shown()["deleted"] is True

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("kudos", ["1", None, 1e13, True]),
            ("monthly_kudos", ["1", 1.5, None, 10**15]),
            ("usage_multiplier", [0.09, 10.01, "1", None]),
            ("concurrency", [-1, 501, 1.5, "1", 2**70, None]),
            ("worker_invited", [-1, 1.5, 2**31, None]),
            ("admin_comment", ["four", "x" * 501, 5, None, "   four   "]),
            ("username", ["xx", "x" * 101, 5, None, " x "]),
            ("contact", ["four", "x" * 501, 5, None]),
            *((name, [1, "true", None]) for name in [*ROLES, "moderator", "public_workers", "undelete"]),
        ],
    )
    def test_what_does_not_fit(self, people: People, name: str, values: list[Any]) -> None:
        with unchanged(people.horde.platform):
            for value in values:
                response = people.put("moderator", **{name: value})
                assert response.status_code == 400, value
                assert set(response.json["errors"]) == {name}

    @pytest.mark.parametrize(("name", "rc"), WORDS.items())
    def test_profane_words(self, people: People, name: str, rc: str) -> None:
        with unchanged(people.horde.platform):
            assert_refused(people.put("moderator", **{name: "holy shit"}), 400, rc, "profane")
        change(people.horde.platform, f"UPDATE users SET {name} = 'holy shit'")
        assert people.changed("moderator", **{name: "holy shit"}) == {name: "holy shit"}

    def test_long_names(self, people: People) -> None:
        with unchanged(people.horde.platform):
            assert_refused(people.put("owner", username="x" * 31), 400, "TooLongUserName", "30")
            assert_refused(people.put("owner", username="shit " * 7), 400, "ProfaneUserName")
            assert_refused(people.put("owner", username="\u200b" * 5), 400, "BadRequest")
        assert people.changed("owner", username="x" * 30) == {"username": "x" * 30}
        assert people.changed("owner", username="\n Ada\t#\u200b1  ") == {"username": "Ada #1"}

    def test_texts_are_stored_as_they_are(self, people: People) -> None:
        fields = {"username": "<b>Ada</b> & co", "contact": "<i>x" + "y" * 496, "admin_comment": "<a> & b"}
        assert people.changed("moderator", **fields) == fields
        shown = people.shown()
        assert shown["username"] == f"<b>Ada</b> & co#{people.owner.id}"
        assert (shown["contact"], shown["admin_comment"]) == (fields["contact"], fields["admin_comment"])

    def test_names_need_not_be_unique(self, people: People) -> None:
        people.changed("owner", username="Stranger")
        assert people.shown()["username"] == f"Stranger#{people.owner.id}"
        assert people.shown(people.stranger)["username"] == f"Stranger#{people.stranger.id}"

    def test_masks(self, people: People) -> None:
        response = people.horde.call(
            "PUT",
            f"/users/{people.owner.id}",
            people.owner,
            {"X-Fields": "contact"},
            json={"contact": "me@example.com", "public_workers": True},
        )
        assert response.json == {"contact": "me@example.com"}


WRONG: dict[str, tuple[Any, int, str]] = {
    "kudos": (1, 403, "NotAdmin"),
    "monthly_kudos": (1, 403, "NotAdmin"),
    "usage_multiplier": (1.0, 403, "NotAdmin"),
    "moderator": (True, 403, "NotAdmin"),
    "admin_comment": ("holy shit", 400, "ProfaneAdminComment"),
    "username": ("holy shit", 400, "ProfaneUserName"),
    "contact": ("holy shit", 400, "ProfaneUserContact"),
    "generate_proxy_passkey": (True, 403, "NonServiceForbidden"),
    "undelete": (True, 400, "UserNotDeleted"),
}
"""What a moderator is refused of an account that is neither a service nor deleted, and how, in order."""
RIGHT = {name: value for name, value in VALUES.items() if name not in WRONG and name != "service"} | {
    "public_workers": True
}


class TestAtomic:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        wrong=st.sets(st.sampled_from(list(WRONG)), min_size=1), right=st.sets(st.sampled_from(list(RIGHT)))
    )
    def test_the_first_wrong_field_is_told_and_nothing_changes(
        self, people: People, wrong: set[str], right: set[str]
    ) -> None:
        fields = {name: RIGHT[name] for name in right} | {name: WRONG[name][0] for name in wrong}
        first = min(wrong, key=list(edit_rules.FIELDS).index)
        _, status, rc = WRONG[first]
        with unchanged(people.horde.platform):
            assert_refused(people.put("moderator", people.plain, **fields), status, rc)

    def test_a_granted_service_role_counts_at_once(self, people: People) -> None:
        user = people.horde.account()
        answer = people.changed("moderator", user, generate_proxy_passkey=True, service=True)
        assert answer["service"] is True
        assert len(answer["proxy_passkey"]) == 22
        with unchanged(people.horde.platform):
            response = people.put("moderator", user, generate_proxy_passkey=True, service=False)
            assert_refused(response, 403, "NonServiceForbidden")

    def test_many_at_once(self, people: People) -> None:
        """Each adds to what is there; none is lost."""
        horde = people.horde
        in_threads(8, lambda _: people.changed("admin", kudos=100, monthly_kudos=10))
        ledger.fold_all(horde.platform)
        assert people.shown()["monthly_kudos"]["amount"] == 80
        assert people.shown()["kudos_details"]["admin"] == 800
        assert people.shown()["kudos_details"]["recurring"] == 80
        assert_books_balance(horde.platform)


class TestKudos:
    def test_given_and_taken(self, people: People) -> None:
        user = people.horde.account(amount=100)
        for amount, whole in ((50, 50), (-30.9, -30), (0.99, 0), (0, 0)):
            before = people.horde.kudos(user.balance)
            answer = people.changed("admin", user, kudos=amount)
            assert people.horde.kudos(user.balance) == before + whole
            assert answer == {"new_kudos": float(before + whole)}
        ledger.fold_all(people.horde.platform)
        assert people.shown(user)["kudos_details"]["admin"] == 120
        assert_books_balance(people.horde.platform)

    def test_nobody_falls_below_the_floor(self, people: People) -> None:
        user = people.horde.account(amount=100)
        assert people.changed("admin", user, kudos=-(10**6)) == {"new_kudos": 14}
        assert people.shown(user)["kudos"] == 14
        ledger.fold_all(people.horde.platform)
        assert people.horde.kudos(user.balance) == 14
        assert_books_balance(people.horde.platform)

    def test_the_books_say_who_did_it(self, people: People) -> None:
        people.changed("admin", kudos=5)
        query = "SELECT detail->>'by' FROM ledger_events ORDER BY created DESC LIMIT 1"
        assert scalar(people.horde.platform, query) == str(people.admin.id)

    def test_monthly(self, people: People) -> None:
        horde, user = people.horde, people.horde.account(amount=100)
        assert people.changed("admin", user, monthly_kudos=500) == {"monthly_kudos": 500}
        first = people.shown(user)["monthly_kudos"]
        assert first["amount"] == 500
        assert first["last_received"]
        assert horde.kudos(user.balance) == 600
        received = "SELECT monthly_kudos_last_received FROM users WHERE id = :id"
        moment = scalar(horde.platform, received, id=user.id)
        assert people.changed("admin", user, monthly_kudos=20) == {"monthly_kudos": 520}
        assert scalar(horde.platform, received, id=user.id) == moment
        assert people.changed("admin", user, monthly_kudos=-1000) == {"monthly_kudos": 0}
        assert horde.kudos(user.balance) == 620
        ledger.fold_all(horde.platform)
        assert people.shown(user)["kudos_details"]["recurring"] == 520
        assert_books_balance(horde.platform)

    def test_taking_away_pays_nothing(self, people: People) -> None:
        assert people.changed("admin", monthly_kudos=-5) == {"monthly_kudos": 0}
        assert "last_received" not in people.shown()["monthly_kudos"]

    def test_the_usage_multiplier_is_for_statistics(self, people: People) -> None:
        horde, worker = people.horde, people.horde.account(Role.TRUSTED)
        usual, other = horde.account(amount=1000), horde.account(amount=1000)
        assert people.changed("admin", other, usage_multiplier=2) == {"usage_multiplier": 2}
        for user in (usual, other):
            horde.asked(user)
            horde.submitted(worker, horde.popped(worker)["id"])
        sweep.fold_records(horde.platform)
        assert horde.kudos(usual.balance) == horde.kudos(other.balance) < 1000
        once, twice = (people.shown(user)["records"]["usage"]["megapixelsteps"] for user in (usual, other))
        assert twice == pytest.approx(2 * once, abs=0.01)
        assert people.shown(usual)["records"]["request"] == people.shown(other)["records"]["request"]


class TestPasskeys:
    def test_the_target_must_be_a_service(self, people: People) -> None:
        for who in ("owner", "moderator"):
            passkey = people.changed(who, generate_proxy_passkey=True)["proxy_passkey"]
            assert len(passkey) == 22
        service_moderator = people.horde.account(Role.MODERATOR, Role.SERVICE)
        plain = people.horde.account()
        response = people.horde.call(
            "PUT", f"/users/{plain.id}", service_moderator, json={"generate_proxy_passkey": True}
        )
        assert_refused(response, 403, "NonServiceForbidden")

    def test_only_the_newest_counts(self, people: People) -> None:
        platform = people.horde.platform
        service = people.horde.account(Role.SERVICE)
        first, second = (
            people.changed("moderator", service, generate_proxy_passkey=True)["proxy_passkey"] for _ in "12"
        )
        assert (platform.proxy_user(platform, first), platform.proxy_user(platform, second)) == (
            None,
            service.id,
        )
        assert platform.proxy_user(platform, second[:-1]) is None
        assert "proxy_passkey" not in people.shown(service)


class TestSuspicions:
    def test_all_are_forgotten(self, people: People) -> None:
        horde = people.horde
        owner = horde.account(Role.VPN, username="Suspect")
        horde.pop(owner)
        change(
            horde.platform,
            "INSERT INTO suspicions (user_id, worker_id, reason)"
            " SELECT :id, worker.id, 5 FROM (SELECT id FROM workers UNION ALL SELECT NULL) worker"
            ", generate_series(1, 6)",
            id=owner.id,
        )
        change(
            horde.platform,
            "INSERT INTO suspicions (user_id, reason) VALUES (:id, 8)",
            id=people.stranger.id,
        )
        assert people.shown(owner)["suspicious"] == 6
        assert people.changed("moderator", owner, reset_suspicion=True) == {"new_suspicion": 0}
        assert people.shown(owner)["suspicious"] == 0
        worker = horde.call("GET", "/workers/name/worker", people.moderator).json
        assert worker["suspicious"] == 0
        assert people.shown(people.stranger)["suspicious"] == 1


class TestTheSharedAccount:
    def test_it_never_holds_a_role(self, people: People) -> None:
        with unchanged(people.horde.platform):
            for name in ROLES:
                assert people.changed("moderator", 0, **{name: True}) == {name: False}
            assert people.changed("admin", 0, moderator=True) == {"moderator": False}
            assert people.changed("moderator", 0, public_workers=False) == {"public_workers": True}
            for name, status, rc in (
                ("generate_proxy_passkey", 403, "NonServiceForbidden"),
                ("undelete", 400, "UserNotDeleted"),
            ):
                assert_refused(people.put("moderator", 0, **{name: True}), status, rc)

    def test_moderators_may_change_how_much_it_asks(self, people: People) -> None:
        assert people.changed("moderator", 0, concurrency=250) == {"concurrency": 250}
        assert people.shown(0)["concurrency"] == 250


def test_a_new_name_counts_at_once(people: People) -> None:
    assert people.horde.call("GET", "/find_user", people.stranger).json["username"].startswith("Stranger#")
    people.changed("stranger", people.stranger, username="Somebody else")
    found = people.horde.call("GET", "/find_user", people.stranger).json
    assert found["username"] == f"Somebody else#{people.stranger.id}"
    assert people.horde.call("GET", "/users").json
