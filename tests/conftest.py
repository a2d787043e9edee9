"""Real services for tests: one PostgreSQL and one Valkey per test process, a fresh database per test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from horde.app import create_app
from horde.platform import migrate
from horde.platform.database import make_engine
from horde.platform.embedded import ServiceUrls, embedded_services
from horde.settings import Settings
from tests.support import Horde, files, forget, make_settings, restore_rows, save_rows

if TYPE_CHECKING:
    from horde.platform.runtime import Platform

TEMPLATE = "horde_template"
_numbers = itertools.count(1)


def _in_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def services() -> Iterator[ServiceUrls]:
    """PostgreSQL and Valkey of this test process."""
    # Not below pytest's own folder: that one is closed to the account that PostgreSQL needs under root.
    folder = Path(tempfile.mkdtemp(prefix="horde-test-"))
    try:
        with embedded_services(
            make_settings(folder, database_url=None, redis_url=None), durable=False
        ) as urls:
            yield urls
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def database_admin(services: ServiceUrls) -> Iterator[Engine]:
    """A connection that creates and drops databases."""
    engine = make_engine(services.database_url, pool_size=1)
    yield engine.execution_options(isolation_level="AUTOCOMMIT")
    engine.dispose()


@pytest.fixture(scope="session")
def database_template(services: ServiceUrls, database_admin: Engine) -> str:
    """Name of a migrated database that holds nothing but what migrations put there."""
    with database_admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {TEMPLATE}"))
    migrate.upgrade(_in_database(services.database_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(services: ServiceUrls, database_admin: Engine, database_template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    name = f"horde_{os.getpid()}_{next(_numbers)}"
    with database_admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {database_template}"))
    yield _in_database(services.database_url, name)
    with database_admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def redis_url(services: ServiceUrls) -> str:
    """An empty cache."""
    with redis.Redis.from_url(services.redis_url) as cache:
        cache.flushall()
    return services.redis_url


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a server on the test's own database, cache and folder."""
    return make_settings(tmp_path / "var", database_url=database_url, redis_url=redis_url)


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """The whole application."""
    app = create_app(settings)
    yield app
    app.extensions["horde"].engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Calls the application without a network."""
    return app.test_client()


@pytest.fixture
def platform(app: Flask) -> "Platform":
    """What service functions take."""
    platform: Platform = app.extensions["horde"]
    return platform


@pytest.fixture(scope="module")
def shared_horde(
    services: ServiceUrls,
    database_admin: Engine,
    database_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Horde]:
    """A horde on a database of the test module's own. Making one takes longer than most tests do."""
    name = f"horde_{uuid4().hex}"
    with database_admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {database_template}"))
    url = make_url(services.database_url).set(database=name).render_as_string(hide_password=False)
    folder = tmp_path_factory.mktemp("var")
    app = create_app(make_settings(folder, database_url=url, redis_url=services.redis_url))
    platform = app.extensions["horde"]
    yield Horde(app.test_client(), platform)
    platform.close()
    with database_admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def horde(shared_horde: Horde) -> Iterator[Horde]:
    """A horde that holds nothing but what migrations put there."""
    shared_horde.platform.cache.flushall()
    forget(shared_horde.platform)
    rows = save_rows(shared_horde.platform)
    yield shared_horde
    restore_rows(shared_horde.platform, rows)
    for path in files(shared_horde.platform):
        path.unlink()
