"""What of a request is accepted, and how it is refused."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from horde.platform.http import Input, IntOrText, body
from horde.platform.http.requests import problems
from tests.platform.http.conftest import PROXY, Delivery, Page

WHOLE = "must be a whole number of at most 64 bits"
NULL = "; null is not accepted, leave the field out instead"


def post(client: FlaskClient, content: Any, content_type: str = "application/json") -> Any:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post(
        "/api/v2/deliveries", data=data, content_type=content_type, headers={"apikey": "0000000000"}
    )


def accepted(client: FlaskClient, content: Any) -> dict[str, Any]:
    answer = post(client, content)
    assert answer.status_code == 200, answer.json
    return dict(answer.json)


def test_body_is_read_as_sent(client: FlaskClient) -> None:
    sent = {
        "id": "é",
        "seed": 2**63 - 1,
        "width": 128.0,
        "strength": 1,
        "tags": ["b", "a"],
        "metadata": [{"type": "lora", "value": "nsfw", "unknown": 1}],
        "special": {"any": [1, None, "x"]},
        "unknown": {"deep": None},
    }
    got = accepted(client, sent)
    assert got["id"] == "é"
    assert got["seed"] == 2**63 - 1
    assert (got["width"], type(got["width"])) == (128, int)
    assert (got["strength"], type(got["strength"])) == (1.0, float)
    assert got["metadata"] == [{"type": "lora", "value": "nsfw", "ref": None}]
    assert got["special"] == {"any": [1, None, "x"]}
    assert "unknown" not in got


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("seed", "1", WHOLE),
        ("seed", True, WHOLE),
        ("seed", 1.5, WHOLE),
        ("seed", 2**63, WHOLE),
        ("seed", 1e30, WHOLE),
        ("seed", None, WHOLE + NULL),
        ("steps", None, WHOLE + NULL),
        ("steps", 0, "must be at least 1"),
        ("width", 4096, "must be at most 3072"),
        ("width", 100.0, "must be a multiple of 64"),
        ("strength", "0.5", "must be a number"),
        ("strength", True, "must be a number"),
        ("strength", 0, "must be more than 0.0"),
        ("strength", None, "must be a number" + NULL),
        ("id", 5, "must be a text"),
        ("censored", "false", "must be true or false"),
        ("censored", 0, "must be true or false"),
        ("state", "none", "must be one of: 'ok' or 'faulted'"),
        ("metadata", {}, "must be a list"),
        ("main", [], "must be an object"),
        ("main", None, "must be an object" + NULL),
        ("tags", ["a", "a"], "must not hold the same value twice"),
    ],
)
def test_misfits_are_named(client: FlaskClient, field: str, value: object, text: str) -> None:
    answer = post(client, {"id": "x", "seed": 1, field: value})
    assert answer.status_code == 400
    assert answer.json == {
        "message": "Input payload validation failed",
        "rc": "BadRequest",
        "errors": {field: text},
    }


def test_all_misfits_are_reported_by_path(client: FlaskClient) -> None:
    answer = post(
        client, {"seed": 1, "metadata": [{"type": "lora", "value": "nsfw"}, {"type": 1, "ref": None}]}
    )
    assert set(answer.json["errors"]) == {"id", "metadata.1.type", "metadata.1.value", "metadata.1.ref"}
    assert answer.json["errors"]["id"] == "is required"


@pytest.mark.parametrize("content", [[], "text", 5, None])
def test_root_of_wrong_type_has_the_empty_path(client: FlaskClient, content: object) -> None:
    assert list(post(client, content).json["errors"]) == [""]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("template", ['{"strength": %s}', '{"special": {"deep": [%s]}}'])
def test_numbers_are_finite(client: FlaskClient, number: str, template: str) -> None:
    answer = post(client, (template % number).encode())
    assert {"strength", "special"} & set(answer.json["errors"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  ",
        b"{",
        b'{"id": "\xff"}',
        b'{"id": "\\ud800"}',
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=["missing", "blank", "cut off", "not UTF-8", "half a surrogate", "deep", "huge number"],
)
def test_bodies_that_are_not_json(client: FlaskClient, content: bytes) -> None:
    answer = post(client, content)
    assert answer.status_code == 400
    assert set(answer.json) == {"message", "rc"}
    assert answer.json["rc"] == "BadRequest"


def test_body_needs_the_json_content_type(client: FlaskClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = post(client, {"id": "x", "seed": 1}, content_type)
        assert (answer.status_code, set(answer.json)) == (400, {"message", "rc"})
    assert post(client, {"id": "x", "seed": 1}, "application/json; charset=utf-8").status_code == 200


def test_nul_is_refused_and_its_spelling_is_not(client: FlaskClient) -> None:
    for content in (b'{"id": "a\\u0000", "seed": 1}', b'{"id": "\\\\\\u0000", "seed": 1}'):
        answer = post(client, content)
        assert (answer.status_code, answer.json["rc"]) == (400, "NulByteInPayload")
    assert accepted(client, {"id": "\\u0000", "seed": 1})["id"] == "\\u0000"
    assert client.get("/api/v2/deliveries/a%00b").json["rc"] == "NulByteInPayload"


def test_body_may_not_be_larger_than_the_settings_say(client: FlaskClient) -> None:
    assert accepted(client, {"id": "x" * 1_000_000, "seed": 1})
    answer = post(client, {"id": "x" * 1_048_576, "seed": 1})
    assert (answer.status_code, answer.json["rc"]) == (413, "PayloadTooLarge")


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_whole_number_may_be_written_as_a_float(number: int) -> None:
    for written in (f"{number}", f"{number}.0", f"{float(number)!r}"):
        assert Delivery.model_validate_json(f'{{"id": "x", "seed": {written}}}').seed == number


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()))
def test_a_fraction_is_no_whole_number(number: float) -> None:
    with pytest.raises(ValidationError):
        Delivery.model_validate_json(f'{{"id": "x", "seed": {number!r}}}')


def test_sent_fields_are_told_from_defaults() -> None:
    sent = Delivery.model_validate_json('{"id": "x", "seed": 1, "width": 512}')
    assert sent.model_fields_set == {"id", "seed", "width"}


@pytest.mark.filterwarnings("error")
def test_inputs_can_be_dumped_with_absent_fields() -> None:
    sent = Delivery.model_validate_json('{"id": "x", "seed": 1}')
    assert sent.model_dump(exclude_none=True) == {
        "id": "x",
        "seed": 1,
        "width": 512,
        "censored": False,
        "state": "ok",
        "metadata": [],
        "tags": [],
    }


def test_integers_as_text_where_a_field_allows_it() -> None:
    class Transfer(Input):
        amount: IntOrText

    for written in ("25", '"25"', "25.0", '"+25"', '" 25 "', '"0025"'):
        assert Transfer.model_validate_json(f'{{"amount": {written}}}').amount == 25
    assert Transfer.model_validate_json('{"amount": "-25"}').amount == -25
    for written in ("true", '"25.5"', '"x"', '"9999999999999999999999"', "null"):
        with pytest.raises(ValidationError):
            Transfer.model_validate_json(f'{{"amount": {written}}}')


@pytest.mark.parametrize("text", ["+-5", "--5", "++5", "-", "+ 5", "5-", "1_0", ""])
def test_what_is_no_integer_is_refused_in_our_words(text: str) -> None:
    class Transfer(Input):
        amount: IntOrText

    with pytest.raises(ValidationError) as check:
        Transfer.model_validate({"amount": text})
    assert problems(check.value) == {"amount": WHOLE}


def test_body_may_be_optional(app: Flask) -> None:
    for data, content_type in ((b"", "application/json"), (b"page=2", "application/x-www-form-urlencoded")):
        with app.test_request_context(method="POST", data=data, content_type=content_type):
            assert body(Page, required=False).page == 1
    with app.test_request_context(method="POST", json={"page": 2}):
        assert body(Page, required=False).page == 2


def test_query_is_read_from_text(client: FlaskClient) -> None:
    answer = client.get("/api/v2/deliveries?page=3&online=true&name=%C3%A9&other=1")
    assert json.loads(answer.json[0]["name"]) == {"page": 3, "name": "é", "online": True, "order": "kudos"}


def test_misfits_in_the_query_are_named(client: FlaskClient) -> None:
    answer = client.get("/api/v2/deliveries?page=x&order=size&online=maybe")
    assert answer.status_code == 400
    assert set(answer.json["errors"]) == {"page", "order", "online"}


def test_missing_key_is_a_validation_failure(client: FlaskClient) -> None:
    answer = client.post("/api/v2/deliveries", json={"id": "x", "seed": 1})
    assert answer.status_code == 400
    assert list(answer.json["errors"]) == ["apikey"]


def test_headers_have_defaults(client: FlaskClient) -> None:
    nobody = client.get("/api/v2/whoami").json
    assert (nobody["agent"], nobody["key"]) == ("unknown:0:unknown", None)
    headers = {"Apikey": "abc", "Client-Agent": "Lite:17", "Content-Type": "application/json"}
    somebody = client.get("/api/v2/whoami", headers=headers).json
    assert (somebody["agent"], somebody["key"]) == ("Lite:17", "abc")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        (PROXY, "198.51.100.7", "198.51.100.7"),
        (PROXY, "203.0.113.5, 198.51.100.7", "198.51.100.7"),
        (PROXY, "198.51.100.7, rubbish", PROXY),
        (PROXY, "", PROXY),
        (PROXY, "2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", None, "192.0.2.1"),
        ("", None, "127.0.0.1"),
    ],
)
def test_forwarded_addresses_are_believed_from_proxies_only(
    client: FlaskClient, peer: str, forwarded: str | None, address: str
) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    answer = client.get("/api/v2/whoami", headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert answer.json["address"] == address
