"""What would run with each model that a request accepts, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey, size_class
from horde.image import facts, prices, upfront
from horde.image.asked import Asked
from horde.image.matching import ANY_MODEL_FACTS, ModelFacts, model_facts, needs
from horde.image.requirements import Mismatch, Settings, fit
from horde.image.upfront import Demand
from horde.kudos import pricing
from horde.kudos.rules import kudos
from horde.model_reference.rules import baseline_of, family_of
from horde.model_reference.schemas import ImageModel, Requirements
from kudos_model.features import accurate_steps

KIND = "image"
NO_REQUIREMENTS = Requirements()
WORK_FROM_PICTURES = frozenset({"Stable Diffusion 2 Depth", "pix2pix"})
"""Models that are of no use without a source image."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would run with one model, or with `ANY_MODEL` as long as none is chosen."""

    model: str
    facts: ModelFacts
    requirements: Requirements
    asked: Asked
    """With the settings that this model gets."""
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def needs(self) -> int:
        """What a worker must offer, as bits of the rule table."""
        return needs(self.asked.facts, self.facts)

    @property
    def things(self) -> int:
        """Pixelsteps of one image."""
        return facts.pixelsteps(
            self.asked.features.width, self.asked.features.height, self.asked.facts.accurate_steps
        )

    @property
    def price(self) -> Decimal:
        """Kudos for the work of one image before the model's factor."""
        return self.asked.price

    @property
    def value(self) -> Decimal:
        """The same with the factor; a request that accepts every model is expected to get an SDXL one."""
        factor = pricing.model_factor(
            self.facts.baseline or prices.ANY_MODEL_BASELINE,
            hires_fix=self.asked.features.hires_fix,
            workflow=self.asked.workflow,
        )
        return kudos(self.price * factor)

    @property
    def free_steps(self) -> int | None:
        """Accurate steps that need no upfront kudos; None: any number."""
        return upfront.free_steps(
            None if self.model == ANY_MODEL else self.requirements,
            control=bool(self.asked.facts.control_type),
            lcm=facts.uses_lcm(self.asked.settings.sampler, self.asked.loras),
        )


def plan(asked: Asked, name: str, models: Mapping[str, ImageModel]) -> Plan:
    """What would run with the model `name`; its requirements change the settings if the policy says so."""
    if name == ANY_MODEL:
        return Plan(name, ANY_MODEL_FACTS, NO_REQUIREMENTS, asked)
    model = models.get(name)
    requirements = model.requirements if model else NO_REQUIREMENTS
    fitting, mismatches = fit(asked.settings, requirements)
    if asked.policy == "correct":
        asked = asked.with_settings(fitting)
    return Plan(name, model_facts(name, models), requirements, asked, tuple(mismatches))


def plans(asked: Asked, names: Sequence[str], models: Mapping[str, ImageModel]) -> list[Plan]:
    """A plan for each of `names`, in order; without names one for `ANY_MODEL`."""
    return [plan(asked, name, models) for name in dict.fromkeys(names)] or [plan(asked, ANY_MODEL, models)]


def supports(name: str, asked: Asked, models: Mapping[str, ImageModel]) -> bool:
    """Whether a model can do what a request asks for, so that the request could have named it."""
    family, wanted = family_of(baseline_of(name, models)), asked.facts
    model = models.get(name)
    return not (
        "horde_special" in name
        or (model is not None and model.type == "controlnet")
        or (wanted.hires_fix and not family.hires_fix)
        or (wanted.transparent and not family.transparent)
        or (wanted.workflow == "qr_code" and not family.qr_code)
        or (wanted.source_processing == "remix" and not family.remix)
        or (wanted.control_type and not family.controlnet)
        or wanted.control_type in family.unsupported_controls
        or (name in WORK_FROM_PICTURES and not wanted.source_image)
    )


def alternative(asked: Asked, name: str, models: Mapping[str, ImageModel]) -> Plan | None:
    """What would run with a model that a request does not name; None if it could not name it."""
    if not supports(name, asked, models):
        return None
    other = plan(asked, name, models)
    return None if other.mismatches and asked.policy == "reject" else other


def changes(old: Settings, new: Settings) -> dict[str, Any]:
    """What the payload of a job with the settings `old` needs to become one with `new`."""
    names = {
        "ddim_steps": "steps",
        "cfg_scale": "cfg_scale",
        "sampler_name": "sampler",
        "karras": "karras",
        "clip_skip": "clip_skip",
    }
    return {
        key: getattr(new, name) for key, name in names.items() if getattr(new, name) != getattr(old, name)
    }


def variants(asked: Asked, planned: Sequence[Plan]) -> dict[str, dict[str, Any]]:
    """How jobs differ from what was asked, for each model for which they do."""
    return {
        each.model: {
            "payload": changes(asked.settings, each.asked.settings),
            "things": each.things,
            "price": str(each.price),
        }
        for each in planned
        if each.asked.settings != asked.settings
    }


def lanes(planned: Sequence[Plan], targets: Sequence[UUID]) -> list[LaneKey]:
    """Where a request stands: in one lane per acceptable model and, if it names workers, per worker."""
    return [
        LaneKey(KIND, each.model, target, each.needs, size_class(each.asked.size))
        for each in planned
        for target in targets or [ANY_WORKER]
    ]


def quote(planned: Sequence[Plan], n: int, terms: prices.BurnTerms, tax: Decimal) -> Decimal:
    """Kudos that the whole request will cost; with the dearest of its models, if they differ."""
    return prices.quote(max(each.value for each in planned), n, terms, tax)


def job_seconds(planned: Sequence[Plan]) -> int:
    """Seconds that a worker may take for a job: as many as the slowest of the models needs."""
    features = planned[0].asked.features
    return facts.job_ttl_seconds(
        features.width,
        features.height,
        max(each.asked.facts.accurate_steps for each in planned),
        control=bool(features.control_type),
        baselines=[each.facts.baseline for each in planned],
    )


def demand(planned: Sequence[Plan], *, names_workers: bool = False) -> Demand:
    """What decides whether the request must be paid for upfront."""
    asked = planned[0].asked
    return Demand(
        width=asked.features.width,
        height=asked.features.height,
        slow_workers=asked.facts.slow_workers,
        baselines=[each.facts.baseline for each in planned],
        steps=[(each.asked.facts.accurate_steps, each.free_steps) for each in planned],
        names_workers=names_workers,
    )


def downgraded(planned: Sequence[Plan], load: upfront.Load) -> list[Plan] | None:
    """The plans reduced until they need no kudos upfront; None if that cannot be done.

    It cannot where a model needs more steps than are free, or the sampler takes more by itself.
    """
    asked = planned[0].asked
    side = upfront.free_side(load, [each.facts.baseline for each in planned])
    width, height = upfront.downgraded_size(asked.features.width, asked.features.height, side)
    reduced = []
    for each in planned:
        settings = each.asked.settings
        steps = upfront.downgraded_steps(settings.sampler, settings.steps, each.free_steps)
        smaller = each.asked.resized(width, height).with_settings(replace(settings, steps=steps))
        free, least = each.free_steps, each.requirements.min_steps
        if free is not None and accurate_steps(settings.sampler, steps) > free:
            return None
        if smaller.policy == "correct" and least is not None and steps < least:
            return None
        reduced.append(replace(each, asked=smaller))
    return reduced
