"""Waking workers that wait for something to do, as soon as it is in the queue.

Whoever queues results publishes what they demand over Valkey. Every process has one subscription. Together
they wake as many of their waiting workers as there is work, only those that could do it: each claims the
results that it wakes somebody for. A woken worker searches the queue like any other, so nothing goes wrong if
it is late or finds nothing. If it may not take what is there, the next one is woken; a process that has
nobody left passes the call on to the others. Lost calls do not matter for long: every few seconds all who
wait are held against the snapshot of the queue.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import redis
import structlog

from horde.generation import calls, snapshot
from horde.generation.calls import Call
from horde.generation.finding import Offer
from horde.generation.rules import ANY_MODEL, ANY_WORKER
from horde.platform.runtime import Platform

RECHECK_SECONDS = 3.0
"""How often waiting workers are held against the snapshot of the queue."""
TICK_SECONDS = 1.0
"""How soon it is noticed that this process is to end."""
RETRY_SECONDS = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Pauses of a called worker that finds what others are taking just then: there may be more of the same."""
MOST_TRIES = 10
"""Workers of one process that are woken for one result, one after the other, until one takes it."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Round:
    """Workers woken one after the other for the same results."""

    pools: Sequence[tuple[str, str]]
    """Kinds and models of the workers that may do."""
    suits: Callable[[Offer], bool]
    left: int
    """Results that nobody has been woken for."""
    tries: int
    call: Call | None = None
    """What the workers of other processes are to hear, if those of this one cannot take them."""


def _suitability(call: Call) -> Callable[[Offer], bool]:
    """Whether a worker could take what a call speaks of."""
    wanted: dict[str, list[tuple[UUID, int]]] = {}
    for model, target, needs in call.demands:
        wanted.setdefault(model, []).append((target, needs))
    unwanted = frozenset(call.avoided)

    def suits(offer: Offer) -> bool:
        if call.size > offer.size or offer.worker_id in unwanted:
            return False
        return any(
            not needs & ~offer.offered and target in (ANY_WORKER, offer.worker_id)
            for model in (*offer.models, ANY_MODEL)
            for target, needs in wanted.get(model, ())
        )

    return suits


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
        self._retries = 0
        self._wakeups = wakeups
        self._until = time.monotonic() + seconds

    def wait(self, *, found: bool, busy: bool) -> bool:
        """Wait until there may be something for this worker; False when its time is over.

        `found` tells that something was there when it searched last, which it could not take, and `busy`
        that others may have been taking it just then.
        """
        called = self.serving is not None and self.serving.call is not None
        if busy and called and self._retries < len(RETRY_SECONDS):
            self.event.wait(RETRY_SECONDS[self._retries])
            self._retries += 1
            return not self._wakeups.ending and time.monotonic() < self._until
        self._retries = 0
        self._wakeups.lie_down(self, refused=found)
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
        self._name = secrets.token_urlsafe(6)
        self._unserved: list[Call] = []
        """Calls to pass on."""

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
            self._pass_on()

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
        self._pass_on()

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
        call = Call.decode(message)
        if self._name in call.passed_by:
            return
        pools = [(call.kind, model) for model in {model for model, _, _ in call.demands}]
        each = _Round(pools, _suitability(call), 0, 0, call)
        with self._lock:
            wanted = self._count(each, call.results)
        granted = calls.claim(self._platform, call, wanted) if wanted else 0
        if granted:
            each.left, each.tries = granted, granted + MOST_TRIES
            with self._lock:
                self._ring(each)
                self._give_up(each)
            self._pass_on()

    def _count(self, each: _Round, most: int) -> int:
        """How many of those who rest a round suits, up to `most`."""
        found: set[Waiter] = set()
        for pool in each.pools:
            for waiter in self._resting.get(pool, ()):
                if len(found) >= most:
                    return most
                if each.suits(waiter.offer):
                    found.add(waiter)
        return len(found)

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
        self._give_up(each)

    def _give_up(self, each: _Round) -> None:
        """Note what nobody here can take any more for other processes."""
        if each.call is not None and each.left and len(each.call.passed_by) < calls.MOST_PASSED:
            self._unserved.append(each.call.passed_on(self._name, each.left))
            each.left = 0

    def _pass_on(self) -> None:
        """Publish what has been noted; not while others wait for the lock."""
        with suppress(IndexError):
            while True:
                calls.announce(self._platform, self._unserved.pop())

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
                    channel.subscribe(calls.CHANNEL)
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
