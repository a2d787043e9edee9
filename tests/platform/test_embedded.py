"""Embedded PostgreSQL and Valkey as an operator meets them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.engine import make_url

from horde.platform.database import make_engine
from horde.platform.embedded import ServiceUrls, embedded_services, reachable_services, running_services
from horde.platform.processes import ServiceError
from horde.settings import Settings
from tests.support import make_settings

HOLD = """
import sys, time
from pathlib import Path
from horde.platform.embedded import embedded_services
from tests.support import make_settings
with embedded_services(make_settings(Path(sys.argv[1]), database_url=None, redis_url=None), durable=False):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="horde-test-"))
    yield folder
    shutil.rmtree(folder)


def embedded(folder: Path) -> Settings:
    return make_settings(folder, database_url=None, redis_url=None)


def remember(urls: ServiceUrls, value: str) -> None:
    engine = make_engine(urls.database_url, pool_size=1)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (value text)"))
        connection.execute(text("INSERT INTO kept VALUES (:value)"), {"value": value})
    engine.dispose()
    with redis.Redis.from_url(urls.redis_url) as cache:
        cache.set("kept", value)


def recall(urls: ServiceUrls) -> tuple[str, str]:
    engine = make_engine(urls.database_url, pool_size=1)
    with engine.connect() as connection:
        stored = connection.scalar(text("SELECT value FROM kept"))
    engine.dispose()
    with redis.Redis.from_url(urls.redis_url) as cache:
        return stored, cache.get("kept").decode()


def pids(folder: Path) -> list[int]:
    recorded = json.loads((folder / "processes.json").read_text())
    return [entry["pid"] for entry in recorded]


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def killed_holder(folder: Path) -> list[int]:
    """Have another process run the services on `folder` and kill it; pids of what it leaves running."""
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "ready\n"
    left = pids(folder)
    holder.kill()
    holder.wait()
    return left


def test_data_outlives_a_restart_and_nothing_runs_in_between(folder: Path) -> None:
    with embedded_services(embedded(folder)) as urls:
        started = pids(folder)
        remember(urls, "before")
        assert len(started) == 2
        assert all(running(pid) for pid in started)
    assert not any(running(pid) for pid in started)
    with embedded_services(embedded(folder)) as urls:
        assert recall(urls) == ("before", "before")


def test_two_folders_run_side_by_side(folder: Path) -> None:
    with (
        embedded_services(embedded(folder / "one"), durable=False) as one,
        embedded_services(embedded(folder / "two"), durable=False) as two,
    ):
        remember(one, "one")
        remember(two, "two")
        assert recall(one) == ("one", "one")
        assert recall(two) == ("two", "two")


def test_one_folder_is_not_shared(folder: Path) -> None:
    with embedded_services(embedded(folder), durable=False) as urls:
        with (
            pytest.raises(ServiceError, match="in use by a running server"),
            embedded_services(embedded(folder)),
        ):
            pass
        remember(urls, "undisturbed")
        assert recall(urls) == ("undisturbed", "undisturbed")


def test_services_that_a_killed_process_left_running_are_replaced(folder: Path) -> None:
    left = killed_holder(folder)
    assert all(running(pid) for pid in left)
    with embedded_services(embedded(folder), durable=False) as urls:
        assert not any(running(pid) for pid in left)
        remember(urls, "after")
        started = pids(folder)
    assert not any(running(pid) for pid in started)


def test_stale_files_of_a_crash_do_not_matter(folder: Path) -> None:
    for pid in killed_holder(folder):
        os.kill(pid, signal.SIGKILL)
        while running(pid):
            time.sleep(0.01)
    lock = folder / "postgres" / "postmaster.pid"
    # As after a reboot: the number belongs to somebody else now.
    lock.write_text(lock.read_text().replace(lock.read_text().splitlines()[0], str(os.getpid()), 1))
    with embedded_services(embedded(folder), durable=False) as urls:
        remember(urls, "after")
        assert recall(urls) == ("after", "after")


def test_a_long_path_works(folder: Path) -> None:
    with embedded_services(embedded(folder / ("long" * 30)), durable=False) as urls:
        remember(urls, "far")
        assert recall(urls) == ("far", "far")
        sockets = Path(make_url(urls.database_url).query["host"])
        assert sockets.exists()
    assert not sockets.exists()


def test_only_what_the_settings_lack_is_started(folder: Path) -> None:
    given = make_settings(folder, database_url="postgresql://db.example/horde", redis_url=None)
    with embedded_services(given) as urls:
        assert urls.database_url == "postgresql://db.example/horde"
        assert len(pids(folder)) == 1
    given = make_settings(
        folder, database_url="postgresql://db.example/horde", redis_url="redis://cache.example"
    )
    with embedded_services(given) as urls:
        assert urls.redis_url == "redis://cache.example"
        assert not (folder / "processes.json").exists()


def test_other_processes_find_the_running_services(folder: Path) -> None:
    with embedded_services(embedded(folder), durable=False) as urls:
        assert running_services(embedded(folder)) == urls
        with reachable_services(embedded(folder)) as reached:
            assert reached == urls
        remember(urls, "kept")
    with pytest.raises(ServiceError, match="No server runs"):
        running_services(embedded(folder))
    with reachable_services(embedded(folder)) as urls:
        assert recall(urls) == ("kept", "kept")


def test_a_command_works_on_no_horde_that_nobody_started(folder: Path) -> None:
    with pytest.raises(ServiceError, match=r"no horde in .* VAR_DIR"), reachable_services(embedded(folder)):
        pass
    assert not (folder / "postgres").exists()


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    with embedded_services(embedded(folder), durable=False):
        pass
    (folder / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServiceError, match="incompatible"), embedded_services(embedded(folder)):
        pass
