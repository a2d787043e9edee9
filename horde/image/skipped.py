"""Why a worker gets nothing: how many waiting requests each reason keeps from it.

A request counts under every reason that keeps this worker from it. Where that depends on the model, it is
refused only if no model would do, and counts under the reasons of the model with the fewest.
"""

from collections import Counter
from collections.abc import Iterable

from horde.generation import snapshot
from horde.generation.rules import ANY_MODEL
from horde.generation.snapshot import Demand, Groups
from horde.image import matching, undecided
from horde.image.plans import KIND, alternative
from horde.model_reference.service import image_models
from horde.platform.runtime import Platform
from horde.workers.rules import WorkerFacts

SKIPPED_SECONDS = 3.0
NEEDS_SECONDS = 60.0
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


def count_skipped(platform: Platform, worker: WorkerFacts) -> dict[str, int]:
    """How many waiting requests this worker cannot serve, for each reason; some seconds old.

    Without those that only a search finds out, because they depend on the prompt or the sender's kudos.
    """
    waiting = snapshot.groups(platform, KIND)
    offered = matching.offers(worker)
    # Workers of the same kind share what takes longest.
    key = f"skipped:{hash((worker.models, offered))}"
    counts = platform.local.get(
        key, SKIPPED_SECONDS, lambda: _count(platform, waiting, worker.models, offered)
    )
    counts = dict.fromkeys(ALWAYS_COUNTED, 0) | counts
    if platform.settings.require_matched_targeting:
        counts["worker_id"] = waiting.closed_to(worker.id, {worker.owner_id, *worker.priority_users})
    else:
        counts["worker_id"] = waiting.closed_to(worker.id)
    if too_large := waiting.larger_than(worker.max_pixels):
        counts["max_pixels"] = too_large
    return counts


def _count(platform: Platform, waiting: Groups, models: frozenset[str], offered: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    elsewhere = Counter(waiting.by_needs)
    for demand, requests in waiting.naming(models):
        elsewhere[demand.needs] -= requests
        reasons = (
            _fewest(
                (needs for model, needs in demand.models if model in models or model == ANY_MODEL), offered
            )
            if demand.undecided is None
            else _reasons_of_any(platform, demand, models, offered)
        )
        counts.update(dict.fromkeys(reasons, requests))
    for needed, requests in elsewhere.items():
        if requests:
            counts.update(dict.fromkeys({"models", *_fewest(needed, offered)}, requests))
    return dict(counts)


def _fewest(needs: Iterable[int], offered: int) -> set[str]:
    """The fewest reasons that come with one of `needs`; of equally few, those that come first."""
    return min((matching.missing(needed, offered) for needed in needs), key=len, default=set())


def _reasons_of_any(platform: Platform, demand: Demand, models: frozenset[str], offered: int) -> set[str]:
    """The same for requests that accept every model."""
    ((_, always),) = demand.models
    usable = [
        each for each in (_needs(platform, demand, name) for name in sorted(models)) if each is not None
    ]
    if not usable:
        return {"models", *matching.missing(always, offered)}
    return _fewest((always | needed for needed in usable), offered)


def _needs(platform: Platform, demand: Demand, name: str) -> int | None:
    """What comes with a model besides what is always needed; None if it would not do."""
    known: dict[tuple[str | None, str], int | None] = platform.local.get(
        "undecided needs", NEEDS_SECONDS, dict
    )
    key = (demand.undecided, name)
    if key not in known:
        plan = alternative(undecided.read(demand.undecided or ""), name, image_models(platform).models)
        known[key] = None if plan is None else plan.needs
    return known[key]
