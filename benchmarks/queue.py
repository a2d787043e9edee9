"""`python -m benchmarks queue`: what a pop costs, by how much waits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import click
from sqlalchemy import text

from benchmarks.report import milliseconds, percentile, print_table
from benchmarks.services import StatementCount, fresh_horde
from horde.app import open_platform
from horde.generation import finding, snapshot
from horde.generation.finding import Offer
from horde.image import jobs, matching, seeding
from horde.image.schemas import PopInputStable
from horde.image.seeding import Mix
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import service as workers

ADDRESS = "10.0.0.1"
LANES = {Mix.MATCHING: 1_500, Mix.OTHER_MODELS: 35_000, Mix.OTHER_SKILLS: 35_000}
"""At most; 35,000 for 100,000 requests are as many per request as a busy horde has."""
WARM_UP = 10
PUBLISH_SECONDS = 5.0


@dataclass(slots=True)
class Timings:
    """What pops cost at one depth; seconds."""

    depth: int
    find_hit: list[float] = field(default_factory=list)
    find_miss: list[float] = field(default_factory=list)
    pop_hit: list[float] = field(default_factory=list)
    pop_miss: list[float] = field(default_factory=list)
    hit_statements: float = 0.0
    miss_statements: int = 0
    counting: float = 0.0
    """Of the leader, which counts the queue about once a second."""


class Depths(click.ParamType[list[int]]):
    """Numbers of waiting requests, in growing order."""

    name = "number,..."

    def convert(
        self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        try:
            depths = sorted({int(part) for part in value.split(",")}) if isinstance(value, str) else value
        except ValueError:
            depths = []
        if not depths or depths[0] < 0:
            self.fail("must look like 0,1000,10000", param, ctx)
        return depths


@click.command()
@click.option(
    "--depths",
    type=Depths(),
    default="0,1000,10000,50000,100000",
    show_default=True,
    help="How many requests wait.",
)
@click.option("--pops", type=click.IntRange(min=1), default=200, show_default=True, help="Of each sort.")
@click.option(
    "--mix",
    "mixes",
    type=click.Choice(Mix),
    multiple=True,
    default=list(Mix),
    help="What waits; all of these, one after the other, by default.",
)
def queue(depths: list[int], pops: int, mixes: Sequence[Mix]) -> None:
    """Time pops by how many requests wait, without HTTP.

    Of waiting requests that the worker can serve, either all are, or just one among those that it cannot
    serve: because nobody offers their models, or because of their size or a LoRA. "find" is the search
    alone, in a transaction that is rolled back; "pop" is all that the endpoint does, to the commit.
    """
    for mix in mixes:
        with fresh_horde() as (_, settings), open_platform(settings) as platform:
            bench = _Bench(platform, mix)
            timings = []
            for depth in depths:
                bench.fill(depth)
                timings.append(bench.measure(pops))
        _print_timings(mix, timings)
        if mix is not Mix.MATCHING:
            _print_target(timings)


class _Bench:
    """A worker, and a queue that holds one mix of requests."""

    def __init__(self, platform: Platform, mix: Mix) -> None:
        self._platform = platform
        self._mix = mix
        self._depth = 0
        self._published = 0.0
        self._count = StatementCount(platform)
        _, self._api_key = users.create_user(platform, "owner", roles=[Role.TRUSTED])
        self._asker: UserFacts = seeding.open_account(platform, 1_000_000)
        self._input = PopInputStable(
            name="worker",
            models=seeding.usual_models(platform),
            bridge_agent="AI Horde Worker reGen:13:https://example.org/benchmark",
        )
        self._pop()
        (worker,) = workers.online_workers(platform, "image")
        self._offer = Offer(
            kind="image",
            worker_id=worker.id,
            models=list(worker.models),
            offered=matching.offers(worker),
            size=worker.max_pixels,
            friends=[worker.owner_id],
            only_friends=False,
            blacklist=worker.blacklist,
        )

    def fill(self, depth: int) -> None:
        """Let `depth` requests of the mix wait, and tell the planner, as autovacuum would."""
        seeding.seed(
            self._platform,
            self._asker,
            self._mix,
            depth - self._depth,
            lanes=LANES[self._mix],
            first=self._depth,
        )
        self._depth = depth
        with self._platform.read() as db:
            db.execute(text("VACUUM ANALYZE"))

    def measure(self, pops: int) -> Timings:
        """Time `pops` searches and pops of each sort at the present depth."""
        timings = Timings(self._depth)
        timings.counting = self._publish()
        if self._mix is not Mix.MATCHING or not self._depth:
            timings.find_miss = self._repeat(pops, self._find, found=False)
            timings.pop_miss = self._repeat(pops, self._pop, found=False)
            before = self._count.total
            _insist(self._pop(), found=False)
            timings.miss_statements = self._count.total - before
        self._add_one()
        timings.find_hit = self._repeat(pops, self._find, found=True)
        for number in range(-WARM_UP, pops):
            before = self._count.total
            seconds = _timed(lambda: _insist(self._pop(), found=True))
            if number >= 0:
                timings.pop_hit.append(seconds)
                timings.hit_statements += (self._count.total - before) / pops
            self._add_one()
        _insist(self._pop(), found=True)
        return timings

    def _repeat(self, times: int, call: Callable[[], bool], *, found: bool) -> list[float]:
        seconds = []
        for _ in range(times + WARM_UP):
            if time.monotonic() > self._published + PUBLISH_SECONDS:
                self._publish()
            seconds.append(_timed(lambda: _insist(call(), found=found)))
        return seconds[WARM_UP:]

    def _publish(self) -> float:
        """Count the queue, as the leader does all the time; the seconds it took."""
        seconds = _timed(lambda: snapshot.publish_places(self._platform, "image"))
        seconds += _timed(lambda: snapshot.publish_groups(self._platform, "image"))
        self._published = time.monotonic()
        return seconds

    def _find(self) -> bool:
        with self._platform.engine.connect() as db:
            found = finding.find(db, self._offer)
            db.rollback()
        return found.request is not None

    def _pop(self) -> bool:
        return bool(jobs.pop(self._platform, self._api_key, ADDRESS, self._input)["ids"])

    def _add_one(self) -> None:
        """One more request that the worker can serve."""
        seeding.seed(self._platform, self._asker, Mix.MATCHING, 1)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _insist(was_found: bool, *, found: bool) -> None:
    if was_found is not found:
        raise RuntimeError(
            "A pop found nothing." if found else "A pop found a request that it must not have."
        )


def _print_timings(mix: Mix, timings: list[Timings]) -> None:
    empty = percentile(timings[0].pop_hit, 50)
    print(f"\nWaiting requests: {mix}, in up to {LANES[mix]:,} lanes")
    head = ["depth", "find hit ms", "pop hit ms", "times empty", "SQL", "find miss ms", "pop miss ms", "SQL"]
    print_table([[*head, "count ms"], *(_row(t, empty) for t in timings)])


def _row(timings: Timings, empty: float) -> list[str]:
    return [
        f"{timings.depth:,}",
        *(milliseconds(timings.find_hit), milliseconds(timings.pop_hit)),
        f"{percentile(timings.pop_hit, 50) / empty:.2f}",
        f"{timings.hit_statements:.1f}",
        *(milliseconds(timings.find_miss), milliseconds(timings.pop_miss)),
        str(timings.miss_statements or "-"),
        f"{1000 * timings.counting:.0f}",
    ]


def _print_target(timings: list[Timings]) -> None:
    first, last = timings[0], timings[-1]
    ratio = percentile(last.pop_hit, 50) / percentile(first.pop_hit, 50)
    print(f"Target: a pop hit with 100,000 others waiting <= 3 times an empty queue's ({ratio:.2f})")
