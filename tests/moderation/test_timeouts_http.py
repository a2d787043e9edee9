"""Keeping addresses out: the moderators' routes, and what refused prompts lead to."""

import dataclasses
import json
import os
import shutil
from typing import Any
from uuid import uuid4

import pytest
import redis
from sqlalchemy import insert, text
from structlog.testing import capture_logs

from horde.generation import sweep
from horde.moderation import timeouts
from horde.platform.errors import Forbidden
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import ANONYMOUS_KEY, Reason, Role
from horde.workers.tables import Worker
from tests.moderation.conftest import SERVICE
from tests.support import Account, Horde, assert_refused, files, forget

WORKER = "00000000-0000-4000-8000-000000000001"
ROUTES = [
    ("GET", "/operations/ipaddr", None),
    ("POST", "/operations/ipaddr", {"ipaddr": "203.0.113.7", "hours": 1}),
    ("DELETE", "/operations/ipaddr", {"ipaddr": "203.0.113.7"}),
    ("GET", "/operations/ipaddr/203.0.113.7", None),
    ("PUT", f"/operations/block_worker_ipaddr/{WORKER}", {"days": 1}),
    ("DELETE", f"/operations/block_worker_ipaddr/{WORKER}", None),
]
HOUR, DAY = 3600, 24 * 3600
PROMPT = "a corrupt prompt \u00e9"


def seconds(platform: Platform, address: str) -> int:
    """How long an address is kept out, as of now."""
    forget(platform)
    return timeouts.timeout_seconds(platform, address)


def report(horde: Horde, address: str, user: Account | None = None, **values: Any) -> None:
    facts = users.user_facts(horde.platform, user.id if user else 0)
    timeouts.report_corrupt_prompt(horde.platform, facts, address, PROMPT, **values)


def keep_out(horde: Horde, moderator: Account, ipaddr: str, hours: int = 1) -> None:
    response = horde.call("POST", "/operations/ipaddr", moderator, json={"ipaddr": ipaddr, "hours": hours})
    assert (response.status_code, response.json) == (200, {"message": "OK"})


def let_in(horde: Horde, moderator: Account, ipaddr: str) -> None:
    response = horde.call("DELETE", "/operations/ipaddr", moderator, json={"ipaddr": ipaddr})
    assert (response.status_code, response.json) == (200, {"message": "OK"})


def listed(horde: Horde, moderator: Account, path: str = "") -> dict[str, int]:
    """Addresses and blocks, with the hours for which they are kept out."""
    response = horde.call("GET", f"/operations/ipaddr{path}", moderator)
    assert response.status_code == 200, response.json
    return {each["ipaddr"]: -(-each["seconds"] // HOUR) for each in response.json}


def worker_at(horde: Horde, address: str, *roles: Role) -> str:
    """The id of a worker that last called from there, of a new account with these roles."""
    owner, worker_id = horde.account(*roles), uuid4()
    flags = [column.name for column in Worker.__table__.columns if column.type.python_type is bool]
    values = dict.fromkeys(flags, False) | {
        "id": worker_id,
        "kind": "image",
        "owner_id": owner.id,
        "name": str(worker_id),
        "ipaddr": address,
        "bridge_agent": "",
        "threads": 1,
        "models": [],
        "blacklist": [],
        "max_pixels": 1,
        "speed": 1.0,
    }
    with horde.platform.engine.begin() as db:
        db.execute(insert(Worker).values(values))
    return str(worker_id)


class TestAccess:
    @pytest.mark.parametrize(("method", "path", "content"), ROUTES)
    def test_only_moderators_may(self, horde: Horde, method: str, path: str, content: Any) -> None:
        values = {} if content is None else {"json": content}
        assert_refused(horde.call(method, path, ANONYMOUS_KEY, **values), 403, "NotModerator")
        assert_refused(horde.call(method, path, horde.account(Role.TRUSTED), **values), 403, "NotModerator")
        assert_refused(horde.call(method, path, "nobody's key", **values), 401, "InvalidAPIKey")
        response = horde.call(method, path, **values)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"apikey"}
        assert not horde.platform.cache.exists(timeouts.TIMEOUTS)

    @pytest.mark.parametrize("address", ["example.com", "1.2.3.4/33", "1.2.3.4.5", "12345678"])
    def test_what_is_no_address_is_refused_before_the_key(self, horde: Horde, address: str) -> None:
        calls = [
            horde.call("POST", "/operations/ipaddr", "no key", json={"ipaddr": address, "hours": 1}),
            horde.call("DELETE", "/operations/ipaddr", "no key", json={"ipaddr": address}),
        ]
        if "/" not in address:
            calls.append(horde.call("GET", f"/operations/ipaddr/{address}", "no key"))
        for response in calls:
            assert_refused(response, 400, "BadRequest", address)

    @pytest.mark.parametrize(
        ("content", "field"),
        [
            ({"ipaddr": "203.0.113.7"}, "hours"),
            ({"hours": 1}, "ipaddr"),
            ({"ipaddr": "203.0.113.7", "hours": 0}, "hours"),
            ({"ipaddr": "203.0.113.7", "hours": 721}, "hours"),
            ({"ipaddr": ":", "hours": 1}, "ipaddr"),
            ({"ipaddr": "1" * 44, "hours": 1}, "ipaddr"),
        ],
    )
    def test_bodies_that_do_not_fit(
        self, horde: Horde, moderator: Account, content: dict[str, Any], field: str
    ) -> None:
        response = horde.call("POST", "/operations/ipaddr", moderator, json=content)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}


class TestModerators:
    def test_an_address_is_kept_out(self, horde: Horde, moderator: Account) -> None:
        timeouts.check_timeout(horde.platform, "203.0.113.7")
        keep_out(horde, moderator, "203.0.113.7", 2)
        assert timeouts.timeout_seconds(horde.platform, "203.0.113.7") == 2 * HOUR
        with pytest.raises(Forbidden) as error:
            timeouts.check_timeout(horde.platform, "203.0.113.7")
        assert error.value.rc == "TimeoutIP"
        assert f"{2 * HOUR} seconds" in error.value.message
        assert seconds(horde.platform, "203.0.113.8") == 0

    @pytest.mark.parametrize(("hours", "told"), [(96, True), (97, False)])
    def test_long_timeouts_are_not_told(
        self, horde: Horde, moderator: Account, hours: int, told: bool
    ) -> None:
        keep_out(horde, moderator, "203.0.113.7", hours)
        with pytest.raises(Forbidden) as error:
            timeouts.check_timeout(horde.platform, "203.0.113.7")
        assert ("seconds" in error.value.message) == told

    @pytest.mark.parametrize(
        ("block", "inside", "outside"),
        [
            ("203.0.113.7/24", "203.0.113.255", "203.0.114.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:0db8:0000:0000:0000:0000:0000:0001/128", "2001:db8::1", "2001:db8::2"),
            ("0.0.0.0/0", "203.0.113.7", "2001:db8::1"),
            ("::1", "::1", "::2"),
            ("203.0.113.7", "::ffff:203.0.113.7", "::ffff:203.0.113.8"),
        ],
    )
    def test_blocks(self, horde: Horde, moderator: Account, block: str, inside: str, outside: str) -> None:
        keep_out(horde, moderator, block)
        assert seconds(horde.platform, inside) > 0
        assert seconds(horde.platform, outside) == 0
        let_in(horde, moderator, block)
        assert seconds(horde.platform, inside) == 0

    def test_a_longer_timeout_is_never_shortened(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "203.0.113.7", 5)
        keep_out(horde, moderator, "203.0.113.7", 2)
        report(horde, "203.0.113.7")
        assert listed(horde, moderator) == {"203.0.113.7": 5}
        keep_out(horde, moderator, "203.0.113.7", 6)
        assert listed(horde, moderator) == {"203.0.113.7": 6}

    def test_timeouts_are_listed(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "203.0.113.0/24", 3)
        keep_out(horde, moderator, "203.0.0.0/16", 2)
        keep_out(horde, moderator, "203.0.113.7", 1)
        keep_out(horde, moderator, "2001:db8::/64", 4)
        all_of_them = {"203.0.113.7": 1, "203.0.0.0/16": 2, "203.0.113.0/24": 3, "2001:db8::/64": 4}
        assert listed(horde, moderator) == all_of_them
        assert listed(horde, moderator, "/203.0.113.7") == {
            "203.0.0.0/16": 2,
            "203.0.113.0/24": 3,
            "203.0.113.7": 1,
        }
        assert listed(horde, moderator, "/203.0.1.1") == {"203.0.0.0/16": 2}
        assert listed(horde, moderator, "/2001:db8::9") == {"2001:db8::/64": 4}
        assert listed(horde, moderator, "/192.0.2.1") == {}

    def test_what_is_over_is_not_listed(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "203.0.113.7")
        horde.platform.cache.zadd(timeouts.TIMEOUTS, {"4/32/cb007107": 1})
        assert seconds(horde.platform, "203.0.113.7") == 0
        assert listed(horde, moderator) == {}
        assert listed(horde, moderator, "/203.0.113.7") == {}
        keep_out(horde, moderator, "192.0.2.1")
        assert horde.platform.cache.zcard(timeouts.TIMEOUTS) == 1

    def test_letting_an_address_in_forgets_its_offences(self, horde: Horde, moderator: Account) -> None:
        for address in ("203.0.113.7", "2001:db8::1"):
            report(horde, address)
            report(horde, address)
            let_in(horde, moderator, address)
            assert seconds(horde.platform, address) == 0
            report(horde, address)
            assert seconds(horde.platform, address) == 180

    def test_letting_a_block_in_leaves_addresses_in_it_out(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "203.0.113.0/24", 3)
        keep_out(horde, moderator, "203.0.113.7", 1)
        let_in(horde, moderator, "203.0.113.0/24")
        assert listed(horde, moderator) == {"203.0.113.7": 1}


class TestWorkers:
    @pytest.mark.parametrize(
        ("address", "block", "neighbour"),
        [("203.0.113.7", "203.0.113.7", None), ("2001:db8::7", "2001:db8::/64", "2001:db8::8")],
    )
    def test_a_workers_address_is_kept_out(
        self, horde: Horde, moderator: Account, address: str, block: str, neighbour: str | None
    ) -> None:
        path = f"/operations/block_worker_ipaddr/{worker_at(horde, address)}"
        report(horde, address)
        assert horde.call("PUT", path, moderator, json={"days": 3}).json["message"] == "OK"
        assert seconds(horde.platform, address) == 3 * DAY
        assert listed(horde, moderator) == {block: 72}
        if neighbour:
            assert seconds(horde.platform, neighbour) == 3 * DAY
        assert horde.call("DELETE", path, moderator).json == {"message": "OK"}
        assert seconds(horde.platform, address) == 0
        report(horde, address)
        assert seconds(horde.platform, address) == 180

    @pytest.mark.parametrize(
        ("address", "also", "elsewhere"),
        [("203.0.113.7", "203.0.113.7", "203.0.113.8"), ("2001:db8::7", "2001:db8::8", "2001:db8:0:1::7")],
    )
    def test_moderators_are_shown_who_is_affected(
        self, horde: Horde, moderator: Account, address: str, also: str, elsewhere: str
    ) -> None:
        worker, neighbour = worker_at(horde, address), worker_at(horde, also, Role.TRUSTED)
        worker_at(horde, elsewhere)
        worker_at(horde, "")
        path = f"/operations/block_worker_ipaddr/{worker}"
        affected = horde.call("PUT", path, moderator, json={"days": 1}).json["affected"]
        assert [(each["id"], each["trusted"]) for each in affected] == [(worker, False), (neighbour, True)]
        assert affected[0].keys() == {"id", "name", "owner", "trusted"}
        assert affected[0]["name"] == worker
        assert affected[0]["owner"].startswith("Somebody#")

    def test_a_worker_without_an_address_cannot_be_kept_out(self, horde: Horde, moderator: Account) -> None:
        path = f"/operations/block_worker_ipaddr/{worker_at(horde, '')}"
        for response in (
            horde.call("PUT", path, moderator, json={"days": 1}),
            horde.call("DELETE", path, moderator),
        ):
            assert_refused(response, 400, "BadRequest", "address", "not known")

    @pytest.mark.parametrize("worker_id", [WORKER, "abc", "x" * 3000])
    def test_unknown_workers(self, horde: Horde, moderator: Account, worker_id: str) -> None:
        path = f"/operations/block_worker_ipaddr/{worker_id}"
        assert_refused(horde.call("PUT", path, moderator, json={"days": 1}), 404, "WorkerNotFound")
        assert_refused(horde.call("DELETE", path, moderator), 404, "WorkerNotFound")

    @pytest.mark.parametrize("days", [0, 31, "1", None])
    def test_days_that_do_not_fit(self, horde: Horde, moderator: Account, days: Any) -> None:
        path = f"/operations/block_worker_ipaddr/{WORKER}"
        response = horde.call("PUT", path, moderator, json={"days": days})
        assert response.json["errors"].keys() == {"days"}


class TestOffenders:
    def test_timeouts_grow(self, horde: Horde) -> None:
        for minutes in (3, 9, 15, 21, 27):
            report(horde, "203.0.113.7")
            assert seconds(horde.platform, "203.0.113.7") == minutes * 60
        report(horde, "203.0.113.8")
        assert seconds(horde.platform, "203.0.113.8") == 180

    def test_a_timeout_holds_at_once(self, horde: Horde) -> None:
        assert timeouts.timeout_seconds(horde.platform, "203.0.113.7") == 0
        report(horde, "203.0.113.7")
        assert timeouts.timeout_seconds(horde.platform, "203.0.113.7") == 180

    @pytest.mark.parametrize(("address", "kept"), [("203.0.113.7", DAY), (SERVICE, HOUR)])
    def test_offences_are_forgotten(self, horde: Horde, address: str, kept: int) -> None:
        report(horde, address)
        report(horde, address)
        (counter,) = horde.platform.cache.scan_iter("suspicion:*")
        assert kept - 5 < horde.platform.cache.ttl(counter) <= kept

    def test_services_wait_five_minutes_at_most(self, horde: Horde) -> None:
        for expected in (180, 300, 300):
            report(horde, SERVICE)
            assert seconds(horde.platform, SERVICE) == expected

    def test_ipv6_offenders_take_their_64_with_them(self, horde: Horde, moderator: Account) -> None:
        report(horde, "2001:db8::1")
        report(horde, "2001:db8::2")
        assert seconds(horde.platform, "2001:db8::3") == 540
        assert seconds(horde.platform, "2001:db8:0:1::1") == 0
        assert listed(horde, moderator) == {"2001:db8::/64": 1}

    def test_moderators_are_not_kept_out(self, horde: Horde, moderator: Account) -> None:
        report(horde, "203.0.113.7", moderator)
        assert seconds(horde.platform, "203.0.113.7") == 0

    def test_nobody_is_kept_out_unless_punished(self, horde: Horde) -> None:
        report(horde, "203.0.113.7", proxy="192.0.2.1", punish=False)
        assert seconds(horde.platform, "203.0.113.7") == 0
        assert [*horde.platform.cache.scan_iter("suspicion:*")] == [b"suspicion:4/32/c0000201"]

    def test_proxies_are_counted_and_not_kept_out(self, horde: Horde, moderator: Account) -> None:
        with capture_logs() as logs:
            for number in range(12):
                assert not [each for each in logs if each["log_level"] == "warning"]
                report(horde, f"203.0.113.{number}", proxy="192.0.2.1")
        assert [each for each in logs if each["log_level"] == "warning"] == [
            {
                "event": "proxy sends many refused prompts",
                "proxy": "192.0.2.1",
                "user": 0,
                "count": 12,
                "log_level": "warning",
            }
        ]
        assert seconds(horde.platform, "192.0.2.1") == 0
        assert 0 < horde.platform.cache.ttl("suspicion:4/32/c0000201") <= HOUR


class TestRefusedPrompts:
    def kept(self, horde: Horde) -> list[Any]:
        return [json.loads(path.read_bytes()) for path in files(horde.platform)]

    def noted(self, horde: Horde) -> list[tuple[int, int]]:
        with horde.platform.read() as db:
            return [tuple(row) for row in db.execute(text("SELECT user_id, reason FROM suspicions"))]

    def test_they_are_kept_and_their_account_becomes_suspicious(self, horde: Horde) -> None:
        user = horde.account()
        report(horde, "203.0.113.7", user)
        report(horde, "203.0.113.8", user)
        assert self.kept(horde) == [{"prompt": PROMPT, "user": user.alias, "type": "regex"}] * 2
        assert self.noted(horde) == [(user.id, Reason.CORRUPT_PROMPT)]

    def test_those_of_anonymous_are_kept_alone(self, horde: Horde) -> None:
        report(horde, "203.0.113.7")
        assert [each["user"] for each in self.kept(horde)] == ["Anonymous#0"]
        assert self.noted(horde) == []

    def test_nothing_of_moderators_is(self, horde: Horde, moderator: Account) -> None:
        report(horde, "203.0.113.7", moderator)
        assert self.kept(horde) == self.noted(horde) == []

    def test_nothing_is_unless_punished(self, horde: Horde) -> None:
        report(horde, "203.0.113.7", horde.account(), punish=False)
        assert self.kept(horde) == self.noted(horde) == []

    def test_they_go_with_old_pictures(self, horde: Horde) -> None:
        report(horde, "203.0.113.7")
        (path,) = files(horde.platform)
        horde.platform.store.sweep(60, lambda _key: False)
        assert path.exists()
        os.utime(path, (0, 0))
        sweep.delete_old_pictures(horde.platform)
        assert not path.exists()

    def test_a_store_that_fails_does_not_matter(self, horde: Horde) -> None:
        objects = horde.platform.settings.var_dir / "objects"
        shutil.rmtree(objects, ignore_errors=True)
        objects.write_text("in the way")
        user = horde.account()
        try:
            report(horde, "203.0.113.7", user)
        finally:
            objects.unlink()
        assert self.noted(horde) == [(user.id, Reason.CORRUPT_PROMPT)]
        assert seconds(horde.platform, "203.0.113.7") == 180


class TestLookups:
    def test_valkey_is_asked_once_in_two_seconds(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "203.0.0.0/16")
        horde.platform.cache.config_resetstat()
        for _ in range(3):
            assert timeouts.timeout_seconds(horde.platform, "203.0.113.7") > 0
            assert timeouts.timeout_seconds(horde.platform, "192.0.2.1") == 0
        stats = horde.platform.cache.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
        calls.pop("config|resetstat", None)
        assert calls == {"zmscore": 2, "exists": 1}

    @pytest.mark.parametrize("address", ["", "unknown", "1.2.3.4/24x"])
    def test_what_is_no_address_is_not_kept_out(self, horde: Horde, address: str) -> None:
        timeouts.check_timeout(horde.platform, address)
        report(horde, address, proxy=address)
        assert not horde.platform.cache.exists(timeouts.TIMEOUTS)

    def test_without_valkey_nobody_is_kept_out(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "203.0.113.7")
        forget(horde.platform)
        away = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=1)
        horde_without = Horde(horde.client, dataclasses.replace(horde.platform, cache=away))
        with capture_logs() as logs:
            timeouts.check_timeout(horde_without.platform, "203.0.113.7")
            report(horde_without, "203.0.113.7", proxy="192.0.2.1")
        assert [each["event"] for each in logs] == [
            "everybody let in, Valkey does not answer",
            "refused prompt not noted, Valkey does not answer",
        ]
        assert json.dumps(logs)
