"""Writing answers: JSON, reduced to what the `X-Fields` header asks for."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Union

import orjson
from flask import Response, request
from pydantic import BaseModel

from horde.platform.errors import BadRequest
from horde.platform.http.fields import Output

JSON = "application/json; charset=utf-8"

MAX_MASK_LENGTH = 2000
MAX_MASK_DEPTH = 20

MASK_TOKEN = re.compile(r"\s*([\w:\-]+|[{},*])\s*")

Mask = dict[str, Union["Mask", None]]
"""Which keys stay: name -> which keys of its value stay, None for all. `*` stands for all other names."""

Payload = BaseModel | Mapping[str, Any] | Sequence[Any] | bytes


def answer(payload: Payload, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A successful answer that holds `payload` as JSON.

    `payload` is a schema, an object or list (which may hold schemas, dates, UUIDs and decimals), or bytes
    that are JSON already. The mask that the client sent in `X-Fields` is applied.
    """
    data = payload if isinstance(payload, bytes) else to_json(payload)
    text = request.environ.get("HTTP_X_FIELDS")
    if text and (mask := parse_mask(text)):
        data = orjson.dumps(_reduce(orjson.loads(data), mask))
    if not data.endswith(b"\n"):
        data += b"\n"
    return Response(data, status, headers, content_type=JSON)


def to_json(payload: BaseModel | Mapping[str, Any] | Sequence[Any]) -> bytes:
    """`payload` as JSON in UTF-8."""
    if isinstance(payload, BaseModel):
        return payload.model_dump_json(exclude_none=_skips_none(payload)).encode()
    return orjson.dumps(payload, default=_plain)


def check_mask() -> None:
    """Raise BadRequest when the request's `X-Fields` header is malformed, before anything is done for it."""
    text = request.environ.get("HTTP_X_FIELDS")
    if text:
        parse_mask(text)


@lru_cache(maxsize=256)
def parse_mask(text: str) -> Mask:
    """Read a mask: names separated by commas, `name{names}` for parts of a value, outer braces optional.

    An empty mask is an empty dictionary and masks nothing. Raises BadRequest.
    """
    if len(text) > MAX_MASK_LENGTH:
        raise BadRequest(f"The X-Fields mask is longer than {MAX_MASK_LENGTH} characters.")
    text = text.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    mask: Mask = {}
    stack = [mask]
    name = ""  # the name just read, to which an opening brace belongs
    position = 0
    expects_name = True
    while position < len(text):
        token = MASK_TOKEN.match(text, position)
        if token is None:
            raise _malformed(position)
        symbol = token[1]
        if symbol == "{" and name and len(stack) < MAX_MASK_DEPTH:
            inner: Mask = {}
            stack[-1][name] = inner
            stack.append(inner)
            name, expects_name = "", True
        elif symbol == "}" and len(stack) > 1 and not expects_name:
            stack.pop()
            name = ""
        elif symbol == "," and not expects_name:
            name, expects_name = "", True
        elif symbol not in "{}," and expects_name:
            stack[-1][symbol] = None
            name, expects_name = symbol, False
        else:
            raise _malformed(position)
        position = token.end()
    if len(stack) > 1 or (mask and expects_name):
        raise _malformed(len(text))
    return mask


def _malformed(position: int) -> BadRequest:
    return BadRequest(
        f"The X-Fields mask is malformed at character {position + 1}; "
        "write it like 'id,generations{img,seed}'."
    )


def _reduce(data: Any, mask: Mask) -> Any:
    if isinstance(data, list):
        return [_reduce(item, mask) for item in data]
    if not isinstance(data, dict):
        return data
    kept = {
        name: data[name] if inner is None else _reduce(data[name], inner)
        for name, inner in mask.items()
        if name in data
    }
    if "*" in mask:
        return {**data, **kept}
    return kept


def _skips_none(payload: BaseModel) -> bool:
    return isinstance(payload, Output) and payload.skip_none


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=_skips_none(value))
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} cannot be answered as JSON")
