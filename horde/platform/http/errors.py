"""The one place where errors become answers."""

import orjson
import structlog
from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from werkzeug.exceptions import HTTPException

from horde.platform.errors import BadRequest, HordeError, PayloadInvalid
from horde.platform.http.responses import JSON

log = structlog.get_logger(__name__)

RETURN_CODE_OF_STATUS = {
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
}

MESSAGES = {
    404: "There is nothing at this address; /api/ lists what there is.",
    405: "This address does not take that method; the Allow header lists those it takes.",
    413: "The body is larger than this server accepts.",
}
AWAY = "The database of this server does not answer at present. Please try again in a moment."


def handle_errors(app: Flask) -> None:
    """Answer all errors with JSON: `message`, `rc` and, for PayloadInvalid only, `errors`."""
    app.register_error_handler(HordeError, _refused)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, _failed)


def _refused(error: HordeError) -> Response:
    content: dict[str, object] = {"message": error.message, "rc": error.rc}
    if isinstance(error, PayloadInvalid):
        content["errors"] = error.errors
    return _answer(content, error.status, error.headers)


def http_error(error: HTTPException) -> ResponseReturnValue:
    """The answer to what werkzeug refuses."""
    if error.response is not None:
        return error  # it was raised with a ready answer
    status = error.code or 500
    rc = RETURN_CODE_OF_STATUS.get(status, "BadRequest" if status < 500 else "InternalServerError")
    message = error.description or error.name
    if error.description == type(error).description:
        message = MESSAGES.get(status, message)
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    return _answer({"message": message, "rc": rc}, status, headers)


def _failed(error: Exception) -> Response:
    if _is_nul_refusal(error):
        return _refused(BadRequest("The request holds a NUL character; remove it.", "NulByteInPayload"))
    # The rule and not the path, which may hold a shared key.
    route = request.url_rule.rule if request.url_rule else None
    if database_away(error):
        log.warning("database does not answer", method=request.method, route=route)
        return _answer({"message": AWAY, "rc": "ServiceUnavailable"}, 503, {})
    log.error("request failed", method=request.method, route=route, exc_info=error)
    return _answer({"message": "Internal Server Error", "rc": "InternalServerError"}, 500, {})


def database_away(error: BaseException | None) -> bool:
    """Whether a call failed because the database does not answer, or takes no more connections."""
    while error is not None:
        if isinstance(error, NoConnectionFree):
            return True
        if isinstance(error, OperationalError):
            # Without a code there was no answer; the classes are connections, resources and shutdown.
            code = getattr(error.orig, "sqlstate", None)
            return code is None or code[:2] in ("08", "53", "57")
        error = error.__cause__
    return False


def _is_nul_refusal(error: BaseException | None) -> bool:
    """Whether the database driver refused a text parameter for a NUL character in it."""
    while error is not None:
        if isinstance(error, DataError) and "NUL (0x00)" in str(error):
            return True
        error = error.__cause__
    return False


def _answer(content: dict[str, object], status: int, headers: dict[str, str]) -> Response:
    return Response(
        orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE), status, headers, content_type=JSON
    )
