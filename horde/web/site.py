"""What all pages have in common: headers, forms, errors, and what templates may call."""

from email.utils import parsedate_to_datetime
from typing import Any

import structlog
from flask import Blueprint, Response, g, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, NotFound

from horde.platform.errors import HordeError
from horde.platform.http.errors import AWAY, database_away, http_error
from horde.platform.runtime import current_platform
from horde.web import forms, oauth, sessions

MOST_BYTES = 64 * 1024
"""Of a form."""

POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

log = structlog.get_logger(__name__)
site = Blueprint(
    "web", __name__, template_folder="templates", static_folder="static", static_url_path="/assets"
)


def home() -> str:
    """The URL of this server, without a trailing slash."""
    return (current_platform().settings.public_url or request.host_url).rstrip("/")


def page(template: str, status: int = 200, **values: Any) -> Response:
    """A page of `templates/web`."""
    return make_response(render_template(f"web/{template}.html", **values), status)


def see(url: str, status: int = 303) -> Response:
    """Send the visitor on to `url`."""
    return make_response(redirect(url, status))


@site.before_request
def _check_form() -> None:
    request.max_content_length = MOST_BYTES
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        forms.check()


@site.after_request
def _protect(response: Response) -> Response:
    policy = {**POLICY, **g.get("web_policy", {})}
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {what}" for name, what in policy.items())
    response.headers.update(HEADERS)
    sessions.send(response)
    return response


@site.app_context_processor
def _common() -> dict[str, Any]:
    settings = current_platform().settings
    return {
        "title": settings.horde_title,
        "contact": settings.horde_contact_email,
        "form_token": forms.token,
        "providers": oauth.configured(settings),
    }


@site.app_template_filter("day")
def _day(date: str) -> str:
    """The day of a date as answers of the API have it."""
    moment = parsedate_to_datetime(date)
    return f"{moment.day} {moment:%B %Y}"


@site.errorhandler(HordeError)
def _refused(error: HordeError) -> Response:
    return page("message", error.status, heading="That did not work", message=error.message)


@site.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    texts = {
        404: "There is nothing at this address.",
        413: "The form holds more than this server accepts.",
        429: "That was too often. Please wait a while and try again.",
    }
    status = error.code or 500
    message = texts.get(status, error.description or error.name)
    return page("message", status, heading="That did not work", message=message)


@site.app_errorhandler(404)
def _nowhere(error: NotFound) -> ResponseReturnValue:
    """Show people a page where nothing is, and programs what they get for any other error."""
    wanted = request.accept_mimetypes.best_match(["application/json", "text/html"])
    if wanted != "text/html" or request.path.startswith("/api/"):
        return http_error(error)
    return _protect(_http_error(error))


@site.errorhandler(Exception)
def _failed(error: Exception) -> Response:
    route = request.url_rule.rule if request.url_rule else None
    if database_away(error):
        log.warning("database does not answer", method=request.method, route=route)
        return page("message", 503, heading="Not at present", message=AWAY)
    log.error("page failed", method=request.method, route=route, exc_info=error)
    return page(
        "message", 500, heading="Something is broken here", message="It was noted. Please try again later."
    )
