"""What a request asks for, in the form in which it is stored and in the form in which rules read it.

A request is stored as a payload (what every worker receives) and options (what only the server reads). All
that matching, prices and limits go by is read from these two, when it is queued as well as later.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from horde.generation.schemas import ModelRequirements
from horde.image import facts
from horde.image.facts import SEED_BITS, parse_seed
from horde.image.matching import ImageFacts
from horde.image.prices import MATCHED_PRICE, BurnTerms
from horde.image.requirements import Settings
from horde.image.schemas import GenerationInputStable, ModelGenerationInputStable
from horde.kudos import pricing
from kudos_model.features import JobFeatures, accurate_steps

CONTROL_STEPS, MOST_CONTROL_STEPS = 20, 40
"""Steps with a control type when none are given, and the most that count."""


def steps_of(params: ModelGenerationInputStable) -> int:
    """The sampling steps that will run, before any model has its say."""
    if not params.control_type:
        return params.steps
    if "steps" not in params.model_fields_set:
        return CONTROL_STEPS
    return min(params.steps, MOST_CONTROL_STEPS)


def payload_of(request: GenerationInputStable) -> dict[str, Any]:
    """What a worker receives, apart from `seed` and `n_iter`; nothing in it is null."""
    params = request.params
    sent: dict[str, Any] = {
        "prompt": request.prompt,
        "ddim_steps": steps_of(params),
        **params.model_dump(exclude={"steps", "n", "seed", "seed_variation"}, exclude_none=True),
    }
    for name in ("loras", "tis", "extra_texts", "post_processing", "special"):
        if not sent.get(name):
            sent.pop(name, None)
    if not request.nsfw and request.censor_nsfw:
        sent["use_nsfw_censor"] = True
    return sent


def options_of(
    request: GenerationInputStable,
    *,
    policy: ModelRequirements,
    unsafe_ip: bool,
    trusted: bool = False,
    supervised: bool = False,
    flat_price: bool = False,
) -> dict[str, Any]:
    """What only the server reads.

    `policy` holds unless the request says otherwise; `trusted` tells whether its sender is, and `supervised`
    whether it is a school, for which some settings are not its own to choose. `flat_price` says that the work
    costs the same whatever it is.
    """
    params = request.params
    seed = parse_seed(params.seed) if params.seed else None
    if seed is None and params.seed_variation:
        seed = secrets.randbits(SEED_BITS)
    has_image = bool(request.source_image)
    return {
        "seed": seed,
        "seed_variation": params.seed_variation,
        "disable_batching": request.disable_batching or params.workflow == "qr_code",
        "nsfw": request.nsfw,
        "trusted_workers": request.trusted_workers,
        "slow_workers": request.slow_workers,
        "extra_slow_workers": request.extra_slow_workers,
        "worker_blacklist": request.worker_blacklist,
        "trusted": trusted,
        "supervised": supervised,
        "unsafe_ip": unsafe_ip,
        "source_processing": request.source_processing,
        "source_image": has_image,
        "source_mask": has_image and bool(request.source_mask),
        "extra_sources": [extra.strength for extra in request.extra_source_images or ()],
        "model_requirements": request.model_requirements or policy,
        "webhook": request.webhook,
        **({"flat_price": True} if flat_price else {}),
    }


def pixelsteps(payload: Mapping[str, Any]) -> int:
    """The work in one image of a payload."""
    steps = accurate_steps(payload["sampler_name"], payload["ddim_steps"])
    return facts.pixelsteps(payload["width"], payload["height"], steps)


def terms_of(payload: Mapping[str, Any], options: Mapping[str, Any]) -> BurnTerms:
    """What raises the charge for an image of a request."""
    return BurnTerms(
        source_image=options["source_image"],
        post_processing=tuple(payload.get("post_processing", ())),
        slow_workers=options["slow_workers"],
        worker_blacklist=options["worker_blacklist"],
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its models see it."""

    facts: ImageFacts
    features: JobFeatures
    settings: Settings
    policy: ModelRequirements
    loras: tuple[tuple[str, bool], ...]
    """Name of each, and whether it is the id of a version."""
    workflow: str | None
    supervised: bool
    """Whether only trusted workers may serve it, whatever its sender says."""
    flat_price: bool = False
    """Whether the work costs the same whatever it is."""

    @property
    def size(self) -> int:
        """Pixels of one image."""
        return self.features.width * self.features.height

    @property
    def price(self) -> Decimal:
        """Kudos for the work of one image before a model's factor."""
        return MATCHED_PRICE if self.flat_price else pricing.base_price(self.features)

    def with_settings(self, settings: Settings) -> "Asked":
        """The same with other settings."""
        if settings == self.settings:
            return self
        return replace(
            self,
            settings=settings,
            facts=replace(
                self.facts,
                sampler=settings.sampler,
                karras=settings.karras,
                accurate_steps=accurate_steps(settings.sampler, settings.steps),
                clip_skip=settings.clip_skip,
            ),
            features=replace(
                self.features,
                steps=settings.steps,
                sampler=settings.sampler,
                cfg_scale=settings.cfg_scale,
                karras=settings.karras,
            ),
        )

    def resized(self, width: int, height: int) -> "Asked":
        """The same in another size, and open to slow workers."""
        return replace(
            self,
            facts=replace(self.facts, slow_workers=True),
            features=replace(self.features, width=width, height=height),
        )


def read(payload: Mapping[str, Any], options: Mapping[str, Any], *, r2: bool) -> Asked:
    """What a stored request asks for."""
    loras = payload.get("loras", ())
    settings = Settings(
        steps=payload["ddim_steps"],
        cfg_scale=payload["cfg_scale"],
        sampler=payload["sampler_name"],
        karras=payload["karras"],
        clip_skip=payload.get("clip_skip", 1),
    )
    return Asked(
        facts=_image_facts(payload, options, r2),
        features=_job_features(payload, options),
        settings=settings,
        policy=options["model_requirements"],
        loras=tuple((lora["name"], lora["is_version"]) for lora in loras),
        workflow=payload.get("workflow"),
        supervised=options["supervised"],
        flat_price=options.get("flat_price", False),
    )


def _image_facts(payload: Mapping[str, Any], options: Mapping[str, Any], r2: bool) -> ImageFacts:
    return ImageFacts(
        nsfw=options["nsfw"],
        trusted_workers=options["trusted_workers"],
        slow_workers=options["slow_workers"],
        extra_slow_workers=options["extra_slow_workers"],
        r2=r2,
        unsafe_ip=options["unsafe_ip"],
        trusted=options["trusted"],
        source_image=options["source_image"],
        source_processing=options["source_processing"],
        extra_source_images=bool(options["extra_sources"]),
        sampler=payload["sampler_name"],
        karras=payload["karras"],
        accurate_steps=accurate_steps(payload["sampler_name"], payload["ddim_steps"]),
        hires_fix=payload["hires_fix"],
        tiling=payload["tiling"],
        transparent=payload["transparent"],
        clip_skip=payload.get("clip_skip", 1),
        post_processing=tuple(payload.get("post_processing", ())),
        control_type=payload.get("control_type"),
        image_is_control=payload["image_is_control"],
        return_control_map=payload["return_control_map"],
        workflow=payload.get("workflow"),
        loras="loras" in payload,
        lora_versions=any(lora["is_version"] for lora in payload.get("loras", ())),
        tis="tis" in payload,
    )


def _job_features(payload: Mapping[str, Any], options: Mapping[str, Any]) -> JobFeatures:
    return JobFeatures(
        width=payload["width"],
        height=payload["height"],
        steps=payload["ddim_steps"],
        sampler=payload["sampler_name"],
        cfg_scale=payload["cfg_scale"],
        karras=payload["karras"],
        hires_fix=payload["hires_fix"],
        source_image=options["source_image"],
        source_mask=options["source_mask"],
        source_processing=options["source_processing"],
        denoising_strength=payload.get("denoising_strength"),
        control_type=payload.get("control_type"),
        post_processing=tuple(payload.get("post_processing", ())),
        lora_count=len(payload.get("loras", ())),
        has_tis="tis" in payload,
    )
