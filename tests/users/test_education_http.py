"""Places of education ask for their role, and moderators decide."""

from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import Account, Horde, assert_refused, in_threads, scalar, unchanged

PATH = "/users/education"
NOBODY = "00000000-0000-4000-8000-000000000001"
FIELDS = {
    "institution": "Harbour Street School",
    "website": "https://school.example",
    "contact": "teacher@school.example",
    "purpose": "30 pupils of an art class",
}


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def teacher(horde: Horde) -> Account:
    return horde.account(username="Teacher")


def apply(horde: Horde, key: Account | str | None, **fields: Any) -> TestResponse:
    return horde.call("POST", PATH, key, json=FIELDS | fields)


def applied(horde: Horde, key: Account, **fields: Any) -> str:
    """The id of a new application."""
    response = apply(horde, key, **fields)
    assert response.status_code == 201, response.json
    return str(response.json["id"])


def decide(
    horde: Horde, key: Account | str | None, application: str, granted: Any, **fields: Any
) -> TestResponse:
    return horde.call("PATCH", f"{PATH}/{application}", key, json={"granted": granted, **fields})


def listed(horde: Horde, key: Account, query: str = "") -> list[dict[str, Any]]:
    response = horde.call("GET", f"{PATH}{query}", key)
    assert response.status_code == 200, response.json
    return list(response.json)


class TestApplying:
    def test_it_is_kept_for_the_moderators(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        response = apply(horde, teacher)
        assert response.status_code == 201
        shown = response.json
        assert shown == FIELDS | {
            "id": shown["id"],
            "user": teacher.alias,
            "state": "open",
            "created": shown["created"],
        }
        assert parsedate_to_datetime(shown["created"])
        assert listed(horde, moderator) == listed(horde, teacher) == [shown]
        assert horde.call("GET", f"{PATH}/{shown['id']}", moderator).json == shown

    def test_a_website_is_not_needed(self, horde: Horde, teacher: Account) -> None:
        for website in ({"website": ""}, {"website": "  "}):
            shown = apply(horde, horde.account(), **website).json
            assert "website" not in shown
        without = {name: value for name, value in FIELDS.items() if name != "website"}
        assert horde.call("POST", PATH, teacher, json=without).status_code == 201

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("institution", ["", "ab", "x" * 201, 5, None, "  a  "]),
            ("website", ["https://" + "x" * 501, 5, None, "school.example", "javascript:alert(1)"]),
            ("contact", ["", "abcd", "x" * 501, 5, None]),
            ("purpose", ["", "too short", "x" * 2001, 5, None]),
        ],
    )
    def test_what_does_not_fit(self, horde: Horde, teacher: Account, name: str, values: list[Any]) -> None:
        with unchanged(horde.platform):
            for value in values:
                response = apply(horde, teacher, **{name: value})
                assert response.status_code == 400
                assert set(response.json["errors"]) == {name}

    def test_what_nobody_sees_is_left_out(self, horde: Horde, teacher: Account) -> None:
        sent = {
            "institution": "A\u202e School ",
            "contact": "a@b\u200b.example",
            "website": "\u2066https://x\n y",
        }
        shown = apply(horde, teacher, **sent).json
        assert {name: shown[name] for name in sent} == {
            "institution": "A School",
            "contact": "a@b.example",
            "website": "https://x y",
        }

    def test_who_may_not(self, horde: Horde, teacher: Account) -> None:
        deleted, school = horde.account(Role.DELETED), horde.account(Role.EDUCATION)
        with unchanged(horde.platform):
            assert_refused(apply(horde, ANONYMOUS_KEY), 403, "AnonForbidden")
            assert_refused(apply(horde, deleted), 403, "DeletedUser")
            assert_refused(apply(horde, school), 400, "BadRequest", "already")
            assert_refused(apply(horde, "nobody's"), 401, "InvalidAPIKey")
            assert "apikey" in apply(horde, None).json["errors"]

    def test_one_at_a_time(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        answers = in_threads(4, lambda _: apply(horde, teacher).status_code)
        assert sorted(answers) == [201, 400, 400, 400]
        assert_refused(apply(horde, teacher), 400, "BadRequest", "not decided")
        decide(horde, moderator, listed(horde, teacher)[0]["id"], False)
        applied(horde, teacher)
        assert len(listed(horde, teacher)) == 2

    def test_markup_is_only_text(self, horde: Horde, teacher: Account) -> None:
        shown = apply(horde, teacher, institution="<script>alert(1)</script>").json
        assert shown["institution"] == "<script>alert(1)</script>"


class TestReading:
    def test_everybody_their_own(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        other = horde.account()
        first, second = applied(horde, teacher), applied(horde, other)
        assert [each["id"] for each in listed(horde, teacher)] == [first]
        assert [each["id"] for each in listed(horde, other)] == [second]
        assert [each["id"] for each in listed(horde, moderator)] == [second, first]
        assert listed(horde, horde.account(Role.ADMIN, Role.TRUSTED)) == []
        assert horde.call("GET", f"{PATH}/{first}", teacher).status_code == 200
        for key in (other, ANONYMOUS_KEY):
            assert_refused(horde.call("GET", f"{PATH}/{first}", key), 404, "NotFound")
        assert horde.call("GET", PATH, ANONYMOUS_KEY).json == []
        for path in (PATH, f"{PATH}/{first}"):
            assert_refused(horde.call("GET", path, "nobody's"), 401, "InvalidAPIKey")
            assert "apikey" in horde.call("GET", path).json["errors"]

    @pytest.mark.parametrize("given", [NOBODY, "1", "x" * 36, "x"])
    def test_no_such_application(self, horde: Horde, moderator: Account, given: str) -> None:
        assert_refused(horde.call("GET", f"{PATH}/{given}", moderator), 404, "NotFound")
        assert_refused(decide(horde, moderator, given, True), 404, "NotFound")

    def test_by_state_and_page(self, horde: Horde, moderator: Account) -> None:
        made = [applied(horde, horde.account()) for _ in range(3)]
        decide(horde, moderator, made[0], True)
        decide(horde, moderator, made[1], False)
        for state, application in zip(("granted", "refused", "open"), made, strict=True):
            assert [each["id"] for each in listed(horde, moderator, f"?state={state}")] == [application]
        assert listed(horde, moderator, "?page=2") == []
        for query in ("state=nonsense", "page=0", "page=x"):
            assert horde.call("GET", f"{PATH}?{query}", moderator).status_code == 400


class TestDeciding:
    def test_granting(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        application = applied(horde, teacher)
        response = decide(horde, moderator, application, True, reason=" Welcome ")
        assert response.status_code == 200
        shown = response.json
        assert (shown["state"], shown["decided_by"], shown["reason"]) == (
            "granted",
            moderator.alias,
            "Welcome",
        )
        user = horde.call("GET", "/find_user", teacher).json
        assert (user["education"], user["concurrency"]) == (True, 200)
        own = listed(horde, teacher)[0]
        assert own == {name: value for name, value in shown.items() if name != "decided_by"}
        changes = horde.call("GET", f"/users/{teacher.id}/role_changes", moderator).json
        assert [(each["role"], each["to"], each["changed_by"]) for each in changes] == [
            ("education", True, moderator.alias)
        ]
        horde.call("PUT", f"/users/{teacher.id}", moderator, json={"education": False})
        user = horde.call("GET", "/find_user", teacher).json
        assert (user["education"], user["concurrency"]) == (False, 30)
        assert listed(horde, teacher)[0]["state"] == "granted"

    def test_refusing(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        application = applied(horde, teacher)
        shown = decide(horde, moderator, application, False).json
        assert shown["state"] == "refused"
        assert "reason" not in shown
        user = horde.call("GET", "/find_user", teacher).json
        assert (user["education"], user["concurrency"]) == (False, 30)

    def test_for_moderators_only(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        application = applied(horde, teacher)
        others = (teacher, horde.account(Role.ADMIN, Role.TRUSTED), ANONYMOUS_KEY)
        with unchanged(horde.platform):
            for key in others:
                assert_refused(decide(horde, key, application, True), 403, "NotModerator")
            assert_refused(decide(horde, "nobody's", application, True), 401, "InvalidAPIKey")
            assert "apikey" in decide(horde, None, application, True).json["errors"]
            for granted in (None, 1, "true"):
                assert set(decide(horde, moderator, application, granted).json["errors"]) == {"granted"}
            response = decide(horde, moderator, application, True, reason="x" * 1001)
            assert set(response.json["errors"]) == {"reason"}

    @pytest.mark.parametrize("first", [True, False])
    def test_once_only(self, horde: Horde, teacher: Account, moderator: Account, first: bool) -> None:
        application = applied(horde, teacher)
        decide(horde, moderator, application, first)
        with unchanged(horde.platform):
            for granted in (True, False):
                assert_refused(decide(horde, moderator, application, granted), 400, "BadRequest", "before")

    def test_several_at_once(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        application = applied(horde, teacher)
        answers = in_threads(4, lambda n: decide(horde, moderator, application, n % 2 == 0).status_code)
        assert sorted(answers) == [200, 400, 400, 400]
        granted = listed(horde, teacher)[0]["state"] == "granted"
        assert horde.call("GET", "/find_user", teacher).json["education"] is granted
        assert scalar(horde.platform, "SELECT count(*) FROM role_changes WHERE role = 'education'") == granted

    def test_whoever_got_the_role_otherwise(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        application = applied(horde, teacher)
        horde.call("PUT", f"/users/{teacher.id}", moderator, json={"education": True})
        assert decide(horde, moderator, application, True).json["state"] == "granted"
        horde.call("PUT", f"/users/{teacher.id}", moderator, json={"education": False})
        assert horde.call("GET", "/find_user", teacher).json["concurrency"] == 30

    def test_not_for_a_deleted_account(self, horde: Horde, teacher: Account, moderator: Account) -> None:
        application = applied(horde, teacher)
        horde.call("DELETE", f"/users/{teacher.id}", teacher)
        with unchanged(horde.platform):
            assert_refused(decide(horde, moderator, application, True), 400, "BadRequest", "deleted")
        assert decide(horde, moderator, application, False).json["state"] == "refused"
