"""Handing image jobs to workers. A pop is one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from horde.generation import queue
from horde.generation.finding import Offer
from horde.generation.queue import Assignment
from horde.generation.wakeups import Wakeups
from horde.image import facts, rules, sources
from horde.image.plans import KIND
from horde.image.results import image_key
from horde.image.schemas import ModelPayloadStable, PopInputStable
from horde.image.search import NOTHING, Choice, Outcome, nothing_there, offer_of, search, searching
from horde.image.skipped import count_skipped
from horde.kudos import pricing
from horde.kudos.rules import kudos
from horde.model_reference.rules import KNOWN_BASELINES, baseline_of
from horde.model_reference.schemas import ImageModel
from horde.model_reference.service import image_models
from horde.platform.errors import BadRequest, Forbidden
from horde.platform.ids import new_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import messages, priorities
from horde.workers import rules as worker_rules
from horde.workers.checkin import check_in
from horde.workers.registration import admit
from horde.workers.rules import WorkerFacts

NO_PAYLOAD = ModelPayloadStable().model_dump(exclude_none=True)


def pop(
    platform: Platform,
    api_key: str,
    address: str,
    offer: PopInputStable,
    wakeups: Wakeups | None = None,
    gone: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Check a worker in and hand it jobs of the most deserving request that it can serve.

    Returns the fields of `GenerationPayloadStable`; without a job `ids` is empty and `skipped` tells why.
    When the worker is ready to wait, that comes at the end of its time; whoever is `gone` meanwhile gets no
    jobs.
    Raises 401 for an unknown key, 400 and 403 for workers that may not serve (`registration.admit`), before
    anything is stored, and 403 `WorkerMaintenance` when a worker in maintenance has nothing of its owner's to
    do.
    """
    worker_rules.check_priority_usernames(offer.priority_usernames)
    owner = users.authenticate(platform, api_key)
    admitted = admit(platform, owner, KIND, offer.name, offer.bridge_agent, address)
    accepted = _accepted_models(owner, offer.models, image_models(platform).models)
    friends = worker_rules.priority_user_ids(offer.priority_usernames)
    worker = check_in(platform, admitted, _settings(offer, accepted))
    if platform.settings.require_matched_targeting:
        worker = priorities.note(platform, worker, friends)
    if wakeups is None or not offer.wait or worker.maintenance:
        jobs, outcome = _find_and_take(platform, worker, friends, offer)
    else:
        again = partial(_once_more, platform, api_key, address)
        jobs, outcome, worker = _wait_for_jobs(platform, worker, friends, offer, wakeups, again, gone)
    if jobs is not None:
        return {**jobs, "messages": messages.for_pop(platform, worker.id)}
    if worker.maintenance:
        raise Forbidden(worker_rules.maintenance_text(worker.maintenance_message), "WorkerMaintenance")
    skipped = {**count_skipped(platform, worker), **outcome.refused}
    return {**_nothing(skipped), "messages": messages.for_pop(platform, worker.id)}


def _wait_for_jobs(
    platform: Platform,
    worker: WorkerFacts,
    friends: list[int],
    offer: PopInputStable,
    wakeups: Wakeups,
    again: Callable[[WorkerFacts], WorkerFacts],
    gone: Callable[[], bool],
) -> tuple[dict[str, Any] | None, Outcome, WorkerFacts]:
    """The jobs taken, if any, what the last search came to, and the worker as it was `again` then."""
    # A call for workers that a request names wakes also those that do not serve its sender.
    matched = platform.settings.require_matched_targeting
    # Whoever can be called before it searches misses nothing.
    with wakeups.waiting(_wanted(platform, worker, friends, offer), offer.wait) as waiter:
        jobs, outcome = _find_and_take(platform, worker, friends, offer)
        while (
            jobs is None
            and waiter.wait(found=matched or outcome.candidates > 0, busy=outcome.busy)
            and not gone()
        ):
            worker = again(worker)
            if worker.maintenance:
                break
            jobs, outcome = _find_and_take(platform, worker, friends, offer)
        # What a paused worker gets for show, somebody else is still to do.
        if jobs is not None and not worker.paused:
            waiter.served()
    return jobs, outcome, worker


def _once_more(platform: Platform, api_key: str, address: str, worker: WorkerFacts) -> WorkerFacts:
    """A worker that has waited: with the settings of its pop, and what others have decided meanwhile."""
    owner = users.authenticate(platform, api_key)
    now = admit(platform, owner, KIND, worker.name, worker.bridge_agent, address).worker
    if now is None:
        raise worker_rules.no_worker(worker.name)
    return replace(
        worker,
        owner_trusted=now.owner_trusted,
        maintenance=now.maintenance,
        maintenance_message=now.maintenance_message,
        paused=now.paused,
        speed=now.speed,
    )


def _accepted_models(owner: UserFacts, names: list[str], models: Mapping[str, ImageModel]) -> list[str]:
    """Those of the offered models that this owner may serve, in order, each once."""
    accepted = []
    for name in dict.fromkeys(names[: worker_rules.MAX_MODELS]):
        _, mark, alias = name.partition("::")
        if mark and owner.has(Role.SPECIAL) and "::" not in alias:
            if alias != owner.alias:
                raise BadRequest(f"The model '{name}' belongs to another user. Do not offer it.")
            accepted.append(name)
        elif owner.has(Role.CUSTOMIZER) or (name in models and models[name].baseline in KNOWN_BASELINES):
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


def _wanted(platform: Platform, worker: WorkerFacts, friends: list[int], offer: PopInputStable) -> Offer:
    mutual = platform.settings.require_matched_targeting
    return offer_of(worker, friends, upfront=offer.require_upfront_kudos, mutual=mutual)


def _find_and_take(
    platform: Platform, worker: WorkerFacts, friends: list[int], offer: PopInputStable
) -> tuple[dict[str, Any] | None, Outcome]:
    """The jobs taken, if any, and what the search came to."""
    wanted = _wanted(platform, worker, friends, offer)
    with searching(platform) as turn:
        if not turn or nothing_there(platform, wanted):
            return None, NOTHING
        return _find_in_transaction(platform, worker, wanted, offer.amount)


def _find_in_transaction(
    platform: Platform, worker: WorkerFacts, wanted: Offer, amount: int
) -> tuple[dict[str, Any] | None, Outcome]:
    with platform.engine.begin() as db:
        found = search(platform, db, wanted)
        if found.request is None or found.choice is None:
            return None, found
        if worker.paused and found.request.user_id != worker.owner_id:
            return _pretend(platform, db, found.request, worker, found.choice), found
        return _take(platform, db, found.request, worker, found.choice, amount), found


def _take(
    platform: Platform, db: Connection, request: Row[Any], worker: WorkerFacts, choice: Choice, amount: int
) -> dict[str, Any]:
    options, payload = request.options, choice.payload
    models = image_models(platform).models
    size = facts.batch_size(
        amount=amount,
        max_pixels=worker.max_pixels,
        width=payload["width"],
        height=payload["height"],
        post_processing=payload.get("post_processing", ()),
        transparent=payload["transparent"],
        baselines=[baseline_of(name, models) for name in request.models or [choice.model]],
        remaining=request.n,
        disable_batching=options["disable_batching"],
    )
    settings = platform.settings
    jobs = [new_id() for _ in range(size)]
    keep = settings.slow_request_ttl_seconds if worker.extra_slow_worker else settings.request_ttl_seconds
    assignment = _assignment(platform, worker, choice)
    queue.take(db, request.id, jobs, assignment, keep=keep)
    return _handed_out(platform, request, worker, choice, jobs, assignment.ttl)


def _pretend(
    platform: Platform, db: Connection, request: Row[Any], worker: WorkerFacts, choice: Choice
) -> dict[str, Any] | None:
    """A decoy of the request; None if the worker has just got one."""
    job, assignment = new_id(), _assignment(platform, worker, choice)
    if not queue.pretend(db, request.id, job, assignment):
        return None
    return _handed_out(platform, request, worker, choice, [job], assignment.ttl)


def _assignment(platform: Platform, worker: WorkerFacts, choice: Choice) -> Assignment:
    payload = choice.payload
    factor = pricing.model_factor(
        baseline_of(choice.model, image_models(platform).models),
        hires_fix=payload["hires_fix"],
        workflow=payload.get("workflow"),
    )
    ttl = choice.ttl * facts.EXTRA_SLOW_FACTOR if worker.extra_slow_worker else choice.ttl
    return Assignment(worker.id, choice.model, ttl, choice.things, kudos(choice.price * factor))


def _handed_out(
    platform: Platform,
    request: Row[Any],
    worker: WorkerFacts,
    choice: Choice,
    jobs: Sequence[UUID],
    ttl: int,
) -> dict[str, Any]:
    """What the worker is told of the jobs that it gets."""
    options = request.options
    seed = rules.job_seed(options["seed"], options["seed_variation"], request.n)
    uploads = [platform.store.upload_url(image_key(job)) for job in jobs] if request.r2 else None
    ids = [str(job) for job in jobs]
    return {
        **_nothing({}),
        "id": ids[0],
        "ids": ids,
        "payload": {**NO_PAYLOAD, **choice.payload, "seed": str(seed), "n_iter": len(jobs)},
        "model": choice.model,
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
