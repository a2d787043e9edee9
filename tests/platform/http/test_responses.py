"""How answers look: JSON, field masks, common headers."""

import datetime
import decimal
import json
import uuid

import pytest
from flask.testing import FlaskClient

from horde.platform.errors import BadRequest
from horde.platform.http import Output, to_json
from horde.platform.http.responses import parse_mask
from tests.platform.http.conftest import Part, Reward

REWARD = "/api/v2/deliveries/1"


def test_answer_is_one_line_of_json(client: FlaskClient) -> None:
    answer = client.get(REWARD)
    assert answer.content_type == "application/json; charset=utf-8"
    assert answer.data.endswith(b"}\n")
    assert b'"reward":2.0' in answer.data
    assert answer.json == {
        "reward": 2.0,
        "message": None,
        "parts": [{"name": "x", "amount": None}, {"name": "y", "amount": 1.0}],
    }


def test_schemas_may_leave_out_what_is_none() -> None:
    assert json.loads(to_json(Part(name="x"))) == {"name": "x"}
    assert json.loads(to_json([Part(name="x"), Part(name="y", amount=1)])) == [
        {"name": "x"},
        {"name": "y", "amount": 1.0},
    ]
    assert json.loads(to_json(Reward(reward=1)))["message"] is None


def test_plain_values_have_a_json_form() -> None:
    values = {
        "amount": decimal.Decimal("1.50"),
        "id": uuid.UUID(int=1),
        "when": datetime.date(2026, 1, 2),
        "text": "é",
    }
    assert json.loads(to_json(values)) == {
        "amount": 1.5,
        "id": "00000000-0000-0000-0000-000000000001",
        "when": "2026-01-02",
        "text": "é",
    }
    with pytest.raises(TypeError):
        to_json({"what": object()})


def test_outputs_refuse_fields_that_they_do_not_have() -> None:
    class Named(Output):
        name: str

    with pytest.raises(ValueError, match="nmae"):
        Named(name="x", nmae="y")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("reward", {"reward": 2.0}),
        ("{reward}", {"reward": 2.0}),
        (" reward , message ", {"reward": 2.0, "message": None}),
        ("parts{name}", {"parts": [{"name": "x"}, {"name": "y"}]}),
        ("{parts{name},reward}", {"parts": [{"name": "x"}, {"name": "y"}], "reward": 2.0}),
        ("parts{amount},*", {"parts": [{"amount": None}, {"amount": 1.0}], "reward": 2.0, "message": None}),
        ("reward{x}", {"reward": 2.0}),
        ("unknown", {}),
    ],
)
def test_mask_reduces_the_answer(client: FlaskClient, mask: str, expected: object) -> None:
    assert client.get(REWARD, headers={"X-Fields": mask}).json == expected


def test_mask_applies_to_each_item_of_a_list(client: FlaskClient) -> None:
    assert client.get("/api/v2/deliveries", headers={"X-Fields": "unknown"}).json == [{}]


@pytest.mark.parametrize(
    "mask", ["a{", "a}", "{a", "a,,b", "a,", ",a", "{a}}", "a b", "a{}", "{b}{c}", "a;b", "a{b}c"]
)
def test_malformed_mask_is_refused(client: FlaskClient, mask: str) -> None:
    answer = client.get(REWARD, headers={"X-Fields": mask})
    assert answer.status_code == 400
    assert set(answer.json) == {"message", "rc"}


@pytest.mark.parametrize("mask", ["a{" * 900 + "b" + "}" * 900, "a" * 3000], ids=["deep", "long"])
def test_mask_is_bounded(mask: str) -> None:
    with pytest.raises(BadRequest):
        parse_mask(mask)


def test_errors_are_never_masked(client: FlaskClient) -> None:
    answer = client.get("/api/v2/deliveries/none", headers={"X-Fields": "reward"})
    assert set(answer.json) == {"message", "rc"}


@pytest.mark.parametrize(
    "path",
    [REWARD, "/api/v2/deliveries/none", "/api/v2/deliveries/broken", "/api/v2/unknown", "/page", "/api/"],
)
def test_every_answer_may_be_read_from_other_sites(client: FlaskClient, path: str) -> None:
    for answer in (client.get(path), client.options(path)):
        headers = answer.headers
        assert headers.getlist("Access-Control-Allow-Origin") == ["*"]
        assert "Idempotency-Key" in headers["Access-Control-Allow-Headers"]
        assert "Retry-After" in headers["Access-Control-Expose-Headers"]
        assert headers["Access-Control-Allow-Methods"] == "POST, GET, OPTIONS, PUT, DELETE, PATCH"
        assert int(headers["Access-Control-Max-Age"]) > 0
        assert len(headers["Horde-Node"].split(":")) == 3


def test_options_needs_nothing(client: FlaskClient) -> None:
    for _ in range(100):
        answer = client.options("/api/v2/deliveries")
        assert (answer.status_code, answer.data) == (200, b"")
    assert {"GET", "POST", "HEAD", "OPTIONS"} == set(answer.headers["Allow"].split(", "))
    assert "X-RateLimit-Limit" not in answer.headers


def test_head_is_answered_for_get(client: FlaskClient) -> None:
    answer = client.head(REWARD)
    assert (answer.status_code, answer.data) == (200, b"")
