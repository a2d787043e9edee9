"""What is shown of workers, and to whom."""

from typing import Any
from urllib.parse import quote

import pytest

from horde.users import suspicions
from horde.users.rules import ANONYMOUS_KEY, Reason, Role
from horde.workers import heartbeats
from tests.support import (
    AGENT,
    MODEL,
    Account,
    Horde,
    assert_refused,
    change,
    counted_statements,
    forget,
    scalar,
)

EVERYBODY = {
    "type", "name", "id", "online", "requests_fulfilled", "uncompleted_jobs", "kudos_rewards",
    "kudos_details", "performance", "threads", "uptime", "maintenance_mode", "nsfw", "trusted", "flagged",
    "team", "bridge_agent", "models", "max_pixels", "megapixelsteps_generated", "img2img", "painting",
    "post-processing", "post_processors", "samplers", "max_batch", "lora", "controlnet", "sdxl_controlnet",
}  # fmt: skip
PUBLIC_WORKERS = EVERYBODY | {"owner", "messages"}
OWNER = PUBLIC_WORKERS | {"ipaddr", "contact"}
MODERATOR = OWNER | {"paused", "suspicious"}


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of the worker 'worker', who can be reached."""
    owner = horde.account(Role.TRUSTED, username="Owner")
    change(horde.platform, "UPDATE users SET contact = 'me@example.com' WHERE id = :id", id=owner.id)
    assert horde.pop(owner).status_code == 200
    return owner


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


def shown(horde: Horde, key: Account | str | None = None, name: str = "worker") -> dict[str, Any]:
    """What somebody sees of a worker, which is the same in all three places."""
    by_name = horde.call("GET", f"/workers/name/{name}", key)
    assert by_name.status_code == 200, by_name.json
    found: dict[str, Any] = by_name.json
    assert horde.call("GET", f"/workers/{found['id']}", key).json == found
    assert horde.call("GET", f"/workers?name={name.upper()}", key).json == [found]
    assert horde.call("GET", "/workers", key).json == [found]
    return found


class TestPrivileges:
    @pytest.mark.parametrize("key", [None, ANONYMOUS_KEY, "no account has this", "0" * 22])
    def test_everybody_sees_what_a_worker_does(self, horde: Horde, owner: Account, key: str | None) -> None:
        assert shown(horde, key).keys() == EVERYBODY

    def test_other_accounts_see_no_more(self, horde: Horde, owner: Account) -> None:
        other = horde.account(Role.TRUSTED, Role.CUSTOMIZER, Role.SPECIAL)
        assert shown(horde, other).keys() == EVERYBODY

    def test_owners_see_who_they_are(self, horde: Horde, owner: Account) -> None:
        found = shown(horde, owner)
        assert found.keys() == OWNER
        assert found["owner"] == owner.alias
        assert found["contact"] == "me@example.com"
        assert found["ipaddr"] == "127.0.0.1"
        assert found["messages"] == []

    def test_moderators_see_what_speaks_against_it(
        self, horde: Horde, owner: Account, moderator: Account
    ) -> None:
        with horde.platform.engine.begin() as db:
            worker_id = scalar(horde.platform, "SELECT id FROM workers")
            for _ in range(2):
                suspicions.report(db, owner.id, Reason.UNREASONABLY_FAST, worker_id)
            suspicions.report(db, owner.id, Reason.CORRUPT_PROMPT)
        found = shown(horde, moderator)
        assert found.keys() == MODERATOR
        assert (found["paused"], found["suspicious"]) == (False, 2)

    def test_workers_may_be_public(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE users SET public_workers = true WHERE id = :id", id=owner.id)
        found = shown(horde)
        assert found.keys() == PUBLIC_WORKERS
        assert found["owner"] == owner.alias

    def test_nobody_sees_the_details_that_another_one_has_just_been_shown(
        self, horde: Horde, owner: Account, moderator: Account
    ) -> None:
        other = horde.account()
        for key, keys in ((moderator, MODERATOR), (owner, OWNER), (other, EVERYBODY), (None, EVERYBODY)) * 2:
            assert horde.call("GET", "/workers", key).json[0].keys() == keys

    def test_owners_see_more_of_their_own_workers_only(self, horde: Horde, owner: Account) -> None:
        other = horde.account()
        horde.pop(other, "another")
        found = {each["name"]: each.keys() for each in horde.call("GET", "/workers", other).json}
        assert found == {"another": OWNER - {"contact"}, "worker": EVERYBODY}

    def test_without_an_address_or_contact_they_are_left_out(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE users SET contact = NULL")
        change(horde.platform, "UPDATE workers SET ipaddr = ''")
        assert shown(horde, owner).keys() == PUBLIC_WORKERS


class TestAbilities:
    def test_settings_and_software_tell_what_it_can_do(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, allow_lora=True, allow_controlnet=True, amount=4, threads=2, nsfw=False)
        found = horde.call("GET", "/workers/name/worker").json
        expected = {
            "lora": True,
            "controlnet": True,
            "sdxl_controlnet": False,
            "img2img": True,
            "painting": True,
            "post-processing": True,
            "max_batch": 4,
            "threads": 2,
            "nsfw": False,
            "models": [MODEL],
            "bridge_agent": AGENT,
        }
        assert {key: found[key] for key in expected} == expected
        assert {"GFPGAN", "RealESRGAN_x4plus", "strip_background"} <= set(found["post_processors"])
        assert {"k_euler_a", "k_dpmpp_2m", "DDIM"} <= set(found["samplers"])

    def test_what_is_not_allowed_is_not_shown(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, allow_post_processing=False, allow_img2img=False, allow_painting=False)
        found = horde.call("GET", "/workers/name/worker").json
        for ability in ("post-processing", "img2img", "painting"):
            assert found[ability] is False
        assert found["post_processors"] == []

    def test_what_the_software_lacks_is_not_shown(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, bridge_agent="somebody's own:1:https://example.com")
        found = horde.call("GET", "/workers/name/worker").json
        assert (found["img2img"], found["painting"], found["post_processors"]) == (False, False, [])

    def test_a_batch_that_was_never_told_is_left_out(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE workers SET amount = NULL")
        assert "max_batch" not in horde.call("GET", "/workers/name/worker").json
        forget(horde.platform)
        horde.pop(owner)
        heartbeats.fold_heartbeats(horde.platform)
        assert horde.call("GET", "/workers/name/worker").json["max_batch"] == 1

    def test_the_work_done(self, horde: Horde, owner: Account) -> None:
        change(
            horde.platform,
            "UPDATE workers SET speed = 1234567, contributions = 7900000, fulfilments = 3, uptime = 60,"
            " kudos_generated = 10.5, kudos_uptime = 50, uncompleted_jobs = 2",
        )
        found = horde.call("GET", "/workers/name/worker").json
        expected = {
            "performance": "1.2 megapixelsteps per second",
            "megapixelsteps_generated": 7,
            "requests_fulfilled": 3,
            "uptime": 60,
            "kudos_rewards": 60.5,
            "kudos_details": {"generated": 10.5, "uptime": 50},
            "uncompleted_jobs": 2,
        }
        assert {key: found[key] for key in expected} == expected

    @pytest.mark.parametrize(
        ("kind", "delivered", "performance", "extra"),
        [
            ("text", 0, "No requests fulfilled yet", {"models", "tokens_generated"}),
            ("text", 5, "12.5 tokens per second", {"models", "tokens_generated"}),
            ("interrogation", 5, "12.5 seconds per form", {"forms"}),
        ],
    )
    def test_other_types(
        self, horde: Horde, owner: Account, kind: str, delivered: int, performance: str, extra: set[str]
    ) -> None:
        change(
            horde.platform,
            "UPDATE workers SET kind = :kind, speed = 12.5, fulfilments = :delivered, nsfw = true",
            kind=kind,
            delivered=delivered,
        )
        found = horde.call("GET", "/workers/name/worker").json
        image_only = {
            "max_pixels", "megapixelsteps_generated", "img2img", "painting", "post-processing",
            "post_processors", "samplers", "max_batch", "lora", "controlnet", "sdxl_controlnet", "models",
        }  # fmt: skip
        assert found.keys() == EVERYBODY - image_only | extra
        assert found["performance"] == performance
        assert found["nsfw"] is (kind == "text")

    def test_without_a_team_both_keys_are_null(self, horde: Horde, owner: Account) -> None:
        assert horde.call("GET", "/workers/name/worker").json["team"] == {"name": None, "id": None}


class TestFinding:
    def test_offline_workers_are_not_listed_but_found(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE workers SET last_seen = now() - interval '301 seconds'")
        for query in ("", "?name=worker", "?type=image"):
            assert horde.call("GET", f"/workers{query}").json == []
        found = horde.call("GET", "/workers/name/worker").json
        assert found["online"] is False
        assert horde.call("GET", f"/workers/{found['id']}").json == found

    def test_by_type_and_name(self, horde: Horde, owner: Account) -> None:
        for name, kind in (("alchemist", "interrogation"), ("scribe", "text"), ("second", "image")):
            horde.pop(owner, name)
            change(horde.platform, "UPDATE workers SET kind = :kind WHERE name = :name", kind=kind, name=name)

        def names(query: str) -> list[str]:
            return [each["name"] for each in horde.call("GET", f"/workers{query}").json]

        assert names("") == ["worker", "second", "scribe", "alchemist"]
        assert names("?type=image") == ["worker", "second"]
        assert names("?type=text") == ["scribe"]
        assert names("?type=interrogation") == ["alchemist"]
        assert names("?type=text&name=WORKER") == ["worker"]
        assert names("?name=nobody") == []
        assert names("?type=unheard-of") == []
        assert names("") == ["worker", "second", "scribe", "alchemist"]  # a filtered list is not kept as all

    @pytest.mark.parametrize(
        "path",
        ["/workers/00000000-0000-4000-8000-000000000001", "/workers/nonsense", "/workers/name/nobody"],
    )
    def test_unknown_workers(self, horde: Horde, owner: Account, path: str) -> None:
        for key in (None, "no account has this", owner):
            assert_refused(horde.call("GET", path, key), 404, "WorkerNotFound")

    def test_names_are_exact(self, horde: Horde, owner: Account) -> None:
        assert_refused(horde.call("GET", "/workers/name/Worker"), 404, "WorkerNotFound")

    def test_names_may_hold_what_stands_between_parts_of_an_address(
        self, horde: Horde, owner: Account
    ) -> None:
        name = "a/b?c=d#e %2F"
        horde.pop(owner, name)
        assert horde.call("GET", f"/workers/name/{quote(name, safe='')}").json["name"] == name

    def test_masks(self, horde: Horde, owner: Account) -> None:
        mask = {"X-Fields": "name,team{id}"}
        found = horde.call("GET", "/workers", owner, mask).json
        assert found == [{"name": "worker", "team": {"id": None}}]
        assert horde.call("GET", "/workers?name=worker", None, mask).json == found
        assert horde.call("GET", "/workers").json[0].keys() == EVERYBODY

    def test_the_list_is_kept_for_some_seconds(self, horde: Horde, owner: Account) -> None:
        horde.call("GET", "/workers", owner)
        with counted_statements() as sent:
            horde.call("GET", "/workers", owner)
            horde.call("GET", "/workers?type=image")
        assert sent == []

    def test_a_new_worker_is_listed_at_once(self, horde: Horde, owner: Account) -> None:
        assert len(horde.call("GET", "/workers").json) == 1
        horde.pop(owner, "second")
        assert len(horde.call("GET", "/workers").json) == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_limits(horde: Horde, owner: Account, method: str) -> None:
    worker_id = scalar(horde.platform, "SELECT id FROM workers")
    headers = {"apikey": horde.account().key}
    values = {"json": {"info": "x"}} if method == "PUT" else {}
    counts = [
        horde.client.open(
            f"/api/v2/workers/{worker_id}", method=method, headers=headers, **values
        ).status_code
        for _ in range(31)
    ]
    assert 429 not in counts[:30]
    assert counts[30] == 429
