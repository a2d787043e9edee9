"""Headers that every answer carries, whatever it is."""

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask

from horde import __version__
from horde.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CROSS_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE, PATCH",
    "Access-Control-Allow-Headers": (
        "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, apikey, Client-Agent, "
        "X-Fields, X-Forwarded-For, Proxied-For, Proxy-Authorization, Idempotency-Key"
    ),
    "Access-Control-Expose-Headers": (
        "Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Horde-Node"
    ),
    "Access-Control-Max-Age": "86400",
}


def send_common_headers(app: Flask, settings: Settings) -> None:
    """Let browsers on other sites call every route and read its answer, and name the node that answered.

    A route's own headers count more: browsers refuse an answer that allows them twice.
    """
    node = f"{socket.gethostname()}:{settings.port}:{__version__}"
    common = [*CROSS_ORIGIN.items(), ("Horde-Node", node)]
    serve = app.wsgi_app

    def serve_with_headers(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            own = {name.lower() for name, _ in headers}
            missing = [header for header in common if header[0].lower() not in own]
            return start_response(status, [*headers, *missing], *rest)

        return serve(environ, start)

    app.wsgi_app = serve_with_headers  # type: ignore[method-assign]
