"""`python -m benchmarks loop`: whole lifecycles over HTTP against a server of its own."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import click
from werkzeug.test import Client

from benchmarks.lifecycle import (
    ENDPOINTS,
    Answer,
    Board,
    Call,
    Requester,
    Script,
    Worker,
    WrongAnswer,
    lifecycle,
)
from benchmarks.load import Load, Run
from benchmarks.report import milliseconds, print_table
from benchmarks.services import HOST, StatementCount, fresh_horde, program_ids
from benchmarks.usage import Usage, usage
from horde.app import create_app, open_platform
from horde.cli.serve import start_web
from horde.kudos import service as ledger
from horde.platform.processes import Supervisor
from horde.platform.runtime import Platform
from horde.settings import Settings
from horde.users import service as users
from horde.users.rules import Role

PROGRAMS = {"The web server": "application", "PostgreSQL": "PostgreSQL", "Valkey": "Valkey"}
STATEMENT_LIFECYCLES = 20


@dataclass(frozen=True, slots=True)
class Measured:
    """A run with what each program of the server used up for it."""

    run: Run
    cpu: dict[str, float]
    """CPU seconds per 1,000 lifecycles."""
    memory: dict[str, float]
    """MiB at the end."""

    @property
    def all_cpu(self) -> float:
        return sum(self.cpu.values())


class Levels(click.ParamType[dict[int, int]]):
    """Numbers of clients with how many lifecycles to measure at each."""

    name = "clients=lifecycles,..."

    def convert(
        self, value: str | dict[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[int, int]:
        if isinstance(value, dict):
            return value
        try:
            levels = {int(clients): int(count) for clients, count in (p.split("=") for p in value.split(","))}
        except ValueError:
            levels = {}
        if not levels or min(*levels, *levels.values()) < 1:
            self.fail("must look like 1=300,8=1500", param, ctx)
        return levels


@click.command()
@click.option(
    "--levels",
    type=Levels(),
    default="1=300,8=1500,32=3000",
    show_default=True,
    help="Clients at a time, and lifecycles to measure with them.",
)
@click.option(
    "--warm-up", type=click.IntRange(min=1), default=100, show_default=True, help="Lifecycles before each."
)
@click.option(
    "--accounts",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Requesters, who take turns: one may ask twice a second.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Workers, who take turns: one may pop 60 times a second.",
)
def loop(levels: dict[int, int], warm_up: int, accounts: int, workers: int) -> None:
    """Time whole lifecycles, from a request to its picture, with several numbers of clients.

    A lifecycle is seven calls: async, check, pop, submit, check twice, status. Everything is checked, and
    the kudos books at the end; the first wrong answer ends it.
    """
    os.environ["TRUSTED_PROXIES"] = HOST
    with fresh_horde(trusted_proxies=frozenset({HOST})) as (supervisor, settings):
        with open_platform(settings) as platform:
            asking, serving = _accounts(platform, accounts, workers)
        web = start_web(supervisor, settings)
        try:
            measured = _measure(supervisor, settings, asking, serving, levels, warm_up)
            supervisor.stop(web)
            statements = _statements(settings, asking[:STATEMENT_LIFECYCLES], serving[0])
        except WrongAnswer as wrong:
            sys.exit(str(wrong))
        _print_measured(measured)
        print("SQL statements per call: " + ", ".join(f"{k} {v:.1f}" for k, v in statements.items()))
        with open_platform(settings) as platform:
            _check_books(platform)
        _print_targets(measured)


def _accounts(platform: Platform, requesters: int, workers: int) -> tuple[list[Requester], list[Worker]]:
    """Create accounts that ask, and trusted ones with a worker each."""
    asking = [
        Requester(users.create_user(platform, f"requester {i}", amount=Decimal(1000))[1])
        for i in range(requesters)
    ]
    serving = [
        Worker(
            users.create_user(platform, f"owner {i}", roles=[Role.TRUSTED])[1],
            f"worker {i}",
            f"10.0.{i // 250}.{i % 250 + 1}",
        )
        for i in range(workers)
    ]
    return asking, serving


def _measure(
    supervisor: Supervisor,
    settings: Settings,
    requesters: Sequence[Requester],
    workers: Sequence[Worker],
    levels: dict[int, int],
    warm_up: int,
) -> list[Measured]:
    programs = {PROGRAMS[name]: pid for name, pid in program_ids(supervisor).items()}
    load = Load(settings.host, settings.port, max(levels), requesters, workers)
    measured = []
    try:
        for clients, lifecycles in levels.items():
            load.run(clients, max(warm_up, clients))
            before = _usages(programs)
            run = load.run(clients, lifecycles)
            after = _usages(programs)
            measured.append(
                Measured(
                    run=run,
                    cpu={n: 1000 * (after[n].cpu - before[n].cpu) / lifecycles for n in programs},
                    memory={n: after[n].memory for n in programs},
                )
            )
    finally:
        load.close()
    return measured


def _usages(programs: dict[str, int]) -> dict[str, Usage]:
    return {name: usage(pid) for name, pid in programs.items()}


def _statements(settings: Settings, requesters: Sequence[Requester], worker: Worker) -> dict[str, float]:
    """Mean SQL statements per call of each endpoint, counted in this process once caches are warm."""
    app = create_app(settings)
    count = StatementCount(app.extensions["horde"])
    client, board = app.test_client(), Board()
    for warming in (True, False):
        calls: Counter[str] = Counter()
        statements: Counter[str] = Counter()
        for number, requester in enumerate(requesters, len(requesters) * (1 + warming)):
            script = lifecycle(number, requester, f"10.255.{warming:d}.{number % 250}", worker, board)
            answer = None
            # With one client nothing is waited for, so every step is a call.
            while isinstance(step := _next(script, answer), Call):
                before = count.total
                answer = _call(client, step)
                calls[step.endpoint] += 1
                statements[step.endpoint] += count.total - before
    app.extensions["horde"].close()
    return {endpoint: statements[endpoint] / calls[endpoint] for endpoint in ENDPOINTS}


def _next(script: Script, answer: Answer | None) -> Call | int | None:
    try:
        return next(script) if answer is None else script.send(answer)
    except StopIteration:
        return None


def _call(client: Client, call: Call) -> Answer:
    answer = client.open(
        f"/api/v2/generate/{call.path}",
        method="GET" if call.body is None else "POST",
        headers={"apikey": call.api_key, "X-Forwarded-For": call.address},
        data=call.body,
        content_type=None if call.body is None else "application/json",
    )
    return Answer(answer.status_code, answer.get_data())


def _print_measured(measured: Sequence[Measured]) -> None:
    def row(label: str, value: Callable[[Measured], str]) -> list[str]:
        return [label, *map(value, measured)]

    def cpu(name: str) -> list[str]:
        return row(f"  {name}", lambda m: f"{m.cpu[name]:.2f}")

    def latency(endpoint: str) -> list[str]:
        return row(f"ms p50 / p95: {endpoint}", lambda m: milliseconds(m.run.latencies[endpoint]))

    def memory(name: str) -> list[str]:
        return row(f"MiB in memory: {name}", lambda m: f"{m.memory[name]:.0f}")

    print_table(
        [
            row("clients", lambda m: str(m.run.clients)),
            row("lifecycles", lambda m: f"{m.run.lifecycles:,}"),
            row("lifecycles per second", lambda m: f"{m.run.per_second:.1f}"),
            row("CPU s per 1,000", lambda m: f"{m.all_cpu:.2f}"),
            *map(cpu, PROGRAMS.values()),
            row("  (load generator)", lambda m: f"{1000 * m.run.own_cpu / m.run.lifecycles:.2f}"),
            *map(latency, ENDPOINTS),
            row("pops per job", lambda m: f"{len(m.run.latencies['pop']) / m.run.lifecycles:.2f}"),
            *map(memory, PROGRAMS.values()),
        ]
    )


def _check_books(platform: Platform) -> None:
    while ledger.fold_all(platform):
        pass
    counts, broken = ledger.check_books(platform)
    print("The books: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if broken:
        sys.exit("\n".join(f"WRONG: {rule}: {rows}" for rule, rows in broken.items()))
    print("The books are right.")


def _print_targets(measured: Sequence[Measured]) -> None:
    first, last = measured[0], measured[-1]
    print(
        f"Targets: >= 150 lifecycles/s at 32 clients (at {last.run.clients}: {last.run.per_second:.0f});"
        f" <= 10 CPU s per 1,000 ({max(m.all_cpu for m in measured):.1f} at most),"
        f" with many clients no more than with one ({last.all_cpu:.1f} against {first.all_cpu:.1f})"
    )
