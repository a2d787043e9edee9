"""`horde ledger`: the kudos books."""

import sys

import click

from horde.cli.services import command_platform
from horde.kudos import service


@click.group()
def ledger() -> None:
    """Look after the kudos books."""


@ledger.command("check")
def check() -> None:
    """Prove the books: every event balanced, every balance the sum of its entries.

    Prints what it counted, and exits with 1 after listing whatever is wrong.
    """
    with command_platform() as platform:
        counts, broken = service.check_books(platform)
    for name, count in counts.items():
        click.echo(f"{count:>12,} {name}")
    for rule, rows in broken.items():
        click.echo(f"WRONG: {rule}", err=True)
        for row in rows:
            click.echo("  " + " ".join(str(value) for value in row), err=True)
    if broken:
        sys.exit(1)
    click.echo("The books are right.")
