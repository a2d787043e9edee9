"""`horde serve`: a whole server from one command."""

import os
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType

import click

from horde.app import CannotStart, check_files, open_platform
from horde.cli.accounts import ensure_first_moderator
from horde.platform import migrate
from horde.platform.embedded import start_services
from horde.platform.processes import Child, ServiceError, StopRequested, Supervisor
from horde.settings import ROOT, Settings, load_settings

KEY_FILE = "moderator.key"
READY_SECONDS = 120.0
WATCH_SECONDS = 0.2
# gunicorn lets requests finish for 30 seconds.
WEB_STOP_SECONDS = 35.0
WORKER_STOP_SECONDS = 15.0
WORKER_NAME = "Sample Worker"
LONGEST_RESTART_DELAY = 60.0


@click.command()
def serve() -> None:
    """Run the server, with everything it needs that the settings do not name.

    Starts the embedded database and cache, migrates, serves, and attaches a sample worker. Ctrl-C or
    SIGTERM stops it all; nothing is lost.
    """
    settings = load_settings()
    supervisor = Supervisor(settings.var_dir)
    _stop_on_signals(supervisor)
    try:
        with supervisor:
            _run(supervisor, settings)
    except StopRequested:
        click.echo("Stopped.")
    except ServiceError as failure:
        raise click.ClickException(str(failure)) from failure


def _stop_on_signals(supervisor: Supervisor) -> None:
    def handle(_signum: int, _frame: FrameType | None) -> None:
        supervisor.stop_requested = True

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, handle)


def _run(supervisor: Supervisor, settings: Settings) -> None:
    """Start everything in order, then watch over it. Ends with `StopRequested` or `ServiceError` only."""
    try:
        check_files(settings)
    except CannotStart as error:
        raise ServiceError(str(error)) from error
    port = claim_port(settings.host, settings.port)
    click.echo("Starting ...")
    urls = start_services(supervisor, settings)
    served = settings.model_copy(
        update={
            "port": port,
            "var_dir": supervisor.var_dir,
            "database_url": urls.database_url,
            "redis_url": urls.redis_url,
        }
    )
    migrate.upgrade(urls.database_url)
    key_file = served.var_dir / KEY_FILE
    with open_platform(served) as platform:
        ensure_first_moderator(platform, key_file)
    start_web(supervisor, served)
    click.echo(_welcome(served, key_file))
    _watch(supervisor, served, key_file if settings.worker and key_file.exists() else None)


def claim_port(host: str, port: int) -> int:
    """`port` if it is free, or some free one for 0. Raises `ServiceError` if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as claimed:
            return int(claimed.getsockname()[1])
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]
        raise ServiceError(
            f"Cannot listen on {host}, port {port}: {reason}. Stop what uses it, or set HOST or PORT."
        ) from error


def start_web(supervisor: Supervisor, settings: Settings) -> Child:
    """Start gunicorn on the services that `settings` name; it answers on return."""
    child = supervisor.start(
        "The web server",
        [
            *(sys.executable, "-m", "gunicorn", "--config", ROOT / "config" / "gunicorn.conf.py"),
            *("--pythonpath", ROOT, "wsgi:app"),
        ],
        env={
            **os.environ,
            "HOST": settings.host,
            "PORT": str(settings.port),
            "VAR_DIR": str(settings.var_dir),
            "DATABASE_URL": str(settings.database_url),
            "REDIS_URL": str(settings.redis_url),
        },
        stop_seconds=WEB_STOP_SECONDS,
    )
    heartbeat = f"{local_url(settings)}/api/v2/status/heartbeat"
    supervisor.wait_until(lambda: _answers(heartbeat), child, READY_SECONDS)
    return child


def local_url(settings: Settings) -> str:
    """Where this machine reaches the server, without a trailing slash."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _answers(url: str) -> bool:
    # A proxy in the environment is not for our own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _welcome(settings: Settings, key_file: Path) -> str:
    url = local_url(settings)
    command = Path(sys.executable).with_name("horde")
    if command.is_relative_to(Path.cwd()):
        command = command.relative_to(Path.cwd())
    lines = [
        f"The horde is ready at {url}",
        f"  Its API, to read and try:  {url}/api/",
        f'  Ask for a picture:         {command} generate --url {url} "a lighthouse at dawn"',
    ]
    if key_file.exists():
        lines.append(f"  The moderator's API key:   in {key_file}")
    if settings.worker and not key_file.exists():
        lines.append(f"  No sample worker: it needs a moderator's API key in {key_file}")
    return "\n".join([*lines, "Ctrl-C stops it."])


def _watch(supervisor: Supervisor, settings: Settings, worker_key: Path | None) -> None:
    """Keep the sample worker running, if it has a key, until we shall stop or something else ends."""
    worker: Child | None = None
    started_at = 0.0
    delay = 1.0
    while True:
        now = time.monotonic()
        if worker_key is not None and worker is None and now >= started_at + delay:
            worker = _start_worker(supervisor, settings, worker_key)
            started_at = now
        if supervisor.stop_requested:
            click.echo("Stopping ...")
            raise StopRequested
        ended = supervisor.ended()
        if ended is not None and ended is not worker:
            raise ServiceError(ended.failure())
        if ended is not None:
            supervisor.stop(ended)
            worker = None
            delay = 1.0 if now - started_at > LONGEST_RESTART_DELAY else min(2 * delay, LONGEST_RESTART_DELAY)
        time.sleep(WATCH_SECONDS)


def _start_worker(supervisor: Supervisor, settings: Settings, key_file: Path) -> Child:
    return supervisor.start(
        "The sample worker",
        [
            *(sys.executable, "-m", "horde.cli", "worker", "sample", "--name", WORKER_NAME),
            *("--url", local_url(settings), "--api-key-file", key_file),
        ],
        stop_seconds=WORKER_STOP_SECONDS,
    )
