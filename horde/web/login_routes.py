"""Registering, logging in and out, and new API keys."""

from typing import Any

from flask import Response, request

from horde.moderation import modes
from horde.moderation.timeouts import check_timeout
from horde.platform.errors import BadRequest, Forbidden, HordeError, NotFound
from horde.platform.http import direct_address, limited
from horde.platform.runtime import current_platform
from horde.users import access
from horde.users import service as users
from horde.users.rules import LONGEST_USERNAME, UserFacts, key_hash
from horde.web import captcha, forms, oauth, sessions
from horde.web.site import home, page, see, site

PAGES = ("account", "register", "transfer", "education")
"""Where somebody may want to go back to after logging in."""
LOOKING = "60/minute"
SENDING = "5/minute;20/hour"
"""Per address; a school class has time enough."""


@site.get("/register")
@limited(LOOKING)
def register_form() -> Response:
    """Ask for a name."""
    return _register_form()


@site.post("/register")
@limited(SENDING, key="path")
def register() -> Response:
    """Create an account and show its key or, for whoever came from a login provider, renew both."""
    platform, address = current_platform(), direct_address()
    session, user = sessions.current(), sessions.user()
    try:
        captcha.check(platform, address)
        check_timeout(platform, address)
        name = forms.field("username", 300)
        if session.login is None and modes.modes(platform).raid:
            raise Forbidden(
                "At present accounts are made for those only who log in with another one. " + LATER
            )
        if session.login is not None and user is not None:
            made = access.renew_key(platform, user.id, name)
        else:
            made = access.register(platform, name, session.login)
    except HordeError as error:
        return _register_form(error, forms.field("username", 300))
    return _show_key(*made, session.login)


LATER = "Choose one of them above or, if there are none, try again later."


def _register_form(error: HordeError | None = None, name: str | None = None) -> Response:
    login, user = sessions.current().login, sessions.user()
    returning = user if login is not None else None
    if name is None:
        name = returning.username if returning else ""
    return _form_page(
        "register",
        error,
        name=name,
        login=login,
        returning=returning,
        longest=LONGEST_USERNAME,
        captcha=captcha.shown(current_platform()),
    )


def _show_key(user: UserFacts, api_key: str, login: str | None) -> Response:
    """The only page that ever tells a key. Whoever sees it is logged in with it."""
    sessions.start(key_hash(current_platform().secret, api_key), login)
    return page("key", user=user, api_key=api_key, login=login)


def _form_page(template: str, error: HordeError | None, **values: Any) -> Response:
    status, message = (error.status, error.message) if error else (200, None)
    return page(template, status, error=message, **values)


@site.get("/login")
@limited(LOOKING)
def login_form() -> Response:
    """Ask for an API key."""
    return _login_form(_return_to(request.args.get("next", "")))


@site.post("/login")
@limited("10/minute;60/hour", key="path")
def login() -> Response:
    """Open a session for whoever has an API key."""
    platform, return_to = current_platform(), _return_to(forms.field("next"))
    api_key = forms.field("api_key", 200)
    try:
        check_timeout(platform, direct_address())
        if users.authenticate(platform, api_key).anonymous:
            raise BadRequest("This is the key of everybody who has no account. Register to get one of yours.")
    except HordeError as error:
        return _login_form(return_to, error)
    sessions.start(key_hash(platform.secret, api_key))
    return see(f"/{return_to}")


def _login_form(return_to: str, error: HordeError | None = None) -> Response:
    return _form_page("login", error, return_to=return_to)


def _return_to(given: str) -> str:
    """One of our own pages, never an address that somebody else wrote."""
    return given if given in PAGES else PAGES[0]


@site.post("/logout")
@limited(LOOKING)
def logout() -> Response:
    """End the session."""
    sessions.end()
    return see("/")


@site.post("/account/key")
@limited(SENDING, key="path")
def reset_key() -> Response:
    """Replace the API key of whoever is logged in; the old one and all sessions with it are void."""
    user = sessions.user()
    if user is None:
        return see("/login")
    if forms.field("sure") != "yes":
        raise BadRequest("Tick the box to say that you want a new key. Nothing was changed.")
    user, api_key = access.renew_key(current_platform(), user.id)
    return _show_key(user, api_key, sessions.current().login)


@site.get("/<any(google, discord, github):provider>/<string:return_to>")
@limited("20/minute", key="path")
def log_in_elsewhere(provider: str, return_to: str) -> Response:
    """Send the visitor to a login provider."""
    if return_to not in PAGES:
        raise NotFound("There is nothing at this address.", "NotFound")
    return see(oauth.begin(current_platform(), provider, return_to, home()), 302)


@site.get("/finish_dance")
@limited(LOOKING)
def finish_dance() -> Response:
    """An address that logins ended at in other hordes. Here each knows itself where it leads."""
    return see("/", 302)


@site.get("/<any(google, discord, github):provider>/<string:again>/authorized")
@limited("20/minute", key="path")
def logged_in_elsewhere(provider: str, again: str) -> Response:
    """Take the visitor back from a login provider. New ones go on to the registration."""
    if again != provider:
        raise NotFound("There is nothing at this address.", "NotFound")
    platform = current_platform()
    if request.args.get("error"):
        raise BadRequest("The login was broken off. Nothing was changed; you can begin again at any time.")
    login, return_to = oauth.finish(
        platform, provider, home(), request.args.get("state", ""), request.args.get("code", "")
    )
    found = access.key_hash_of_login(platform, login)
    sessions.start(found, login)
    return see(f"/{return_to if found else 'register'}")
