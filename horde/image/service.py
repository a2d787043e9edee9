"""What requesters do with image requests: ask, look, cancel. One function here is one transaction."""

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from horde.generation import progress, queue, settlement, snapshot
from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey, Progress, rank, seconds_ahead
from horde.generation.rules import progress as count_progress
from horde.image import facts, matching, rules, upfront
from horde.image.prompts import cleared_prompt
from horde.image.results import describe_result
from horde.image.schemas import GenerationInputStable
from horde.kudos import pricing
from horde.kudos import service as ledger
from horde.model_reference.service import image_models
from horde.moderation import timeouts
from horde.platform import outbound
from horde.platform.errors import BadRequest, Forbidden, NotFound, TooManyRequests
from horde.platform.http import DEFAULT_AGENT, relax
from horde.platform.ids import new_id, parse_id
from horde.platform.outbound import OutboundError
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import service as workers
from horde.workers.rules import WorkerFacts
from kudos_model.features import accurate_steps

KIND = rules.KIND
VERDICT_SECONDS = 5.0
UNKNOWN_WAIT = 10_000
"""Seconds told to those whose request nobody can serve at present."""
NO_WORKER = (
    "Warning: no worker that is online can serve this request now. It stays in the queue until it expires, "
    "in case one appears."
)


@dataclass(frozen=True, slots=True)
class Sender:
    """Where a call comes from."""

    api_key: str
    address: str
    client_agent: str


def quote(platform: Platform, sender: Sender, request: GenerationInputStable) -> dict[str, Any]:
    """What `request` would cost in all, in kudos; nothing is stored, reserved or charged.

    Everything that would refuse the request refuses the quote, apart from what depends on the moment
    (concurrency, upfront kudos).
    """
    _, request = _admit(platform, sender, request)
    _wanted_workers(platform, request)
    return {"kudos": float(round(rules.quote(request, image_models(platform).models)))}


def submit_request(platform: Platform, sender: Sender, request: GenerationInputStable) -> dict[str, Any]:
    """Accept a request into the queue and charge the activation tax; returns the fields of `RequestAsync`.

    Raises what `image-requests` promises in its order of checks; then nothing is stored and nothing is
    charged. Kudos that must be proven upfront are reserved in the transaction that queues the request.
    """
    user, request = _admit(platform, sender, request)
    models = image_models(platform).models
    wanted = _wanted_workers(platform, request)
    new = Draft(user, sender, request, platform)
    needed = upfront.reasons(rules.demand(request, models), _load(platform))
    lanes = rules.lane_keys(
        rules.image_facts(request, user),
        new.size,
        list(dict.fromkeys(request.models)),
        [] if request.worker_blacklist else wanted,
        models,
    )
    row = new.row(wanted, reserved=bool(needed))
    cost = rules.quote(request, models)
    try:
        _queue_up(platform, user, request, row, lanes, cost, needed)
    except IntegrityError:
        # One of its lanes was closed at this very moment (`sweep.close_empty_lanes`); now it can be opened.
        _queue_up(platform, user, request, row, lanes, cost, needed)
    answer: dict[str, Any] = {"id": str(new.id), "kudos": float(round(cost))}
    if not _verdict(platform, lanes, new.size, wanted if request.worker_blacklist else [], user.id).able:
        answer["message"] = NO_WORKER
        answer["warnings"] = [{"code": "NoAvailableWorker", "message": NO_WORKER}]
    return answer


def _queue_up(
    platform: Platform,
    user: UserFacts,
    request: GenerationInputStable,
    row: dict[str, Any],
    lanes: Sequence[LaneKey],
    cost: Decimal,
    needed: Sequence[str],
) -> None:
    """Reserve, queue and charge in one transaction; `needed` tells why `cost` must be proven upfront.

    Who is known is held to their limit exactly. The anonymous account is not: for that its callers would
    have to wait for each other.
    """
    rivals = request.models if user.anonymous else None
    if user.anonymous and not needed:
        with platform.read() as db:
            if not queue.enqueue(db, row, lanes, limit=user.concurrency, rivals=rivals):
                raise _too_many(db, user, rivals)
        return
    with platform.engine.begin() as db:
        ledger.lock_payer(db, user.balance_account)
        affordable = not needed or ledger.reserve(db, user.balance_account, row["id"], cost)
        if not queue.enqueue(db, row, lanes, limit=user.concurrency, rivals=rivals):
            raise _too_many(db, user, rivals)
        if not affordable:
            raise Forbidden(
                f"This request needs {cost} kudos upfront because {'; and '.join(needed)}. "
                "Make it smaller, or earn kudos by running a worker.",
                "KudosUpfront",
            )


def _too_many(db: Connection, user: UserFacts, rivals: Sequence[str] | None) -> TooManyRequests:
    waiting = queue.waiting(db, user.id, KIND, rivals)
    return TooManyRequests(
        f"{waiting} of your images are waiting already, and your account may have {user.concurrency} "
        "in the queue at once. Wait until some are taken, then ask again.",
        "TooManyPrompts",
    )


def _admit(
    platform: Platform, sender: Sender, request: GenerationInputStable
) -> tuple[UserFacts, GenerationInputStable]:
    """Check everything about a request that does not depend on the moment."""
    if request.style is not None:
        raise NotFound(f"There is no style or collection '{request.style[:100]}'.", "StyleNotFound")
    user = users.authenticate(platform, sender.api_key)
    models = image_models(platform).models
    rules.check_sender(request, user, sender.client_agent)
    _check_webhook(platform, request)
    timeouts.check_timeout(platform, sender.address)
    if user.trusted or user.has(Role.EDUCATION) or user.has(Role.SERVICE):
        relax(platform, sender.address)
    prompt = cleared_prompt(platform, user, sender.address, request, models)
    request = request.model_copy(update={"prompt": prompt})
    rules.check_request(request, user, models)
    rules.check_supported(request)
    if user.has(Role.EDUCATION):
        request = request.model_copy(update={"nsfw": False, "censor_nsfw": True, "trusted_workers": True})
    return user, request


def _check_webhook(platform: Platform, request: GenerationInputStable) -> None:
    if request.webhook is None:
        return
    try:
        outbound.check_url(platform.settings, request.webhook)
    except OutboundError as error:
        raise BadRequest(f"The webhook cannot be called: {error}.") from error


def _wanted_workers(platform: Platform, request: GenerationInputStable) -> list[UUID]:
    ids = {name: parse_id(name) for name in request.workers}
    known = workers.existing(platform, [i for i in ids.values() if i]) if ids else set()
    for name, worker_id in ids.items():
        if worker_id not in known:
            raise NotFound(f"There is no worker with id {name[:60]}.", "WorkerNotFound")
    return list(dict.fromkeys(i for i in ids.values() if i))[: rules.MOST_WORKERS]


def _load(platform: Platform) -> upfront.Load:
    threads = sum(worker.threads for worker in workers.online_workers(platform, KIND))
    return upfront.Load(threads=threads, queued=snapshot.places(platform, KIND).total_results)


class Draft:
    """A request on its way into the queue: what its row will hold."""

    def __init__(
        self, user: UserFacts, sender: Sender, request: GenerationInputStable, platform: Platform
    ) -> None:
        self.id = new_id()
        self.size = request.params.width * request.params.height
        self._user, self._sender, self._request, self._platform = user, sender, request, platform

    def row(self, wanted: Sequence[UUID], *, reserved: bool) -> dict[str, Any]:
        """What `queue.enqueue` takes; `wanted` are the workers named, in their stored form."""
        request, params, user = self._request, self._request.params, self._user
        models = image_models(self._platform).models
        steps = accurate_steps(params.sampler_name, rules.steps_of(params))
        now = time.time()
        return {
            "id": self.id,
            "kind": KIND,
            "user_id": user.id,
            "account_id": user.balance_account,
            "lifetime": self._platform.settings.request_ttl_seconds,
            "jobs": params.n,
            "rank": rank(rules.priority(user), now),
            "models": list(dict.fromkeys(request.models)),
            "workers": list(wanted),
            "worker_blacklist": request.worker_blacklist,
            "prompt": request.prompt,
            "payload": rules.payload(request),
            "options": self._options(reserved),
            "things": facts.pixelsteps(params.width, params.height, steps),
            "size": self.size,
            "ttl": facts.job_ttl_seconds(
                params.width,
                params.height,
                steps,
                control=bool(params.control_type),
                baselines=rules.baselines(request.models, models),
                extra_slow=False,
            ),
            "price": pricing.base_price(rules.features(request)),
            "tax": rules.tax(request),
            "r2": request.r2,
            "client_agent": self._sender.client_agent,
            "ipaddr": self._sender.address,
        }

    def _options(self, reserved: bool) -> dict[str, Any]:
        request, params = self._request, self._request.params
        seed = facts.parse_seed(params.seed) if params.seed else None
        if seed is None and params.seed_variation:
            seed = secrets.randbits(facts.SEED_BITS)
        options: dict[str, Any] = {
            "seed": seed,
            "seed_variation": params.seed_variation,
            "disable_batching": request.disable_batching or params.workflow == "qr_code",
            "slow_workers": request.slow_workers,
            "worker_blacklist": request.worker_blacklist,
            "extra_slow_workers": request.extra_slow_workers,
            "source_processing": request.source_processing,
            "source_image": bool(request.source_image),
            "reserved": reserved,
            "webhook": request.webhook,
        }
        if not request.models:
            options["facts"] = asdict(rules.image_facts(request, self._user))
        return options


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who could serve a request now."""

    able: tuple[tuple[float, int], ...]
    """Speed (pixelsteps per second) and threads of each worker that could."""


def _verdict(
    platform: Platform, lanes: Sequence[LaneKey], size: int, avoided: Sequence[UUID], user_id: int
) -> Verdict:
    key = f"able:{user_id}:{size}:{sorted(lane.id for lane in lanes)}:{[str(i) for i in avoided]}"

    def judge() -> Verdict:
        return Verdict(
            tuple(
                (worker.speed, worker.threads)
                for worker in workers.online_workers(platform, KIND)
                if worker.id not in avoided and _could_serve(worker, lanes, size, user_id)
            )
        )

    return platform.local.get(key, VERDICT_SECONDS, judge)


def _could_serve(worker: WorkerFacts, lanes: Sequence[LaneKey], size: int, user_id: int) -> bool:
    if size > worker.max_pixels or (worker.only_owner and worker.owner_id != user_id):
        return False
    offered = matching.offers(worker)
    return any(
        not lane.needs & ~offered
        and lane.target in (ANY_WORKER, worker.id)
        and (lane.model == ANY_MODEL or lane.model in worker.models)
        for lane in lanes
    )


def check(platform: Platform, request_id: str, address: str, client_agent: str) -> dict[str, Any]:
    """The fields of `RequestStatusCheck`. Raises `RequestNotFound` (404) for unknown and expired ids.

    Programs that do not say what they are get 403 while their address is in timeout.
    """
    if client_agent == DEFAULT_AGENT and timeouts.timeout_seconds(platform, address):
        raise Forbidden(
            "Calls from your address are not accepted at present. Wait some minutes, and let your program "
            "say what it is in the header Client-Agent.",
            "Forbidden",
        )
    with platform.read() as db:
        row = _find(db, request_id)
    return _check_fields(platform, row)


def status(platform: Platform, request_id: str) -> dict[str, Any]:
    """The fields of `RequestStatusStable`: progress and the images so far. Raises `RequestNotFound` (404)."""
    with platform.read() as db:
        row = _find(db, request_id)
        done = progress.delivered(db, row.id)
    return _status_fields(platform, row, done)


def cancel(platform: Platform, request_id: str) -> dict[str, Any]:
    """Hand out nothing more of a request; returns its status as it was just before.

    Jobs under way go on and are paid for. Repeating it is harmless. Raises `RequestNotFound` (404).
    """
    with platform.engine.begin() as db:
        row = _find(db, request_id)
        done = progress.delivered(db, row.id)
        queue.cancel(db, row.id)
        settlement.release_if_complete(db, row.id)
    return _status_fields(platform, row, done)


def _find(db: Connection, request_id: str) -> Row[Any]:
    parsed = parse_id(request_id)
    row = progress.find_request(db, parsed, KIND) if parsed else None
    if row is None:
        raise NotFound(
            f"There is no image request with id {request_id[:60]}. Requests are kept for about "
            "20 minutes after their last activity.",
            "RequestNotFound",
        )
    return row


def _check_fields(platform: Platform, row: Row[Any]) -> dict[str, Any]:
    counted = count_progress(n=row.n, faulted=row.faulted, states=row.states)
    position, wait, possible = 0, float(row.seconds_left), counted.processing > 0
    if counted.waiting:
        verdict = _verdict_of(platform, row)
        possible = possible or bool(verdict.able)
        requests, results, things = snapshot.places(platform, KIND).before(row.rank)
        position = requests + 1
        wait += seconds_ahead(things + float(row.things) * row.n, results + row.n, verdict.able)
    elif not counted.processing:
        possible = not counted.faulted
    return {
        **_counts(counted),
        # Some programs sleep for as long as this says, so only a finished request says 0.
        "wait_time": 0 if counted.done else UNKNOWN_WAIT if math.isinf(wait) else max(1, round(wait)),
        "queue_position": position,
        "kudos": float(round(row.kudos)),
        "is_possible": possible,
    }


def _verdict_of(platform: Platform, row: Row[Any]) -> Verdict:
    lanes = [
        LaneKey(KIND, model, UUID(target), int(needs, 2), size_class)
        for model, target, needs, size_class in row.standing
    ]
    return _verdict(platform, lanes, row.size, row.workers if row.worker_blacklist else [], row.user_id)


def _counts(counted: Progress) -> dict[str, Any]:
    return {
        "finished": counted.finished,
        "processing": counted.processing,
        "restarted": counted.restarted,
        "waiting": counted.waiting,
        "done": counted.done,
        "faulted": counted.faulted,
    }


def _status_fields(platform: Platform, row: Row[Any], jobs: Sequence[Row[Any]]) -> dict[str, Any]:
    return {
        **_check_fields(platform, row),
        "generations": [describe_result(platform, job, r2=row.r2) for job in jobs],
        "shared": False,
    }
