"""What commands work on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from horde.app import open_platform
from horde.platform import migrate
from horde.platform.embedded import ServiceUrls, reachable_services
from horde.platform.processes import ServiceError
from horde.platform.runtime import Platform
from horde.settings import load_settings


@contextmanager
def command_services() -> Iterator[ServiceUrls]:
    """Database and cache for a command (see `reachable_services`); failures become messages."""
    try:
        with reachable_services(load_settings()) as urls:
            yield urls
    except ServiceError as failure:
        raise click.ClickException(str(failure)) from failure


@contextmanager
def command_platform() -> Iterator[Platform]:
    """The platform on the services of `command_services`, its database migrated."""
    with command_services() as urls:
        migrate.upgrade(urls.database_url)
        with open_platform(load_settings().model_copy(update=asdict(urls))) as platform:
            yield platform
