"""Which worker may make which image: one table of rules, read three ways.

A rule says when a request needs something of a worker (decided for the model that would be used) and
which workers offer it. A rule's place in the table is its bit. What a request needs and what a worker
offers are then two numbers, and whatever the first has and the second lacks tells why not: the queue
matches on it, a worker's `skipped` and a requester's prospects are counted from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from horde.image.schemas import PostProcessor, Sampler
from horde.model_reference.rules import baseline_of
from horde.model_reference.schemas import ImageModel
from horde.workers.rules import WorkerFacts

FAST_PIXELSTEPS_PER_SECOND = 500_000
UNUSUAL_STEPS = (20, 40)
"""Least and most steps of a model that states none."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What matching has to know of a request."""

    nsfw: bool
    trusted_workers: bool
    slow_workers: bool
    extra_slow_workers: bool
    r2: bool
    unsafe_ip: bool
    trusted: bool
    """Whether the requester is."""
    source_image: bool
    source_processing: str
    extra_source_images: bool
    sampler: str
    karras: bool
    accurate_steps: int
    hires_fix: bool
    tiling: bool
    transparent: bool
    clip_skip: int
    post_processing: tuple[str, ...]
    control_type: str | None
    image_is_control: bool
    return_control_map: bool
    workflow: str | None
    loras: bool
    lora_versions: bool
    tis: bool

    @property
    def painting(self) -> bool:
        """Whether part of an image is to be filled in."""
        return self.source_processing in ("inpainting", "outpainting")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What matching has to know of the model that would be used."""

    baseline: str
    inpainting: bool
    usual_steps: float
    """Above this number of steps, workers that limit steps decline."""


ANY_MODEL_FACTS = ModelFacts("", False, usual_steps=1e9)
"""Stands for the model of a request that accepts any: nothing is known about it until it is chosen."""


def model_facts(name: str, models: Mapping[str, ImageModel]) -> ModelFacts:
    """The facts of a model by name; unknown names count as their name's tag says."""
    model = models.get(name)
    least, most = UNUSUAL_STEPS
    if model is not None:
        least = model.requirements.min_steps or least
        most = model.requirements.max_steps or most
    return ModelFacts(baseline_of(name, models), bool(model and model.inpainting), (least + most) / 2)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a request may need of a worker."""

    reason: str
    """Key of a pop's `skipped` under which refusals are counted."""
    field: str | None
    """What of a request brings it about, as a dotted path; None: nothing that its sender can change."""
    needed: Callable[[ImageFacts, ModelFacts], bool]
    offered: Callable[[WorkerFacts], bool]


def _software(capability: str, field: str, needed: Callable[[ImageFacts, ModelFacts], bool]) -> Rule:
    return Rule("bridge_version", field, needed, lambda worker: capability in worker.software.capabilities)


def _post_processor(name: str) -> Rule:
    return _software(name, "params.post_processing", lambda image, _: name in image.post_processing)


def _sampler(name: str, karras: bool) -> Rule:
    return Rule(
        "bridge_version",
        "params.sampler_name",
        lambda image, _: image.sampler == name and image.karras == karras,
        lambda worker: (
            name
            in (worker.software.samplers_with_karras if karras else worker.software.samplers_without_karras)
        ),
    )


RULES: tuple[Rule, ...] = (
    Rule("nsfw", "nsfw", lambda image, _: image.nsfw, lambda worker: worker.nsfw),
    Rule(
        "untrusted",
        "trusted_workers",
        lambda image, _: image.trusted_workers or (image.unsafe_ip and not image.trusted),
        lambda worker: worker.owner_trusted,
    ),
    Rule("unsafe_ip", None, lambda image, _: image.unsafe_ip, lambda worker: worker.allow_unsafe_ipaddr),
    Rule(
        "performance",
        "slow_workers",
        lambda image, _: not image.slow_workers,
        lambda worker: worker.speed >= FAST_PIXELSTEPS_PER_SECOND,
    ),
    Rule(
        "performance",
        "extra_slow_workers",
        lambda image, _: not image.extra_slow_workers,
        lambda worker: not worker.extra_slow_worker,
    ),
    Rule("img2img", "source_image", lambda image, _: image.source_image, lambda worker: worker.allow_img2img),
    Rule(
        "painting", "source_processing", lambda image, _: image.painting, lambda worker: worker.allow_painting
    ),
    Rule("lora", "params.loras", lambda image, _: image.loras, lambda worker: worker.allow_lora),
    Rule(
        "post-processing",
        "params.post_processing",
        lambda image, _: bool(image.post_processing),
        lambda worker: worker.allow_post_processing,
    ),
    Rule(
        "controlnet",
        "params.control_type",
        lambda image, _: bool(image.control_type),
        lambda worker: worker.allow_controlnet,
    ),
    Rule(
        "controlnet",
        "params.transparent",
        lambda image, _: image.transparent,
        lambda worker: worker.allow_sdxl_controlnet,
    ),
    Rule(
        "step_count",
        "params.steps",
        lambda image, model: image.accurate_steps > model.usual_steps,
        lambda worker: not worker.limit_max_steps,
    ),
    Rule(
        "models",
        "models",
        lambda image, model: model.inpainting and not image.painting and not image.source_image,
        lambda _: False,
    ),
    _software("r2", "r2", lambda image, _: image.r2),
    _software("img2img", "source_image", lambda image, _: image.source_image),
    _software("inpainting", "source_processing", lambda image, _: image.painting),
    _software("extra_source_images", "extra_source_images", lambda image, _: image.extra_source_images),
    _software("lora", "params.loras", lambda image, _: image.loras),
    _software("lora_versions", "params.loras", lambda image, _: image.lora_versions),
    _software("textual_inversion", "params.tis", lambda image, _: image.tis),
    _software("post-processing", "params.post_processing", lambda image, _: bool(image.post_processing)),
    _software("controlnet", "params.control_type", lambda image, _: bool(image.control_type)),
    _software(
        "image_is_control",
        "params.image_is_control",
        lambda image, _: image.image_is_control and bool(image.control_type),
    ),
    _software("return_control_map", "params.return_control_map", lambda image, _: image.return_control_map),
    _software("qr_code", "params.workflow", lambda image, _: image.workflow == "qr_code"),
    _software("layer_diffuse", "params.transparent", lambda image, _: image.transparent),
    _software("hires_fix", "params.hires_fix", lambda image, _: image.hires_fix),
    _software(
        "stable_cascade_2pass",
        "params.hires_fix",
        lambda image, model: image.hires_fix and model.baseline.startswith("stable_cascade"),
    ),
    _software("flux", "models", lambda _, model: model.baseline.startswith("flux_1")),
    _software("clip_skip", "params.clip_skip", lambda image, _: image.clip_skip > 1),
    _software("tiling", "params.tiling", lambda image, _: image.tiling),
    *(_post_processor(name) for name in get_args(PostProcessor)),
    *(_sampler(name, karras) for name in get_args(Sampler) for karras in (True, False)),
    Rule(
        "controlnet",
        "params.workflow",
        lambda image, model: image.workflow == "qr_code" and model.baseline == "stable_diffusion_xl",
        lambda worker: worker.allow_sdxl_controlnet,
    ),
    _software("controlnet", "params.workflow", lambda image, _: image.workflow == "qr_code"),
    Rule(
        "models", "source_processing", lambda image, _: image.painting, lambda worker: worker.hosts_painters
    ),
    Rule("models", "models", lambda image, _: not image.painting, lambda worker: worker.hosts_others),
)
"""The table. Append only: a rule's place is its bit in what waits in the queue."""

REASONS = tuple(dict.fromkeys(rule.reason for rule in RULES))
_REASON_BITS = {
    reason: sum(1 << bit for bit, rule in enumerate(RULES) if rule.reason == reason) for reason in REASONS
}
_FEATURES = (
    ("img2img", "source_image", ("source_image",)),
    ("painting", "source_processing", ("source_processing",)),
    ("lora", "params.loras", ("params.loras",)),
    ("post-processing", "params.post_processing", ("params.post_processing",)),
    ("controlnet", "params.control_type", ("params.control_type", "params.image_is_control")),
)
"""What a worker's owner may switch off: the reason that is told then, the field that asks for it, and the
fields for which its software may lack something. As long as it is off, what the software lacks for it does
not matter."""


def _bits(reason: str, *fields: str) -> int:
    return sum(1 << bit for bit, rule in enumerate(RULES) if rule.reason == reason and rule.field in fields)


_SWITCHED_OFF = tuple(
    (_bits(reason, field), _bits("bridge_version", *fields)) for reason, field, fields in _FEATURES
)


@lru_cache(maxsize=20_000)
def needs(image: ImageFacts, model: ModelFacts) -> int:
    """What a request needs of a worker that would use `model`, one bit per rule."""
    return sum(1 << bit for bit, rule in enumerate(RULES) if rule.needed(image, model))


@lru_cache(maxsize=20_000)
def offers(worker: WorkerFacts) -> int:
    """What a worker offers, one bit per rule."""
    return sum(1 << bit for bit, rule in enumerate(RULES) if rule.offered(worker))


def missing(needed: int, offered: int) -> set[str]:
    """The reasons why a worker that offers `offered` cannot serve what needs `needed`; empty if it can."""
    lacking = needed & ~offered
    if not lacking:
        return set()
    for setting, software in _SWITCHED_OFF:
        if lacking & setting:
            lacking &= ~software
    return {reason for reason, mask in _REASON_BITS.items() if lacking & mask}
