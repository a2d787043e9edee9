"""A real server under requesters and workers that come at the same time, and while its processes die."""

import base64
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests

from horde.app import make_platform
from horde.generation import sweep
from horde.kudos import service as ledger
from horde.platform.runtime import Platform
from horde.users.rules import Role
from tests.support import AGENT, MODEL, account, assert_queue_consistent, picture
from tests.system.conftest import Server

pytestmark = pytest.mark.system

REQUESTERS, WORKERS, EACH = 6, 4, 4
PICTURE = base64.b64encode(picture(64, 64)).decode()


class Caller:
    """Somebody at an address of their own, so that nobody's rate limits get in another's way."""

    def __init__(self, server: Server, key: str) -> None:
        self._server, self._key = server, key
        self._session = requests.Session()

    def call(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Call the API as a patient program does: again while a process is being replaced."""
        for _ in range(100):
            try:
                answer = self._session.request(
                    method,
                    f"{self._server.url}/api/v2{path}",
                    json=body,
                    headers={"apikey": self._key, "X-Forwarded-For": f"10.{random.randrange(1 << 8)}.0.1"},
                    timeout=20,
                )
            except requests.RequestException:
                time.sleep(0.1)
                continue
            if answer.status_code != 429:
                return answer
            time.sleep(0.3)
        raise AssertionError(f"{path} never answered")


def work(caller: Caller, name: str, stop: threading.Event) -> list[tuple[str, float]]:
    """Take jobs and hand in pictures; every fifth result twice. Returns what was paid for which job."""
    paid = []
    offer = {"name": name, "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 4096, "amount": 2}
    while not stop.is_set():
        jobs = caller.call("POST", "/generate/pop", offer).json()["ids"]
        if not jobs:
            time.sleep(0.05)
        for job in jobs:
            result = {"id": job, "generation": PICTURE, "seed": 1}
            answers = [caller.call("POST", "/generate/submit", result)]
            if random.random() < 0.2:
                answers.append(caller.call("POST", "/generate/submit", result))
            paid += [(job, answer.json()["reward"]) for answer in answers if answer.status_code == 200]
            assert {answer.status_code for answer in answers} <= {200, 400}
    return paid


def ask(caller: Caller) -> list[dict[str, Any]]:
    """Ask for pictures several times and wait for each; returns the final answers."""
    done = []
    for _ in range(EACH):
        body = {"prompt": "a fox", "params": {"width": 64, "height": 64, "n": 3}, "models": [MODEL]}
        answer = caller.call("POST", "/generate/async", body)
        assert answer.status_code == 202, answer.text
        request_id = answer.json()["id"]
        deadline = time.monotonic() + 60
        while not caller.call("GET", f"/generate/check/{request_id}").json()["done"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        done.append(caller.call("GET", f"/generate/status/{request_id}").json())
    return done


def run(server: Server, platform: Platform) -> tuple[list[dict[str, Any]], list[tuple[str, float]]]:
    stop = threading.Event()
    with ThreadPoolExecutor(REQUESTERS + WORKERS) as pool:
        workers = [
            pool.submit(work, Caller(server, account(platform, Role.TRUSTED).key), f"Worker {number}", stop)
            for number in range(WORKERS)
        ]
        requesters = [
            pool.submit(ask, Caller(server, account(platform, amount=50).key)) for _ in range(REQUESTERS)
        ]
        try:
            done = [status for requester in requesters for status in requester.result()]
        finally:
            stop.set()
        return done, [payment for worker in workers for payment in worker.result()]


def check_everything(server: Server, statuses: list[dict[str, Any]], paid: list[tuple[str, float]]) -> None:
    pictures = [generation["id"] for status in statuses for generation in status["generations"]]
    assert len(statuses) == REQUESTERS * EACH
    assert all(len(status["generations"]) == 3 and not status["faulted"] for status in statuses)
    assert len(set(pictures)) == len(pictures)
    assert {job for job, _ in paid} <= set(pictures)
    assert len({job for job, _ in paid}) == len(paid), "a job was paid twice"
    platform = make_platform(server.settings)
    try:
        ledger.fold_all(platform)
        sweep.fold_records(platform)
        _, broken = ledger.check_books(platform)
        assert broken == {}
        with platform.read() as db:
            assert_queue_consistent(db)
    finally:
        platform.engine.dispose()


def test_many_requesters_and_workers_at_once(server: Server, platform: Platform) -> None:
    statuses, paid = run(server, platform)
    check_everything(server, statuses, paid)
    assert len(paid) == REQUESTERS * EACH * 3


def test_processes_that_die_lose_nothing_and_pay_nothing_twice(server: Server, platform: Platform) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(2.0):  # a new one needs about one second to start
            children = psutil.Process(server.pid).children()
            if children:
                os.kill(random.choice(children).pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        statuses, paid = run(server, platform)
    finally:
        stop.set()
        killer.join()
    check_everything(server, statuses, paid)


def test_large_pictures_are_converted_while_others_are_served(server: Server, platform: Platform) -> None:
    owner = Caller(server, account(platform, Role.TRUSTED).key)
    asker = Caller(server, account(platform, amount=50).key)
    body = {"prompt": "a fox", "params": {"width": 1024, "height": 1024}, "models": [MODEL], "r2": False}
    request_id = asker.call("POST", "/generate/async", body).json()["id"]
    offer = {"name": "Large", "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 1024 * 1024}
    job = owner.call("POST", "/generate/pop", offer).json()["id"]
    large = base64.b64encode(picture(1024, 1024, format="PNG")).decode()
    broken = base64.b64encode(picture(1024, 1024, format="PNG")[:-500]).decode()
    refused = owner.call("POST", "/generate/submit", {"id": job, "generation": broken, "seed": 1})
    assert (refused.status_code, refused.json()["rc"]) == (400, "ImageValidationFailed")
    taken = owner.call("POST", "/generate/submit", {"id": job, "generation": large, "seed": 1})
    assert taken.status_code == 200, taken.text
    image = asker.call("GET", f"/generate/status/{request_id}").json()["generations"][0]["img"]
    assert base64.b64decode(image)[8:12] == b"WEBP"
