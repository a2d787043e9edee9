"""How this node is doing."""

from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from horde import __version__
from horde.platform.runtime import Platform
from horde.status.schemas import Heartbeat

OVERLOADED_QUEUE = 10
"""Calls waiting for a thread from which on a load balancer should spare this node."""


def heartbeat(platform: Platform, load: Callable[[], tuple[int, int]], busy: int) -> Heartbeat:
    """This node's state. `load` tells the calls waiting for a thread and the threads of this process.

    A node without its database says so even when it is overloaded too.
    """
    queue, threads = load()
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
