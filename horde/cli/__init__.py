"""The `horde` command: one module per command or group of commands."""

import click

from horde import __version__
from horde.cli.accounts import admin
from horde.cli.db import db
from horde.cli.generate import generate
from horde.cli.ledger import ledger
from horde.cli.models import models
from horde.cli.queue import queue
from horde.cli.serve import serve
from horde.cli.worker import worker


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Run and tend an AI Horde server, or use one."""


for command in (serve, db, admin, ledger, models, queue, worker, generate):
    main.add_command(command)
