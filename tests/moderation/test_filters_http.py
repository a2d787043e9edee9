"""The moderators' routes for filters, and what they do to prompts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from horde.moderation import service
from horde.moderation.filters import Suspicion
from horde.platform.errors import BadRequest
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import Account, Horde, assert_refused, change, scalar, wait_for_a_blocked_statement

ROUTES = [
    ("GET", "/filters", None),
    ("PUT", "/filters", {"regex": "rose", "filter_type": 10}),
    ("POST", "/filters", {"prompt": "a rose"}),
    ("GET", "/filters/regex", None),
    ("GET", "/filters/1", None),
    ("PATCH", "/filters/1", {"regex": "rose"}),
    ("DELETE", "/filters/1", None),
]
SLOW, SLOW_PROMPT = r"(?:a|aa)+$", "a" * 300 + " b"


@pytest.fixture
def put(horde: Horde, moderator: Account) -> Any:
    """Adds a filter and returns it."""

    def put(regex: str, filter_type: int = 10, **fields: Any) -> dict[str, Any]:
        content = {"regex": regex, "filter_type": filter_type} | fields
        response = horde.call("PUT", "/filters", moderator, json=content)
        assert response.status_code == 200, response.json
        return dict(response.json)

    return put


def score(horde: Horde, moderator: Account, prompt: str, **fields: Any) -> tuple[str, list[str]]:
    response = horde.call("POST", "/filters", moderator, json={"prompt": prompt} | fields)
    assert response.status_code == 200, response.json
    return response.json["suspicion"], response.json["matches"]


class TestAccess:
    @pytest.mark.parametrize(("method", "path", "content"), ROUTES)
    def test_only_moderators_may(self, horde: Horde, method: str, path: str, content: Any) -> None:
        values = {} if content is None else {"json": content}
        assert_refused(horde.call(method, path, ANONYMOUS_KEY, **values), 403, "NotModerator")
        trusted = horde.account(Role.TRUSTED)
        assert_refused(horde.call(method, path, trusted, **values), 403, "NotModerator")
        assert_refused(horde.call(method, path, "nobody's key", **values), 401, "InvalidAPIKey")
        response = horde.call(method, path, **values)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"apikey"}
        assert scalar(horde.platform, "SELECT count(*) FROM filters") == 0

    @pytest.mark.parametrize("filter_id", ["1", "abc", "-1", "1.0", "٣", "9" * 18, "9" * 40])
    def test_unknown_filters(self, horde: Horde, moderator: Account, filter_id: str) -> None:
        for method, values in (("GET", {}), ("PATCH", {"json": {"regex": "a"}}), ("DELETE", {})):
            response = horde.call(method, f"/filters/{filter_id}", moderator, **values)
            assert_refused(response, 404, "FilterNotFound", "no filter")

    def test_an_id_that_is_no_number_needs_no_account(self, horde: Horde) -> None:
        assert_refused(horde.call("GET", "/filters/abc", "nobody's key"), 404, "FilterNotFound")

    def test_the_route_of_expressions_is_no_id(self, horde: Horde, moderator: Account) -> None:
        assert horde.call("GET", "/filters/regex", moderator).status_code == 200


class TestKeeping:
    def test_a_filter_is_added_and_shown(self, horde: Horde, moderator: Account, put: Any) -> None:
        added = put("rose|tulip", 11, description="Flowers", replacement="grass")
        expected = {
            "regex": "rose|tulip",
            "filter_type": 11,
            "description": "Flowers",
            "replacement": "grass",
            "user": moderator.alias,
        }
        assert added == {"id": added["id"], **expected}
        assert added["id"].isdecimal()
        assert horde.call("GET", f"/filters/{added['id']}", moderator).json == added
        assert horde.call("GET", "/filters", moderator).json == [added]

    def test_what_is_not_given_is_left_out(self, put: Any) -> None:
        assert put("rose").keys() == {"id", "regex", "filter_type", "replacement", "user"}

    def test_the_same_filter_is_not_added_again(self, horde: Horde, put: Any) -> None:
        first = put("rose", description="First")
        assert put("rose", description="Second", replacement="x") == first
        assert put("rose", 20)["id"] != first["id"]
        assert put("Rose")["id"] != first["id"]
        assert scalar(horde.platform, "SELECT count(*) FROM filters") == 3

    def test_moderators_at_the_same_moment_add_one(self, horde: Horde, moderator: Account) -> None:
        new = service.PutNewFilter(regex="rose", filter_type=10)
        with ThreadPoolExecutor(1) as pool:
            with horde.platform.engine.begin() as db:
                db.execute(text("INSERT INTO filters (regex, filter_type) VALUES ('rose', 10)"))
                second = pool.submit(service.add_filter, horde.platform, moderator.key, new)
                wait_for_a_blocked_statement(horde.platform)
            assert second.result().id == str(scalar(horde.platform, "SELECT id FROM filters"))

    @pytest.mark.parametrize("regex", ["(", "", "a*", "a|", "(?s)a.b"])
    def test_expressions_that_cannot_be_used(
        self, horde: Horde, moderator: Account, put: Any, regex: str
    ) -> None:
        response = horde.call("PUT", "/filters", moderator, json={"regex": regex, "filter_type": 10})
        assert_refused(response, 400, "BadRequest", "cannot be used")
        if regex:
            response = horde.call("PATCH", f"/filters/{put('rose')['id']}", moderator, json={"regex": regex})
            assert_refused(response, 400, "BadRequest", "cannot be used")
        assert score(horde, moderator, "a lily") == ("0", [])

    @pytest.mark.parametrize(
        ("content", "field"),
        [
            ({"regex": "a"}, "filter_type"),
            ({"filter_type": 10}, "regex"),
            ({"regex": "a", "filter_type": 9}, "filter_type"),
            ({"regex": "a", "filter_type": 30}, "filter_type"),
            ({"regex": "a", "filter_type": "10"}, "filter_type"),
            ({"regex": "a", "filter_type": 10, "replacement": "x" * 256}, "replacement"),
            ({"regex": "a" * 10_001, "filter_type": 10}, "regex"),
        ],
    )
    def test_bodies_that_do_not_fit(
        self, horde: Horde, moderator: Account, content: dict[str, Any], field: str
    ) -> None:
        response = horde.call("PUT", "/filters", moderator, json=content)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}

    def test_a_filter_is_changed(self, horde: Horde, moderator: Account, put: Any) -> None:
        added = put("(rose)", description="Flowers", replacement="grass")
        other = horde.account(Role.MODERATOR, username="Other")
        path = f"/filters/{added['id']}"
        changed = horde.call("PATCH", path, other, json={"regex": "lily", "filter_type": 20}).json
        assert changed == added | {"regex": "lily", "filter_type": 20, "user": other.alias}
        cleared = horde.call("PATCH", path, moderator, json={"description": "", "replacement": ""}).json
        assert cleared.pop("replacement") == ""
        assert cleared == {"id": added["id"], "regex": "lily", "filter_type": 20, "user": moderator.alias}
        assert horde.call("GET", path, moderator).json == cleared | {"replacement": ""}

    @pytest.mark.parametrize("content", [{}, {"regex": ""}, {"unknown": 1}])
    def test_nothing_to_change(
        self, horde: Horde, moderator: Account, put: Any, content: dict[str, Any]
    ) -> None:
        response = horde.call("PATCH", f"/filters/{put('rose')['id']}", moderator, json=content)
        assert_refused(response, 400, "NoFilterModSelected")

    def test_a_replacement_must_fit_the_expression(self, horde: Horde, moderator: Account, put: Any) -> None:
        added = put("(rose)", replacement=r"\1")
        path = f"/filters/{added['id']}"
        for content in ({"regex": "rose"}, {"replacement": r"\2"}):
            assert_refused(
                horde.call("PATCH", path, moderator, json=content), 400, "BadRequest", "replacement"
            )

    def test_a_filter_is_removed(self, horde: Horde, moderator: Account, put: Any) -> None:
        path = f"/filters/{put('rose')['id']}"
        assert score(horde, moderator, "a rose") == ("1", ["rose"])
        assert horde.call("DELETE", path, moderator).json == {"message": "OK"}
        assert score(horde, moderator, "a rose") == ("0", [])
        assert_refused(horde.call("DELETE", path, moderator), 404, "FilterNotFound")

    def test_filters_are_listed_by_type_and_text(self, horde: Horde, moderator: Account, put: Any) -> None:
        put("rose_", 10, description="Flowers")
        put("lily", 11)
        put("wild%", 20, description="all rosés")

        def listed(**query: Any) -> list[str]:
            return [
                each["regex"] for each in horde.call("GET", "/filters", moderator, query_string=query).json
            ]

        assert listed() == ["rose_", "lily", "wild%"]
        assert listed(filter_type=11) == ["lily"]
        assert listed(filter_type=29) == []
        assert listed(contains="ros") == ["rose_", "wild%"]
        assert listed(contains="flow") == []
        assert listed(contains="Flow", filter_type=10) == ["rose_"]
        assert listed(contains="_") == ["rose_"]
        assert listed(contains="%") == ["wild%"]
        response = horde.call("GET", "/filters", moderator, query_string={"filter_type": "x"})
        assert response.json["errors"].keys() == {"filter_type"}

    def test_a_filter_outlives_its_author(self, horde: Horde, moderator: Account, put: Any) -> None:
        added = put("rose")
        change(horde.platform, "UPDATE filters SET user_id = NULL")
        assert horde.call("GET", "/filters", moderator).json == [added | {"user": "a former moderator"}]

    def test_joined_expressions(self, horde: Horde, moderator: Account, put: Any) -> None:
        put("rose|lily")
        removed = put("tulip")
        put("wild", 20)
        put("other", 15)
        found = horde.call("GET", "/filters/regex", moderator).json
        assert found == [
            {"filter_type": 10, "regex": "(?:rose|lily)|(?:tulip)"},
            {"filter_type": 11, "regex": ""},
            {"filter_type": 20, "regex": "(?:wild)"},
        ]
        horde.call("DELETE", f"/filters/{removed['id']}", moderator)
        found = horde.call("GET", "/filters/regex?filter_type=10", moderator).json
        assert found == [{"filter_type": 10, "regex": "(?:rose|lily)"}]
        assert horde.call("GET", "/filters/regex?filter_type=15", moderator).json == []


class TestTrying:
    def test_scores(self, horde: Horde, moderator: Account, put: Any) -> None:
        put("rose")
        put("wild", 20)
        put("tower", 15)
        assert score(horde, moderator, "a tower") == ("0", [])
        assert score(horde, moderator, "a WILD (ro:1.2)se") == ("2", ["rose", "WILD"])
        assert score(horde, moderator, "a tower###wild rose") == ("0", [])
        assert score(horde, moderator, "wild \N{BABY}", filter_type=10) == ("1", ["\N{BABY}"])
        assert score(horde, moderator, "a wild rose", filter_type="20") == ("1", ["wild"])

    @pytest.mark.parametrize("filter_type", [9, 15, "x", True, 10.5])
    def test_types_that_are_not_used(self, horde: Horde, moderator: Account, filter_type: Any) -> None:
        response = horde.call("POST", "/filters", moderator, json={"prompt": "a", "filter_type": filter_type})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"filter_type"}

    def test_a_body_of_another_type_is_none(self, horde: Horde, moderator: Account) -> None:
        response = horde.call("POST", "/filters", moderator, data={"prompt": "a rose"})
        assert response.json["errors"].keys() == {"prompt"}


class TestPrompts:
    """What image requests build on."""

    def test_changes_count_at_once(self, horde: Horde, put: Any) -> None:
        assert service.scan(horde.platform, "a wild rose").score == 0
        put("rose")
        put("wild", 20)
        suspicion = service.scan(horde.platform, "a wild rose")
        assert suspicion == Suspicion(2, ("rose", "wild"), youth=True)

    def test_a_prompt_is_rewritten(self, horde: Horde, put: Any) -> None:
        put("rose", replacement="tree")
        put("very", replacement="")
        prompt = "a (very:1.2) wild rose, with a kid###blurry"
        suspicion = service.scan(horde.platform, prompt)
        steered = "child, infant, underage, immature, teenager, tween, blurry"
        rewritten = service.rewrite(horde.platform, prompt, suspicion, replace_words=False)
        assert rewritten == f"a wild tree with a kid###{steered}"
        rewritten = service.rewrite(horde.platform, prompt, suspicion, replace_words=True)
        assert rewritten == f"a wild tree with a adult###{steered}"

    @pytest.mark.parametrize("prompt", ["rose", "rose!", "", "...", "###a lily"])
    def test_a_prompt_of_which_nothing_is_left_cannot_be_saved(
        self, horde: Horde, put: Any, prompt: str
    ) -> None:
        put("rose", replacement="")
        suspicion = service.scan(horde.platform, prompt)
        assert service.rewrite(horde.platform, prompt, suspicion, replace_words=True) is None

    def test_long_suspicious_prompts_are_not_rewritten(self, horde: Horde) -> None:
        def rewrite(score: int, length: int) -> str | None:
            prompt = "a" * length + "###" + "b" * 8000
            return service.rewrite(horde.platform, prompt, Suspicion(score), replace_words=False)

        assert rewrite(2, 7000)
        assert rewrite(1, 7001)
        with pytest.raises(BadRequest) as error:
            rewrite(2, 7001)
        assert error.value.rc == "BadRequest"

    def test_enormous_prompts_are_not_scanned(self, horde: Horde) -> None:
        service.scan(horde.platform, "a" * 100_000)
        with pytest.raises(BadRequest) as error:
            service.scan(horde.platform, "a" * 100_001)
        assert error.value.rc == "InvalidPromptSize"

    def test_a_slow_filter_is_told_of_once_and_without_its_content(self, horde: Horde, put: Any) -> None:
        added = put(SLOW, replacement="secret")
        with capture_logs() as logs:
            suspicion = service.scan(horde.platform, SLOW_PROMPT)
            with pytest.raises(BadRequest) as error:
                service.rewrite(horde.platform, SLOW_PROMPT, suspicion, replace_words=False)
        assert error.value.rc == "CorruptPrompt"
        assert (suspicion.score, suspicion.undecided) == (1, True)
        assert logs == [
            {"event": "filter exceeds its time", "filter": int(added["id"]), "log_level": "warning"}
        ]

    def test_a_filter_that_got_in_past_the_server_is_left_out(self, horde: Horde, put: Any) -> None:
        put("rose")
        change(horde.platform, "INSERT INTO filters (regex, filter_type) VALUES ('(', 10), ('', 10)")
        with capture_logs() as logs:
            assert service.scan(horde.platform, "a rose").matches == ("rose",)
            assert service.scan(horde.platform, "a lily").score == 0
        assert [each["event"] for each in logs] == ["filter cannot be used"] * 2
        assert all("regex" not in each for each in logs)

    def test_changing_filters_logs_no_content(self, horde: Horde, moderator: Account, put: Any) -> None:
        with capture_logs() as logs:
            added = put("secretword", description="secretword", replacement="secretword")
            horde.call("PATCH", f"/filters/{added['id']}", moderator, json={"regex": "secretword2"})
            horde.call("DELETE", f"/filters/{added['id']}", moderator)
        assert [each["event"] for each in logs] == ["filter added", "filter changed", "filter removed"]
        assert "secretword" not in str(logs)
