"""`horde db`: the schema of the database."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from horde.platform import migrate
from horde.platform.embedded import embedded_services, running_services
from horde.platform.processes import ServiceError, supervised
from horde.settings import load_settings


@click.group()
def db() -> None:
    """Tend the database. `horde serve` migrates by itself; nodes behind a proxy need `upgrade`."""


@db.command()
def upgrade() -> None:
    """Apply every migration that the database lacks."""
    with _database() as url:
        migrate.upgrade(url)
    click.echo("The database is up to date.")


@db.command()
def check() -> None:
    """Tell whether the database has every migration; exit status 1 if not."""
    with _database() as url:
        current = migrate.is_current(url)
    if not current:
        raise click.ClickException("The database lacks migrations. Run `horde db upgrade`.")
    click.echo("The database is up to date.")


@contextmanager
def _database() -> Iterator[str]:
    """The configured database, or the embedded one, started for the block unless it runs already."""
    settings = load_settings()
    try:
        if settings.database_url:
            yield settings.database_url
        elif supervised(settings.var_dir):
            yield running_services(settings).database_url
        else:
            with embedded_services(settings) as urls:
                yield urls.database_url
    except ServiceError as failure:
        raise click.ClickException(str(failure)) from failure
