"""A real server over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from horde.cli.serve import claim_port, local_url, start_web
from horde.platform.processes import Supervisor
from horde.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """A gunicorn that answers at `url` (no trailing slash) with these settings."""

    url: str
    settings: Settings
    pid: int


@pytest.fixture
def server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """gunicorn on a free port, on the test's own database, cache and folder.

    It believes callers on this machine which address they come from.
    """
    assert settings.secret_key
    monkeypatch.setenv("SECRET_KEY", settings.secret_key.get_secret_value())
    monkeypatch.setenv("TRUSTED_PROXIES", "127.0.0.1")
    served = settings.model_copy(update={"host": "127.0.0.1", "port": claim_port("127.0.0.1", 0)})
    with Supervisor(settings.var_dir) as supervisor:
        web = start_web(supervisor, served)
        yield Server(local_url(served), served, web.pid)
