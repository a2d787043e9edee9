"""HTTP: what the routes of every feature are written with, and how it is wired into the application."""

from collections.abc import Iterable

from flask import Flask

from horde.platform.http.api import Area, Resource, mount_api
from horde.platform.http.connection import Connection
from horde.platform.http.errors import handle_errors
from horde.platform.http.fields import (
    DistinctList,
    Input,
    IntOrText,
    JsonObject,
    Output,
    SimpleResponse,
)
from horde.platform.http.headers import send_common_headers
from horde.platform.http.ratelimit import RouteLimiter, limited, relax, unlimited
from horde.platform.http.requests import (
    ANONYMOUS_KEY,
    DEFAULT_AGENT,
    ONCE,
    api_key,
    body,
    client_agent,
    direct_address,
    idempotency_key,
    proxy_address,
    query,
    user_address,
)
from horde.platform.http.responses import answer, check_mask, to_json
from horde.platform.runtime import Platform

__all__ = [
    "ANONYMOUS_KEY",
    "DEFAULT_AGENT",
    "ONCE",
    "Area",
    "Connection",
    "DistinctList",
    "Input",
    "IntOrText",
    "JsonObject",
    "Output",
    "Resource",
    "SimpleResponse",
    "answer",
    "api_key",
    "body",
    "client_agent",
    "direct_address",
    "idempotency_key",
    "init_http",
    "limited",
    "proxy_address",
    "query",
    "relax",
    "to_json",
    "unlimited",
    "user_address",
]


def init_http(app: Flask, platform: Platform, areas: Iterable[Area]) -> None:
    """Serve the API that consists of `areas` on `app`, with common headers, limits and error answers.

    Errors and limits hold for all other routes of `app` too. The Flask setting `RATELIMIT_ENABLED`, when
    False beforehand, leaves limits out.
    """
    app.extensions["horde"] = platform
    app.config["MAX_CONTENT_LENGTH"] = platform.settings.max_body_mib * 1024 * 1024
    send_common_headers(app, platform.settings)
    RouteLimiter(app, platform)
    app.before_request(check_mask)
    handle_errors(app)
    mount_api(app, areas, title="AI Horde")
