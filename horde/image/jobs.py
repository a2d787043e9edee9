"""What workers do with image requests: take jobs, hand in results. One function here is one transaction."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from horde.generation import queue, settlement, snapshot, webhooks
from horde.generation.queue import Assignment, Offer
from horde.generation.rules import ANY_MODEL, ANY_WORKER, DELIVERED
from horde.image import asked, facts, matching, plans, prices, rules, sources
from horde.image.plans import KIND
from horde.image.results import describe_result, image_key
from horde.image.schemas import ModelPayloadStable, PopInputStable, SubmitInputStable
from horde.kudos.rules import kudos
from horde.model_reference.rules import baseline_of
from horde.model_reference.schemas import ImageModel
from horde.model_reference.service import image_models
from horde.moderation import timeouts
from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.platform.ids import new_id, parse_id
from horde.platform.images import as_webp, decode_base64_image
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import rules as worker_rules
from horde.workers import service as workers
from horde.workers.rules import WorkerFacts

MOST_METADATA = 50
MOST_RESULT_PIXELS = (4 * 3072) ** 2
"""Results may be larger than what was asked for: upscalers enlarge them."""
SKIPPED_SECONDS = 3.0
CURSOR_SECONDS = 120.0
"""How long it is remembered where a worker's search has got to."""
UPLOADED = "R2"
"""What a worker submits instead of a picture that it has uploaded."""
NO_PAYLOAD = ModelPayloadStable().model_dump(exclude_none=True)
ALWAYS_COUNTED = (
    "models",
    "worker_id",
    "img2img",
    "painting",
    "unsafe_ip",
    "nsfw",
    "lora",
    "post-processing",
    "controlnet",
    "performance",
    "untrusted",
    "bridge_version",
)
"""Reasons that a pop counts even when nothing was refused for them."""


def pop(platform: Platform, api_key: str, address: str, offer: PopInputStable) -> dict[str, Any]:
    """Check a worker in and hand it jobs of the most deserving request that it can serve.

    Returns the fields of `GenerationPayloadStable`; without a job `ids` is empty and `skipped` tells why.
    Raises 401 for an unknown key, 400 and 403 for workers that may not serve (`workers.check_in`), and
    403 `WorkerMaintenance` when a worker in maintenance has nothing of its owner's to do.
    """
    friends = worker_rules.priority_user_ids(offer.priority_usernames)
    owner = users.authenticate(platform, api_key)
    timeouts.check_timeout(platform, address)
    accepted = _accepted_models(owner, offer.models, image_models(platform).models)
    worker = workers.check_in(platform, owner, KIND, offer.name, _settings(offer, accepted), address)
    jobs, refused_for_words = _find_and_take(platform, worker, owner, friends, offer.amount)
    if jobs is not None:
        return jobs
    if worker.maintenance:
        raise Forbidden(worker_rules.maintenance_text(worker.maintenance_message), "WorkerMaintenance")
    skipped = _skipped(platform, worker)
    if refused_for_words:
        skipped["blacklist"] = refused_for_words
    return _nothing(skipped)


def _accepted_models(owner: UserFacts, names: list[str], models: Mapping[str, ImageModel]) -> list[str]:
    """Those of the offered models that this owner may serve, in order, each once."""
    accepted = []
    for name in dict.fromkeys(names[: worker_rules.MAX_MODELS]):
        _, mark, alias = name.partition("::")
        if mark and owner.has(Role.SPECIAL) and "::" not in alias:
            if alias != owner.alias:
                raise BadRequest(f"The model '{name}' belongs to another user. Do not offer it.")
            accepted.append(name)
        elif name in models or owner.has(Role.CUSTOMIZER):
            accepted.append(name)
    if not accepted:
        raise BadRequest(
            "Unfortunately we cannot accept workers serving only models that this horde does not know. "
            "Offer at least one model of the horde's model reference."
        )
    return accepted


def _settings(offer: PopInputStable, accepted: list[str]) -> dict[str, Any]:
    same = {
        name: getattr(offer, name)
        for name in worker_rules.SETTINGS
        if name not in ("models", "blacklist", "bridge_agent")
    }
    return {
        **same,
        "models": accepted,
        "blacklist": worker_rules.clean_blacklist(offer.blacklist),
        "bridge_agent": offer.bridge_agent.strip(),
    }


def _find_and_take(
    platform: Platform, worker: WorkerFacts, owner: UserFacts, friends: list[int], amount: int
) -> tuple[dict[str, Any] | None, int]:
    """The jobs taken, or None and how many requests were refused for their words."""
    wanted = Offer(
        kind=KIND,
        worker_id=worker.id,
        models=list(worker.models),
        offered=matching.offers(worker),
        size=worker.max_pixels,
        friends=[owner.id] if worker.only_owner else [owner.id, *friends],
        only_friends=worker.only_owner,
        blacklist=worker.blacklist,
    )
    models = image_models(platform).models
    with platform.engine.begin() as db:
        found = queue.find(db, wanted)
        choice = _choose(found.request, wanted, models)
        if choice is None and found.candidates:
            found, choice = _look_further(platform, db, wanted, found.request)
        if found.request is None or choice is None:
            return None, found.refused_for_words
        return _take(platform, db, found.request, worker, choice, amount), 0


def _look_further(
    platform: Platform, db: Connection, wanted: Offer, refused: Row[Any] | None
) -> tuple[queue.Found, "Choice | None"]:
    """Search on from where this worker's last search ended, since nothing at the head would do."""
    key = f"cursor:{wanted.worker_id}"
    after = platform.local.get(key, CURSOR_SECONDS, lambda: queue.TOP)
    found = queue.find_further(db, wanted, refused=[refused.id] if refused else [], after=after)
    choice = _choose(found.request, wanted, image_models(platform).models)
    if found.request is None:
        platform.local.put(key, CURSOR_SECONDS, found.reached or queue.TOP)
    elif choice is None:
        platform.local.put(key, CURSOR_SECONDS, (found.request.rank, found.request.id))
    return found, choice


@dataclass(frozen=True, slots=True)
class Choice:
    """The model that a worker is to use, and what follows from it."""

    model: str
    payload: dict[str, Any]
    """What every job of the request receives, with the settings for this model."""
    things: int
    ttl: int
    price: Decimal
    """Kudos before the model's factor."""


def _choose(request: Row[Any] | None, offer: Offer, models: Mapping[str, ImageModel]) -> Choice | None:
    """A model that the request accepts and that the worker may use for it; at random if there are several."""
    if request is None:
        return None
    if request.matched == [ANY_MODEL]:
        return _choose_any(request, offer, models)
    model = str(random.choice(request.matched))
    variant = request.options.get("variants", {}).get(model)
    if variant is None:
        # Others of its models may make more of it than this one, which as many seconds do for.
        things = asked.pixelsteps(request.payload)
        return Choice(model, request.payload, things, request.ttl, request.price)
    payload = {**request.payload, **variant["payload"]}
    return Choice(model, payload, variant["things"], request.ttl, Decimal(variant["price"]))


def _choose_any(request: Row[Any], offer: Offer, models: Mapping[str, ImageModel]) -> Choice | None:
    wanted = asked.read(request.payload, request.options, r2=request.r2)
    for name in random.sample(offer.models, len(offer.models)):
        if not plans.supports(name, wanted, models):
            continue
        plan = plans.plan(wanted, name, models)
        if not plan.needs & ~offer.offered:
            payload = {**request.payload, **plans.changes(wanted.settings, plan.asked.settings)}
            return Choice(name, payload, plan.things, plans.job_seconds([plan]), plan.price)
    return None


def _take(
    platform: Platform, db: Connection, request: Row[Any], worker: WorkerFacts, choice: Choice, amount: int
) -> dict[str, Any]:
    options, payload, model = request.options, choice.payload, choice.model
    models = image_models(platform).models
    baseline = baseline_of(model, models)
    size = facts.batch_size(
        amount=amount,
        max_pixels=worker.max_pixels,
        width=payload["width"],
        height=payload["height"],
        post_processing=payload.get("post_processing", ()),
        transparent=payload["transparent"],
        baselines=[baseline],
        remaining=request.n,
        disable_batching=options["disable_batching"],
    )
    slow = worker.extra_slow_worker
    settings = platform.settings
    jobs = [new_id() for _ in range(size)]
    ttl = choice.ttl * facts.EXTRA_SLOW_FACTOR if slow else choice.ttl
    factor = prices.model_factor(baseline, hires_fix=payload["hires_fix"], workflow=payload.get("workflow"))
    queue.take(
        db,
        request.id,
        jobs,
        Assignment(worker.id, model, ttl, choice.things, kudos(choice.price * factor)),
        keep=settings.slow_request_ttl_seconds if slow else settings.request_ttl_seconds,
    )
    seed = rules.job_seed(options["seed"], options["seed_variation"], request.n)
    uploads = [platform.store.upload_url(image_key(job)) for job in jobs] if request.r2 else None
    ids = [str(job) for job in jobs]
    return {
        **_nothing({}),
        "id": ids[0],
        "ids": ids,
        "payload": {**NO_PAYLOAD, **payload, "seed": str(seed), "n_iter": size},
        "model": model,
        "ttl": ttl,
        **_pictures(platform, request, worker),
        "r2_upload": uploads[0] if uploads else None,
        "r2_uploads": uploads,
    }


def _pictures(platform: Platform, request: Row[Any], worker: WorkerFacts) -> dict[str, Any]:
    """The source pictures of a request, as links for software that can follow them."""
    options = request.options
    if not (options["source_image"] or options["extra_sources"]):
        return {}  # also says that what is to be done with a source image does not matter
    links = "r2_source" in worker.software.capabilities
    return {
        "source_processing": options["source_processing"],
        **sources.handed_out(platform, request.id, options, links=links),
    }


def _nothing(skipped: dict[str, int]) -> dict[str, Any]:
    return {
        "id": None,
        "ids": [],
        "payload": NO_PAYLOAD,
        "model": None,
        "ttl": None,
        "source_image": None,
        "source_processing": "img2img",
        "source_mask": None,
        "extra_source_images": None,
        "r2_upload": None,
        "r2_uploads": None,
        "skipped": skipped,
        "messages": [],
    }


def _skipped(platform: Platform, worker: WorkerFacts) -> dict[str, int]:
    """How many waiting requests this worker cannot serve, for each reason; some seconds old."""
    key = f"skipped:{worker.id}:{hash(worker)}"
    return dict(platform.local.get(key, SKIPPED_SECONDS, lambda: _count_skipped(platform, worker)))


def _count_skipped(platform: Platform, worker: WorkerFacts) -> dict[str, int]:
    waiting = snapshot.groups(platform, KIND)
    named = waiting.naming(worker.models)
    counts = dict.fromkeys(ALWAYS_COUNTED, 0)
    counts["models"] = waiting.total - sum(group.requests for group in named)
    offered = matching.offers(worker)
    known: dict[int, set[str]] = {}
    for group in named:
        served = [lane for lane in group.lanes if lane.model == ANY_MODEL or lane.model in worker.models]
        reasons: set[str] = set()
        if worker.id in group.avoided or all(lane.target not in (ANY_WORKER, worker.id) for lane in served):
            reasons.add("worker_id")
        if group.size > worker.max_pixels:
            reasons.add("max_pixels")
        lacking = []
        for lane in served:
            if lane.needs not in known:
                known[lane.needs] = matching.missing(lane.needs, offered)
            lacking.append(known[lane.needs])
        if all(lacking):
            reasons.update(*lacking)
        for reason in reasons:
            counts[reason] = counts.get(reason, 0) + group.requests
    return counts


def submit(platform: Platform, api_key: str, result: SubmitInputStable) -> float:
    """Take a worker's result in and settle it; returns the kudos credited for it.

    Raises 404 `InvalidJobID`, 401 `InvalidAPIKey`, 403 `WrongCredentials` when another account's worker
    has the job, 400 `DuplicateGen` for a job delivered before, `AbortedGen` for one that was lost, and
    `ImageValidationFailed` for a result that is no picture. However often and by however many hands a
    result is submitted, it is paid once.
    """
    if len(result.gen_metadata) > MOST_METADATA:
        raise BadRequest(f"At most {MOST_METADATA} entries of gen_metadata are possible.")
    job_id = parse_id(result.id)
    with platform.read() as db:
        job = settlement.find_job(db, job_id, KIND) if job_id else None
    if job is None:
        raise _no_job(result.id)
    caller = users.authenticate(platform, api_key)
    if caller.id != job.owner_id:
        raise Forbidden(
            "Wrong credentials: this job was given to another account's worker.", "WrongCredentials"
        )
    state = _end_state(result)
    _check_open(job.state, result.id, state)
    if state == "faulted":
        return _fault(platform, job)
    if result.generation != UPLOADED:
        _store(platform, job.id, result.generation or "")
    return _deliver(platform, job, caller, result, state)


def _end_state(result: SubmitInputStable) -> str:
    """What the worker says became of the job; censorship may be said in the state or in the metadata."""
    if result.state == "faulted":
        return "faulted"
    said = {entry.value for entry in result.gen_metadata if entry.type == "censorship"} | {result.state}
    if "csam" in said:
        return "csam"
    if said & {"nsfw", "censored"} or any(entry.type == "censorship" for entry in result.gen_metadata):
        return "censored"
    return "ok"


def _no_job(job_id: str) -> NotFound:
    return NotFound(
        f"Processing Job with ID {job_id[:60]} does not exist. It may have expired; drop it and go on.",
        "InvalidJobID",
    )


def _check_open(state: str, job_id: str, wanted: str) -> None:
    if state in DELIVERED:
        raise BadRequest(
            f"The result of job {job_id} was already submitted. Drop it and go on.", "DuplicateGen"
        )
    if state != "processing" and wanted != "faulted":
        raise BadRequest(
            f"Job {job_id} took too long or was given back, and another worker has it now. "
            "Please check your worker speed.",
            "AbortedGen",
        )


def _fault(platform: Platform, job: Row[Any]) -> float:
    with platform.engine.begin() as db:
        settlement.lose(db, job)
    return 0.0


def _store(platform: Platform, job_id: UUID, generation: str) -> None:
    picture = as_webp(decode_base64_image(generation), max_pixels=MOST_RESULT_PIXELS)
    platform.store.put(image_key(job_id), picture)


def _deliver(
    platform: Platform, job: Row[Any], owner: UserFacts, result: SubmitInputStable, state: str
) -> float:
    software = workers.software_table(platform).capabilities(job.bridge_agent)
    reward = kudos(job.value * software.reward_factor)
    charge = prices.charge(job.value, asked.terms_of(job.payload, job.options), censored=state != "ok")
    payee = settlement.Payee(owner.balance_account, owner.escrow_account, owner.trusted)
    metadata = [entry.model_dump(exclude_none=True) for entry in result.gen_metadata]
    values: dict[str, Any] = {
        "seed": result.seed,
        "metadata": metadata,
        "charge": charge,
        "reward": reward,
    }
    webhook = job.options.get("webhook")
    if webhook is None:
        with platform.read() as db:
            paid = settlement.deliver(db, job, payee, state, **values)
    else:
        ended = SimpleNamespace(**{**job._mapping, "state": state, "seed": result.seed, "metadata": metadata})
        body = describe_result(platform, ended, r2=job.r2)
        del body["state"]
        body |= {"seed": result.seed, "request": job.request_id, "kudos": job.value}
        with platform.engine.begin() as db:
            paid = settlement.deliver(db, job, payee, state, **values)
            if paid:
                webhooks.enqueue(db, webhook, body)
    if paid and job.options["reserved"]:
        with platform.read() as db:
            settlement.release_if_complete(db, job.request_id)
    if not paid:
        with platform.read() as db:
            now = settlement.find_job(db, job.id, KIND)
        if now is None:
            raise _no_job(str(job.id))
        _check_open(now.state, str(job.id), state)
    return float(reward)
