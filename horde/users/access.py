"""Getting at an account: registering, logging in through a provider, replacing the API key."""

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from horde.platform.errors import BadRequest
from horde.platform.runtime import Platform
from horde.users import edit_rules
from horde.users import service as users
from horde.users.roles import lock_account
from horde.users.rules import UserFacts, key_hash, one_line
from horde.users.tables import ANONYMOUS_ID, User


def key_hash_of_login(platform: Platform, external_id: str) -> str | None:
    """The hash of the API key of the account that a login provider vouches for, if there is one."""
    with platform.read() as db:
        query = select(User.api_key_hash).where(User.external_id == external_id, User.wiped.is_(None))
        return db.execute(query).scalar_one_or_none()


def register(platform: Platform, username: str, external_id: str | None) -> tuple[UserFacts, str]:
    """A new account and its API key, which cannot be shown again.

    Without `external_id`, which a login provider vouched for, it is pseudonymous. Raises, with 400,
    `ProfaneUserName`, `TooLongUserName`, and `BadRequest` for an empty name or a second account of one login.
    """
    name = _decent_name(platform, username)
    try:
        return users.create_user(platform, name, external_id=external_id)
    except IntegrityError:
        raise BadRequest("You have an account already. Log in once more to see it.") from None


def renew_key(platform: Platform, user_id: int, username: str | None = None) -> tuple[UserFacts, str]:
    """Give an account a new API key, and a name if one is given; the key before is void at once.

    The key cannot be shown again. Raises `UserNotFound` (404) and, with 400, what `register` does of names.
    """
    api_key = users.new_api_key()
    digest = key_hash(platform.secret, api_key)
    values = {"api_key_hash": digest}
    if username is not None:
        values["username"] = _decent_name(platform, username)
    with platform.engine.begin() as db:
        user = lock_account(db, user_id)
        if user is None or user_id == ANONYMOUS_ID:
            raise users.no_user(user_id)
        db.execute(update(User).where(User.id == user_id).values(values))
    users.forget(platform, user)
    return users.holder(platform, digest), api_key


def _decent_name(platform: Platform, given: str) -> str:
    name = one_line(given)
    if platform.is_profane(platform, name):
        raise BadRequest("The name holds a profane word. Please choose another.", "ProfaneUserName")
    edit_rules.check_username(name)
    return name
