"""A fresh horde for a benchmark, and counting what it asks of its database."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event

from horde.cli.serve import claim_port
from horde.platform import migrate
from horde.platform.embedded import start_services
from horde.platform.processes import Supervisor
from horde.platform.runtime import Platform
from horde.settings import Settings

HOST = "127.0.0.1"


@contextmanager
def fresh_horde(**values: Any) -> Iterator[tuple[Supervisor, Settings]]:
    """A migrated empty database, durable as in production, and a cache, both gone afterwards.

    The settings are the default ones with `values`, whatever `.env` says; the port is a free one. The
    working directory is elsewhere meanwhile, so that programs started in it heed no `.env` either.
    """
    folder = Path(tempfile.mkdtemp(prefix="horde-benchmark-"))
    before = Path.cwd()
    try:
        os.chdir(folder)
        own: dict[str, Any] = {"var_dir": folder, "host": HOST, "port": claim_port(HOST, 0)}
        settings = Settings(_env_file=None, **own, database_url=None, redis_url=None, **values)
        with Supervisor(folder) as supervisor:
            urls = start_services(supervisor, settings)
            migrate.upgrade(urls.database_url)
            yield (
                supervisor,
                settings.model_copy(update={"database_url": urls.database_url, "redis_url": urls.redis_url}),
            )
    finally:
        os.chdir(before)
        shutil.rmtree(folder)


def program_ids(supervisor: Supervisor) -> dict[str, int]:
    """The process ids of the programs that run, by name."""
    records = json.loads((supervisor.var_dir / "processes.json").read_text())
    return {record["name"]: record["pid"] for record in records}


class StatementCount:
    """How many SQL statements a platform has run; what begins and ends transactions is not among them."""

    def __init__(self, platform: Platform) -> None:
        self.total = 0
        for engine in (platform.engine, platform.reader):
            event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.total += 1
