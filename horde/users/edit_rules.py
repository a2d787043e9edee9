"""Who may change what of an account, in the order in which it is checked."""

from collections.abc import Mapping
from typing import Any

from horde.platform.errors import BadRequest, Forbidden
from horde.users.management_schemas import ModifyUserInput
from horde.users.rules import LONGEST_USERNAME, Role, UserFacts

FOR_ADMINISTRATORS = ("kudos", "monthly_kudos", "usage_multiplier", "moderator")
FOR_MODERATORS = (
    "concurrency",
    "worker_invited",
    "trusted",
    "flagged",
    "customizer",
    "vpn",
    "service",
    "education",
    "special",
    "reset_suspicion",
    "admin_comment",
)
FOR_OWNERS = ("public_workers", "username", "contact", "generate_proxy_passkey", "undelete")
"""Moderators may change these too."""
FIELDS = FOR_ADMINISTRATORS + FOR_MODERATORS + FOR_OWNERS
ROLE_FIELDS = tuple(name for name in FIELDS if name in set(Role))
ACTIONS = ("reset_suspicion", "generate_proxy_passkey", "undelete")
"""False asks for nothing."""


def wanted(change: ModifyUserInput) -> dict[str, Any]:
    """What `change` asks for, in the order of `FIELDS`. Raises `NoUserModSelected` (400) for nothing."""
    sent = {
        name: getattr(change, name)
        for name in FIELDS
        if name in change.model_fields_set and (name not in ACTIONS or getattr(change, name))
    }
    if not sent:
        raise BadRequest(
            "The body names nothing to change. Send one of the fields that the documentation lists.",
            "NoUserModSelected",
        )
    return sent


def role_changes(sent: Mapping[str, Any]) -> list[tuple[Role, bool]]:
    """The roles that `sent` grants (True) or takes away, in their order."""
    return [(Role(name), sent[name]) for name in ROLE_FIELDS if name in sent] + (
        [(Role.DELETED, False)] if "undelete" in sent else []
    )


def check_may(caller: UserFacts, user_id: int, name: str) -> None:
    """Whether `caller` may change a field of an account.

    Raises, with 403, `NotAdmin`, `NotModerator` or, for the anonymous account's own, `AnonForbiddenUserMod`.
    """
    if name in FOR_ADMINISTRATORS:
        if not caller.has(Role.ADMIN):
            raise Forbidden(f"Only administrators may change {name}.", "NotAdmin")
        return
    if caller.has(Role.MODERATOR):
        return
    if name in FOR_MODERATORS:
        raise Forbidden(f"Only moderators may change {name}.", "NotModerator")
    if caller.id != user_id:
        raise Forbidden(f"Only the account's owner and moderators may change {name}.", "NotModerator")
    if caller.anonymous:
        raise Forbidden(
            "Nobody may change the account that everybody shares. Register for one of your own.",
            "AnonForbiddenUserMod",
        )


def check_username(name: str) -> None:
    """Raise `TooLongUserName` (400) for more than 30 characters, and `BadRequest` (400) for none."""
    if not name:
        raise BadRequest("The name holds nothing that can be seen. Choose another.")
    if len(name) > LONGEST_USERNAME:
        raise BadRequest(
            f"The name has {len(name)} characters; at most {LONGEST_USERNAME} are possible.",
            "TooLongUserName",
        )
