"""`horde db`: the schema of the database."""

import click

from horde.cli.services import command_services
from horde.platform import migrate


@click.group()
def db() -> None:
    """Tend the database. `horde serve` migrates by itself; nodes behind a proxy need `upgrade`."""


@db.command()
def upgrade() -> None:
    """Apply every migration that the database lacks."""
    with command_services() as urls:
        migrate.upgrade(urls.database_url)
    click.echo("The database is up to date.")


@db.command()
def check() -> None:
    """Tell whether the database has every migration; exit status 1 if not."""
    with command_services() as urls:
        current = migrate.is_current(urls.database_url)
    if not current:
        raise click.ClickException("The database lacks migrations. Run `horde db upgrade`.")
    click.echo("The database is up to date.")
