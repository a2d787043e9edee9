"""Messages to requesters' own servers: sent once, tried again later, and no host in another's way."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import orjson
import pytest
from structlog.testing import capture_logs

from horde.generation.webhooks import (
    CALLS,
    CALLS_PER_HOST,
    LEASE_SECONDS,
    PAUSES,
    Notice,
    Sender,
    enqueue,
    notify,
)
from horde.platform.runtime import Platform
from tests.https_server import HttpsServer, https_server, reply
from tests.support import Horde, change, in_threads, scalar


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(module_server: HttpsServer, monkeypatch: pytest.MonkeyPatch) -> HttpsServer:
    """The requesters' server. All names below `.test` lead to it."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **values: real(
            "127.0.0.1" if str(host).endswith(".test") else host, *args, **values
        ),
    )
    module_server.received.clear()
    module_server.answer = reply()
    return module_server


@pytest.fixture
def platform(horde: Horde, server: HttpsServer) -> Platform:
    """A platform that may call the requesters' server."""
    allowed = {"outbound_networks": (ip_network("127.0.0.0/8"),), "outbound_ca_file": server.ca_file}
    return replace(horde.platform, settings=horde.platform.settings.model_copy(update=allowed))


@pytest.fixture
def sender(platform: Platform) -> Iterator[Sender]:
    """The leader's sender."""
    sender = Sender()
    yield sender
    sender.close()


def put(platform: Platform, *urls: str, count: int = 1, **body: Any) -> None:
    """Messages `{"number": 0}`, `{"number": 1}`, ... for each address."""
    with platform.engine.begin() as db:
        for url in urls:
            for number in range(count):
                enqueue(db, url, {"number": number, **body})


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def waiting(platform: Platform) -> int:
    return int(scalar(platform, "SELECT count(*) FROM outbox"))


def deliver_all(sender: Sender, platform: Platform) -> None:
    """Deliver what is due now, to the end."""
    sender.deliver(platform)
    wait_until(lambda: sender._calls.total() == 0)


def let_time_pass(platform: Platform) -> None:
    change(platform, "UPDATE outbox SET due = now()")


class Gate:
    """An answer that is not given until the gate is opened; counts who stands before it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.standing: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        host = handler.headers["Host"].partition(":")[0]
        with self._lock:
            self.standing[host] += 1
            self.most[host] = max(self.most[host], self.standing[host])
            self.most["all"] = max(self.most["all"], self.standing.total())
        self.opened.wait(10)
        with self._lock:
            self.standing[host] -= 1
        reply()(handler)


@pytest.fixture
def gate(server: HttpsServer, sender: Sender) -> Iterator[Gate]:
    """A gate for tests to put before answers; it opens before the sender is closed."""
    gate = Gate()
    yield gate
    gate.opened.set()


class TestDelivery:
    def test_once(self, platform: Platform, server: HttpsServer, sender: Sender) -> None:
        request = UUID(int=7)
        put(platform, server.url("/hook?key=1"), request=request, kudos=Decimal("12.5"))
        assert sender.deliver(platform) == 1
        wait_until(lambda: waiting(platform) == 0)
        assert sender.deliver(platform) == 0
        (received,) = server.received
        assert (received.method, received.path) == ("POST", "/hook?key=1")
        assert orjson.loads(received.body) == {"number": 0, "request": str(request), "kudos": 12.5}

    def test_not_if_the_transaction_is_rolled_back(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        with platform.engine.connect() as db:
            enqueue(db, server.url(), {})
            db.rollback()
        assert sender.deliver(platform) == 0

    def test_not_before_the_transaction_commits(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        with platform.engine.begin() as db:
            enqueue(db, server.url(), {})
            assert sender.deliver(platform) == 0
        assert sender.deliver(platform) == 1

    def test_one_start_is_enough_for_a_backlog(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        put(platform, server.url(), count=12)
        sender.deliver(platform)
        wait_until(lambda: waiting(platform) == 0)
        assert sorted(orjson.loads(received.body)["number"] for received in server.received) == [*range(12)]

    def test_a_redirect_counts_as_delivered(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        server.answer = reply(302, Location="https://10.0.0.1/")
        put(platform, server.url())
        deliver_all(sender, platform)
        assert waiting(platform) == 0

    def test_two_senders_share_the_work(self, platform: Platform, server: HttpsServer) -> None:
        put(platform, *(server.url(host=f"{letter}.hooks.test") for letter in "abcdefgh"), count=5)
        senders = [Sender(), Sender()]
        in_threads(2, lambda number: [senders[number].deliver(platform) for _ in range(20)])
        wait_until(lambda: waiting(platform) == 0)
        for sender in senders:
            sender.close()
        counted = Counter((received.headers["Host"], received.body) for received in server.received)
        assert set(counted.values()) == {1}
        assert len(counted) == 40

    def test_a_closed_sender_begins_nothing(self, platform: Platform, server: HttpsServer) -> None:
        put(platform, server.url())
        sender = Sender()
        sender.close()
        assert sender.deliver(platform) == 0
        assert scalar(platform, "SELECT attempts FROM outbox") == 0


class TestFailure:
    def test_a_failed_one_waits_and_is_sent_again(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        server.answer = reply(500)
        put(platform, server.url())
        deliver_all(sender, platform)
        assert sender.deliver(platform) == 0
        server.answer = reply()
        let_time_pass(platform)
        deliver_all(sender, platform)
        assert (len(server.received), waiting(platform)) == (2, 0)
        assert server.received[0].body == server.received[1].body

    def test_pauses_grow_until_it_is_dropped(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        server.answer = reply(404)
        put(platform, server.url("/secret?token=secret"))
        pauses = []
        with capture_logs() as logs:
            for _ in PAUSES:
                deliver_all(sender, platform)
                pauses.append(
                    float(scalar(platform, "SELECT extract(epoch FROM due - clock_timestamp()) FROM outbox"))
                )
                let_time_pass(platform)
            assert logs == []
            deliver_all(sender, platform)
        assert pauses == pytest.approx(PAUSES, abs=5)
        assert (len(server.received), waiting(platform)) == (5, 0)
        (entry,) = logs
        assert (entry["event"], entry["host"], entry["attempts"]) == ("webhook dropped", "localhost", 5)
        assert "404" in entry["reason"]
        assert "secret" not in str(entry)

    def test_private_addresses_are_never_called(
        self, horde: Horde, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        put(platform, server.url())
        deliver_all(sender, horde.platform)
        assert server.received == []
        assert scalar(platform, "SELECT attempts FROM outbox") == 1

    def test_old_ones_are_dropped_untried(
        self, platform: Platform, server: HttpsServer, sender: Sender
    ) -> None:
        put(platform, server.url())
        change(platform, "UPDATE outbox SET created = now() - interval '2 hours'")
        deliver_all(sender, platform)
        assert (server.received, waiting(platform)) == ([], 0)

    def test_a_call_in_progress_holds_no_transaction_and_survives_its_process(
        self, platform: Platform, server: HttpsServer, sender: Sender, gate: Gate
    ) -> None:
        server.answer = gate
        put(platform, server.url())
        sender.deliver(platform)
        wait_until(lambda: gate.standing.total() == 1)
        assert scalar(
            platform,
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
        ) == 0  # fmt: skip
        left = float(scalar(platform, "SELECT extract(epoch FROM due - now()) FROM outbox"))
        assert left == pytest.approx(LEASE_SECONDS, abs=5)

        successor = Sender()
        assert successor.deliver(platform) == 0
        let_time_pass(platform)
        assert successor.deliver(platform) == 1
        gate.opened.set()
        successor.close()
        assert (len(server.received), waiting(platform)) == (2, 0)


class TestFairness:
    def test_a_host_that_hangs_holds_up_nobody_else(
        self, platform: Platform, server: HttpsServer, sender: Sender, gate: Gate
    ) -> None:
        slow, quick = server.url(host="hook.test"), server.url(host="mirror.test")
        server.answer = lambda handler: (gate if handler.headers["Host"] in slow else reply())(handler)
        put(platform, slow, count=20)
        put(platform, quick, count=20)
        for _ in range(5):
            sender.deliver(platform)
        wait_until(lambda: waiting(platform) == 20)
        assert gate.most["hook.test"] == CALLS_PER_HOST
        gate.opened.set()
        wait_until(lambda: waiting(platform) == 0)
        assert gate.most["hook.test"] == CALLS_PER_HOST

    def test_no_more_than_a_few_calls_at_once(
        self, platform: Platform, server: HttpsServer, sender: Sender, gate: Gate
    ) -> None:
        server.answer = gate
        put(platform, *(server.url(host=f"host{number}.hooks.test") for number in range(CALLS + 4)))
        assert sender.deliver(platform) == CALLS
        assert sender.deliver(platform) == 0
        wait_until(lambda: gate.standing.total() == CALLS)
        gate.opened.set()
        wait_until(lambda: waiting(platform) == 0)
        assert gate.most["all"] <= CALLS

    def test_hosts_take_turns_by_who_waits_longest(
        self, platform: Platform, server: HttpsServer, sender: Sender, gate: Gate
    ) -> None:
        server.answer = gate
        names = [f"host{number}.hooks.test" for number in range(CALLS + 1)]
        for name in reversed(names):
            put(platform, server.url(host=name))
        sender.deliver(platform)
        wait_until(lambda: gate.standing.total() == CALLS)
        assert set(gate.standing) == set(names[1:])


class TestNoticesToTheOperator:
    def test_they_go_where_the_settings_say(self, platform: Platform, server: HttpsServer) -> None:
        chats = {
            "paused_notice_webhook": server.url("/paused", "hook.test"),
            "problem_user_webhook": server.url("/problems", "hook.test"),
        }
        telling = replace(platform, settings=platform.settings.model_copy(update=chats))
        with platform.engine.begin() as db:
            notify(db, Notice.PAUSED, "A worker is paused.")
            notify(db, Notice.PROBLEM_USER, "x" * 5000)
        sender = Sender()
        sender.deliver(telling)
        wait_until(lambda: len(server.received) == 2)
        sender.close()
        told = {call.path: orjson.loads(call.body) for call in server.received}
        assert told["/paused"] == {"content": "A worker is paused."}
        assert 1000 < len(told["/problems"]["content"]) < 2000
        assert scalar(platform, "SELECT count(*) FROM outbox") == 0

    def test_without_an_address_the_log_says_it(self, platform: Platform, sender: Sender) -> None:
        with platform.engine.begin() as db:
            notify(db, Notice.PAUSED, "A worker is paused.")
        with capture_logs() as logs:
            sender.deliver(platform)
            wait_until(lambda: scalar(platform, "SELECT count(*) FROM outbox") == 0)
        assert any("A worker is paused." in str(entry) for entry in logs)

    def test_a_host_of_that_name_is_a_requesters(self, platform: Platform, sender: Sender) -> None:
        with platform.engine.begin() as db:
            enqueue(db, "https://operator/results", {})
        sender.deliver(platform)
        wait_until(lambda: scalar(platform, "SELECT attempts FROM outbox WHERE due > now()") == 1)
