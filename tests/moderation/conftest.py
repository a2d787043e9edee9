"""An application that serves moderation alone."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from horde.app import make_platform
from horde.moderation import routes
from horde.platform.embedded import ServiceUrls
from horde.platform.http import init_http
from horde.users.rules import Role
from tests.support import Account, Horde, make_settings

SERVICE = "192.0.2.99"


@pytest.fixture(scope="module")
def shared_horde(
    services: ServiceUrls,
    database_admin: Engine,
    database_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Horde]:
    """A horde on a database of the test module's own."""
    name = f"horde_{uuid4().hex}"
    with database_admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {database_template}"))
    url = make_url(services.database_url).set(database=name).render_as_string(hide_password=False)
    platform = make_platform(
        make_settings(
            tmp_path_factory.mktemp("var"),
            database_url=url,
            redis_url=services.redis_url,
            service_addresses=SERVICE,
        )
    )
    app = Flask(__name__, static_folder=None)
    init_http(app, platform, [routes.area])
    yield Horde(app.test_client(), platform)
    platform.close()
    with database_admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def moderator(horde: Horde) -> Account:
    """Somebody who may do everything here."""
    return horde.account(Role.MODERATOR, username="Moderator")
