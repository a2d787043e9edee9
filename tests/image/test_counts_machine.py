"""Whatever happens to requests: what is shown of each is right, and workers get what is theirs in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from horde.generation import sweep
from horde.image import jobs, service, submissions, tracking
from horde.image.admission import Sender
from horde.image.schemas import GenerationInputStable, PopInputStable, SubmitInputStable
from horde.kudos.rules import kudos
from horde.platform.errors import Forbidden, NotFound, TooManyRequests
from horde.users.rules import ANONYMOUS_KEY, Role
from horde.workers import heartbeats
from tests.support import (
    AGENT,
    MODEL,
    SDXL,
    Horde,
    account,
    change,
    forget,
    restore_rows,
    save_rows,
    scalar,
)

MOST_WAITING = 30
GIVEN_UP_AFTER = 3
LARGE = {"width": 768, "height": 512}

KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, {"nsfw"}),
    "tame": ({"nsfw": False}, set()),
    "any model": ({"models": []}, {"nsfw"}),
    "large": ({"params": LARGE}, {"nsfw", "large"}),
    "lora": ({"params": {"loras": [{"name": "1"}]}}, {"nsfw", "lora"}),
    "xl": ({"models": [SDXL]}, {"nsfw", "xl"}),
    "one of two": ({"models": [MODEL, SDXL]}, {"nsfw"}),
    "trusted": ({"trusted_workers": True}, {"nsfw", "trusted"}),
    "ugly": ({"prompt": "an ugly duckling"}, {"nsfw", "words"}),
    "one by one": ({"disable_batching": True}, {"nsfw"}),
}
"""Requests by name: what is sent, and what a worker must offer."""

SKILLED = {"models": [MODEL, SDXL], "allow_lora": True, "max_pixels": 4 * 1024 * 1024}
WORKERS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "plain": ("owner", {"max_pixels": 512 * 512, "blacklist": ["ugly"]}, {"nsfw", "trusted"}),
    "skilled": ("owner", SKILLED, {"nsfw", "trusted", "large", "lora", "xl", "words"}),
    "tame": ("owner", {"nsfw": False, "max_pixels": 768 * 512}, {"trusted", "large", "words"}),
    "new": ("newcomer", SKILLED, {"nsfw", "large", "lora", "xl", "words"}),
}
"""Workers by name: their owner, what they say of themselves, and what that amounts to."""
WEALTH = {"rich": 1_000_000, "owner": 100_000, "anonymous": 0}
PAYERS, NAMES = st.sampled_from(sorted(WEALTH)), st.sampled_from(sorted(WORKERS))
STATES = st.sampled_from(["ok", "censored", "csam", "faulted", "faulted"])


@dataclass(eq=False)
class Request:
    """What the test knows of a request."""

    id: str
    payer: str
    kind: str
    left: int
    place: int
    """How many were queued before it."""
    named: str | None = None
    """The only worker that may serve it."""
    avoided: str | None = None
    delivered: list[tuple[str, str]] = field(default_factory=list)
    """Id and state of each."""
    lost: int = 0
    cancelled: bool = False
    spent: Decimal = Decimal(1)

    @property
    def faulted(self) -> bool:
        return self.lost >= GIVEN_UP_AFTER and not self.cancelled


@dataclass(eq=False)
class Worker:
    """What the test knows of a worker."""

    name: str
    owner: str
    offer: dict[str, Any]
    offers: set[str]
    id: str = ""
    online: bool = False
    maintenance: bool = False
    paused: bool = False
    fooled: set[str] = field(default_factory=set)
    """Ids of the requests of which it got a decoy."""

    def serves(self, request: Request) -> bool:
        return (
            KINDS[request.kind][1] <= self.offers
            and (not self.maintenance or request.payer == self.owner)
            and request.named in (None, self.name)
            and request.avoided != self.name
        )

    def helps(self, request: Request) -> bool:
        """Whether the request can hope for it."""
        return self.serves(request) and (not self.paused or request.payer == self.owner)

    def batch(self, request: Request, amount: int) -> int:
        """How many images it gets; the largest that a worker makes come one by one."""
        largest = self.offer["max_pixels"] <= 768 * 512
        return 1 if request.kind == "one by one" or largest else min(amount, request.left)


@dataclass(eq=False)
class Job:
    """What the test knows of a job."""

    id: str
    worker: Worker
    request: Request


class Counts(RuleBasedStateMachine):
    """Requests of the rich, of everybody and of an owner, for workers that can do more and less."""

    def __init__(self, horde: Horde) -> None:
        super().__init__()
        self.platform = horde.platform
        self.rows = save_rows(self.platform)
        self.keys = {"anonymous": ANONYMOUS_KEY, "newcomer": account(self.platform).key}
        for name in ("rich", "owner"):
            self.keys[name] = account(self.platform, Role.TRUSTED, amount=WEALTH[name]).key
        self.workers = {name: Worker(name, *facts) for name, facts in WORKERS.items()}
        self.known: dict[str, Request] = {}
        self.under_way: list[Job] = []
        self.decoys: list[Job] = []
        self.asked = 0

    def queue(self) -> list[Request]:
        """What waits, in order of service: by wealth, and equals in turn."""
        waiting = (request for request in self.known.values() if request.left)
        return sorted(waiting, key=lambda request: (-WEALTH[request.payer], request.place))

    def able(self, request: Request) -> bool:
        return any(worker.online and worker.helps(request) for worker in self.workers.values())

    @initialize(payer=PAYERS)
    def begin(self, payer: str) -> None:
        """All workers are there, and something to do."""
        for name in WORKERS:
            self.pop(name, 1)
        self.queue_up(payer, "plain", n=4)

    @rule(payer=PAYERS, kind=st.sampled_from(sorted(KINDS)), n=st.integers(1, 4))
    def ask(self, payer: str, kind: str, n: int) -> None:
        # Several images one by one need trust.
        self.queue_up(payer, kind, 1 if kind == "one by one" and payer == "anonymous" else n)

    @rule(payer=PAYERS, name=NAMES, avoided=st.booleans())
    def ask_for_a_worker(self, payer: str, name: str, avoided: bool) -> None:
        """Ask for one worker alone, or for everybody else."""
        fields = {"workers": [self.workers[name].id], "worker_blacklist": avoided}
        self.queue_up(payer, "plain", 2, {"avoided" if avoided else "named": name}, **fields)

    def queue_up(
        self, payer: str, kind: str, n: int, role: dict[str, str] | None = None, **fields: Any
    ) -> None:
        sent = {"prompt": "a lighthouse"} | KINDS[kind][0] | fields
        sent["params"] = {"n": n, **sent.get("params", {})}
        sender = Sender(self.keys[payer], "127.0.0.1", "test:1:test")
        wanted = GenerationInputStable.model_validate(sent)
        waiting = sum(request.left for request in self.known.values() if request.payer == payer)
        if payer != "anonymous" and waiting + n > MOST_WAITING:
            with pytest.raises(TooManyRequests):
                service.submit_request(self.platform, sender, wanted)
            return
        answer = service.submit_request(self.platform, sender, wanted)
        request = Request(answer["id"], payer, kind, n, self.asked, **(role or {}))
        self.asked += 1
        self.known[request.id] = request
        assert ("explain" in answer) == (not self.able(request))

    @rule(name=NAMES, amount=st.integers(1, 3))
    def take(self, name: str, amount: int) -> None:
        self.pop(name, amount)

    def pop(self, name: str, amount: int) -> Sequence[Job]:
        """Let a worker ask for jobs; returns what it gets, which is what the model says."""
        worker = self.workers[name]
        expected = self.first_for(worker)
        offer = {"name": name, "models": [MODEL], "bridge_agent": AGENT, "amount": amount} | worker.offer
        wanted = PopInputStable.model_validate(offer)
        key = self.keys[worker.owner]
        if expected is None and worker.maintenance:
            with pytest.raises(Forbidden, match="maintenance mode"):
                jobs.pop(self.platform, key, "127.0.0.1", wanted)
            ids: Sequence[str] = ()
        else:
            ids = jobs.pop(self.platform, key, "127.0.0.1", wanted)["ids"]
        worker.id = str(scalar(self.platform, "SELECT id FROM workers WHERE name = :name", name=name))
        worker.online = True
        heartbeats.fold_heartbeats(self.platform)
        if expected is None:
            assert not ids
            return ()
        query = "SELECT string_agg(DISTINCT request_id::text, ' ') FROM jobs WHERE id = ANY(:ids)"
        assert scalar(self.platform, query, ids=[*ids]) == expected.id
        if not worker.helps(expected):
            (decoy,) = ids
            worker.fooled.add(expected.id)
            self.decoys.append(Job(decoy, worker, expected))
            return ()
        assert len(ids) == worker.batch(expected, amount)
        expected.left -= len(ids)
        taken = [Job(job, worker, expected) for job in ids]
        self.under_way += taken
        return taken

    def first_for(self, worker: Worker) -> Request | None:
        """What a worker is to get: the first of its owner's, or else the first of all."""
        able = [
            request for request in self.queue() if worker.serves(request) and request.id not in worker.fooled
        ]
        own = [request for request in able if request.payer == worker.owner]
        return (own or able or [None])[0]

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), state=STATES)
    def end(self, data: st.DataObject, state: str) -> None:
        """A worker delivers a result, or gives the job back."""
        self.submit(data.draw(st.sampled_from(self.under_way)), state)

    @rule(name=NAMES, amount=st.integers(1, 3), state=STATES)
    def work(self, name: str, amount: int, state: str) -> None:
        """A worker takes jobs and ends them at once."""
        for job in self.pop(name, amount):
            self.submit(job, state)

    def submit(self, job: Job, state: str) -> None:
        # Workers that were as fast as this test would be paused.
        change(
            self.platform, "UPDATE jobs SET started = now() - interval '1 minute' WHERE id = :id", id=job.id
        )
        result = SubmitInputStable.model_validate(
            {"id": job.id, "generation": "R2", "seed": 1, "state": state}
        )
        reward = submissions.submit(self.platform, self.keys[job.worker.owner], result)
        if state == "faulted":
            self.lose([job])
            return
        request = job.request
        self.under_way.remove(job)
        request.delivered.append((job.id, state))
        value = Decimal(str(reward)) if state == "ok" else Decimal(0)
        request.spent += kudos((value + 1) * Decimal("1.1" if request.avoided else "1"))

    @precondition(lambda self: self.decoys)
    @rule(data=st.data(), state=STATES)
    def end_a_decoy(self, data: st.DataObject, state: str) -> None:
        """A worker hands in what nobody asked for."""
        decoy = data.draw(st.sampled_from(self.decoys))
        self.decoys.remove(decoy)
        result = SubmitInputStable.model_validate(
            {"id": decoy.id, "generation": "R2", "seed": 1, "state": state}
        )
        reward = submissions.submit(self.platform, self.keys[decoy.worker.owner], result)
        assert (reward == 0) == (state == "faulted")

    @precondition(lambda self: self.decoys)
    @rule()
    def let_decoys_run_out_of_time(self) -> None:
        change(self.platform, "UPDATE jobs SET deadline = now() - interval '1 second' WHERE decoy")
        assert sweep.abort_overdue_jobs(self.platform) == 0
        self.decoys.clear()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def run_out_of_time(self, data: st.DataObject) -> None:
        """Let all jobs of a request that are under way be overdue."""
        request = data.draw(st.sampled_from(self.under_way)).request
        change(
            self.platform,
            "UPDATE jobs SET deadline = now() - interval '1 second' WHERE request_id = :id",
            id=request.id,
        )
        late = self.jobs_of(request)
        assert sweep.abort_overdue_jobs(self.platform) == len(late)
        self.lose(late)

    def lose(self, lost: Sequence[Job]) -> None:
        """Jobs of one request come to nothing."""
        request = lost[0].request
        self.under_way = [job for job in self.under_way if job not in lost]
        request.lost += len(lost)
        over = request.cancelled or request.lost >= GIVEN_UP_AFTER
        request.left = 0 if over else request.left + len(lost)

    def jobs_of(self, request: Request) -> list[Job]:
        return [job for job in self.under_way if job.request is request]

    @precondition(lambda self: self.open())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.open()))
        self.assert_shown(request, tracking.cancel(self.platform, request.id))
        request.cancelled = not request.faulted
        request.left = 0

    @precondition(lambda self: self.idle())
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Let the lifetime of a request end that nobody works on."""
        request = data.draw(st.sampled_from(self.idle()))
        change(
            self.platform,
            "UPDATE requests SET expires = now() - interval '1 second' WHERE id = :id",
            id=request.id,
        )
        change(
            self.platform,
            "UPDATE jobs SET finished = now() - interval '1 hour' WHERE request_id = :id",
            id=request.id,
        )
        assert sweep.expire_requests(self.platform) == 1
        del self.known[request.id]
        self.decoys = [decoy for decoy in self.decoys if decoy.request is not request]
        with pytest.raises(NotFound):
            tracking.status(self.platform, request.id)

    def open(self) -> list[Request]:
        return [each for each in self.known.values() if each.left or self.jobs_of(each)]

    def idle(self) -> list[Request]:
        return [each for each in self.known.values() if not self.jobs_of(each)]

    @rule(names=st.sets(NAMES, min_size=1))
    def go_offline(self, names: set[str]) -> None:
        change(
            self.platform,
            "UPDATE workers SET last_seen = now() - interval '6 minutes' WHERE name = ANY(:names)",
            names=[*names],
        )
        for name in names:
            self.workers[name].online = False

    @rule(name=NAMES, on=st.booleans())
    def keep_for_the_owner(self, name: str, on: bool) -> None:
        """Put a worker into maintenance or back to work."""
        if self.workers[name].id:
            change(self.platform, "UPDATE workers SET maintenance = :on WHERE name = :name", on=on, name=name)
            self.workers[name].maintenance = on

    @rule(name=NAMES, on=st.booleans())
    def pause(self, name: str, on: bool) -> None:
        """Suspect a worker, or trust it again."""
        if self.workers[name].id:
            change(self.platform, "UPDATE workers SET paused = :on WHERE name = :name", on=on, name=name)
            self.workers[name].paused = on

    @invariant()
    def what_is_shown_is_right(self) -> None:
        forget(self.platform)
        for place, request in enumerate(self.queue(), 1):
            shown = tracking.check(self.platform, request.id, "192.0.2.1", "tests")
            assert shown["queue_position"] == place
            self.assert_shown(request, shown)
        for request in self.known.values():
            if not request.left:
                status = tracking.status(self.platform, request.id)
                assert status["queue_position"] == 0
                self.assert_shown(request, status)

    def assert_shown(self, request: Request, shown: dict[str, Any]) -> None:
        processing = len(self.jobs_of(request))
        counts = tuple(shown[name] for name in ("finished", "processing", "restarted", "waiting"))
        assert counts == (len(request.delivered), processing, request.lost, request.left)
        assert shown["faulted"] == request.faulted
        assert shown["done"] == (not (request.left or processing))
        assert shown["kudos"] == round(request.spent)
        able = self.able(request)
        assert ("explain" in shown) == (request.left > 0 and not able)
        if request.left or processing:
            assert shown["is_possible"] == bool(processing or able)
        if "explain" in shown:
            online = sum(worker.online for worker in self.workers.values())
            assert shown["explain"]["workers"] == online
            assert all(count <= online for count in shown["explain"]["reasons"].values())
        if "generations" in shown:
            told = [(image["id"], image["state"]) for image in shown["generations"]]
            assert told == request.delivered

    def teardown(self) -> None:
        restore_rows(self.platform, self.rows)


def test_what_is_shown_of_requests(horde: Horde) -> None:
    run_state_machine_as_test(
        partial(Counts, horde),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
