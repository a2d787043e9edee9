"""What tests of pages share: a login provider of their own."""

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from horde.web import oauth
from tests.https_server import HttpsServer, https_server, reply
from tests.support import Horde, another_process

SECRETS = {
    f"{name}_{part}": f"{name}-{part}"
    for name in ("google", "discord", "github")
    for part in ("client_id", "client_secret")
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("provider")) as server:
        yield server


@pytest.fixture
def provider(elsewhere: HttpsServer, monkeypatch: pytest.MonkeyPatch) -> "Elsewhere":
    """Where all three providers are."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(elsewhere.ca_file))
    for name, known in oauth.PROVIDERS.items():
        urls = {part: elsewhere.url(f"/{part}") for part in ("authorize", "token", "account")}
        monkeypatch.setitem(oauth.PROVIDERS, name, replace(known, **urls))
    elsewhere.received.clear()
    return Elsewhere(elsewhere)


class Elsewhere:
    """A provider that takes everybody for the account with `number`."""

    def __init__(self, server: HttpsServer) -> None:
        self.number: object = 4711
        self.token = 200
        self.received = server.received
        server.answer = self._answer

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/authorize"):
            asked = parse_qs(urlsplit(handler.path).query)
            back = f"{asked['redirect_uri'][0]}?code=c&state={asked['state'][0]}"
            reply(302, Location=back)(handler)
        elif handler.path.startswith("/token"):
            answer = {"access_token": "t", "token_type": "bearer"} if self.token == 200 else {"error": "bad"}
            reply(self.token, json.dumps(answer).encode(), Content_Type="application/json")(handler)
        else:
            assert handler.headers["Authorization"] == "Bearer t"
            account = {"id": self.number, "sub": self.number, "email": "somebody@example.com"}
            reply(200, json.dumps(account).encode(), Content_Type="application/json")(handler)


@pytest.fixture
def secrets() -> dict[str, object]:

    return {name: SecretStr(text) if name.endswith("secret") else text for name, text in SECRETS.items()}


@pytest.fixture
def own(horde: Horde, provider: Elsewhere, secrets: dict[str, object]) -> Iterator[Horde]:
    with another_process(horde, **secrets) as other:
        yield other
