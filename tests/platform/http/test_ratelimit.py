"""Rate limits as clients meet them."""

import dataclasses
import time
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from limits import parse_many
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog.testing import capture_logs

from horde.platform.http import limited, relax
from horde.platform.http.ratelimit import CountedLimit
from horde.platform.local_cache import LocalCache
from horde.platform.runtime import Platform
from tests.platform.http.conftest import SERVICE, make_app


def calls(client: FlaskClient, path: str, **changes: Any) -> int:
    """How often `path` may be called until it is refused, at most 10 times."""
    method = changes.pop("method", "GET")
    address = changes.pop("address", "192.0.2.1")
    for count in range(10):
        answer = client.open(
            f"/api/v2{path}", method=method, environ_overrides={"REMOTE_ADDR": address}, **changes
        )
        if answer.status_code == 429:
            return count
        assert answer.status_code == 200
    return 10


def key(value: str) -> dict[str, dict[str, str]]:
    return {"headers": {"apikey": value}}


def test_default_limit_counts_a_route_whatever_the_id(client: FlaskClient) -> None:
    for number in range(90):
        answer = client.get(f"/api/v2/deliveries/{number}")
        assert answer.status_code == 200
    assert answer.headers["X-RateLimit-Limit"] == "90"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert client.get("/api/v2/deliveries/x").status_code == 429
    assert client.get("/api/v2/deliveries").status_code == 200
    assert client.get("/page").headers["X-RateLimit-Remaining"] == "89"


def test_refusal_tells_the_limit_and_when_it_ends(client: FlaskClient) -> None:
    assert calls(client, "/limit_address/1") == 2
    answer = client.get("/api/v2/limit_address/1", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == 429
    assert answer.json == {"message": "2 per 1 hour", "rc": "TooManyRequests"}
    assert answer.headers["X-RateLimit-Limit"] == "2"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert abs(int(answer.headers["X-RateLimit-Reset"]) - time.time() - 3600) < 60
    assert 3500 < int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_address_limit_is_shared_by_ids_and_methods(client: FlaskClient) -> None:
    assert calls(client, "/limit_address/1") == 2
    assert calls(client, "/limit_address/2") == 0
    assert calls(client, "/limit_address/1", method="POST") == 0
    assert calls(client, "/limit_address/1", address="192.0.2.2") == 2


def test_path_limit_is_separate_by_id_and_method(client: FlaskClient) -> None:
    assert calls(client, "/limit_path/1") == 2
    assert calls(client, "/limit_path/2") == 2
    assert calls(client, "/limit_path/1", method="POST") == 2
    assert calls(client, "/limit_path/1", address="192.0.2.2") == 2


def test_key_limit_follows_the_key(client: FlaskClient) -> None:
    assert calls(client, "/limit_key/1", **key("a")) == 2
    assert calls(client, "/limit_key/1", address="192.0.2.2", **key("a")) == 0
    assert calls(client, "/limit_key/1", **key("b")) == 2
    assert calls(client, "/limit_key/1") == 3
    assert calls(client, "/limit_key/1", **key("0000000000")) == 0


def test_worker_limit_is_by_key_and_address(client: FlaskClient) -> None:
    assert calls(client, "/limit_worker", **key("a")) == 1
    assert calls(client, "/limit_worker", **key("b")) == 1
    assert calls(client, "/limit_worker", address="192.0.2.2", **key("a")) == 1
    assert calls(client, "/limit_worker", **key("a")) == 0


def test_all_limits_of_a_route_hold(client: FlaskClient) -> None:
    assert calls(client, "/limit_both", **key("a")) == 2
    assert calls(client, "/limit_both", **key("b")) == 1
    refused = client.get("/api/v2/limit_both", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
    assert refused.json["message"] == "3 per 1 day"


def test_methods_of_one_route_may_have_their_own_limits(client: FlaskClient) -> None:
    assert calls(client, "/limit_writes") == 10
    assert calls(client, "/limit_writes", method="POST") == 2


@pytest.mark.parametrize("path", ["/limit_address/1", "/limit_path/1", "/limit_worker"])
def test_addresses_of_one_customer_count_together(client: FlaskClient, path: str) -> None:
    most = calls(client, path, address="2001:db8:1:2::1")
    assert most
    assert calls(client, path, address="2001:db8:1:2:ffff::9") == 0
    assert calls(client, path, address="2001:db8:1:3::1") == most


def test_service_addresses_have_relaxed_limits(client: FlaskClient) -> None:
    assert calls(client, "/limit_path/1", address=SERVICE) == 4


def test_an_address_can_be_relaxed_on_all_nodes(client: FlaskClient, platform: Platform) -> None:
    relax(platform, "192.0.2.7")
    assert calls(client, "/limit_path/1", address="192.0.2.7") == 4
    other = dataclasses.replace(platform, local=LocalCache(platform.cache))
    assert calls(make_app(other).test_client(), "/limit_path/2", address="192.0.2.7") == 4
    assert calls(client, "/limit_path/1", address="192.0.2.8") == 2
    assert 86_000 < platform.cache.ttl("relaxed:192.0.2.7") <= 86_400


def test_relaxing_takes_effect_at_once_here(client: FlaskClient, platform: Platform) -> None:
    assert calls(client, "/limit_path/1", address="192.0.2.7") == 2
    relax(platform, "192.0.2.7")
    assert calls(client, "/limit_path/1", address="192.0.2.7") == 1, "the three calls so far still count"


def test_unlimited_routes_have_no_headers(client: FlaskClient) -> None:
    for _ in range(100):
        answer = client.get("/api/v2/whoami")
        assert answer.status_code == 200
    assert "X-RateLimit-Limit" not in answer.headers


def test_rejected_requests_count(client: FlaskClient) -> None:
    first = client.post("/api/v2/deliveries", data=b"{")
    second = client.get("/api/v2/deliveries")
    assert (first.headers["X-RateLimit-Remaining"], second.headers["X-RateLimit-Remaining"]) == ("89", "88")


def test_a_longer_retry_after_of_an_error_stands(client: FlaskClient) -> None:
    for _ in range(2):
        answer = client.get("/api/v2/deliveries/maintenance")
    assert int(answer.headers["Retry-After"]) in (59, 60)


def test_an_answer_that_took_longer_than_the_period_is_not_told_to_wait_less_than_nothing(app: Flask) -> None:
    limiter = next(iter(app.extensions["limiter"]))
    long_ago = CountedLimit(limiter, parse_many("2/second")[0], 1, time.time() - 30)
    assert long_ago.reset_at >= time.time()
    soon = time.time() + 30
    assert abs(CountedLimit(limiter, parse_many("2/hour")[0], 1, soon).reset_at - soon) <= 2


def test_one_question_to_valkey_per_request(client: FlaskClient, platform: Platform) -> None:
    def questions() -> int:
        statistics = platform.cache.info("commandstats")
        inside = {"cmdstat_incr", "cmdstat_expire", "cmdstat_pttl", "cmdstat_info"}
        return sum(entry["calls"] for name, entry in statistics.items() if name not in inside)

    client.get("/api/v2/limit_both")
    before = questions()
    client.get("/api/v2/limit_both")
    assert questions() - before == 1


def test_counters_name_neither_key_nor_address(client: FlaskClient, platform: Platform) -> None:
    calls(client, "/limit_worker", **key("mysecretkey"))
    names = b" ".join(platform.cache.keys("*"))
    assert b"limit:" in names
    assert b"mysecretkey" not in names
    assert b"192.0.2" not in names


def test_counters_do_not_outlive_their_window(client: FlaskClient, platform: Platform) -> None:
    client.get("/api/v2/limit_both")
    lifetimes = sorted(platform.cache.ttl(name) for name in platform.cache.keys("limit:*"))
    assert [round(lifetime / 60) for lifetime in lifetimes] == [1, 60, 1440]


def test_requests_are_served_while_valkey_is_away(platform: Platform) -> None:
    away = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    client = make_app(dataclasses.replace(platform, cache=away, local=LocalCache(away))).test_client()
    with capture_logs() as logs:
        for _ in range(5):
            answer = client.get("/api/v2/limit_path/1")
            assert answer.status_code == 200
            assert "X-RateLimit-Limit" not in answer.headers
    assert [entry["log_level"] for entry in logs] == ["warning"], "told once, not with every request"


def test_limits_return_after_valkey_forgot_its_scripts(client: FlaskClient, platform: Platform) -> None:
    client.get("/api/v2/limit_address/1")
    platform.cache.script_flush()
    assert client.get("/api/v2/limit_address/1").headers["X-RateLimit-Remaining"] == "0"


def test_relaxed_limits_must_match(app: Flask) -> None:
    with pytest.raises(ValueError, match="periods"):
        limited("90/minute;2/second", relaxed="300/minute")
