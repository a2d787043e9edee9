"""Forms that only the visitor who was shown them can send, from here, and once.

Each carries a signed token that names the session, the address the form goes to and a random number. A number
that was seen is not taken again, so a form that is sent twice does nothing the second time.
"""

import secrets
from urllib.parse import urlsplit

from flask import g, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from horde.platform.errors import Forbidden
from horde.platform.runtime import current_platform
from horde.web import sessions

SECONDS = 2 * 3600
FIELD = "form_token"


def token(path: str) -> str:
    """For a form of the present visitor's that is sent to `path`."""
    return str(_serializer().dumps([sessions.current().name, path, secrets.token_urlsafe(16)]))


def check() -> None:
    """Raise `Forbidden` (403) unless the request is a form of ours that was not sent before."""
    if _origin() not in _own_origins():
        raise Forbidden("This form was sent from another site, so nothing was done.")
    try:
        name, path, number = _serializer().loads(request.form.get(FIELD, ""), max_age=SECONDS)
    except (BadSignature, ValueError, TypeError):
        raise _outdated() from None
    if not secrets.compare_digest(name, sessions.current().name) or path != request.path:
        raise _outdated()
    with sessions.store() as cache:
        if not cache.set(f"form:{number}", 1, nx=True, ex=SECONDS):
            raise _outdated()
    g.form_number = number


def number() -> str:
    """What no other form that was sent has."""
    return str(g.form_number)


def field(name: str, most: int = 2000) -> str:
    """What was filled in, without space around it; empty if missing. Cut after `most` characters."""
    given = request.form.get(name, "").replace("\0", "").replace("\r\n", "\n")
    return given.strip()[:most]


def _outdated() -> Forbidden:
    return Forbidden(
        "This form was sent before, is older than two hours, or belongs to another visit, so nothing was "
        "done. Go back, load the page again and fill it in once more. The site needs cookies for that."
    )


def _origin() -> str | None:
    """Where the form stood. Browsers tell it with every form."""
    sender = request.headers.get("Origin") or request.headers.get("Referer")
    try:
        parts = urlsplit(sender or "")
    except ValueError:  # it is no address at all
        return None
    return f"{parts.scheme}://{parts.netloc}"


def _own_origins() -> set[str]:
    scheme = "https" if sessions.secure() else "http"
    public = urlsplit(current_platform().settings.public_url or request.host_url)
    own = f"{scheme}://{request.host}", f"{public.scheme}://{public.netloc}"
    return {origin.lower() for origin in own}  # as browsers write them


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_platform().secret, salt="web form")
