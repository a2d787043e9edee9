"""Logging in with an account elsewhere. Nothing is asked for or kept of it but its number."""

import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

import orjson
import requests
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session

from horde.platform.errors import BadRequest, NotFound
from horde.platform.runtime import Platform
from horde.settings import Settings
from horde.web import sessions

SECONDS = 600
"""So long somebody may take to log in there."""
CALL_SECONDS = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody whose word we take for who somebody is."""

    name: str
    title: str
    prefix: str
    """Of the external ids of its accounts."""
    scope: str
    authorize: str
    token: str
    account: str
    """Tells whose token it is,"""
    number: str
    """under this name."""
    more: dict[str, str] = field(default_factory=dict)

    def keys(self, settings: Settings) -> tuple[str, str] | None:
        """Client id and secret, where the operator has both."""
        client = getattr(settings, f"{self.name}_client_id")
        secret = getattr(settings, f"{self.name}_client_secret")
        return (client, secret.get_secret_value()) if client and secret else None


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "google",
            "Google",
            "g_",
            "openid email",
            "https://accounts.google.com/o/oauth2/v2/auth",
            "https://oauth2.googleapis.com/token",
            "https://openidconnect.googleapis.com/v1/userinfo",
            "sub",
            {"prompt": "consent"},
        ),
        Provider(
            "discord",
            "Discord",
            "d_",
            "identify",
            "https://discord.com/oauth2/authorize",
            "https://discord.com/api/oauth2/token",
            "https://discord.com/api/users/@me",
            "id",
        ),
        Provider(
            "github",
            "GitHub",
            "gh_",
            "",
            "https://github.com/login/oauth/authorize",
            "https://github.com/login/oauth/access_token",
            "https://api.github.com/user",
            "id",
        ),
    )
}


def configured(settings: Settings) -> list[Provider]:
    """The providers that the operator has client ids and secrets of."""
    return [provider for provider in PROVIDERS.values() if provider.keys(settings)]


def begin(platform: Platform, name: str, return_to: str, home: str) -> str:
    """Where to send the visitor to log in. Raises `NotFound` (404) for a provider that is not configured."""
    provider, client = _client(platform, name, home)
    verifier = secrets.token_urlsafe(48)
    url, state = client.create_authorization_url(
        provider.authorize, state=secrets.token_urlsafe(32), code_verifier=verifier, **provider.more
    )
    kept = [sessions.current().name, name, verifier, return_to]
    with sessions.store() as cache:
        cache.set(_kept(state), orjson.dumps(kept), ex=SECONDS)
    return str(url)


def finish(platform: Platform, name: str, home: str, state: str, code: str) -> tuple[str, str]:
    """The external id of whoever came back from a provider, and the page that they want to go to.

    Raises `BadRequest` (400) unless this visitor went there from here lately, came back for the first time,
    and the provider says who they are.
    """
    provider, client = _client(platform, name, home)
    with sessions.store() as cache:
        document = cast(bytes | None, cache.getdel(_kept(state)))
    visitor, asked, verifier, return_to = orjson.loads(document) if document else ("", "", "", "")
    if asked != name or not secrets.compare_digest(visitor, sessions.current().name):
        raise BadRequest("This login was not begun here, took too long, or is over. Please begin again.")
    try:
        client.fetch_token(provider.token, code=code, code_verifier=verifier, timeout=CALL_SECONDS)
        answer = client.get(provider.account, timeout=CALL_SECONDS, allow_redirects=False)
        answer.raise_for_status()
        number = _number(answer.json()[provider.number])
    except (requests.RequestException, AuthlibBaseError, ValueError, KeyError, TypeError) as error:
        log.warning("login failed", provider=name, error=type(error).__name__)
        raise BadRequest(f"{provider.title} did not confirm who you are. Please try again.") from error
    finally:
        client.close()
    return provider.prefix + number, return_to


def _number(given: Any) -> str:
    """The account's number. Raises ValueError for anything else."""
    number = str(given)
    if isinstance(given, bool) or not (number.isascii() and number.isdigit() and len(number) <= 40):
        raise ValueError("not an account's number")
    return number


def _client(platform: Platform, name: str, home: str) -> tuple[Provider, Any]:
    provider = PROVIDERS.get(name)
    keys = provider.keys(platform.settings) if provider else None
    if provider is None or keys is None:
        raise NotFound("Nobody can log in with that here.", "NotFound")
    return provider, OAuth2Session(
        *keys,
        scope=provider.scope or None,
        redirect_uri=f"{home}/{name}/{name}/authorized",
        code_challenge_method="S256",
        token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method's name
    )


def _kept(state: str) -> str:
    return f"login:{sha256(state.encode()).hexdigest()}"
