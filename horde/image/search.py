"""Finding the request that a worker is to serve, and choosing the model that it is to use."""

import math
import random
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from horde.generation import finding
from horde.generation.finding import Found, Offer
from horde.generation.rules import ANY_MODEL
from horde.image import asked, matching, plans
from horde.image.plans import KIND
from horde.model_reference.schemas import ImageModel
from horde.model_reference.service import image_models
from horde.platform.runtime import Platform
from horde.platform.turns import Turns
from horde.workers.rules import WorkerFacts

CURSOR_SECONDS = 120.0
"""How long it is remembered where a worker's search has got to."""
UNSUITED_SECONDS, MOST_UNSUITED = 60.0, 500
IDLE_SECONDS = 60.0
TURN_SECONDS = 10.0
"""How long a pop waits for its turn to search before it is told that there is nothing."""
MOST_TRIES = 8
"""Requests that accept every model and turn out to suit none of a worker's, in one search."""


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to."""

    request: Row[Any] | None
    """The locked request (see `finding.Found`)"""
    choice: Choice | None
    """and what to do of it; without it nothing was found."""
    candidates: int
    """How many requests were looked at closely."""
    refused: Mapping[str, int]
    """How many of them only such a look refused, for each reason."""

    @property
    def busy(self) -> bool:
        """Whether others may have been taking just then what this worker would have got."""
        return self.request is None and self.candidates > sum(self.refused.values())


NOTHING = Outcome(None, None, 0, {})


def offer_of(worker: WorkerFacts, friends: Collection[int], *, upfront: bool, mutual: bool) -> Offer:
    """What the queue has to know of a worker that serves `friends` (user ids) first, after its owner.

    With `upfront` it serves others only if they can pay already, and with `mutual` only if their requests are
    for everybody.
    """
    return Offer(
        kind=KIND,
        worker_id=worker.id,
        models=sorted(worker.models),
        offered=matching.offers(worker),
        size=worker.max_pixels,
        friends=[worker.owner_id] if worker.maintenance else [worker.owner_id, *friends],
        only_friends=worker.maintenance,
        blacklist=worker.blacklist,
        upfront=upfront,
        mutual=mutual,
    )


def searching(platform: Platform) -> AbstractContextManager[bool]:
    """Take a turn at searching; whether it came in time.

    Half of this process's connections are left to others. When more workers come than can be served, they
    wait in order: if all were to search at once, none would get on.
    """
    most = max(1, platform.settings.database_pool_size // 2)
    turns = platform.local.get("search turns", math.inf, lambda: Turns(most))
    return turns.take(TURN_SECONDS)


def nothing_there(platform: Platform, offer: Offer) -> bool:
    """Whether there is nothing to look at for a worker that found nothing last time either.

    Most pops of a quiet horde end with this, so it costs no transaction. False: it has to search.
    """
    if not platform.local.get(_idle_key(offer), IDLE_SECONDS, lambda: False):
        return False
    with platform.read() as db:
        return not finding.anything(db, offer)


def _idle_key(offer: Offer) -> str:
    return f"idle:{offer.worker_id}"


def search(platform: Platform, db: Connection, offer: Offer) -> Outcome:
    """Lock the first request in order of service that the worker can serve, and choose its model.

    First at the head of the queue; if nothing there would do, much further on from where this worker's last
    search ended.
    """
    outcome = _search(platform, db, offer)
    platform.local.put(_idle_key(offer), IDLE_SECONDS, not outcome.candidates)
    return outcome


def _search(platform: Platform, db: Connection, offer: Offer) -> Outcome:
    key = f"unsuited:{hash((tuple(offer.models), offer.offered))}"
    unsuited: dict[str, None] = platform.local.get(key, UNSUITED_SECONDS, dict)
    attempt = _Attempt(offer, image_models(platform).models, unsuited)
    found = finding.find(db, attempt.offer, refused=attempt.refused)
    while attempt.again(found):
        found = finding.find(db, attempt.offer, refused=attempt.refused)
    # If the head was all there is, what it holds is refused, or somebody else's just now.
    if attempt.choice is None and (found.request is not None or found.more):
        found = _search_on(platform, db, attempt)
    return Outcome(found.request, attempt.choice, found.candidates, found.refused)


def _search_on(platform: Platform, db: Connection, attempt: "_Attempt") -> Found:
    """Search much further on, from where this worker's last search ended."""
    key = f"cursor:{attempt.offer.worker_id}"
    after = platform.local.get(key, CURSOR_SECONDS, lambda: finding.TOP)
    found = finding.find_further(db, attempt.offer, refused=attempt.refused, after=after)
    while attempt.again(found):
        found = finding.find_further(db, attempt.offer, refused=attempt.refused, after=after)
    if found.request is None:
        platform.local.put(key, CURSOR_SECONDS, found.reached or finding.TOP)
    elif attempt.choice is None:
        platform.local.put(key, CURSOR_SECONDS, (found.request.rank, found.request.id))
    return found


class _Attempt:
    """One search, which learns what to pass over.

    Which models would do for a request that accepts every one, only a look at it shows. What is learnt about
    one holds for all that ask for the same, and for a while.
    """

    def __init__(self, offer: Offer, models: Mapping[str, ImageModel], unsuited: dict[str, None]) -> None:
        self.offer = replace(offer, unsuited=tuple(unsuited))
        self.refused: list[UUID] = []
        self.choice: Choice | None = None
        self._models = models
        self._unsuited = unsuited
        self._tries = 0

    def again(self, found: Found) -> bool:
        """Choose a model for what was found; whether to search once more because none would do."""
        if found.request is None:
            return False
        self.choice = _choose(found.request, self.offer, self._models)
        self._tries += 1
        if self.choice is not None or self._tries > MOST_TRIES:
            return False
        self.refused.append(found.request.id)
        undecided = found.request.options.get("undecided")
        if undecided is not None and len(self._unsuited) < MOST_UNSUITED:
            self._unsuited[undecided] = None
            self.offer = replace(self.offer, unsuited=tuple(self._unsuited))
        return True


def _choose(request: Row[Any], offer: Offer, models: Mapping[str, ImageModel]) -> Choice | None:
    """A model that the request accepts and that the worker may use for it; at random if there are several."""
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
        plan = plans.alternative(wanted, name, models)
        if plan is not None and not plan.needs & ~offer.offered:
            payload = {**request.payload, **plans.changes(wanted.settings, plan.asked.settings)}
            return Choice(name, payload, plan.things, plans.job_seconds([plan]), plan.price)
    return None
