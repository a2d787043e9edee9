"""Pops that wait on a real server: clients that hang up, and a server that is told to stop."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from horde.app import make_platform
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import AGENT, MODEL, account
from tests.system.conftest import Server

pytestmark = pytest.mark.system

WAIT = 30


def offer(name: str) -> dict[str, object]:
    return {"name": name, "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 512 * 512, "wait": WAIT}


def waiting_connection(server: Server, key: str, name: str) -> socket.socket:
    """A connection on which a worker waits."""
    body = json.dumps(offer(name)).encode()
    url = urlsplit(server.url)
    connection = socket.create_connection((url.hostname, url.port), timeout=WAIT)
    connection.sendall(
        b"POST /api/v2/generate/pop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"apikey: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


def registered(server: Server, key: str, count: int) -> None:
    """Return once so many workers are known, so that they are about to wait."""
    platform = make_platform(server.settings)
    for _ in range(200):
        with platform.read() as db:
            if db.exec_driver_sql("SELECT count(*) FROM workers").scalar_one() >= count:
                break
        time.sleep(0.05)
    platform.close()
    time.sleep(1)


@pytest.fixture
def key(server: Server) -> str:
    platform = make_platform(server.settings)
    owner = account(platform, Role.TRUSTED)
    platform.close()
    return owner.key


def test_whoever_hangs_up_takes_no_job(server: Server, key: str) -> None:
    gone = [waiting_connection(server, key, f"gone {number}") for number in range(4)]
    registered(server, key, len(gone))
    there = waiting_connection(server, key, "there")
    registered(server, key, len(gone) + 1)
    for connection in gone:
        connection.close()
    answer = requests.post(
        f"{server.url}/api/v2/generate/async",
        json={"prompt": "a lighthouse"},
        headers={"apikey": ANONYMOUS_KEY},
        timeout=20,
    )
    request = answer.json()["id"]
    told = b""
    while not told.endswith(b"}\n"):
        told += there.recv(65536)
    there.close()
    assert b'"ids":["' in told
    status = requests.get(f"{server.url}/api/v2/generate/status/{request}", timeout=20).json()
    assert [each["worker_name"] for each in status["processing_by"]] == ["there"]
    assert status["restarted"] == 0


def test_a_server_that_is_told_to_stop_lets_those_who_wait_go(server: Server, key: str) -> None:
    def pop(number: int) -> requests.Response:
        return requests.post(
            f"{server.url}/api/v2/generate/pop",
            json=offer(f"worker {number}"),
            headers={"apikey": key},
            timeout=2 * WAIT,
        )

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(pop, number) for number in range(8)]
        registered(server, key, len(answers))
        web = psutil.Process(server.pid)
        asked = time.monotonic()
        web.terminate()
        told = [answer.result() for answer in answers]
        assert [(each.status_code, each.json()["ids"]) for each in told] == [(200, [])] * len(answers)
        # Not at the end of their time, which is twice as far away.
        assert time.monotonic() - asked < WAIT / 2
    web.wait(WAIT * 2 / 3)
