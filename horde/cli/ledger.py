"""`horde ledger`: the kudos books."""

import sys

import click

from horde.cli.services import command_platform
from horde.kudos import reconciliation, service
from horde.platform.runtime import Platform


@click.group()
def ledger() -> None:
    """Look after the kudos books."""


@ledger.command("check")
@click.option(
    "--repair",
    is_flag=True,
    help="First book what drifted from the entries, and take it back by further entries.",
)
def check(repair: bool) -> None:
    """Prove the books: every event balanced, every balance the sum of its entries.

    Prints what it counted and what the last nightly check found, and exits with 1 after listing whatever is
    wrong. Balances and totals that differ from their entries can be repaired; anything else cannot.
    """
    with command_platform() as platform:
        if repair:
            _repair(platform)
        nightly = reconciliation.last_check(platform)
        counts, broken = service.check_books(platform)
    if nightly:
        rules = ", ".join(nightly.broken) or "nothing wrong"
        click.echo(f"Last nightly check, {nightly.created:%Y-%m-%d %H:%M} UTC: {rules}.")
    for name, count in counts.items():
        click.echo(f"{count:>12,} {name}")
    for rule, rows in broken.items():
        click.echo(f"WRONG: {rule}", err=True)
        for row in rows:
            click.echo("  " + " ".join(str(value) for value in row), err=True)
    if broken:
        sys.exit(1)
    click.echo("The books are right.")


def _repair(platform: Platform) -> None:
    found = reconciliation.repair(platform)
    for drift in found:
        what = f"its total '{drift.action}'" if drift.action else "its balance"
        click.echo(f"Repaired account {drift.account_id}: {what} was off by {drift.amount} kudos.")
    if found:
        service.fold_all(platform)
    else:
        click.echo("Nothing has drifted from its entries.")
