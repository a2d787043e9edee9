"""Asking for images: quoting and queueing requests. One function here is one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from horde.generation import calls, queue, snapshot
from horde.generation.calls import Call
from horde.image import plans, prospects, rules, sources, upfront
from horde.image.admission import (
    Admitted,
    Sender,
    admit,
    check_concurrency,
    concurrency_first,
    rivals,
    too_many,
)
from horde.image.drafts import Draft, draft
from horde.image.judging import Wish
from horde.image.plans import KIND
from horde.image.prospects import Standing
from horde.image.schemas import GenerationInputStable
from horde.kudos import service as ledger
from horde.kudos import shared_keys
from horde.model_reference.service import image_models
from horde.moderation import modes
from horde.platform.errors import Forbidden, HordeError
from horde.platform.runtime import Platform
from horde.styles.using import note_use
from horde.workers import service as workers

MOST_TRIES = 4
NO_WORKER = "No worker that is online can serve this request now."


def quote(platform: Platform, sender: Sender, request: GenerationInputStable) -> dict[str, Any]:
    """What `request` would cost in all, in kudos; nothing is stored, reserved or charged.

    Everything that would refuse the request refuses the quote, apart from what depends on the moment
    (concurrency, what the payer has) and from what is wrong with pictures.
    """
    new = _draft(platform, admit(platform, sender, request))
    _check_key_limits(new)
    return {"kudos": float(round(new.cost))}


def submit_request(platform: Platform, sender: Sender, request: GenerationInputStable) -> dict[str, Any]:
    """Accept a request into the queue and charge the activation tax; returns the fields of `RequestAsync`.

    Raises what `docs/image-requests.md` lists, in its order; then nothing is stored and nothing is charged.
    Kudos that must be proven upfront are reserved in the transaction that queues the request.
    """
    admitted = admit(platform, sender, request)
    with concurrency_first(platform, admitted.user, request):
        asked = _draft(platform, admitted)
        offer = _affordable(platform, asked)
        _check_key_limits(offer.draft)
        if asked.options["source_image"] or asked.options["extra_sources"]:
            # Pictures are dear, so this is not left to queueing.
            check_concurrency(platform, admitted.user, request)
        pictures = sources.read_sources(platform, request, sender.address)
    sources.store_sources(platform, asked.id, pictures)
    try:
        queued = _queue_up(platform, sender, offer)
    except BaseException:
        sources.discard_sources(platform, asked.id, pictures)
        raise
    _call_workers(platform, queued)
    return _answer(platform, asked, queued)


def _draft(platform: Platform, admitted: Admitted) -> Draft:
    settings = platform.settings
    return draft(
        admitted,
        image_models(platform).models,
        settings.model_requirements,
        upfront_for_workers=settings.upfront_kudos_on_worker_list,
        flat_for_workers=settings.require_matched_targeting,
    )


@dataclass(frozen=True, slots=True)
class Offer:
    """A draft that its payer can probably afford, and on what terms."""

    draft: Draft
    needed: Sequence[str]
    """Why it must be proven upfront that it can be paid; empty if it need not be."""
    priority: Decimal
    """Kudos with which it enters the queue."""


def _affordable(platform: Platform, asked: Draft) -> Offer:
    """What the payer can be offered, judging by what they had some moments ago."""
    admitted = asked.admitted
    demand = plans.demand(asked.plans, names_workers=asked.dear_workers)
    needed = upfront.reasons(demand, _load(platform))
    if admitted.key is not None and not admitted.key.covers(asked.cost):
        if not admitted.request.allow_downgrade:
            raise _key_too_poor(asked)
        # Whoever has but the rest of a key gets what is free, at the end of the queue.
        offer = Offer(asked, needed, rules.DOWNGRADED_PRIORITY)
        return _reduced(platform, offer) if needed else offer
    offer = Offer(asked, needed, admitted.priority)
    if not needed:
        return offer
    with platform.read() as db:
        available = ledger.available(db, admitted.user.balance_account)
    return offer if available >= asked.cost else _reduced(platform, offer)


def _reduced(platform: Platform, offer: Offer) -> Offer:
    """What is left of an offer for somebody who cannot pay upfront. Raises `KudosUpfront` (403)."""
    asked = offer.draft
    less = asked.downgraded(_load(platform)) if asked.admitted.request.allow_downgrade else None
    if less is None:
        raise _upfront(asked, offer.needed)
    return Offer(less, (), offer.priority)


def _load(platform: Platform) -> upfront.Load:
    threads = sum(worker.threads for worker in workers.online_workers(platform, KIND))
    return upfront.Load(threads=threads, queued=snapshot.places(platform, KIND).total_results)


def _upfront(asked: Draft, needed: Sequence[str]) -> Forbidden:
    if asked.dear_workers:
        advice = "Making it smaller is not enough: leave workers out, or earn kudos by running a worker."
    elif asked.admitted.request.allow_downgrade:
        advice = "It cannot be reduced far enough either."
    else:
        advice = "Make it smaller, let allow_downgrade do that for you, or earn kudos by running a worker."
    return Forbidden(
        f"This request needs {asked.cost} kudos upfront because {'; and '.join(needed)}. {advice}",
        "KudosUpfront",
    )


def _key_too_poor(asked: Draft) -> Forbidden:
    return Forbidden(
        f"This request costs {asked.cost} kudos, and the shared key has less than that left. "
        "Ask for less, or ask the owner of the key to raise its limit.",
        "SharedKeyInsufficientKudos",
    )


def _check_key_limits(new: Draft) -> None:
    key = new.admitted.key_limits
    if key is None:
        return
    features = new.plans[0].asked.features
    steps = max(plan.asked.settings.steps for plan in new.plans)
    rules.refuse_if(
        0 <= key.max_image_pixels < new.plans[0].asked.size,
        "BadRequest",
        f"{features.width}x{features.height} is more than the {key.max_image_pixels} pixels "
        "that this shared key allows. Ask for a smaller image.",
    )
    rules.refuse_if(
        0 <= key.max_image_steps < steps,
        "BadRequest",
        f"This request takes {steps} steps, and this shared key allows {key.max_image_steps}. Ask for fewer.",
    )


class Unaffordable(Exception):
    """The kudos that a request needs upfront have gone elsewhere in the meantime."""


def _queue_up(platform: Platform, sender: Sender, offer: Offer) -> Draft:
    """Queue what is offered, or what that has to be reduced to; returns what was queued."""
    for _ in range(MOST_TRIES):
        try:
            _queue_once(platform, sender, offer)
        except Unaffordable:
            offer = _reduced(platform, offer)
        except IntegrityError:
            # One of its lanes was closed at this very moment; now it can be opened again.
            continue
        else:
            return offer.draft
    raise HordeError("The horde is very busy. Please try again.", "InternalServerError", status=503)


def _queue_once(platform: Platform, sender: Sender, offer: Offer) -> None:
    """Reserve, queue and charge in one transaction.

    Who is known is held to their limit exactly. The anonymous account is not: for that its callers would
    have to wait for each other.
    """
    new, admitted = offer.draft, offer.draft.admitted
    user, priority = admitted.user, offer.priority
    limits: dict[str, Any] = {
        "limit": user.concurrency,
        "rivals": rivals(user, admitted.request),
        "credits": new.credits,
    }
    lifetime = platform.settings.request_ttl_seconds
    if user.anonymous and not offer.needed:
        row = new.row(sender, lifetime=lifetime, reserved=False, priority=priority)
        # A single statement needs no transaction around it.
        with platform.engine.begin() if admitted.style else platform.read() as db:
            _enqueue(db, new, row, limits)
        return
    with platform.engine.begin() as db:
        ledger.lock_payer(db, user.balance_account)
        if admitted.key is not None and not shared_keys.hold(db, admitted.key.id, new.id, new.cost):
            if not admitted.request.allow_downgrade:
                raise _key_too_poor(new)
            if offer.needed:
                raise Unaffordable
            shared_keys.note(db, admitted.key.id, new.id)
            priority = rules.DOWNGRADED_PRIORITY
        row = new.row(sender, lifetime=lifetime, reserved=bool(offer.needed), priority=priority)
        affordable = not offer.needed or ledger.reserve(db, user.balance_account, new.id, new.cost)
        _enqueue(db, new, row, limits)
        if not affordable:
            raise Unaffordable


def _enqueue(db: Connection, new: Draft, row: dict[str, Any], limits: dict[str, Any]) -> None:
    user, style = new.admitted.user, new.admitted.style
    if not queue.enqueue(db, row, new.lanes, **limits):
        raise too_many(user, queue.waiting(db, user.id, KIND, limits["rivals"]))
    if style is not None:
        note_use(db, style, user.id)


def _call_workers(platform: Platform, queued: Draft) -> None:
    request = queued.admitted.request
    avoided = queued.admitted.wanted if request.worker_blacklist else ()
    calls.announce(platform, Call.of(KIND, queued.lanes, queued.base.size, avoided, results=request.params.n))


def _answer(platform: Platform, asked: Draft, queued: Draft) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": str(queued.id), "kudos": float(round(queued.cost))}
    warnings = queued.warnings
    messages = []
    if queued is not asked:
        answer["downgraded"] = _reduction(queued)
        messages.append(_reduction_text(asked, queued))
    if not modes.modes(platform).raid:
        standing = _standing(platform, queued)
        if not prospects.able(platform, standing):
            answer["explain"] = prospects.explain(platform, standing.wish())
            messages.append(f"{NO_WORKER} {answer['explain']['message']}")
            warnings.append({"code": "NoAvailableWorker", "message": messages[-1]})
    if messages:
        answer["message"] = " ".join(messages)
    if warnings:
        answer["warnings"] = warnings
    return answer


def _reduction(queued: Draft) -> dict[str, Any]:
    asked = queued.plans[0].asked
    return {
        "width": asked.features.width,
        "height": asked.features.height,
        "steps": max(plan.asked.settings.steps for plan in queued.plans),
        "slow_workers": asked.facts.slow_workers,
    }


def _reduction_text(asked: Draft, queued: Draft) -> str:
    before, after = _reduction(asked), _reduction(queued)
    changes = []
    if (before["width"], before["height"]) != (after["width"], after["height"]):
        changes.append(
            f"{after['width']}x{after['height']} instead of {before['width']}x{before['height']} pixels"
        )
    if before["steps"] != after["steps"]:
        changes.append(f"{after['steps']} instead of {before['steps']} steps")
    if before["slow_workers"] != after["slow_workers"]:
        changes.append("slow workers may serve it")
    return f"Kudos are short, so the request was reduced: {', '.join(changes)}."


def _standing(platform: Platform, queued: Draft) -> Standing:
    admitted, request = queued.admitted, queued.admitted.request

    @cache
    def wish() -> Wish:
        return Wish(
            asked=queued.base,
            names=tuple(request.models),
            workers=frozenset(admitted.wanted),
            avoids=request.worker_blacklist,
            user_id=admitted.user.id,
            words=prospects.refused_words(platform, request.prompt),
        )

    return Standing(
        lane_ids=[lane.id for lane in queued.lanes],
        lanes=lambda: queued.lanes,
        size=queued.base.size,
        avoided=admitted.wanted if request.worker_blacklist else (),
        choosy=bool(admitted.wanted) and not request.worker_blacklist,
        user_id=admitted.user.id,
        any_model=not request.models,
        wish=wish,
    )
