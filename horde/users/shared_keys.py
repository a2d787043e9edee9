"""Shared keys as people use them: making, showing and changing them, and finding who pays for a call."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from horde.kudos import rules
from horde.kudos import shared_keys as books
from horde.kudos.rules import SharedKeyFacts
from horde.platform.errors import BadRequest, Forbidden
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts, most_shared_keys
from horde.users.shared_key_schemas import SharedKeyDetails, SharedKeyInput

__all__ = [
    "Caller",
    "SharedKeyFacts",
    "change_key",
    "check_usable",
    "create_key",
    "describe_key",
    "identify",
    "kept_as",
    "key_details",
    "remove_key",
]

FACTS_SECONDS = 5.0
NEVER = -1

_DETACH = text("UPDATE styles SET shared_key_id = NULL WHERE shared_key_id = :key")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    user: UserFacts
    """Who pays: the account that the API key belongs to, or the owner of the shared key."""
    key: SharedKeyFacts | None
    """The shared key that was sent instead of an API key."""


def identify(platform: Platform, api_key: str) -> Caller:
    """Who pays for a request that was sent with an API key or a shared key, as of the last few seconds.

    A shared key is found whether or not it can be used (see `check_usable`). Raises `InvalidAPIKey` (401).
    """
    key_id = parse_id(api_key)
    # Any other spelling of a key would have rate limits of its own.
    if key_id is None or str(key_id) != api_key:
        return Caller(users.authenticate(platform, api_key), None)

    def load() -> SharedKeyFacts:
        return _find(platform, key_id)

    key = platform.local.get(kept_as(key_id), FACTS_SECONDS, load)
    return Caller(users.user_facts(platform, key.user_id), key)


def check_usable(key: SharedKeyFacts) -> None:
    """Whether requests may be made with a key now; raises `SharedKeyEmpty`, `SharedKeyExpired` (403)."""
    rules.check_usable(key, datetime.now(UTC))


def create_key(platform: Platform, api_key: str, wanted: SharedKeyInput) -> SharedKeyDetails:
    """Make a key with which others can spend the caller's kudos.

    Raises, in this order, `InvalidAPIKey` (401) and, with 403, `AnonForbidden`, `DeletedUser` and
    `Forbidden` for somebody who has as many keys as an account may.
    """
    user = users.authenticate(platform, api_key)
    if user.anonymous:
        raise Forbidden(
            "The anonymous account cannot share its kudos. Register for an account of your own.",
            "AnonForbidden",
        )
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot share kudos.", "DeletedUser")
    most = most_shared_keys(user.roles)
    values = _columns(wanted, SharedKeyInput.model_fields.keys())
    if wanted.expiry == 0:
        values["expires"] = None
    with platform.engine.begin() as db:
        key_id = books.create(db, user.balance_account, values, most=most)
    if key_id is None:
        raise Forbidden(
            f"Your account has {most} shared keys, the most that it may have. Delete one before you make "
            "another.",
            "Forbidden",
        )
    return describe_key(user.alias, _find(platform, key_id))


def key_details(platform: Platform, key_id: str) -> SharedKeyDetails:
    """A key, for anybody who knows it. Raises `InvalidAPIKey` (401)."""
    key = _find(platform, parse_id(key_id))
    return describe_key(users.user_facts(platform, key.user_id).alias, key)


def change_key(platform: Platform, api_key: str, key_id: str, wanted: SharedKeyInput) -> SharedKeyDetails:
    """Set what `wanted` names of a key of the caller's. Styles lose one that is no longer theirs alone.

    Raises, in this order, `InvalidAPIKey` (401) for the key, then for the caller, `Forbidden` (403) for
    somebody else's key, and `NoSharedKeyModSelected` (400).
    """
    user, key = _own(platform, api_key, key_id)
    values = _columns(wanted, wanted.model_fields_set)
    if not values:
        raise BadRequest(
            "The body names nothing to change. Send name, kudos, expiry, max_image_pixels, max_image_steps, "
            "max_text_tokens or style_only.",
            "NoSharedKeyModSelected",
        )
    with platform.engine.begin() as db:
        books.change(db, key.id, values)
        if values.get("style_only") is False:
            db.execute(_DETACH, {"key": key.id})
    platform.local.drop(kept_as(key.id))
    return describe_key(user.alias, _find(platform, key.id))


def remove_key(platform: Platform, api_key: str, key_id: str) -> None:
    """Delete a key of the caller's; requests that were made with it go on at the caller's expense.

    Raises, in this order, `InvalidAPIKey` (401) for the key, then for the caller, and `Forbidden` (403) for
    somebody else's key.
    """
    _, key = _own(platform, api_key, key_id)
    with platform.engine.begin() as db:
        books.remove(db, key.id)
    platform.local.drop(kept_as(key.id))


def kept_as(key_id: UUID) -> str:
    """The name under which this process keeps a key for some seconds."""
    return f"sharedkey:{key_id}"


def _find(platform: Platform, key_id: UUID | None) -> SharedKeyFacts:
    """The key as it is now; None, an id that is none, is as unknown as any other."""
    if key_id is not None:
        with platform.read() as db:
            key = books.find(db, key_id)
        if key is not None:
            return key
    raise books.no_key()


def _own(platform: Platform, api_key: str, key_id: str) -> tuple[UserFacts, SharedKeyFacts]:
    key = _find(platform, parse_id(key_id))
    user = users.authenticate(platform, api_key)
    if user.id != key.user_id:
        raise Forbidden(
            "This shared key belongs to somebody else. Only its owner may change it.", "Forbidden"
        )
    return user, key


def _columns(wanted: SharedKeyInput, names: Iterable[str]) -> dict[str, Any]:
    """The columns of the fields called `names`."""
    values = wanted.model_dump(include=set(names))
    if "name" in values:
        values["name"] = wanted.name or None
    if "expiry" in values:
        days = values.pop("expiry")
        values["expires"] = None if days == NEVER else datetime.now(UTC) + timedelta(days=days)
    return values


def describe_key(owner: str, key: SharedKeyFacts) -> SharedKeyDetails:
    """How a key is shown to whoever knows it; `owner` is its owner's name and number."""
    return SharedKeyDetails(
        id=str(key.id),
        username=owner,
        name=key.name or "",
        kudos=_whole(key.kudos),
        expiry=format_datetime(key.expires.replace(tzinfo=None)) if key.expires else None,
        max_image_pixels=key.max_image_pixels,
        max_image_steps=key.max_image_steps,
        max_text_tokens=key.max_text_tokens,
        utilized=round(key.utilized),
        style_only=True if key.style_only else None,
    )


def _whole(left: Decimal) -> int:
    """What is left of a key in whole kudos. 0 says that nothing is, so a last fraction counts as 1."""
    return round(left) or (1 if left else 0)
