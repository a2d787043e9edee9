"""Teams: founding, showing, changing and dissolving them."""

from typing import Any

import pytest

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import MODEL, SDXL, Account, Horde, assert_refused, change, in_threads, scalar, unchanged

NOBODY = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def founder(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="Founder")


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def team(horde: Horde, founder: Account) -> str:
    """The id of the founder's team 'Night Owls'."""
    return founded(horde, founder, name="Night Owls", info="We work at night")


def post(horde: Horde, key: Account | str | None, **fields: Any) -> Any:
    return horde.call("POST", "/teams", key, json=fields)


def founded(horde: Horde, key: Account, **fields: Any) -> str:
    """The id of a new team."""
    response = post(horde, key, **fields)
    assert response.status_code == 200, response.json
    return str(response.json["id"])


def shown(horde: Horde, team: str) -> dict[str, Any]:
    """A team, which is the same in the list."""
    found: dict[str, Any] = horde.call("GET", f"/teams/{team}").json
    assert found in horde.call("GET", "/teams").json
    return found


def join(horde: Horde, key: Account, team: str, name: str = "worker") -> str:
    """The id of a worker that joined a team."""
    assert horde.pop(key, name).status_code == 200
    worker = str(horde.call("GET", f"/workers/name/{name}").json["id"])
    assert horde.call("PUT", f"/workers/{worker}", key, json={"team": team}).status_code == 200
    return worker


class TestFounding:
    def test_trusted_accounts_may(self, horde: Horde, founder: Account) -> None:
        response = post(horde, founder, name=" Night Owls ", info=" We work at night ")
        assert response.status_code == 200
        assert response.json == {
            "id": response.json["id"],
            "name": "Night Owls",
            "info": "We work at night",
        }
        assert post(horde, founder, name="Early Birds").json.keys() == {"id", "name"}

    def test_moderators_may(self, horde: Horde, moderator: Account) -> None:
        founded(horde, moderator, name="Crew")

    def test_others_may_not(self, horde: Horde, team: str) -> None:
        """They are told before anything about the name is."""
        other = horde.account()
        with unchanged(horde.platform):
            missing = post(horde, None, name="Night Owls")
            assert missing.json["errors"].keys() == {"apikey"}
            assert_refused(post(horde, "no account has this", name="Night Owls"), 401, "InvalidAPIKey")
            assert_refused(post(horde, ANONYMOUS_KEY, name="Night Owls"), 403, "AnonForbidden")
            assert_refused(post(horde, other, name="Night Owls"), 403, "UntrustedTeamCreation")

    @pytest.mark.parametrize(
        ("fields", "rc"),
        [
            ({"name": "night OWLS"}, "TeamNameAlreadyExists"),
            ({"name": "night owls", "info": "shit"}, "TeamNameAlreadyExists"),
            ({"name": "Shit Owls"}, "ProfaneTeamName"),
            ({"name": "Shit Owls", "info": "shit"}, "ProfaneTeamName"),
            ({"name": "Owls", "info": "what a shit place"}, "ProfaneTeamInfo"),
            ({"name": "\u200b" * 5}, "BadRequest"),
            ({"name": "Night\u202eOwls"}, "BadRequest"),
            ({"name": "Night\nOwls"}, "BadRequest"),
        ],
    )
    def test_names_that_cannot_be(
        self, horde: Horde, founder: Account, team: str, fields: dict[str, Any], rc: str
    ) -> None:
        with unchanged(horde.platform):
            assert_refused(post(horde, founder, **fields), 400, rc)

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({}, "name"),
            ({"name": "ab"}, "name"),
            ({"name": " ab "}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"name": "Owls", "info": "ab"}, "info"),
            ({"name": "Owls", "info": "x" * 1001}, "info"),
        ],
    )
    def test_bodies_that_do_not_fit(
        self, horde: Horde, founder: Account, fields: dict[str, Any], field: str
    ) -> None:
        response = post(horde, founder, **fields)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}

    def test_of_several_with_one_name_one_is_founded(self, horde: Horde, founder: Account) -> None:
        clients = [horde.client.application.test_client() for _ in range(4)]

        def found(number: int) -> int:
            headers = {"apikey": founder.key}
            name = ("Owls", "OWLS")[number % 2]
            return clients[number].post("/api/v2/teams", headers=headers, json={"name": name}).status_code

        assert sorted(in_threads(4, found)) == [200, 400, 400, 400]
        assert scalar(horde.platform, "SELECT count(*) FROM teams") == 1


class TestShowing:
    def test_a_new_team(self, horde: Horde, founder: Account, team: str) -> None:
        assert shown(horde, team) == {
            "id": team,
            "name": "Night Owls",
            "info": "We work at night",
            "creator": founder.alias,
            "requests_fulfilled": 0,
            "contributions": 0,
            "kudos": 0,
            "uptime": 0,
            "worker_count": 0,
            "performance": 0,
            "speed": 0,
            "workers": [],
            "models": [],
        }

    def test_info_that_was_never_set_is_empty(self, horde: Horde, founder: Account) -> None:
        assert shown(horde, founded(horde, founder, name="Owls"))["info"] == ""

    def test_members_and_totals(self, horde: Horde, founder: Account, team: str) -> None:
        other = horde.account()
        first = join(horde, founder, team)
        second = join(horde, other, team, "second")
        third = join(horde, other, team, "third")
        change(
            horde.platform,
            "UPDATE workers SET speed = CASE name WHEN 'worker' THEN 1000000 ELSE 2300000 END,"
            " models = CASE name WHEN 'worker' THEN ARRAY[:first] ELSE ARRAY[:first, :second] END",
            first=MODEL,
            second=SDXL,
        )
        change(
            horde.platform,
            "UPDATE workers SET last_seen = now() - interval '1 day' WHERE name = 'third'",
        )
        change(
            horde.platform,
            "UPDATE teams SET fulfilments = 7, contributions = 12345678, kudos = 99.5, uptime = 1200",
        )
        found = shown(horde, team)
        assert found["workers"] == [
            {"type": "image", "name": "worker", "id": first, "online": True},
            {"type": "image", "name": "second", "id": second, "online": True},
            {"type": "image", "name": "third", "id": third, "online": False},
        ]
        assert found["worker_count"] == 3
        assert found["models"] == [{"name": MODEL, "count": 3}, {"name": SDXL, "count": 2}]
        assert (found["performance"], found["speed"]) == (1.6, 3.3)
        assert (found["requests_fulfilled"], found["contributions"]) == (7, 12.35)
        assert (found["kudos"], found["uptime"]) == (99.5, 1200)

    def test_hidden_models_are_not_counted(self, horde: Horde, founder: Account, team: str) -> None:
        join(horde, founder, team)
        change(horde.platform, "UPDATE workers SET models = ARRAY['horde_special::somebody#1']")
        assert shown(horde, team)["models"] == []

    def test_anybody_may_look(self, horde: Horde, team: str, moderator: Account) -> None:
        """Also with an ordinary key, which clients send along."""
        found = shown(horde, team)
        for key in (ANONYMOUS_KEY, horde.account(), moderator):
            assert horde.call("GET", f"/teams/{team}", key).json == found
        assert_refused(horde.call("GET", f"/teams/{team}", "no account has this"), 401, "InvalidAPIKey")

    @pytest.mark.parametrize("team_id", [NOBODY, "nonsense"])
    def test_unknown_teams(self, horde: Horde, founder: Account, team_id: str) -> None:
        """They are told before anything about the key is."""
        path = f"/teams/{team_id}"
        for key in (None, "no account has this", founder):
            assert_refused(horde.call("GET", path, key), 404, "TeamNotFound")
            assert_refused(horde.call("PATCH", path, key, json={}), 404, "TeamNotFound")
            assert_refused(horde.call("DELETE", path, key), 404, "TeamNotFound")

    def test_masks(self, horde: Horde, team: str) -> None:
        assert horde.call("GET", "/teams", headers={"X-Fields": "name"}).json == [{"name": "Night Owls"}]
        assert horde.call("GET", "/teams").json == [shown(horde, team)]


class TestChanging:
    def patch(self, horde: Horde, team: str, key: Account | str | None, **fields: Any) -> Any:
        return horde.call("PATCH", f"/teams/{team}", key, json=fields)

    @pytest.mark.parametrize("who", ["founder", "moderator"])
    def test_founders_and_moderators_may(
        self, horde: Horde, founder: Account, moderator: Account, team: str, who: str
    ) -> None:
        key = founder if who == "founder" else moderator
        response = self.patch(horde, team, key, info="new info")
        assert (response.status_code, response.json) == (
            200,
            {"id": team, "name": "Night Owls", "info": "new info"},
        )
        assert self.patch(horde, team, key, name="Day Owls").json == {"id": team, "name": "Day Owls"}
        found = shown(horde, team)
        assert (found["name"], found["info"]) == ("Day Owls", "new info")

    def test_the_own_name_is_free(self, horde: Horde, founder: Account, team: str) -> None:
        assert self.patch(horde, team, founder, name="NIGHT OWLS").json["name"] == "NIGHT OWLS"

    def test_workers_show_the_new_name(self, horde: Horde, founder: Account, team: str) -> None:
        join(horde, founder, team)
        horde.call("GET", "/workers")
        self.patch(horde, team, founder, name="Day Owls")
        assert horde.call("GET", "/workers").json[0]["team"] == {"id": team, "name": "Day Owls"}

    def test_others_may_not(self, horde: Horde, team: str) -> None:
        other = horde.account(Role.TRUSTED)
        with unchanged(horde.platform):
            for key in (other, ANONYMOUS_KEY):
                assert_refused(self.patch(horde, team, key, info="mine"), 403, "NotOwner")
                assert_refused(self.patch(horde, team, key, name="mine"), 403, "NotModerator")
                assert_refused(self.patch(horde, team, key, name="mine", info="mine"), 403, "NotOwner")
            assert self.patch(horde, team, None, info="mine").json["errors"].keys() == {"apikey"}
            assert_refused(self.patch(horde, team, "no account has this", info="mine"), 401, "InvalidAPIKey")

    @pytest.mark.parametrize(
        ("fields", "rc"),
        [
            ({}, "NoTeamModSelected"),
            ({"unheard_of": 1}, "NoTeamModSelected"),
            ({"info": "what a shit place"}, "ProfaneTeamInfo"),
            ({"name": "Shit Owls"}, "ProfaneTeamName"),
            ({"name": "EARLY birds"}, "TeamNameAlreadyExists"),
            ({"name": "Early Birds", "info": "new info"}, "TeamNameAlreadyExists"),
            ({"name": "Night\u2066Owls", "info": "new info"}, "BadRequest"),
        ],
    )
    def test_what_cannot_be(
        self, horde: Horde, founder: Account, team: str, fields: dict[str, Any], rc: str
    ) -> None:
        founded(horde, founder, name="Early Birds")
        with unchanged(horde.platform):
            assert_refused(self.patch(horde, team, founder, **fields), 400, rc)

    @pytest.mark.parametrize("fields", [{"name": "ab"}, {"name": None}, {"info": ""}])
    def test_bodies_that_do_not_fit(
        self, horde: Horde, founder: Account, team: str, fields: dict[str, Any]
    ) -> None:
        assert self.patch(horde, team, founder, **fields).json["errors"].keys() == fields.keys()


class TestDissolving:
    @pytest.mark.parametrize("who", ["founder", "moderator"])
    def test_founders_and_moderators_may(
        self, horde: Horde, founder: Account, moderator: Account, team: str, who: str
    ) -> None:
        worker = join(horde, horde.account(), team)
        horde.call("GET", "/workers")
        key = founder if who == "founder" else moderator
        response = horde.call("DELETE", f"/teams/{team}", key)
        assert (response.status_code, response.json) == (
            200,
            {"deleted_id": team, "deleted_name": "Night Owls"},
        )
        assert horde.call("GET", "/teams").json == []
        assert horde.call("GET", f"/workers/{worker}").json["team"] == {"id": None, "name": None}
        assert horde.call("GET", "/workers").json[0]["team"] == {"id": None, "name": None}

    def test_others_may_not(self, horde: Horde, team: str) -> None:
        path = f"/teams/{team}"
        other = horde.account(Role.TRUSTED)
        with unchanged(horde.platform):
            for key in (other, ANONYMOUS_KEY):
                assert_refused(horde.call("DELETE", path, key), 403, "NotModerator")
            assert horde.call("DELETE", path).json["errors"].keys() == {"apikey"}
            assert_refused(horde.call("DELETE", path, "no account has this"), 401, "InvalidAPIKey")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", f"/{NOBODY}"), ("PATCH", f"/{NOBODY}"), ("DELETE", f"/{NOBODY}")],
)
def test_limits(horde: Horde, method: str, path: str) -> None:
    values = {"json": {}} if method in ("POST", "PATCH") else {}
    statuses = [
        horde.client.open(f"/api/v2/teams{path}", method=method, **values).status_code for _ in range(31)
    ]
    assert 429 not in statuses[:30]
    assert statuses[30] == 429
