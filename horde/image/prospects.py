"""Who could serve a request now; and when nobody can, why, and what would help."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import structlog

from horde.generation.rules import LaneKey
from horde.image import advice, matching
from horde.image.judging import Judge, Wish, could_serve
from horde.image.plans import KIND, alternative
from horde.model_reference.service import image_models
from horde.platform.runtime import Platform
from horde.workers import service as workers
from horde.workers.rules import WorkerFacts

ABLE_SECONDS, EXPLANATION_SECONDS, WORDS_SECONDS = 5.0, 30.0, 5.0
MOST_WORDS, MOST_CHARACTERS = 5000, 5000
"""Of the words that workers refuse the most frequent are looked for, and in the beginning of a prompt, so
that nobody's prompt or list can keep this server busy. The queue knows them all."""

Speeds = tuple[tuple[float, int], ...]
"""Speed (pixelsteps per second) and threads of each worker that could serve a request."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """A request as it stands in the queue."""

    lane_ids: Sequence[int]
    lanes: Callable[[], Sequence[LaneKey]]
    size: int
    avoided: Collection[UUID]
    choosy: bool
    """Whether only workers that it names may serve it."""
    user_id: int
    any_model: bool
    wish: Callable[[], Wish]
    """The rest, which is needed only if workers refuse words or no model is named."""


def able(platform: Platform, standing: Standing) -> Speeds:
    """Who could serve a request now, as of some seconds ago."""
    detail = hash(standing.wish().asked) if standing.any_model else 0
    place = f"{sorted(standing.lane_ids)}{sorted(map(str, standing.avoided))}"
    digest = hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
    # Only with workers that do not serve everybody does it matter who asks.
    matters = platform.settings.require_matched_targeting and standing.choosy
    asking = standing.user_id if matters or standing.user_id in _owners_of_kept(platform) else 0
    key = f"able:{asking}:{standing.size}:{detail}:{digest}"
    serving: Iterable[WorkerFacts] = platform.local.get(
        key, ABLE_SECONDS, lambda: _find_able(platform, standing)
    )
    if any(worker.blacklist for worker in serving):
        words = standing.wish().words
        serving = (worker for worker in serving if words.isdisjoint(worker.blacklist))
    return tuple((worker.speed, worker.threads) for worker in serving)


def _owners_of_kept(platform: Platform) -> frozenset[int]:
    """Those who have workers that serve nobody else at present."""

    def load() -> frozenset[int]:
        online = workers.online_workers(platform, KIND)
        return frozenset(worker.owner_id for worker in online if worker.only_owner)

    return platform.local.get("owners of kept workers", ABLE_SECONDS, load)


def refused_words(platform: Platform, prompt: str) -> frozenset[str]:
    """What a prompt holds of the words that online workers refuse."""

    def load() -> list[str]:
        online = workers.online_workers(platform, KIND)
        counts = Counter(word for worker in online for word in worker.blacklist)
        return [word for word, _ in counts.most_common(MOST_WORDS)]

    lower = prompt[:MOST_CHARACTERS].lower()
    return frozenset(
        word for word in platform.local.get("refused words", WORDS_SECONDS, load) if word in lower
    )


def _find_able(platform: Platform, standing: Standing) -> tuple[WorkerFacts, ...]:
    lanes, matched = standing.lanes(), platform.settings.require_matched_targeting
    found = (
        worker
        for worker in workers.online_workers(platform, KIND)
        if could_serve(worker, lanes, standing.size, standing.avoided, standing.user_id, matched=matched)
    )
    return _with_a_model(platform, standing.wish(), found) if standing.any_model else tuple(found)


def _with_a_model(platform: Platform, wish: Wish, found: Iterable[WorkerFacts]) -> tuple[WorkerFacts, ...]:
    """Those workers that have a model which would do, where it is for them to choose one."""
    models = image_models(platform).models
    usable = cache(lambda name: alternative(wish.asked, name, models))

    def has_model(worker: WorkerFacts) -> bool:
        offered = matching.offers(worker)
        found = map(usable, worker.models)
        return any(each is not None and not each.needs & ~offered for each in found)

    return tuple(worker for worker in found if has_model(worker))


def explain(platform: Platform, wish: Wish) -> dict[str, Any]:
    """The fields of `RequestExplanation` for a request that nobody can serve, as of half a minute ago.

    Never fails: the request is queued and paid for, whether or not it can be explained.
    """
    own = frozenset(
        worker.id
        for worker in workers.online_workers(platform, KIND)
        if worker.only_owner and worker.owner_id == wish.user_id
    )
    asking = wish.user_id if platform.settings.require_matched_targeting and wish.workers else 0
    key = f"explain:{hash((wish.asked, wish.names, wish.workers, wish.avoids, wish.words, own, asking))}"
    try:
        return platform.local.get(key, EXPLANATION_SECONDS, lambda: _explain(platform, wish))
    except Exception:  # whatever is wrong with the explanation, the request is right
        log.exception("request not explained")
        return advice.unexplained(len(workers.online_workers(platform, KIND)))


def _explain(platform: Platform, wish: Wish) -> dict[str, Any]:
    matched = platform.settings.require_matched_targeting
    judge = Judge(wish, image_models(platform).models, matched=matched)
    online = workers.online_workers(platform, KIND)
    return advice.explanation(wish.asked, [judge.obstacles(worker) for worker in online])
