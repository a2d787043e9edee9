"""Rules of the loop that hold for every kind of generation."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

FAULTS_BEFORE_GIVING_UP = 3
"""A request whose jobs failed this often is not handed out again."""
AGEING_PER_SECOND = 5
"""Kudos of priority that every waiting request gains per second (50 every 10 s)."""
ANY_MODEL = "*"
"""Model of the lanes of requests that accept every model."""
ANY_WORKER = UUID(int=0)
"""Target of the lanes that are open to every worker."""
NEED_BITS = 128
"""Width of the bit string that holds what a request needs of a worker."""

FASTEST: Mapping[str, float] = MappingProxyType({"image": 20_000_000.0, "text": 150.0})
"""By kind: raw things per second of which no honest worker makes more."""
SHORTEST_SECONDS = 0.05
"""Work that seems to have taken less is taken to have taken so long."""
UNTOLD_MODELS = "horde_special"
"""Models with this in their names appear in no statistics."""

SMALLEST_SIZE = 64 * 64
DELIVERED = frozenset({"ok", "censored", "csam"})
LOST = frozenset({"faulted", "aborted"})


def rank(priority: Decimal | int, now: float) -> int:
    """Order of service, lowest first, of a request queued at `now` (Unix seconds) with `priority` kudos.

    All waiting requests age alike, so their order never changes and it is enough to note, once, what
    each would have been worth at a common moment. One unit is a millionth of a kudo, or 0.2 us of waiting.
    """
    return int(1_000_000 * (Decimal(AGEING_PER_SECOND * now) - priority))


def size_class(size: int) -> int:
    """Class of results of `size` pixels: quarter octaves above 64x64, so that lanes stay few.

    A worker whose limit lies inside a class serves the part of that class that fits.
    """
    return math.ceil(4 * math.log2(max(size, SMALLEST_SIZE) / SMALLEST_SIZE) - 1e-9)


def too_fast(kind: str, things: float, results: int, seconds: float) -> bool:
    """Whether nobody could have made `results` of `things` raw units each in `seconds`."""
    return things * results / max(seconds, SHORTEST_SECONDS) > FASTEST.get(kind, math.inf)


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What all requests of one lane demand of a worker."""

    kind: str
    model: str
    target: UUID
    needs: int
    size_class: int

    @property
    def id(self) -> int:
        """The lane's id: 64 bits of a hash of its content, as PostgreSQL's signed `bigint`."""
        content = f"{self.kind}\0{self.model}\0{self.target}\0{self.needs:x}\0{self.size_class}"
        return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), signed=True)


def bits(needs: int) -> str:
    """`needs` as PostgreSQL writes a bit string; the lowest rule is the rightmost digit."""
    return f"{needs:0{NEED_BITS}b}"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands, in numbers of results."""

    finished: int
    processing: int
    restarted: int
    waiting: int
    faulted: bool

    @property
    def done(self) -> bool:
        """Nothing more will happen: nothing waits and nothing is being made.

        What is under way when a request is given up may still be delivered.
        """
        return self.waiting == 0 and self.processing == 0


def progress(*, n: int, faulted: bool, states: Iterable[str]) -> Progress:
    """Count a request's results from what it has left (`n`) and the states of its jobs."""
    counts = list(states)
    return Progress(
        finished=sum(state in DELIVERED for state in counts),
        processing=counts.count("processing"),
        restarted=sum(state in LOST for state in counts),
        waiting=0 if faulted else n,
        faulted=faulted,
    )


def seconds_ahead(things: float, images: int, speeds: Sequence[tuple[float, int]]) -> float:
    """Seconds until `things` raw units in `images` results are made.

    `speeds` are the able workers' (things per second, threads). With nobody able the wait is unknown;
    the caller decides what to say then, so this returns infinity.
    """
    threads = sum(count for _, count in speeds)
    if not threads:
        return math.inf
    mean = sum(speed * count for speed, count in speeds) / threads
    return things / (max(mean, 1.0) * max(1, min(threads, images)))
