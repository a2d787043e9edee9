"""Modes of the whole horde: maintenance, invite-only and raid."""

from dataclasses import dataclass

from sqlalchemy import text

from horde.generation import queue
from horde.platform.errors import BadRequest
from horde.platform.runtime import Platform

MODES_KEY = "modes"
MODES_SECONDS = 2.0
RETRY_SECONDS = 60
"""When somebody who is refused for maintenance may ask again."""
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Modes:
    """Which modes are on."""

    maintenance: bool
    """New requests are refused; workers finish what they have."""
    invite_only: bool
    """New workers need an invitation."""
    raid: bool
    """Calls from doubtful addresses are refused; nobody but moderators knows."""


_MODES = text("SELECT maintenance, invite_only, raid FROM modes")


def modes(platform: Platform) -> Modes:
    """The modes, on other nodes than that where somebody switched one as of 2 seconds ago at most."""

    def load() -> Modes:
        with platform.read() as db:
            return Modes(*db.execute(_MODES).one())

    return platform.local.get(MODES_KEY, MODES_SECONDS, load)


def require_open(platform: Platform) -> None:
    """Raise `MaintenanceMode` (400) while new requests are refused."""
    if modes(platform).maintenance:
        raise BadRequest(
            "The horde is in maintenance and takes no new requests at present. Try again in some minutes.",
            "MaintenanceMode",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )


_SET = text("""
    UPDATE modes SET
        maintenance = coalesce(:maintenance, maintenance),
        invite_only = coalesce(:invite_only, invite_only),
        raid = coalesce(:raid, raid)
""")


def set_modes(
    platform: Platform,
    *,
    maintenance: bool | None = None,
    invite_only: bool | None = None,
    raid: bool | None = None,
) -> None:
    """Switch the modes that are given, all or none.

    Maintenance ends image requests that wait: nothing more of them is handed out. Jobs under way go on, and
    what is reserved for the requests is released when these are over (`sweep.release_reservations`).
    """
    with platform.engine.begin() as db:
        db.execute(_SET, {"maintenance": maintenance, "invite_only": invite_only, "raid": raid})
    platform.local.drop(MODES_KEY)
    if maintenance:
        while _end_waiting(platform):
            pass


_WAITING = text("SELECT id FROM requests WHERE kind = 'image' AND n > 0 ORDER BY id LIMIT :limit")


def _end_waiting(platform: Platform) -> int:
    """End some of the waiting image requests; returns how many. Few at a time, as others wait for them."""
    with platform.engine.begin() as db:
        ids = db.execute(_WAITING, {"limit": BATCH}).scalars().all()
        queue.cancel(db, ids)
    return len(ids)
