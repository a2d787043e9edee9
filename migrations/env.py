"""How Alembic reaches the database and which tables it compares with.

The URL comes from the caller (`horde.platform.migrate`), `alembic -x url=...`, or the settings.
"""

from alembic import context

from horde.platform.database import make_engine
from horde.settings import load_settings
from horde.tables import Base


def _database_url() -> str:
    url = (
        context.config.attributes.get("database_url")
        or context.get_x_argument(as_dictionary=True).get("url")
        or load_settings().database_url
    )
    if not url:
        raise SystemExit("Set DATABASE_URL, or pass -x url=postgresql://...")
    return str(url)


engine = make_engine(_database_url(), pool_size=1)
try:
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()
finally:
    engine.dispose()
