"""`python -m benchmarks workers`: many registered workers that ask for jobs, and requests that trickle in."""

import heapq
import itertools
import os
import random
import resource
import selectors
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import click
import orjson

from benchmarks.lifecycle import MODELS, REQUEST, RESULT, SIDE, Call, Requester, Worker, WrongAnswer
from benchmarks.load import Connection
from benchmarks.loop import PROGRAMS
from benchmarks.report import milliseconds, percentile, print_table
from benchmarks.services import HOST, fresh_horde, program_ids
from benchmarks.usage import usage
from horde.app import open_platform
from horde.cli.serve import start_web
from horde.platform.runtime import Platform
from horde.settings import Settings
from horde.users import service as users
from horde.users.rules import Role

WORKERS_OF_AN_OWNER = 20
LINES_FOR_REQUESTS = 64
REGISTERING_AT_ONCE = 16
DRAIN_SECONDS = 60.0
REQUESTERS = 200

_JOBS = """
    SELECT count(*) AS jobs, count(DISTINCT request_id) AS requests,
        count(*) FILTER (WHERE state = 'ok') AS delivered,
        (SELECT count(*) FROM requests) AS queued
    FROM jobs
"""
_DELAYS = """
    SELECT extract(epoch FROM jobs.started - requests.created)::float8
    FROM jobs JOIN requests ON requests.id = jobs.request_id
"""
_FORGET = "TRUNCATE jobs, queue, requests CASCADE"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does."""

    title: str
    seconds: float
    rate: float
    """Requests per second."""
    poll: float
    """Seconds between a worker's pops that find nothing; 0: it asks again at once."""
    wait: float
    """Seconds that a pop may wait."""
    work: float
    """Seconds that a worker takes for a job."""


@dataclass(slots=True)
class Result:
    """What one run has shown; times are seconds."""

    plan: Plan
    statuses: Counter[str] = field(default_factory=Counter)
    """Answers by call and status."""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    handed_out: Counter[str] = field(default_factory=Counter)
    """Jobs by id."""
    accepted: int = 0
    delivered: int = 0
    lasted: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    """Processors in use, by program."""
    delays: list[float] = field(default_factory=list)
    """From queueing to pop, as the database dates them."""
    lost: int = 0
    doubled: int = 0

    @property
    def errors(self) -> int:
        return sum(count for key, count in self.statuses.items() if key.split()[1].startswith("5"))

    @property
    def refused(self) -> int:
        return sum(count for key, count in self.statuses.items() if key.split()[1].startswith("4"))

    def calls(self, endpoint: str) -> int:
        return sum(count for key, count in self.statuses.items() if key.startswith(f"{endpoint} "))


class Crowd:
    """All workers and requesters over kept-open connections, served by one thread."""

    def __init__(
        self, settings: Settings, workers: Sequence[Worker], requesters: Sequence[Requester]
    ) -> None:
        address = settings.host, settings.port
        self._selector = selectors.DefaultSelector()
        self._workers = [Connection(*address, worker) for worker in workers]
        self._lines = [Connection(*address, None) for _ in range(LINES_FOR_REQUESTS)]
        for connection in (*self._workers, *self._lines):
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._free = list(self._lines)
        self._requesters = itertools.cycle(requesters)
        self._numbers = itertools.count(1)
        self._random = random.Random(1)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._busy: set[Connection] = set()

    def register(self) -> None:
        """Let every worker pop once, which registers it."""
        for first in range(0, len(self._workers), REGISTERING_AT_ONCE):
            result = Result(Plan("", 0, 0, 0, 0, 0))
            for connection in self._workers[first : first + REGISTERING_AT_ONCE]:
                self._send(connection, _pop(connection.client, 0))
            while self._busy:
                self._receive(result, 30, lambda *_: None)
            if set(result.statuses) != {"pop 200"}:
                raise WrongAnswer(f"Workers cannot register: {dict(result.statuses)}")

    def run(self, plan: Plan) -> Result:
        """Let the workers poll and requests arrive for as long as the plan says, then finish what is left."""
        result, began = Result(plan), time.perf_counter()
        self._ends = began + plan.seconds
        self._due.clear()
        spread = plan.poll or 2.0
        for connection in self._workers:
            self._at(began + self._random.random() * spread, self._popping(connection, plan))
        for number in range(int(plan.seconds * plan.rate)):
            self._at(began + number / plan.rate, self._ask)
        over = began + plan.seconds + DRAIN_SECONDS
        while time.perf_counter() < over:
            now = time.perf_counter()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            if now > self._ends and result.delivered >= result.accepted and not self._asking():
                break
            self._receive(result, self._pause(now), lambda *each: self._answered(result, *each))
        result.lasted = time.perf_counter() - began
        self._due.clear()
        rest = Result(plan)
        while self._busy:  # those who wait
            self._receive(rest, plan.wait + 5, lambda *_: None)
        return result

    def close(self) -> None:
        """Hang up."""
        self._selector.close()
        for connection in (*self._workers, *self._lines):
            connection.socket.close()

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (moment, next(self._order), action))

    def _pause(self, now: float) -> float:
        return min(0.5, max(0.0, self._due[0][0] - now)) if self._due else 0.5

    def _asking(self) -> bool:
        return len(self._free) < len(self._lines)

    def _popping(self, connection: Connection, plan: Plan) -> Callable[[], None]:
        return lambda: self._send(connection, _pop(connection.client, plan.wait))

    def _ask(self) -> None:
        if not self._free:
            self._at(time.perf_counter() + 0.005, self._ask)
            return
        address = "10.{}.{}.{}".format(*self._random.randbytes(3))
        body = REQUEST % (next(self._numbers), SIDE, SIDE)
        key = next(self._requesters).api_key
        self._send(self._free.pop(), Call("async", False, "async", key, address, body))

    def _send(self, connection: Connection, call: Call) -> None:
        self._busy.add(connection)
        connection.send(call)

    def _reopen(self, connection: Connection) -> None:
        """The server ends connections that nobody uses for a while."""
        self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.open()
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _receive(
        self, result: Result, seconds: float, then: Callable[[Connection, dict[str, Any]], None]
    ) -> None:
        for key, _ in self._selector.select(seconds):
            connection: Connection = key.data
            if connection not in self._busy:
                self._reopen(connection)
                continue
            answer = connection.receive()
            if answer is None:
                continue
            self._busy.remove(connection)
            took = time.perf_counter() - connection.sent
            result.latencies.setdefault(connection.endpoint, []).append(took)
            result.statuses[f"{connection.endpoint} {answer.status}"] += 1
            if connection.client is None:
                self._free.append(connection)
            then(connection, orjson.loads(answer.body))

    def _answered(self, result: Result, connection: Connection, answer: dict[str, Any]) -> None:
        plan, now = result.plan, time.perf_counter()
        if connection.client is None:
            result.accepted += "id" in answer
        elif connection.endpoint == "submit":
            result.delivered += "reward" in answer
            self._popping(connection, plan)()
        elif answer.get("ids"):
            result.handed_out.update(answer["ids"])
            job = answer["ids"][0].encode(), str(answer["payload"]["seed"]).encode()
            body = b'{"id":"%s","seed":%s,' % job + RESULT
            worker = connection.client
            call = Call("submit", True, "submit", worker.api_key, worker.address, body)
            self._at(now + plan.work, lambda: self._send(connection, call))
        elif now < self._ends or result.delivered < result.accepted:
            self._at(max(now, connection.sent + plan.poll), self._popping(connection, plan))


def _pop(worker: Worker, wait: float) -> Call:
    body = orjson.loads(worker.offer()) | ({"wait": wait} if wait else {})
    return Call("pop", True, "pop", worker.api_key, worker.address, orjson.dumps(body))


@click.command()
@click.option("--workers", type=click.IntRange(min=1), default=1000, show_default=True, help="Workers.")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="How long each run takes."
)
@click.option(
    "--rate", type=click.FloatRange(min=0.1), default=50, show_default=True, help="Requests per second."
)
@click.option(
    "--poll",
    type=click.FloatRange(min=0.1),
    default=2,
    show_default=True,
    help="Seconds between the pops of a worker that does not wait.",
)
@click.option(
    "--wait",
    type=click.FloatRange(1, 30),
    default=30,
    show_default=True,
    help="Seconds that a pop of one that waits may take.",
)
@click.option(
    "--work", type=click.FloatRange(min=0), default=1, show_default=True, help="Seconds that a job takes."
)
def workers(workers: int, seconds: float, rate: float, poll: float, wait: float, work: float) -> None:
    """Let many workers ask for jobs while requests trickle in: first by polling, then by waiting.

    The queue is empty most of the time. Every request is for one image; every job must be handed out once.
    """
    _allow_files(workers + 512)
    os.environ["TRUSTED_PROXIES"] = HOST
    plans = [
        Plan(f"polling every {poll:g} s", seconds, rate, poll, 0, work),
        Plan(f"waiting up to {wait:g} s", seconds, rate, 0, wait, work),
    ]
    with fresh_horde(trusted_proxies=frozenset({HOST})) as (supervisor, settings):
        with open_platform(settings) as platform:
            serving, asking = _workers(platform, workers), _requesters(platform)
        start_web(supervisor, settings)
        programs = {PROGRAMS[name]: pid for name, pid in program_ids(supervisor).items()}
        crowd = Crowd(settings, serving, asking)
        try:
            crowd.register()
            print(f"{workers:,} workers are registered.")
            results = [_measured(settings, crowd, programs, plan) for plan in plans]
        except WrongAnswer as wrong:
            sys.exit(str(wrong))
        finally:
            crowd.close()
    _print(results)
    wrong = sum(result.errors + result.doubled + result.lost for result in results)
    print("Targets: no 5xx, no job handed out twice, none lost: " + ("held" if not wrong else "MISSED"))


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _workers(platform: Platform, count: int) -> list[Worker]:
    """Workers at addresses of their own, of trusted owners with some each."""
    owners = [
        users.create_user(platform, f"owner {number}", roles=[Role.TRUSTED])[1]
        for number in range(-(-count // WORKERS_OF_AN_OWNER))
    ]
    return [
        Worker(
            owners[number // WORKERS_OF_AN_OWNER],
            f"worker {number}",
            f"10.1.{number // 250}.{number % 250 + 1}",
        )
        for number in range(count)
    ]


def _requesters(platform: Platform) -> list[Requester]:
    return [
        Requester(users.create_user(platform, f"requester {number}", amount=Decimal(100_000))[1])
        for number in range(REQUESTERS)
    ]


def _measured(settings: Settings, crowd: Crowd, programs: dict[str, int], plan: Plan) -> Result:
    before, own = {name: usage(pid).cpu for name, pid in programs.items()}, time.process_time()
    result = crowd.run(plan)
    spent = {name: usage(pid).cpu - before[name] for name, pid in programs.items()}
    spent["(load generator)"] = time.process_time() - own
    result = replace(result, cpu={name: seconds / result.lasted for name, seconds in spent.items()})
    with open_platform(settings) as platform:
        with platform.read() as db:
            jobs = db.exec_driver_sql(_JOBS).one()
            result.delays = list(db.exec_driver_sql(_DELAYS).scalars())
        with platform.engine.begin() as db:
            db.exec_driver_sql(_FORGET)
    result.lost = jobs.queued - jobs.delivered
    result.doubled = jobs.jobs - jobs.requests + sum(count - 1 for count in result.handed_out.values())
    return result


def _print(results: Sequence[Result]) -> None:
    def row(label: str, value: Callable[[Result], str]) -> list[str]:
        return [label, *map(value, results)]

    def per_second(endpoint: str) -> list[str]:
        return row(f"{endpoint} per second", lambda r: f"{r.calls(endpoint) / r.lasted:.1f}")

    print_table(
        [
            row("", lambda r: r.plan.title),
            row("seconds", lambda r: f"{r.lasted:.0f}"),
            *map(per_second, ("async", "pop", "submit")),
            row("requests accepted", lambda r: f"{r.accepted:,}"),
            row("jobs delivered", lambda r: f"{r.delivered:,}"),
            row("pops per job", lambda r: f"{r.calls('pop') / max(1, r.delivered):.1f}"),
            row("answers 5xx / 4xx", lambda r: f"{r.errors} / {r.refused}"),
            row("jobs handed out twice", lambda r: str(r.doubled)),
            row("requests lost", lambda r: str(r.lost)),
            row("ms from queueing to pop, p50 / p95", lambda r: milliseconds(r.delays)),
            row("  p99", lambda r: f"{1000 * percentile(r.delays, 99):.1f}" if r.delays else "-"),
            *(
                row(f"ms p50 / p95: {endpoint}", lambda r, e=endpoint: milliseconds(r.latencies.get(e, [])))
                for endpoint in ("async", "pop", "submit")
            ),
            row("CPUs in use", lambda r: f"{sum(v for k, v in r.cpu.items() if '(' not in k):.2f}"),
            *(
                row(f"  {name}", lambda r, n=name: f"{r.cpu[n]:.2f}")
                for name in (*PROGRAMS.values(), "(load generator)")
            ),
        ]
    )
    print(f"Models of each worker: {len(MODELS)}")
