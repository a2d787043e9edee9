"""Proxy passkeys: with them services say for whom they call."""

from sqlalchemy import select, text, update

from horde.platform.errors import Forbidden, NotFound
from horde.platform.runtime import Platform
from horde.users.rules import Role, key_hash
from horde.users.service import new_api_key
from horde.users.tables import ANONYMOUS_ID, User, UserRole

PASSKEYS_KEY = "passkeys"
PASSKEYS_SECONDS = 5.0


def new_passkey(platform: Platform, user_id: int) -> str:
    """A fresh passkey of a service account, 22 characters; the one before is void within 5 seconds.

    It is not stored and cannot be shown again. Raises `UserNotFound` (404), and `NonServiceForbidden` (403)
    for accounts without the service role.
    """
    passkey = new_api_key()
    with platform.engine.begin() as db:
        user = select(User.id).where(User.id == user_id).with_for_update()
        if user_id == ANONYMOUS_ID or db.execute(user).one_or_none() is None:
            raise NotFound(f"There is no user with id {user_id}.", "UserNotFound")
        service = select(UserRole).where(UserRole.user_id == user_id, UserRole.role == Role.SERVICE)
        if db.execute(service).one_or_none() is None:
            raise Forbidden(
                "Only service accounts may have a proxy passkey. Ask the moderators for the service role.",
                "NonServiceForbidden",
            )
        digest = key_hash(platform.secret, passkey)
        db.execute(update(User).where(User.id == user_id).values(proxy_passkey_hash=digest))
    platform.local.drop(PASSKEYS_KEY)
    return passkey


_CURRENT = text("""
    SELECT proxy_passkey_hash, id FROM users
    WHERE proxy_passkey_hash IS NOT NULL
        AND EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'service')
        AND NOT EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role IN ('flagged', 'deleted'))
""")


def proxy_user(platform: Platform, passkey: str) -> int | None:
    """The id of the service account that `passkey` belongs to, as of the last 5 seconds, if any.

    Those of accounts that are flagged, deleted or no service any more are void. Hashes are looked up, so
    the time taken tells nothing about the passkeys that there are.
    """

    def load() -> dict[str, int]:
        with platform.read() as db:
            return {row.proxy_passkey_hash: row.id for row in db.execute(_CURRENT)}

    current = platform.local.get(PASSKEYS_KEY, PASSKEYS_SECONDS, load)
    return current.get(key_hash(platform.secret, passkey))
