"""A small client of the public HTTP API, for the programs that use a horde from outside."""

from typing import Any

import requests

ANONYMOUS_KEY = "0000000000"

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0


class ApiError(Exception):
    """A call that did not work: refused by the server, or the server could not be reached.

    `message` is for people, `rc` the server's return code (empty where it gave none), `status` the HTTP
    status (None where no answer came).
    """

    def __init__(self, message: str, rc: str = "", status: int | None = None) -> None:
        super().__init__(f"{message} ({rc})" if rc else message)
        self.message = message
        self.rc = rc
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same call may work a little later: no answer, overload or a fault of the server."""
        return self.status is None or self.status in (408, 429) or self.status >= 500


class ApiClient:
    """Calls one horde under one API key.

    Every method raises `ApiError` and nothing else. Not to be shared between threads.
    """

    def __init__(self, url: str, api_key: str, client_agent: str) -> None:
        self._base = url.rstrip("/").removesuffix("/api") + "/api/v2"
        self._headers = {"apikey": api_key, "Client-Agent": client_agent, "Accept": "application/json"}
        self._session = requests.Session()

    def get(self, path: str) -> dict[str, Any]:
        """GET a path below `/api/v2`; the answer is a JSON object."""
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON body to a path below `/api/v2`; the answer is a JSON object."""
        return self._call("POST", path, body)

    def delete(self, path: str) -> dict[str, Any]:
        """DELETE a path below `/api/v2`; the answer is a JSON object."""
        return self._call("DELETE", path)

    def upload(self, url: str, data: bytes) -> None:
        """PUT bytes to a presigned URL, without a content type (its signature covers none) or the API key."""
        answer = self._send("PUT", url, data=data)
        if not answer.ok:
            raise ApiError(
                f"The upload was answered with status {answer.status_code}.", "", answer.status_code
            )

    def download(self, url: str) -> bytes:
        """GET the bytes behind a presigned URL, without the API key."""
        answer = self._send("GET", url)
        if not answer.ok:
            raise ApiError(
                f"The download was answered with status {answer.status_code}.", "", answer.status_code
            )
        return answer.content

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        # Following a redirect would hand the API key to whatever host it names.
        answer = self._send(
            method, self._base + path, json=body, headers=self._headers, allow_redirects=False
        )
        if answer.is_redirect:
            raise ApiError(
                f"The server redirects to {answer.headers.get('Location')}; use that address instead.",
                "",
                answer.status_code,
            )
        try:
            content = answer.json()
        except requests.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            raise ApiError(
                f"The server answered {method} {path} with status {answer.status_code} and no JSON object; "
                "is this the address of a horde?",
                "",
                answer.status_code,
            )
        if not answer.ok:
            raise _refusal(content, answer.status_code)
        return content

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(method, url, timeout=(CONNECT_SECONDS, READ_SECONDS), **options)
        except requests.Timeout as error:
            raise ApiError(f"No answer from {_host(url)} in time.") from error
        except requests.ConnectionError as error:
            raise ApiError(f"Cannot reach {_host(url)}; is the server running?") from error
        except (requests.RequestException, ValueError) as error:
            raise ApiError(f"The call to {_host(url)} failed: {error}") from error


def _host(url: str) -> str:
    """The scheme and host of a URL: presigned queries are secrets and stay out of messages."""
    return "/".join(url.split("/", 3)[:3])


def _refusal(content: dict[str, Any], status: int) -> ApiError:
    message = str(content.get("message") or f"The server answered with status {status}.")
    errors = content.get("errors")
    if isinstance(errors, dict) and errors:
        message += ": " + "; ".join(f"{field}: {text}" for field, text in errors.items())
    return ApiError(message, str(content.get("rc") or ""), status)
