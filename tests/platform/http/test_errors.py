"""Every error is JSON with `message` and `rc`."""

import pytest
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from horde.platform.http.return_codes import RETURN_CODES


@pytest.mark.parametrize(
    ("method", "path", "status", "rc"),
    [
        ("GET", "/api/v2/deliveries/none", 404, "InvalidJobID"),
        ("GET", "/api/v2/nothing", 404, "NotFound"),
        ("GET", "/api/v2/deliveries/", 404, "NotFound"),
        ("GET", "/api/v1/deliveries", 404, "NotFound"),
        ("GET", "/nothing", 404, "NotFound"),
        ("DELETE", "/api/v2/deliveries", 405, "MethodNotAllowed"),
        ("GET", "/api/v2/deliveries/broken", 500, "InternalServerError"),
    ],
)
def test_errors_have_message_and_code(
    client: FlaskClient, method: str, path: str, status: int, rc: str
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.content_type == "application/json; charset=utf-8"
    assert set(answer.json) == {"message", "rc"}
    assert answer.json["rc"] == rc
    assert rc in RETURN_CODES
    assert "did you mean" not in answer.json["message"]


def test_wrong_method_tells_the_right_ones(client: FlaskClient) -> None:
    assert set(client.delete("/api/v2/deliveries").headers["Allow"].split(", ")) == {
        "GET",
        "HEAD",
        "OPTIONS",
        "POST",
    }


def test_headers_of_an_error_are_sent(client: FlaskClient) -> None:
    answer = client.get("/api/v2/deliveries/maintenance")
    assert (answer.status_code, answer.json["rc"]) == (400, "MaintenanceMode")
    assert int(answer.headers["Retry-After"]) >= 59


def test_failures_are_logged_and_not_told(client: FlaskClient) -> None:
    with capture_logs() as logs:
        answer = client.get("/api/v2/deliveries/broken")
    assert answer.json == {"message": "Internal Server Error", "rc": "InternalServerError"}
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["route"] == "/api/v2/deliveries/<string:delivery_id>"
    assert isinstance(entry["exc_info"], RuntimeError)


def test_return_codes_are_distinct() -> None:
    assert len(set(RETURN_CODES)) == len(RETURN_CODES)
