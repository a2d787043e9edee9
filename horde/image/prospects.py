"""Who could serve a request now; and when nobody can, why, and what would help."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from uuid import UUID

from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey
from horde.image import advice, matching
from horde.image.advice import Obstacles
from horde.image.asked import Asked
from horde.image.matching import RULES
from horde.image.plans import KIND, Plan, plan, plans, supports
from horde.model_reference.schemas import ImageModel
from horde.model_reference.service import image_models
from horde.platform.runtime import Platform
from horde.workers import service as workers
from horde.workers.rules import WorkerFacts
from kudos_model.features import ADAPTIVE_SAMPLER

ABLE_SECONDS, EXPLANATION_SECONDS = 5.0, 5.0

Speeds = tuple[tuple[float, int], ...]
"""Speed (pixelsteps per second) and threads of each worker that could serve a request."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request with everything by which a worker may be unable to serve it."""

    asked: Asked
    names: tuple[str, ...]
    """Models that it accepts; none: every one."""
    workers: frozenset[UUID]
    """Workers that it names,"""
    avoids: bool
    """because it avoids them."""
    user_id: int
    prompt: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A request as it stands in the queue."""

    lanes: Sequence[LaneKey]
    size: int
    avoided: Collection[UUID]
    user_id: int
    case: Callable[[], Case]
    """The rest, which is needed only if workers refuse words or no model is named."""


@dataclass(frozen=True, slots=True)
class Able:
    """The workers that could serve a request if its prompt does not matter to them."""

    workers: tuple[WorkerFacts, ...]
    words: frozenset[str]
    """What some of them refuse to see in a prompt."""


def able(platform: Platform, standing: Standing) -> Speeds:
    """Who could serve a request now, as of some seconds ago."""
    lanes = sorted(lane.id for lane in standing.lanes)
    any_model = standing.lanes[0].model == ANY_MODEL
    detail = hash(standing.case().asked) if any_model else ""
    key = f"able:{standing.user_id}:{standing.size}:{lanes}:{sorted(map(str, standing.avoided))}:{detail}"
    find = _find_for_any_model if any_model else _find_able
    found = platform.local.get(key, ABLE_SECONDS, lambda: find(platform, standing))
    serving: Iterable[WorkerFacts] = found.workers
    if found.words:
        seen = words_in(standing.case().prompt, found.words)
        serving = (worker for worker in serving if seen.isdisjoint(worker.blacklist))
    return tuple((worker.speed, worker.threads) for worker in serving)


def words_in(prompt: str, words: Iterable[str]) -> set[str]:
    """Those of `words` (lower case) that a prompt holds, as the queue looks for them."""
    lower = prompt.lower()
    return {word for word in words if word in lower}


def _find_able(platform: Platform, standing: Standing) -> Able:
    return _able_of(
        worker for worker in workers.online_workers(platform, KIND) if _could_serve(worker, standing)
    )


def _find_for_any_model(platform: Platform, standing: Standing) -> Able:
    """As `_find_able`, when it is for the worker to choose one of its models."""
    case, models = standing.case(), image_models(platform).models
    alternative = cache(lambda name: _alternative(case.asked, models, name))

    def has_model(worker: WorkerFacts) -> bool:
        offered = matching.offers(worker)
        usable = (alternative(name) for name in worker.models)
        return any(each is not None and not each.needs & ~offered for each in usable)

    found = _find_able(platform, standing).workers
    return _able_of(worker for worker in found if has_model(worker))


def _able_of(serving: Iterable[WorkerFacts]) -> Able:
    found = tuple(serving)
    return Able(found, frozenset(word for worker in found for word in worker.blacklist))


def _could_serve(worker: WorkerFacts, standing: Standing) -> bool:
    if worker.id in standing.avoided or standing.size > worker.max_pixels:
        return False
    if worker.only_owner and worker.owner_id != standing.user_id:
        return False
    offered = matching.offers(worker)
    return any(
        not lane.needs & ~offered
        and lane.target in (ANY_WORKER, worker.id)
        and (lane.model == ANY_MODEL or lane.model in worker.models)
        for lane in standing.lanes
    )


def explain(platform: Platform, case: Case) -> dict[str, Any]:
    """The fields of `RequestExplanation` for a request that nobody can serve, as of some seconds ago."""
    key = f"explain:{hash(case)}"
    return platform.local.get(key, EXPLANATION_SECONDS, lambda: _explain(platform, case))


def _explain(platform: Platform, case: Case) -> dict[str, Any]:
    models = image_models(platform).models
    named = plans(case.asked, case.names, models)
    alternative = cache(lambda name: _alternative(case.asked, models, name))
    online = workers.online_workers(platform, KIND)
    return advice.explanation(case.asked, [obstacles(worker, case, named, alternative) for worker in online])


def _alternative(asked: Asked, models: Mapping[str, ImageModel], name: str) -> Plan | None:
    """What would run with a model that the request does not name; None if it could not name it."""
    if not supports(name, asked, models):
        return None
    other = plan(asked, name, models)
    return None if other.mismatches and asked.policy == "reject" else other


def obstacles(
    worker: WorkerFacts, case: Case, named: Sequence[Plan], alternative: Callable[[str], Plan | None]
) -> Obstacles:
    """Why a worker cannot serve a request, and what of the request would have to change.

    `named` is what would run with the models that the request names.
    """
    offered = matching.offers(worker)
    # Whoever is to choose a model has to be able to do what was asked for before that.
    always = 0 if case.names else named[0].needs
    # With this policy a change must suit all models that are named, or it is refused.
    bound = named if case.asked.policy == "reject" else ()
    ways = [_way(each, offered, bound=bound) for each in named if each.model in worker.models]
    reasons = set(min(ways, key=lambda way: len(way.reasons)).reasons) if ways else {"models"}
    others = (alternative(name) for name in worker.models)
    detours = [_way(each, offered, always=always) for each in others if each is not None]
    if case.names:
        detours = [replace(way, fields=way.fields | {"models"}) for way in detours]
        if not ways and detours:
            reasons |= min(detours, key=lambda way: len(way.reasons)).reasons
    elif detours:
        reasons = set(min(detours, key=lambda way: len(way.reasons)).reasons)
    best = min((_cost(way.fields) for way in ways + detours), default=None)
    shortest = [way for way in ways + detours if _cost(way.fields) == best]
    fields: set[str | None] = set(shortest[0].fields) if shortest else {None}
    if case.workers and (worker.id in case.workers) == case.avoids:
        reasons.add("worker_id")
        fields.add("workers")
    if case.asked.size > worker.max_pixels:
        reasons.add("max_pixels")
        fields.add("params.width")
    if worker.only_owner and worker.owner_id != case.user_id:
        reasons.add("maintenance")
        fields.add(None)
    if words_in(case.prompt, worker.blacklist):
        reasons.add("blacklist")
        fields.add("prompt")
    same = tuple(way.plan for way in shortest if way.fields == shortest[0].fields)
    return Obstacles(worker, frozenset(reasons), frozenset(fields), same)


@dataclass(frozen=True, slots=True)
class Way:
    """What stands between a worker and a request, if it used the model of `plan`."""

    plan: Plan
    reasons: frozenset[str]
    fields: frozenset[str | None]
    """What of the request would have to change; None: it cannot be had with this model."""


def _way(plan: Plan, offered: int, *, always: int = 0, bound: Sequence[Plan] = ()) -> Way:
    lacking = (plan.needs | always) & ~offered
    broken = [rule for bit, rule in enumerate(RULES) if lacking >> bit & 1] if lacking else []
    settled = _settled(plan).union(*map(_settled, bound))
    return Way(
        plan,
        frozenset(rule.reason for rule in broken),
        frozenset(None if rule.field in settled else rule.field for rule in broken),
    )


def _settled(plan: Plan) -> set[str]:
    """The fields that cannot be changed in a way that would help, as long as the model is this one."""
    asked, needed = plan.asked, plan.requirements
    settled = {"models"}
    if asked.supervised:
        settled.add("trusted_workers")
    if plan.facts.inpainting:
        settled.add("source_image" if asked.facts.source_image else "source_processing")
    if asked.policy != "warn":
        if needed.samplers:
            settled.add("params.sampler_name")
        if needed.clip_skip:
            settled.add("params.clip_skip")
        too_few = asked.settings.sampler != ADAPTIVE_SAMPLER and advice.usual_steps(plan) < (
            needed.min_steps or 0
        )
        if too_few or (needed.min_steps and asked.policy == "reject"):
            settled.add("params.steps")
    return settled


def _cost(fields: Collection[str | None]) -> tuple[bool, int]:
    return None in fields, len(fields)
