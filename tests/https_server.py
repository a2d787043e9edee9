"""A real https server of the tests' own, with a certificate authority that nobody else trusts."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

NAMES = ("localhost", "hook.test", "mirror.test", "*.hooks.test", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """Answers every request alike; an underscore in a header's name stands for a hyphen."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass
class HttpsServer:
    """The server on 127.0.0.1, which has certificates for `NAMES`."""

    port: int
    ca_file: Path
    answer: Answer = field(default_factory=reply)
    """Answers requests; tests replace it."""
    received: list[Received] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    """The server names that clients asked for while connecting (SNI)."""

    def url(self, path: str = "/", host: str = "localhost") -> str:
        """The address of `path` here."""
        return f"https://{host}:{self.port}{path}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        # The handshake happens in the handler's thread: a client that dawdles holds up nobody else.
        secured = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return secured, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that break off are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def _handle(self) -> None:
        state: HttpsServer = self.server.state  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state.received.append(Received(self.command, self.path, dict(self.headers), body))
        state.answer(self)

    do_GET = do_POST = _handle  # noqa: N815 - the base class looks for these names

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at `received` instead."""


@contextmanager
def https_server(folder: Path) -> Iterator[HttpsServer]:
    """Serve until the block ends; the authority's certificate is kept in `folder`."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*NAMES).configure_cert(tls)
    server = _Server(tls)
    state = HttpsServer(server.server_port, ca_file)
    server.state = state  # type: ignore[attr-defined]
    tls.sni_callback = lambda _socket, name, _context: state.names.append(name)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
