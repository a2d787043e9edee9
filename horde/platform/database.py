"""The database: one engine per process, one metadata for all tables."""

import orjson
from psycopg.types.json import set_json_loads
from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase

set_json_loads(orjson.loads)


class Base(DeclarativeBase):
    """Base of all tables; constraint names are derived so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def make_engine(url: str, pool_size: int, *, autocommit: bool = False) -> Engine:
    """Connect to PostgreSQL at `url` (any `postgres`/`postgresql` spelling, always driven by psycopg 3).

    With `autocommit` every statement is a transaction of its own, which spares single reading statements
    the round trips of BEGIN and ROLLBACK.
    A statement that a connection has run a few times is prepared on the server: planning the search for a
    job takes longer than running it (docs/decisions/0004-driver.md).
    JIT compilation is off: it costs milliseconds on statements that run in fractions of one. Errors leave
    out the statements' parameters, which may hold prompts and key hashes.
    """
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    return create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        pool_reset_on_return=None if autocommit else "rollback",
        pool_recycle=1800,
        hide_parameters=True,
        connect_args={"options": "-c jit=off -c timezone=UTC", "application_name": "horde"},
    )
