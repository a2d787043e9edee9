"""Waking workers that wait for something to do, as soon as it is in the queue.

Whoever queues results publishes what they demand over Valkey. Every process has one subscription, and wakes
as many of its waiting workers as there is work, only those that could do it. A woken worker searches the
queue like any other, so nothing goes wrong if it is late or finds nothing; it then passes the call on. Lost
calls do not matter for long: every few seconds all who wait are held against the snapshot of the queue.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import orjson
import redis
import structlog
from sqlalchemy import text

from horde.generation import snapshot
from horde.generation.finding import Offer
from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey
from horde.platform.runtime import Platform

CHANNEL = "horde:queued"
RECHECK_SECONDS = 3.0
"""How often waiting workers are held against the snapshot of the queue."""
TICK_SECONDS = 1.0
"""How soon it is noticed that this process is to end."""
OUTAGE_SECONDS = 5.0
"""How long nothing is published after a failure of Valkey."""
MOST_TRIES = 10
"""Workers of one process that are woken for one result, one after the other, until one takes it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """Word that results wait in the queue."""

    kind: str
    lanes: Sequence[LaneKey]
    size: int
    avoided: Sequence[UUID]
    """Workers that their requester does not want."""
    results: int

    def encode(self) -> bytes:
        """The call as it is published."""
        lanes = {(lane.model, lane.target, lane.needs) for lane in self.lanes}
        return orjson.dumps(
            [
                self.kind,
                self.size,
                list(self.avoided),
                self.results,
                [[model, target, f"{needs:x}"] for model, target, needs in lanes],
            ]
        )


def announce(platform: Platform, call: Call) -> None:
    """Wake workers for what has just been queued. Never fails; call it after the transaction committed."""
    if platform.local.get("announcements pause", OUTAGE_SECONDS, lambda: False):
        return
    try:
        platform.cache.publish(CHANNEL, call.encode())
    except redis.RedisError:
        platform.local.put("announcements pause", OUTAGE_SECONDS, True)
        log.warning("waiting workers not called", seconds=OUTAGE_SECONDS)


_WAITING = text("""
    SELECT kind, size, n, CASE WHEN worker_blacklist THEN workers ELSE '{}' END AS avoided, ARRAY(
        SELECT json_build_array(model, target, needs, size_class) FROM lanes
        WHERE lanes.id = ANY(requests.lanes)
    ) AS standing
    FROM requests WHERE id = ANY(CAST(:ids AS uuid[])) AND n > 0
""")


def announce_again(platform: Platform, request_ids: Iterable[UUID]) -> None:
    """Wake workers for those of some requests that wait again, after the transaction that gave them back."""
    ids = list(set(request_ids))
    if not ids:
        return
    with platform.read() as db:
        rows = db.execute(_WAITING, {"ids": ids}).all()
    for row in rows:
        lanes = [
            LaneKey(row.kind, model, UUID(target), int(needs, 2), size_class)
            for model, target, needs, size_class in row.standing
        ]
        announce(platform, Call(row.kind, lanes, row.size, row.avoided, row.n))


@dataclass(slots=True, eq=False)
class _Round:
    """Workers woken one after the other for the same results."""

    pools: Sequence[tuple[str, str]]
    """Kinds and models of the workers that may do."""
    suits: Callable[[Offer], bool]
    left: int
    """Results that nobody has been woken for."""
    tries: int


class Waiter:
    """A worker that waits; made by `Wakeups.waiting`."""

    def __init__(self, wakeups: "Wakeups", offer: Offer, seconds: float) -> None:
        self.offer = offer
        self.profile = (offer.kind, tuple(offer.models), offer.offered)
        self.pools = [(offer.kind, model) for model in (*offer.models, ANY_MODEL)]
        """Under which it is found; the last one holds everybody of its kind."""
        self.event = threading.Event()
        self.round: _Round | None = None
        """For what it is called,"""
        self.serving: _Round | None = None
        """and for what it searches now."""
        self._wakeups = wakeups
        self._until = time.monotonic() + seconds

    def wait(self, *, refused: bool) -> bool:
        """Wait until there may be something for this worker; False when its time is over.

        `refused` tells that something was there when it searched last, which it could not take.
        """
        self._wakeups.lie_down(self, refused=refused)
        self.event.wait(max(0.0, self._until - time.monotonic()))
        return self._wakeups.get_up(self)

    def served(self) -> None:
        """Note that it got what it was woken for."""
        self.serving = None


class Wakeups:
    """The waiting workers of this process."""

    def __init__(self, platform: Platform) -> None:
        self.waiters = 0
        """How many calls wait at present; they hold no connection and use no time."""
        self._platform = platform
        self._lock = threading.Lock()
        self._resting: dict[tuple[str, str], dict[Waiter, None]] = {}
        self._closing: Callable[[], bool] = lambda: False
        self._closed = threading.Event()
        self._listener: threading.Thread | None = None
        self._recheck_at = 0.0

    @property
    def ending(self) -> bool:
        """Whether nobody waits any more, since this process is to end."""
        return self._closed.is_set() or self._closing()

    def start(self, closing: Callable[[], bool] | None = None) -> None:
        """Begin to listen, in a thread of its own; call it after forking. The first who waits does it too.

        Once `closing` says that this process is to end, nobody waits any more.
        """
        with self._lock:
            if closing is not None:
                self._closing = closing
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="wake-ups", daemon=True)
                self._listener.start()

    def close(self) -> None:
        """Let everybody go, for good; nothing is listened to any more."""
        self._closed.set()
        self._release()
        if self._listener is not None:
            self._listener.join(timeout=2 * TICK_SECONDS)

    @contextmanager
    def waiting(self, offer: Offer, seconds: float) -> Iterator[Waiter]:
        """Wait for something that `offer` fits, for `seconds` in all; search first, then wait."""
        self.start()
        waiter = Waiter(self, offer, seconds)
        with self._lock:
            self._rest(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._take_out(waiter)
                for unserved in (waiter.serving, waiter.round):
                    if unserved is not None:
                        self._ring_next(unserved)

    def lie_down(self, waiter: Waiter, *, refused: bool) -> None:
        """Note that a waiter has nothing to do; what it could not take is passed on."""
        with self._lock:
            self.waiters += 1
            done, waiter.serving = waiter.serving, None
            if done is not None and refused:
                self._take_out(waiter)
                self._ring_next(done)
            if waiter.round is None:
                self._rest(waiter)
            if self.ending:
                waiter.event.set()

    def get_up(self, waiter: Waiter) -> bool:
        """Note that a waiter goes to search, if it was called, which is told; it may be called meanwhile."""
        with self._lock:
            self.waiters -= 1
            waiter.serving, waiter.round = waiter.round, None
            waiter.event.clear()
            if waiter.serving is not None:
                self._rest(waiter)
            return waiter.serving is not None

    def _rest(self, waiter: Waiter) -> None:
        for pool in waiter.pools:
            self._resting.setdefault(pool, {})[waiter] = None

    def hear(self, message: bytes) -> None:
        """Wake those who could do what a published call speaks of, as many as there are results."""
        if not self._resting:
            return
        kind, size, avoided, results, lanes = orjson.loads(message)
        wanted: dict[str, list[tuple[UUID, int]]] = {}
        for model, target, needs in lanes:
            wanted.setdefault(model, []).append((UUID(target), int(needs, 16)))
        unwanted = frozenset(map(UUID, avoided))

        def suits(offer: Offer) -> bool:
            if size > offer.size or offer.worker_id in unwanted:
                return False
            return any(
                not needs & ~offer.offered and target in (ANY_WORKER, offer.worker_id)
                for model in (*offer.models, ANY_MODEL)
                for target, needs in wanted.get(model, ())
            )

        with self._lock:
            self._ring(_Round([(kind, model) for model in wanted], suits, results, results + MOST_TRIES))

    def recheck(self) -> None:
        """Wake as many of those who rest as the snapshot of the queue has requests that they might take."""
        with self._lock:
            resting = [
                waiter
                for (_, model), pool in self._resting.items()
                if model == ANY_MODEL  # where everybody is
                for waiter in pool
            ]
        rounds: dict[object, _Round] = {}
        for waiter in resting:
            if waiter.profile not in rounds:
                rounds[waiter.profile] = self._round_for(waiter)
        with self._lock:
            for waiter in resting:
                each = rounds[waiter.profile]
                if each.left > 0 and waiter in self._resting.get(waiter.pools[-1], ()):
                    self._wake(waiter, each)

    def _round_for(self, waiter: Waiter) -> _Round:
        """All that waits and that workers like this one might do."""
        kind, models, offered = waiter.profile
        known = frozenset(models)
        left = sum(
            requests
            for demand, requests in snapshot.groups(self._platform, kind).naming(models)
            if any(
                not needs & ~offered and (model in known or model == ANY_MODEL)
                for model, needs in demand.models
            )
        )
        profile = waiter.profile
        return _Round(
            [(kind, ANY_MODEL)],
            lambda offer: (offer.kind, tuple(offer.models), offer.offered) == profile,
            left,
            left + MOST_TRIES,
        )

    def _ring_next(self, each: _Round) -> None:
        each.left += 1
        self._ring(each)

    def _ring(self, each: _Round) -> None:
        for pool in each.pools:
            for waiter in list(self._resting.get(pool, ())):
                if each.left <= 0 or each.tries <= 0:
                    return
                if each.suits(waiter.offer):
                    self._wake(waiter, each)

    def _wake(self, waiter: Waiter, each: _Round) -> None:
        each.left -= 1
        each.tries -= 1
        waiter.round = each
        self._take_out(waiter)
        waiter.event.set()

    def _take_out(self, waiter: Waiter) -> None:
        for name in waiter.pools:
            pool = self._resting.get(name)
            if pool is not None:
                pool.pop(waiter, None)
                if not pool:
                    del self._resting[name]

    def _release(self) -> None:
        with self._lock:
            for pool in self._resting.values():
                for waiter in pool:
                    waiter.event.set()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with self._platform.cache.pubsub(  # type: ignore[no-untyped-call]
                    ignore_subscribe_messages=True
                ) as channel:
                    channel.subscribe(CHANNEL)
                    while not self._closed.is_set():
                        message = channel.get_message(timeout=TICK_SECONDS)
                        if message is not None:
                            self.hear(message["data"])
                        self._tick()
            except redis.RedisError:
                self._tick()
                self._closed.wait(TICK_SECONDS)
            except Exception:
                log.exception("a call to waiting workers was not understood")
                self._closed.wait(TICK_SECONDS)

    def _tick(self) -> None:
        if self._closing():
            self._release()
        now = time.monotonic()
        if now < self._recheck_at or not self._resting:
            return
        self._recheck_at = now + RECHECK_SECONDS
        try:
            self.recheck()
        except Exception:  # the database may be away; those who wait go on waiting
            log.warning("waiting workers not held against the queue", exc_info=True)
