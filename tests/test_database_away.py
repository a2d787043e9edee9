"""While the database does not answer, callers are told to come again, and the log stays readable."""

import pytest
from structlog.testing import capture_logs

from tests.support import Horde, another_process

NOWHERE = "postgresql://postgres@/horde?host=/nowhere"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v2/users/1"),
        ("POST", "/api/v2/generate/async"),
        ("GET", "/api/v2/generate/check/00000000-0000-4000-8000-000000000001"),
        ("POST", "/api/v2/kudos/transfer"),
        ("GET", "/"),
    ],
)
def test_whoever_calls_is_told_to_come_again(horde: Horde, method: str, path: str) -> None:
    content = {"prompt": "a lighthouse", "username": "1"} if method == "POST" else None
    with another_process(horde, database_url=NOWHERE) as process, capture_logs() as logs:
        answer = process.client.open(path, method=method, json=content, headers={"apikey": "x" * 22})
    assert answer.status_code == 503
    assert "exc_info" not in [name for entry in logs for name in entry]
    if path == "/":
        assert "does not answer" in answer.text
    else:
        assert answer.json["rc"] == "ServiceUnavailable"
        assert int(answer.headers["Retry-After"]) > 0
