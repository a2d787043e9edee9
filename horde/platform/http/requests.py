"""Reading a request: body, query, headers and addresses."""

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal, TypeVar, overload

import structlog
from flask import request
from pydantic import ValidationError

from horde.platform.errors import BadRequest, PayloadInvalid
from horde.platform.http.fields import Input
from horde.platform.runtime import Platform, current_platform

ANONYMOUS_KEY = "0000000000"
DEFAULT_AGENT = "unknown:0:unknown"
WARNING_SECONDS = 3600.0
ONCE = {"Idempotency-Key": "Any text. Calls with the same text take effect once, however often they come."}
"""The header that routes declare which read `idempotency_key`."""

ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

PROBLEMS = {
    "missing": "is required",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID",
    "literal_error": "must be one of: {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must be at least {min_length} characters long",
    "string_too_long": "must be at most {max_length} characters long",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "value_error": "{error}",
}
"""Texts for the kinds of problems that pydantic finds; any other kind is told in pydantic's words."""

S = TypeVar("S", bound=Input)

log = structlog.get_logger(__name__)


def body(schema: type[S], *, required: bool = True) -> S:
    """The request's JSON body, validated.

    Raises PayloadInvalid with every field that does not fit, and BadRequest (without `errors`) when the body
    is missing, not declared as JSON or not JSON at all; `rc` is `NulByteInPayload` when it holds a NUL
    character. With `required=False` a body that is empty or of another type counts as an empty object.
    """
    declared = request.environ.get("CONTENT_TYPE") == "application/json" or request.is_json
    raw = request.get_data() if declared else b""
    if not raw or raw.isspace():
        if required and not declared:
            raise BadRequest("Send the body as JSON, with the header 'Content-Type: application/json'.")
        if required:
            raise BadRequest("The request has no body; this route needs a JSON object.")
        raw = b"{}"
    if b"\\" in raw and ESCAPED_NUL.search(raw):
        raise BadRequest("The body holds a NUL character (\\u0000); remove it.", "NulByteInPayload")
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"The body is not valid JSON: {first['ctx']['error']}.") from None
        raise PayloadInvalid(problems(error)) from None


def query(schema: type[S]) -> S:
    """The query string, validated; numbers and `true`/`false` are read from their text.

    Raises PayloadInvalid.
    """
    try:
        return schema.model_validate_strings(request.args.to_dict())
    except ValidationError as error:
        raise PayloadInvalid(problems(error)) from None


def problems(error: ValidationError) -> dict[str, str]:
    """What a validation failure says about each field: dotted path -> text."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"])
        context: dict[str, Any] = detail.get("ctx", {})
        text = PROBLEMS.get(detail["type"], detail["msg"]).format_map(context)
        if detail["input"] is None:
            text += "; null is not accepted, leave the field out instead"
        found.setdefault(path, text)
    return found


@overload
def api_key(required: Literal[True] = True) -> str: ...
@overload
def api_key(required: Literal[False]) -> str | None: ...
def api_key(required: bool = True) -> str | None:
    """The `apikey` header as it was sent: an account's key or a shared key's id, not checked yet.

    None when it is missing; PayloadInvalid when it is missing but `required`.
    """
    key: str | None = request.environ.get("HTTP_APIKEY")
    if key:
        return key
    if required:
        anonymous = current_platform().settings.anonymous_access
        instead = f"; anonymous users send {ANONYMOUS_KEY}" if anonymous else ""
        raise PayloadInvalid({"apikey": f"is required as a header{instead}"})
    return None


def idempotency_key() -> str | None:
    """The `Idempotency-Key` header: any text that a client sends again with a call that it repeats."""
    return request.headers.get("Idempotency-Key")


def client_agent() -> str:
    """The `Client-Agent` header: free text, by custom `name:version:contact`."""
    return request.environ.get("HTTP_CLIENT_AGENT") or DEFAULT_AGENT


def direct_address() -> str:
    """The IP address of whoever talks to this server.

    The socket's peer or, when that is one of the trusted proxies of the settings, the right-most entry of
    `X-Forwarded-For`. A peer on a Unix socket counts as 127.0.0.1.
    """
    environ = request.environ
    peer = parse_address(environ.get("REMOTE_ADDR") or "127.0.0.1") or "127.0.0.1"
    forwarded = environ.get("HTTP_X_FORWARDED_FOR")
    if forwarded and peer in current_platform().settings.trusted_proxies:
        return parse_address(forwarded.rsplit(",", 1)[-1].strip()) or peer
    return peer


def user_address() -> str:
    """The IP address of the person behind the request: `Proxied-For` if a service with a valid passkey in
    `Proxy-Authorization` sends an address there, else the direct address."""
    return _proxied_for() or direct_address()


def proxy_address() -> str | None:
    """The direct address, if it is that of a service that passes on the call of somebody at another one."""
    proxied_for, direct = _proxied_for(), direct_address()
    return None if proxied_for in (None, direct) else direct


def _proxied_for() -> str | None:
    passkey = request.environ.get("HTTP_PROXY_AUTHORIZATION")
    address = parse_address(request.environ.get("HTTP_PROXIED_FOR", "").strip()) if passkey else None
    if not passkey or address is None:
        return None
    platform = current_platform()
    if platform.proxy_user(platform, passkey) is None:
        _tell_unknown_passkey(platform)
        return None
    return address


def _tell_unknown_passkey(platform: Platform) -> None:
    """Once an hour for each address."""
    address = direct_address()

    def tell() -> bool:
        log.warning("unknown proxy passkey ignored", address=address)
        return True

    platform.local.get(f"unknown_passkey:{address}", WARNING_SECONDS, tell)


@lru_cache(maxsize=4096)
def parse_address(text: str) -> str | None:
    """`text` as an IP address, shortest spelling, IPv4 in IPv6 unwrapped; None when it is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(address).partition("%")[0]
    return str(address)
