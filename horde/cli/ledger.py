"""`horde ledger`: the kudos books."""

import sys

import click

from horde.cli.services import command_platform
from horde.kudos import reconciliation, service
from horde.kudos.reconciliation import EntriesDamagedError, NightlyCheck
from horde.platform.runtime import Platform

LATE_SECONDS = 60


@click.group()
def ledger() -> None:
    """Look after the kudos books."""


@ledger.command("check")
@click.option(
    "--repair",
    is_flag=True,
    help="First book what drifted from the entries, take it back by further entries, and give back what is "
    "reserved for requests that are gone.",
)
def check(repair: bool) -> None:
    """Prove the books: every event balanced, every balance the sum of its entries.

    Prints what it counted and what the last nightly check found, and exits with 1 after listing whatever is
    wrong. Balances and totals that differ from their entries can be repaired unless entries were lost;
    docs/ledger.md says what to do about anything else.
    """
    with command_platform() as platform:
        if repair:
            _repair(platform)
        nightly = reconciliation.last_check(platform)
        counts, broken = service.check_books(platform)
    _tell_nightly(nightly)
    for name, count in counts.items():
        click.echo(f"{count:>12,} {name}")
    for rule, rows in broken.items():
        click.echo(f"WRONG: {rule}", err=True)
        for row in rows:
            click.echo("  " + " ".join(str(value) for value in row), err=True)
    if broken:
        sys.exit(1)
    click.echo("The books are right.")


@ledger.command("status")
def status() -> None:
    """Tell whether balances keep up with their entries, and what is reserved.

    Entries are folded into balances every few seconds. Exits with 1 when one has waited for a minute.
    """
    with command_platform() as platform:
        nightly = reconciliation.last_check(platform)
        health = reconciliation.health(platform)
    _tell_nightly(nightly)
    folded = "at an unknown time" if health.folded_seconds is None else f"{health.folded_seconds:.0f} s ago"
    click.echo(f"Last folded {folded}.")
    click.echo(f"{health.unfolded:>12,} unfolded entries, the oldest for {health.unfolded_seconds:.0f} s")
    click.echo(
        f"{health.reservations:>12,} reservations of {health.reserved:,} kudos in all, the oldest for "
        f"{health.reservation_seconds:.0f} s"
    )
    if health.unfolded_seconds > LATE_SECONDS:
        click.echo("Balances are behind. Is a server running, and what does its log say?", err=True)
        sys.exit(1)


def _tell_nightly(nightly: NightlyCheck | None) -> None:
    if nightly:
        rules = ", ".join(nightly.broken) or "nothing wrong"
        click.echo(f"Last nightly check, {nightly.created:%Y-%m-%d %H:%M} UTC: {rules}.")


def _repair(platform: Platform) -> None:
    released = reconciliation.release_orphans(platform)
    if released:
        click.echo(f"Given back: {released} reservations of requests that are gone.")
    try:
        found = reconciliation.repair(platform)
    except EntriesDamagedError as error:
        click.echo(
            f"No balance is repaired, since entries were lost or changed ({error}). Bring them back first, "
            "see docs/ledger.md.",
            err=True,
        )
        return
    for drift in found:
        what = f"its total '{drift.action}'" if drift.action else "its balance"
        click.echo(f"Repaired account {drift.account_id}: {what} was off by {drift.amount} kudos.")
    if found:
        service.fold_all(platform)
    else:
        click.echo("Nothing has drifted from its entries.")
