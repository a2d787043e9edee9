"""Why a worker can serve a request or not, and what of the request would have to change."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey
from horde.image import advice, matching
from horde.image.advice import Obstacles
from horde.image.asked import Asked
from horde.image.matching import RULES, Rule
from horde.image.plans import Plan, alternative, plans
from horde.model_reference.schemas import ImageModel
from horde.workers.rules import WorkerFacts
from kudos_model.features import ADAPTIVE_SAMPLER


@dataclass(frozen=True, slots=True)
class Wish:
    """A request with everything by which a worker may be unable to serve it."""

    asked: Asked
    names: tuple[str, ...]
    """Models that it accepts; none: every one."""
    workers: frozenset[UUID]
    """Workers that it names,"""
    avoids: bool
    """because it avoids them."""
    user_id: int
    words: frozenset[str]
    """What its prompt holds of the words that workers refuse."""


def could_serve(
    worker: WorkerFacts,
    lanes: Sequence[LaneKey],
    size: int,
    avoided: Collection[UUID],
    user_id: int,
    *,
    matched: bool = False,
) -> bool:
    """Whether a worker would find a request of `user_id` in one of its lanes, if words do not matter.

    If targets have to be `matched`, workers that are named serve only those whom they serve first.
    """
    if worker.id in avoided or size > worker.max_pixels:
        return False
    if worker.only_owner and worker.owner_id != user_id:
        return False
    offered = matching.offers(worker)
    open_to = (ANY_WORKER,) if matched and not worker.serves_first(user_id) else (ANY_WORKER, worker.id)
    return any(
        not lane.needs & ~offered
        and lane.target in open_to
        and (lane.model == ANY_MODEL or lane.model in worker.models)
        for lane in lanes
    )


@dataclass(frozen=True, slots=True)
class Way:
    """What stands between a worker and a request, if it used the model of `plan`."""

    plan: Plan
    reasons: frozenset[str]
    fields: frozenset[str | None]
    """What of the request would have to change; None: it cannot be had with this model."""

    cost: tuple[bool, int]
    """By which the shortest way is found."""


class Judge:
    """Holds one request against many workers; what is alike for many of them is worked out once."""

    def __init__(self, wish: Wish, models: Mapping[str, ImageModel], *, matched: bool = False) -> None:
        self._wish = wish
        self._models = models
        self._matched = matched
        named = plans(wish.asked, wish.names, models)
        self._named = {each.model: each for each in named if each.model != ANY_MODEL}
        # Whoever is to choose a model has to be able to do what was asked for before that.
        self._always = 0 if wish.names else named[0].needs
        # With this policy a change must suit all models that are named, or it is refused.
        bound = named if wish.asked.policy == "reject" else ()
        self._settled = frozenset[str]().union(*map(_settled, bound))
        self._others: dict[str, Plan | None] = {}
        self._needs: dict[str, int] = {}
        self._ways: dict[tuple[str, int], Way] = {}

    def obstacles(self, worker: WorkerFacts) -> Obstacles:
        """Why a worker cannot serve the request; without reasons it can."""
        wish, offered = self._wish, matching.offers(worker)
        direct = [self._way(each, offered) for each in self._named.values() if each.model in worker.models]
        others = (self._other(name) for name in sorted(worker.models) if name not in self._named)
        detours = [self._way(each, offered) for each in others if each is not None]
        # What keeps it from models that it lacks, it is told too: having them would not be enough.
        own = direct or ([self._way(each, offered) for each in self._named.values()] or detours)
        fewest = min((way.reasons for way in own), key=len, default=None)
        reasons = set(matching.missing(self._always, offered) if fewest is None else fewest)
        if not direct and (wish.names or not detours):
            reasons.add("models")
        ways = [*direct, *detours]
        best = min((way.cost for way in ways), default=None)
        shortest = [way for way in ways if way.cost == best]
        fields: set[str | None] = set(shortest[0].fields) if shortest else {None}
        for reason, field in self._other_reasons(worker):
            reasons.add(reason)
            fields.add(field)
        same = tuple(way.plan for way in shortest if way.fields == shortest[0].fields)
        return Obstacles(worker, frozenset(reasons), frozenset(fields), same)

    def _other_reasons(self, worker: WorkerFacts) -> list[tuple[str, str | None]]:
        """Those that no rule of the table knows, with the field of each."""
        wish = self._wish
        found: list[tuple[str, str | None]] = []
        unmatched = self._matched and not wish.avoids and not worker.serves_first(wish.user_id)
        if wish.workers and (unmatched or (worker.id in wish.workers) == wish.avoids):
            found.append(("worker_id", "workers"))
        if wish.asked.size > worker.max_pixels:
            found.append(("max_pixels", "params.width"))
        if worker.only_owner and worker.owner_id != wish.user_id:
            found.append(("maintenance", None))
        if wish.words and not wish.words.isdisjoint(worker.blacklist):
            found.append(("blacklist", "prompt"))
        return found

    def _other(self, name: str) -> Plan | None:
        """What would run with a model that the request does not name; None if it could not name it."""
        if name not in self._others:
            self._others[name] = alternative(self._wish.asked, name, self._models)
        return self._others[name]

    def _way(self, each: Plan, offered: int) -> Way:
        needed = self._needs.get(each.model)
        if needed is None:
            needed = self._needs[each.model] = each.needs | self._always
        key = (each.model, needed & ~offered)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = self._find_way(each, needed & ~offered)
        return way

    def _find_way(self, each: Plan, lacking: int) -> Way:
        named = each.model in self._named
        settled = _settled(each) | (self._settled if named else frozenset())
        broken = _rules(lacking)
        fields = {None if rule.field in settled else rule.field for rule in broken}
        if not named and self._wish.names:
            fields.add("models")
        reasons = frozenset(matching.missing(lacking, 0))
        return Way(each, reasons, frozenset(fields), cost=(None in fields, len(fields)))


@lru_cache(maxsize=10_000)
def _rules(lacking: int) -> tuple[Rule, ...]:
    return tuple(rule for bit, rule in enumerate(RULES) if lacking >> bit & 1)


def _settled(plan: Plan) -> frozenset[str]:
    """The fields that cannot be changed in a way that would help, as long as the model is this one."""
    asked, needed = plan.asked, plan.requirements
    settled = {"models"}
    if asked.supervised:
        settled.add("trusted_workers")
    if plan.facts.inpainting:
        # Whoever has such models only does nothing else with them.
        settled |= {"source_image", "source_processing"}
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
    return frozenset(settled)
