"""Bringing a database to the present schema."""

import time

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from horde.platform.database import make_engine
from horde.settings import ROOT

LOCK_KEY = 0x686F7264  # any number, as long as nothing else takes a lock of the same
LOCK_POLL_SECONDS = 0.5


def upgrade(database_url: str) -> None:
    """Apply every migration that the database lacks.

    Safe to call from any number of nodes at once: one migrates, the others wait for it.
    """
    config = _config(database_url)
    engine = make_engine(database_url, pool_size=1)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Trying again, rather than waiting inside a statement, keeps no snapshot open, which a
            # CREATE INDEX CONCURRENTLY in a migration would wait for in turn.
            while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
                time.sleep(LOCK_POLL_SECONDS)
            if not _is_current(config, connection):
                command.upgrade(config, "head")
    finally:
        engine.dispose()


def is_current(database_url: str) -> bool:
    """Whether the database has every migration."""
    engine = make_engine(database_url, pool_size=1)
    try:
        with engine.connect() as connection:
            return _is_current(_config(database_url), connection)
    finally:
        engine.dispose()


def _is_current(config: Config, connection: Connection) -> bool:
    heads = ScriptDirectory.from_config(config).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def _config(database_url: str) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["database_url"] = database_url
    return config
