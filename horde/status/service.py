"""How this node is doing."""

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from horde import __version__
from horde.platform.runtime import Platform
from horde.status.schemas import Heartbeat

OVERLOADED_QUEUE = 10
"""Waiting calls from which on a load balancer should spare this node."""


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
