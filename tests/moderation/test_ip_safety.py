"""Asking an outside service about addresses: whatever it answers, nothing of it locks people out."""

import dataclasses
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from typing import Any

import pytest
import redis
from pydantic import ValidationError
from structlog.testing import capture_logs

from horde.moderation import ip_safety, modes
from horde.moderation.ip_safety import is_safe
from horde.platform.errors import Forbidden
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role
from tests.https_server import HttpsServer, https_server, reply
from tests.support import Account, Horde, counted_statements, forget, make_settings

ADDRESS = "203.0.113.7"


@pytest.fixture(scope="module")
def module_checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def checker(module_checker: HttpsServer) -> HttpsServer:
    """Takes every address for safe until a test says otherwise."""
    module_checker.received.clear()
    module_checker.answer = reply(body=b"0")
    return module_checker


def platform_with(horde: Horde, **values: Any) -> Platform:
    settings = horde.platform.settings.model_copy(update=values)
    return dataclasses.replace(horde.platform, settings=settings)


@pytest.fixture
def platform(horde: Horde, checker: HttpsServer) -> Platform:
    """A horde that asks the checker."""
    return platform_with(
        horde,
        ip_checker_url=checker.url("/check?ip={address}&flags=m"),
        outbound_networks=(ip_network("127.0.0.0/8"),),
        outbound_ca_file=checker.ca_file,
    )


def asked(checker: HttpsServer) -> list[str]:
    return [each.path for each in checker.received]


class TestVerdicts:
    def test_without_a_checker_everybody_is_safe(self, horde: Horde) -> None:
        assert is_safe(horde.platform, ADDRESS) is True

    @pytest.mark.parametrize(
        ("probability", "safe"),
        [
            (b"0", True),
            (b"0.9299", True),
            (b"0.93", False),
            (b"1", False),
            (b" 0.99\n", False),
            (b"5e-1", True),
        ],
    )
    def test_a_probability_decides(
        self, platform: Platform, checker: HttpsServer, probability: bytes, safe: bool
    ) -> None:
        checker.answer = reply(body=probability)
        assert is_safe(platform, ADDRESS) is safe
        assert asked(checker) == [f"/check?ip={ADDRESS}&flags=m"]

    @pytest.mark.parametrize(
        ("status", "content"),
        [
            (200, b""),
            (200, b"<html>hello"),
            (200, b"NaN"),
            (200, b"inf"),
            (200, b"-3"),
            (200, b"1.1"),
            (200, b"\xff\x00"),
            (200, b"9" * 1_000_000),
            (400, b"0.99"),
            (404, b"0.99"),
            (500, b"0.99"),
            (302, b""),
        ],
    )
    def test_a_broken_checker_locks_nobody_out(
        self, platform: Platform, checker: HttpsServer, status: int, content: bytes
    ) -> None:
        checker.answer = reply(status, content, Location=checker.url("/elsewhere"))
        with capture_logs() as logs:
            assert is_safe(platform, ADDRESS) is True
            forget(platform)
            assert is_safe(platform, ADDRESS) is True
        assert [each["event"] for each in logs] == ["address checker is broken, address taken for safe"]
        assert len(checker.received) == 1

    def test_too_many_questions_leave_it_unknown(self, platform: Platform, checker: HttpsServer) -> None:
        checker.answer = reply(429, b"0.99")
        assert is_safe(platform, ADDRESS) is None
        forget(platform)
        checker.answer = reply(body=b"0.99")
        assert is_safe(platform, ADDRESS) is False

    def test_a_checker_that_breaks_off_leaves_it_unknown(
        self, platform: Platform, checker: HttpsServer
    ) -> None:
        def break_off(handler: BaseHTTPRequestHandler) -> None:
            handler.connection.close()

        checker.answer = break_off
        assert is_safe(platform, ADDRESS) is None

    def test_so_does_a_slow_one(
        self, platform: Platform, checker: HttpsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(handler: BaseHTTPRequestHandler) -> None:
            handler.rfile.read(1)

        monkeypatch.setattr(ip_safety, "CHECK_SECONDS", 0.2)
        checker.answer = never
        assert is_safe(platform, ADDRESS) is None

    @pytest.mark.parametrize("url", ["https://localhost:1/{address}", "https://{address}.hooks.test:9999/"])
    def test_so_does_one_that_cannot_be_reached(self, horde: Horde, url: str) -> None:
        assert is_safe(platform_with(horde, ip_checker_url=url), "2001:db8::1") is None

    @pytest.mark.parametrize("address", ["", "unknown", "203.0.113.7, 192.0.2.1"])
    def test_nothing_is_known_of_what_is_no_address(
        self, platform: Platform, checker: HttpsServer, address: str
    ) -> None:
        assert is_safe(platform, address) is None
        assert asked(checker) == []


class TestMemory:
    def test_verdicts_hold_for_six_hours(self, platform: Platform, checker: HttpsServer) -> None:
        checker.answer = reply(body=b"0.99")
        assert is_safe(platform, ADDRESS) is False
        checker.answer = reply(body=b"0")
        forget(platform)
        assert is_safe(platform, ADDRESS) is False
        assert len(checker.received) == 1
        (key,) = platform.cache.scan_iter("ip_safety:*")
        assert 6 * 3600 - 5 < platform.cache.ttl(key) <= 6 * 3600

    def test_for_seconds_even_the_cache_is_not_asked(self, platform: Platform, checker: HttpsServer) -> None:
        checker.answer = reply(429)
        assert is_safe(platform, ADDRESS) is None
        platform.cache.config_resetstat()
        assert is_safe(platform, ADDRESS) is None
        assert "cmdstat_get" not in platform.cache.info("commandstats")
        assert len(checker.received) == 1

    def test_addresses_are_told_apart(self, platform: Platform, checker: HttpsServer) -> None:
        for address, probability in (("203.0.113.7", b"1"), ("203.0.113.8", b"0"), ("2001:db8::1", b"1")):
            checker.answer = reply(body=probability)
            assert is_safe(platform, address) is (probability == b"0")
        assert asked(checker)[2] == "/check?ip=2001%3Adb8%3A%3A1&flags=m"

    def test_ipv6_addresses_of_one_customer_are_not(self, platform: Platform, checker: HttpsServer) -> None:
        checker.answer = reply(body=b"1")
        assert is_safe(platform, "2001:db8::1") is False
        checker.answer = reply(body=b"0")
        assert is_safe(platform, "2001:db8::2") is False
        assert is_safe(platform, "2001:db8:0:1::1") is True

    def test_without_valkey_everybody_is_safe(self, platform: Platform, checker: HttpsServer) -> None:
        checker.answer = reply(body=b"1")
        away = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=1)
        assert is_safe(dataclasses.replace(platform, cache=away), ADDRESS) is True


@pytest.mark.parametrize(
    ("networks", "address", "safe"),
    [
        ("203.0.113.0/24", ADDRESS, True),
        ("203.0.113.7", ADDRESS, True),
        ("203.0.112.0/24,2001:db8::/32", ADDRESS, False),
        ("203.0.112.0/24,2001:db8::/32", "2001:db8:1::1", True),
        ("203.0.113.0/24", "::ffff:203.0.113.7", True),
        ("::/0", ADDRESS, False),
    ],
)
def test_networks_of_the_operator_are_safe(
    platform: Platform, checker: HttpsServer, networks: str, address: str, safe: bool
) -> None:
    checker.answer = reply(body=b"1")
    parsed = make_settings(platform.settings.var_dir, ip_safe_networks=networks).ip_safe_networks
    settings = platform.settings.model_copy(update={"ip_safe_networks": parsed})
    assert is_safe(dataclasses.replace(platform, settings=settings), address) is safe
    assert bool(checker.received) is not safe


@pytest.mark.parametrize(
    "url", ["http://example.com/{address}", "https://example.com/", "example.com/{address}"]
)
def test_checker_urls_that_cannot_be(horde: Horde, url: str) -> None:
    with pytest.raises(ValidationError):
        make_settings(horde.platform.settings.var_dir, ip_checker_url=url)


class TestRaids:
    def check(self, platform: Platform, user: Account, address: str = ADDRESS) -> bool:
        return ip_safety.check_raid(platform, users.user_facts(platform, user.id), address)

    def test_unsafe_addresses_are_refused(
        self, horde: Horde, platform: Platform, checker: HttpsServer
    ) -> None:
        modes.set_modes(platform, raid=True)
        checker.answer = reply(body=b"1")
        for user in (horde.account(), horde.account(Role.SERVICE)):
            with pytest.raises(Forbidden) as error:
                self.check(platform, user)
            assert error.value.rc == "UntrustedUnsafeIP"

    def test_safe_and_unknown_ones_are_not(
        self, horde: Horde, platform: Platform, checker: HttpsServer
    ) -> None:
        modes.set_modes(platform, raid=True)
        user = horde.account()
        assert self.check(platform, user) is True
        checker.answer = reply(429)
        assert self.check(platform, user, "203.0.113.8") is True
        assert len(checker.received) == 2

    def test_trusted_accounts_are_not_checked(
        self, horde: Horde, platform: Platform, checker: HttpsServer
    ) -> None:
        modes.set_modes(platform, raid=True)
        assert self.check(platform, horde.account(Role.TRUSTED)) is True
        assert asked(checker) == []

    def test_without_a_raid_nobody_is(self, horde: Horde, platform: Platform, checker: HttpsServer) -> None:
        user = horde.account()
        checker.answer = reply(body=b"1")
        self.check(platform, user)
        with counted_statements() as sent:
            assert self.check(platform, user) is True
        assert asked(checker) == sent == []
