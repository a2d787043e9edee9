"""The tables as the code declares them and as migrations make them are the same."""

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, inspect, text
from sqlalchemy.engine import make_url

from horde.platform import migrate
from horde.platform.database import make_engine
from horde.platform.embedded import ServiceUrls
from horde.tables import Base


@pytest.fixture
def empty_database(services: ServiceUrls, database_admin: Engine) -> Iterator[str]:
    """The URL of a database without any table."""
    with database_admin.connect() as connection:
        connection.execute(text("CREATE DATABASE horde_empty"))
    yield make_url(services.database_url).set(database="horde_empty").render_as_string(hide_password=False)
    with database_admin.connect() as connection:
        connection.execute(text("DROP DATABASE horde_empty WITH (FORCE)"))


def test_migrations_make_the_declared_tables(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
        # What Alembic does not compare:
        made = {
            constraint["name"]
            for table in Base.metadata.tables
            for constraint in inspect(connection).get_check_constraints(table)
        }
    declared = {
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    assert made == declared
    engine.dispose()


def test_an_empty_database_is_brought_to_the_present(empty_database: str) -> None:
    assert not migrate.is_current(empty_database)
    migrate.upgrade(empty_database)
    assert migrate.is_current(empty_database)
    engine = make_engine(empty_database, pool_size=1)
    with engine.connect() as connection:
        tables = set(connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
        system_accounts = connection.scalars(text("SELECT purpose FROM accounts WHERE user_id IS NULL")).all()
    engine.dispose()
    assert tables == {table.name for table in Base.metadata.sorted_tables} | {"alembic_version"}
    assert sorted(system_accounts) == ["burn", "treasury"]


def test_upgrading_again_changes_nothing(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET contact = 'kept' WHERE id = 0"))
    migrate.upgrade(database_url)
    migrate.upgrade(database_url)
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT contact FROM users")).all() == ["kept"]
    engine.dispose()
