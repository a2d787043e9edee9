"""Errors that services raise and one HTTP handler answers."""

from collections.abc import Mapping


class HordeError(Exception):
    """A refusal that its receiver can act on.

    `message` says in plain words what happened and what to do; `rc` is the published return code
    that programs decide by; `status` the HTTP status.
    """

    status = 400

    def __init__(
        self,
        message: str,
        rc: str = "BadRequest",
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.rc = rc
        if status is not None:
            self.status = status
        self.headers = dict(headers or {})


class BadRequest(HordeError):
    """400: the request breaks a rule."""


class Unauthorized(HordeError):
    """401: no valid API key."""

    status = 401


class Forbidden(HordeError):
    """403: the caller may not do this."""

    status = 403


class NotFound(HordeError):
    """404: no such thing, or no longer."""

    status = 404


class TooManyRequests(HordeError):
    """429: a limit is reached; try again later."""

    status = 429


class PayloadInvalid(HordeError):
    """400 with `errors`: the body or a parameter does not fit its schema.

    `errors` maps the dotted path of each offending field to what is wrong with it. Clients take the
    presence of that key for exactly this case, so no other error carries it.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("Input payload validation failed")
        self.errors = dict(errors)
