"""`horde queue`: what waits."""

import time
from dataclasses import asdict

import click

from horde.app import open_platform
from horde.image import seeding
from horde.image.seeding import Mix
from horde.platform.embedded import running_services
from horde.platform.processes import ServiceError
from horde.settings import load_settings


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
    settings = load_settings()
    started = time.monotonic()
    try:
        urls = running_services(settings)
        with open_platform(settings.model_copy(update=asdict(urls))) as platform:
            user = seeding.open_account(platform, depth)
            seeding.seed(platform, user, Mix(mix), depth, lanes=lanes)
    except (ServiceError, ValueError) as failure:
        raise click.ClickException(str(failure)) from failure
    seconds = time.monotonic() - started
    click.echo(f"{depth:,} {kind} requests of {user.alias} queued in {seconds:.0f} seconds.")
