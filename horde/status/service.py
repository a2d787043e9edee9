"""How this node is doing, and the modes of the horde."""

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from horde import __version__
from horde.moderation import modes
from horde.platform.errors import BadRequest, Forbidden
from horde.platform.runtime import Platform
from horde.status.schemas import Heartbeat, HordeModes, HordeModesInput
from horde.users import service as users
from horde.users.rules import Role

OVERLOADED_QUEUE = 10
"""Waiting calls from which on a load balancer should spare this node."""

log = structlog.get_logger(__name__)


def heartbeat(platform: Platform, busy: int) -> Heartbeat:
    """The state of this process, which is answering `busy` other calls.

    As many calls as it has database connections can get on at once; further ones wait for one. A node
    without its database says so even when it is overloaded too.
    """
    threads = platform.settings.database_pool_size
    queue = max(0, busy - threads)
    connected = _database_answers(platform)
    message = "OVERLOADED" if queue > OVERLOADED_QUEUE else "OK"
    if not connected:
        message = "DOWN"
    return Heartbeat.model_validate(
        {
            "message": message,
            "version": __version__,
            "queue": queue,
            "threads": threads,
            "active_count": busy,
            "db_connection": connected,
        }
    )


def _database_answers(platform: Platform) -> bool:
    try:
        with platform.read() as db:
            db.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


def show_modes(platform: Platform, api_key: str | None) -> HordeModes:
    """Which modes are on; whether raid mode is, only moderators are told.

    With an API key, raises `InvalidAPIKey` (401) and `NotModerator` (403).
    """
    if api_key is not None:
        users.require_moderator(platform, api_key)
    now = modes.modes(platform)
    return HordeModes(
        maintenance_mode=now.maintenance,
        invite_only_mode=now.invite_only,
        raid_mode=now.raid if api_key is not None else None,
    )


def switch_modes(platform: Platform, api_key: str, change: HordeModesInput) -> HordeModes:
    """Switch the modes that `change` gives, and return these.

    Raises `InvalidAPIKey` (401), `NotAdmin` (403) for maintenance and `NotModerator` (403) for the other ones
    without these roles, and `NoHordeModSelected` (400); then nothing is switched.
    """
    user = users.authenticate(platform, api_key)
    values = change.model_dump(exclude_unset=True)
    if "maintenance_mode" in values and not user.has(Role.ADMIN):
        raise Forbidden("Only administrators may switch the maintenance mode.", "NotAdmin")
    if values.keys() - {"maintenance_mode"} and not user.has(Role.MODERATOR):
        raise Forbidden("Only moderators may switch modes.", "NotModerator")
    if not values:
        raise BadRequest(
            "Give at least one of maintenance_mode, invite_only_mode and raid_mode.", "NoHordeModSelected"
        )
    modes.set_modes(
        platform,
        maintenance=change.maintenance_mode,
        invite_only=change.invite_only_mode,
        raid=change.raid_mode,
    )
    log.info("modes switched", user=user.id, **values)
    return HordeModes(**values)
