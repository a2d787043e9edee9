"""Who looks at a page.

A cookie holds a random token and nothing else; what it stands for is kept in Valkey under the token's hash.
The token changes whenever somebody logs in, so nobody profits from having given somebody theirs before. A
session holds the hash of the account's API key: with a new key all sessions of the old one are over.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import orjson
import redis
from flask import Response, g, request

from horde.platform.errors import HordeError, Unauthorized
from horde.platform.runtime import current_platform
from horde.users import service as users
from horde.users.rules import UserFacts

SECONDS = 12 * 3600
COOKIE = "horde"
SECURE_COOKIE = "__Host-horde"
"""Browsers take a cookie of this name from nobody but this very host over https."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody's visit, logged in or not."""

    token: str
    """What the cookie holds."""
    key_hash: str | None = None
    """Of the API key of the account that is logged in."""
    login: str | None = None
    """The external id that a login provider vouched for; its account may not exist yet."""

    @property
    def name(self) -> str:
        """What the session is known by; the token does not follow from it."""
        return sha256(self.token.encode()).hexdigest()


def current() -> Session:
    """The visitor's session. Without one they get a new one with the answer."""
    if "web_session" not in g:
        token = request.cookies.get(_cookie(), "")
        if _TOKEN.fullmatch(token):
            g.web_session = _load(token)
        else:
            g.web_session = Session(secrets.token_urlsafe(32))
            g.web_cookie = g.web_session.token
    return cast(Session, g.web_session)


def user() -> UserFacts | None:
    """The account that is logged in, unless its key was replaced since."""
    key_hash = current().key_hash
    if key_hash is None:
        return None
    try:
        return users.holder(current_platform(), key_hash)
    except Unauthorized:
        return None


def start(key_hash: str | None, login: str | None = None) -> None:
    """Let the visitor be logged in from now on, under a new token."""
    old = current()
    new = Session(secrets.token_urlsafe(32), key_hash, login)
    with store() as cache:
        cache.delete(_kept(old))
        cache.set(_kept(new), orjson.dumps({"key_hash": key_hash, "login": login}), ex=SECONDS)
    g.web_session, g.web_cookie = new, new.token


def end() -> None:
    """Log the visitor out."""
    with store() as cache:
        cache.delete(_kept(current()))
    g.web_session, g.web_cookie = Session(""), None


@contextmanager
def store() -> Iterator["redis.Redis"]:
    """Where sessions are kept. While it does not answer, a refusal (503) says so."""
    try:
        yield current_platform().cache
    except redis.RedisError as error:
        raise HordeError(
            "Pages with forms do not work at present. Please try again in a minute.",
            "ServiceUnavailable",
            status=503,
        ) from error


def send(response: Response) -> None:
    """Give a new token to the browser, and let nobody keep pages that a session had to do with."""
    if "web_session" not in g:
        return
    response.headers["Cache-Control"] = "no-store"
    if "web_cookie" not in g:
        return
    if g.web_cookie is None:
        response.delete_cookie(_cookie(), secure=secure(), httponly=True, samesite="Lax")
    else:
        response.set_cookie(_cookie(), g.web_cookie, secure=secure(), httponly=True, samesite="Lax")


def secure() -> bool:
    """Whether visitors come over https: this one does, or the public URL says that all do."""
    public = current_platform().settings.public_url or ""
    return request.is_secure or public.startswith("https://")


def _cookie() -> str:
    return SECURE_COOKIE if secure() else COOKIE


def _kept(session: Session) -> str:
    return f"session:{session.name}"


def _load(token: str) -> Session:
    session = Session(token)
    with store() as cache:
        document: Any = cache.get(_kept(session))
    return session if document is None else Session(token, **orjson.loads(document))
