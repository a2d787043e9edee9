"""`horde queue`: what waits."""

import time

import click

from horde.cli.services import command_platform
from horde.image import seeding
from horde.image.seeding import Mix


@click.group()
def queue() -> None:
    """Look after the queue."""


@queue.command("seed")
@click.option("--kind", type=click.Choice(["image"]), required=True, help="Kind of request.")
@click.option("--depth", type=click.IntRange(min=1), required=True, help="How many requests.")
@click.option("--matching", "mix", flag_value=Mix.MATCHING, help="Requests that a plain worker can serve.")
@click.option(
    "--not-matching",
    "mix",
    flag_value=Mix.OTHER_MODELS,
    default=True,
    help="Requests for models that nobody offers; the default.",
)
@click.option(
    "--other-skills",
    "mix",
    flag_value=Mix.OTHER_SKILLS,
    help="Requests for a plain worker's models that are too large for it or need LoRAs.",
)
@click.option(
    "--lanes", type=click.IntRange(min=1), default=1000, show_default=True, help="Different demands."
)
def seed(kind: str, depth: int, mix: str, lanes: int) -> None:
    """Fill the queue of a horde with made-up requests, to see how it bears them.

    A new account asks for them and pays. They expire like all others. A plain worker is one that offers
    every usual model, pictures of 512x512 pixels and no LoRAs. Works on the database that the settings
    name, or on the embedded one of a running `horde serve`.
    """
    started = time.monotonic()
    with command_platform() as platform:
        user = seeding.open_account(platform, depth)
        try:
            seeding.seed(platform, user, Mix(mix), depth, lanes=lanes)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    seconds = time.monotonic() - started
    click.echo(f"{depth:,} {kind} requests of {user.alias} queued in {seconds:.0f} seconds.")
