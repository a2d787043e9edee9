"""Rules of image requests: what may be asked together, and what a request comes down to."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

from horde.generation.post_processors import UPSCALERS
from horde.generation.rules import ANY_MODEL, ANY_WORKER, LaneKey, size_class
from horde.image import prices
from horde.image.facts import SEED_BITS, advance_seed, uses_lcm
from horde.image.matching import ANY_MODEL_FACTS, ImageFacts, model_facts, needs
from horde.image.schemas import GenerationInputStable, ModelGenerationInputStable, PostProcessor
from horde.image.upfront import FREE_STEPS, Demand
from horde.kudos import pricing
from horde.model_reference.rules import Family, baseline_of, family_of
from horde.model_reference.schemas import ImageModel
from horde.platform.errors import BadRequest, Forbidden, HordeError
from horde.users.rules import Role, UserFacts
from kudos_model.features import JobFeatures, accurate_steps

KIND = "image"
CONTROL_STEPS, MOST_CONTROL_STEPS = 20, 40
"""Steps with a control type when none are given, and the most that count."""
MOST_WORKERS = 5
"""Entries of `workers` that count."""
MOST_MODELS = 200
MOST_WORDS, MOST_CHARACTERS = 7500, 100_000
MOST_LORAS, MOST_TIS = 5, 20
PLACEHOLDER_AGENT = "My-Project:v0.0.1:My-Contact"
"""The Client-Agent of the documentation's example, which says nothing about who calls."""


def steps_of(params: ModelGenerationInputStable) -> int:
    """The sampling steps that will run."""
    if not params.control_type:
        return params.steps
    if "steps" not in params.model_fields_set:
        return CONTROL_STEPS
    return min(params.steps, MOST_CONTROL_STEPS)


def image_facts(request: GenerationInputStable, user: UserFacts) -> ImageFacts:
    """What matching has to know of a request by `user`."""
    params = request.params
    return ImageFacts(
        nsfw=request.nsfw,
        trusted_workers=request.trusted_workers,
        slow_workers=request.slow_workers,
        extra_slow_workers=request.extra_slow_workers,
        r2=request.r2,
        unsafe_ip=False,
        trusted=user.trusted,
        source_image=bool(request.source_image),
        source_processing=request.source_processing,
        extra_source_images=bool(request.extra_source_images),
        sampler=params.sampler_name,
        karras=params.karras,
        accurate_steps=accurate_steps(params.sampler_name, steps_of(params)),
        hires_fix=params.hires_fix,
        tiling=params.tiling,
        transparent=params.transparent,
        clip_skip=params.clip_skip or 1,
        post_processing=tuple(params.post_processing or ()),
        control_type=params.control_type,
        image_is_control=params.image_is_control,
        return_control_map=params.return_control_map,
        workflow=params.workflow,
        loras=bool(params.loras),
        lora_versions=any(lora.is_version for lora in params.loras or ()),
        tis=bool(params.tis),
    )


def lane_keys(
    facts: ImageFacts,
    size: int,
    names: Sequence[str],
    targets: Sequence[UUID],
    models: Mapping[str, ImageModel],
) -> list[LaneKey]:
    """The lanes that a request stands in: one per acceptable model and, if it names workers, per worker."""
    demands = {name: needs(facts, model_facts(name, models)) for name in names}
    if not names:
        demands = {ANY_MODEL: needs(facts, ANY_MODEL_FACTS)}
    return [
        LaneKey(KIND, name, target, needed, size_class(size))
        for name, needed in demands.items()
        for target in targets or [ANY_WORKER]
    ]


def payload(request: GenerationInputStable) -> dict[str, Any]:
    """What a worker receives, apart from `seed` and `n_iter`; nothing in it is null."""
    params = request.params
    sent: dict[str, Any] = {
        "prompt": request.prompt,
        "ddim_steps": steps_of(params),
        **params.model_dump(exclude={"steps", "n", "seed", "seed_variation"}, exclude_none=True),
    }
    for name in ("loras", "tis", "extra_texts", "post_processing"):
        if not sent.get(name):
            sent.pop(name, None)
    if not request.nsfw and request.censor_nsfw:
        sent["use_nsfw_censor"] = True
    return sent


def baselines(names: Sequence[str], models: Mapping[str, ImageModel]) -> list[str]:
    """The baseline of each model."""
    return [baseline_of(name, models) for name in names]


def priority(user: UserFacts) -> Decimal:
    """Kudos with which a request by `user` enters the queue; flagged accounts come far behind."""
    if not user.has(Role.FLAGGED):
        return user.balance
    return user.balance / 1000 if user.balance > 10 else Decimal(-100)


def demand(request: GenerationInputStable, models: Mapping[str, ImageModel]) -> Demand:
    """What decides whether the request must be paid for upfront."""
    params = request.params
    limits = []
    for name in request.models:
        model = models.get(name)
        own = model.requirements.max_steps if model else None
        limits.append(own or FREE_STEPS)
    return Demand(
        width=params.width,
        height=params.height,
        accurate_steps=accurate_steps(params.sampler_name, steps_of(params)),
        slow_workers=request.slow_workers,
        control=bool(params.control_type),
        lcm=uses_lcm(params.sampler_name, [(lora.name, lora.is_version) for lora in params.loras or ()]),
        baselines=baselines(request.models, models),
        max_steps=limits,
    )


def features(request: GenerationInputStable) -> JobFeatures:
    """What decides how long one image of the request takes."""
    params = request.params
    return JobFeatures(
        width=params.width,
        height=params.height,
        steps=steps_of(params),
        sampler=params.sampler_name,
        cfg_scale=params.cfg_scale,
        karras=params.karras,
        hires_fix=params.hires_fix,
        source_image=bool(request.source_image),
        source_mask=bool(request.source_mask),
        source_processing=request.source_processing,
        denoising_strength=params.denoising_strength,
        control_type=params.control_type,
        post_processing=tuple(params.post_processing or ()),
        lora_count=len(params.loras or ()),
        has_tis=bool(params.tis),
    )


def tax(request: GenerationInputStable) -> Decimal:
    """Kudos that the request costs once it is queued."""
    return prices.activation_tax(len(request.extra_source_images or ()))


def quote(request: GenerationInputStable, models: Mapping[str, ImageModel]) -> Decimal:
    """Kudos that the whole request will cost; with the dearest of its models, if they differ."""
    params = request.params
    factor = prices.dearest_factor(
        baselines(request.models, models), hires_fix=params.hires_fix, workflow=params.workflow
    )
    terms = prices.BurnTerms(
        source_image=bool(request.source_image),
        post_processing=tuple(params.post_processing or ()),
        slow_workers=request.slow_workers,
        worker_blacklist=request.worker_blacklist,
    )
    return prices.quote(pricing.base_price(features(request)), factor, params.n, terms, tax(request))


def settled_factor(model: str, payload: Mapping[str, Any], models: Mapping[str, ImageModel]) -> int:
    """The price factor of the model that a job was given."""
    return prices.model_factor(
        baseline_of(model, models), hires_fix=payload["hires_fix"], workflow=payload.get("workflow")
    )


def settled_terms(payload: Mapping[str, Any], options: Mapping[str, Any]) -> prices.BurnTerms:
    """What raises the charge for a job of a stored request; the same as `quote` went by."""
    return prices.BurnTerms(
        source_image=options["source_image"],
        post_processing=tuple(payload.get("post_processing", ())),
        slow_workers=options["slow_workers"],
        worker_blacklist=options["worker_blacklist"],
    )


def job_seed(seed: int | None, variation: int | None, remaining: int) -> int:
    """The seed that a worker gets when it takes from a request with `remaining` images left.

    Without a seed every worker gets a random one. With one and no variation all get the same.
    """
    if seed is None:
        return random.getrandbits(SEED_BITS)
    return advance_seed(seed, variation, remaining) if variation else seed


def check_sender(request: GenerationInputStable, user: UserFacts, client_agent: str) -> None:
    """Refuse what this account may not ask for at all."""
    if request.proxied_account is not None and not user.has(Role.SERVICE):
        raise BadRequest(
            "Only service accounts may send proxied_account. Leave the field out.", "OnlyServiceAccountProxy"
        )
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot make requests.", "DeletedUser")
    if len(request.extra_source_images or ()) > 5:
        raise BadRequest("At most 5 extra source images are possible.", "TooManyExtraSourceImages")
    if len(request.extra_source_images or ()) > 1 and not user.trusted:
        raise BadRequest(
            "More than one extra source image needs a trusted account.", "MoreThanMinExtraSourceImage"
        )
    if request.params.n > 1 and request.disable_batching and not user.trusted:
        raise BadRequest(
            "disable_batching with n above 1 needs a trusted account. Ask for one image at a time, "
            "or allow batching.",
            "RequiresTrust",
        )
    if client_agent == PLACEHOLDER_AGENT:
        raise Forbidden(
            "The header Client-Agent still holds the documentation's placeholder. "
            "Put your own project's name, version and contact there.",
            "BannedClientAgent",
        )


def check_supported(request: GenerationInputStable) -> None:
    """Refuse what this server does not do yet, rather than take it and leave it out."""
    refuse_if(
        request.source_image or request.extra_source_images,
        "ImageValidationFailed",
        "Image validation failed: this server does not take source images yet.",
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A request with what its rules look at."""

    request: GenerationInputStable
    user: UserFacts
    models: Mapping[str, ImageModel]
    families: Sequence[Family]
    """Of the named models; every one of them must allow what is asked for."""


def check_request(request: GenerationInputStable, user: UserFacts, models: Mapping[str, ImageModel]) -> None:
    """Refuse combinations that cannot work, whoever asks. The first broken rule decides the answer."""
    case = Case(request, user, models, [family_of(name) for name in baselines(request.models, models)])
    for rule in (_check_parameters, _check_special, _check_control, _check_sources):
        rule(case)


def refuse_if(condition: object, rc: str, message: str, error: type[HordeError] = BadRequest) -> None:
    """Raise `error` when a rule is broken."""
    if condition:
        raise error(message, rc)


def _check_parameters(case: Case) -> None:
    request, params = case.request, case.request.params
    loras, tis = params.loras or [], params.tis or []
    refuse_if(
        params.hires_fix and not all(family.hires_fix for family in case.families),
        "HiResMismatch",
        "hires_fix does not work with Flux, Qwen and Z-Image models. Switch it off or choose another model.",
    )
    refuse_if(len(loras) > MOST_LORAS, "TooManyLoras", f"At most {MOST_LORAS} LoRAs can be used at once.")
    refuse_if(
        any(lora.is_version and not (lora.name.isascii() and lora.name.isdigit()) for lora in loras),
        "BadLoraVersion",
        "A LoRA with is_version must give the version's id, in digits, as its name.",
    )
    refuse_if(
        len(tis) > MOST_TIS, "TooManyTIs", f"At most {MOST_TIS} textual inversions can be used at once."
    )
    refuse_if(
        params.transparent and not all(family.transparent for family in case.families),
        "InvalidTransparencyModel",
        "transparent works with Stable Diffusion 1 and SDXL models only.",
    )
    refuse_if(
        params.workflow == "qr_code" and not all(family.qr_code for family in case.families),
        "ControlNetMismatch",
        "The qr_code workflow works with Stable Diffusion 1 and SDXL models only.",
    )
    refuse_if(
        len(request.prompt) > MOST_CHARACTERS or len(request.prompt.split()) > MOST_WORDS,
        "InvalidPromptSize",
        f"The prompt is too long: at most {MOST_WORDS} words and {MOST_CHARACTERS} characters are possible.",
    )
    refuse_if(
        any(name in get_args(PostProcessor) for name in request.models),
        "UnexpectedModelName",
        "A post-processor cannot be used as the model. Put it into params.post_processing.",
    )
    refuse_if(
        sum(name in UPSCALERS for name in params.post_processing or ()) > 1,
        "TooManyUpscalers",
        "Only one upscaler can be used at a time.",
    )
    refuse_if(
        round(params.cfg_scale * 100, 6) % 1 != 0,
        "BadCFGDecimals",
        "cfg_scale can have two decimals at most.",
    )
    refuse_if(
        ANY_MODEL in request.models,
        "BadRequest",
        f"'{ANY_MODEL}' is not the name of a model. An empty list accepts every model.",
    )
    refuse_if(
        len(set(request.models)) > MOST_MODELS,
        "BadRequest",
        f"At most {MOST_MODELS} models can be named. An empty list accepts every model.",
    )


def _check_special(case: Case) -> None:
    request = case.request
    for name in (name for name in request.models if "horde_special" in name):
        refuse_if(
            not case.user.has(Role.SPECIAL),
            "SpecialModelNeedsSpecialUser",
            "This model is for accounts with the special role only.",
            Forbidden,
        )
        _, mark, alias = name.partition("::")
        refuse_if(
            not mark,
            "SpecialMissingUsername",
            f"The special model '{name}' must end in '::' and a user name.",
        )
        refuse_if(
            alias != case.user.alias,
            "SpecialForbidden",
            f"The special model '{name}' belongs to another user.",
            Forbidden,
        )
        refuse_if(
            not request.params.special,
            "SpecialMissingPayload",
            "A request for a special model needs params.special.",
        )
    refuse_if(
        request.params.special and not case.user.has(Role.SPECIAL),
        "SpecialFieldNeedsSpecialUser",
        "params.special is for accounts with the special role only. Leave it out.",
    )


def _check_control(case: Case) -> None:
    request, params = case.request, case.request.params
    refuse_if(
        request.source_mask and not request.source_image,
        "SourceMaskUnnecessary",
        "A source_mask needs a source_image that it belongs to.",
    )
    if params.control_type:
        refuse_if(
            any(params.control_type in family.unsupported_controls for family in case.families)
            or "pix2pix" in request.models,
            "ControlNetUnsupported",
            f"The control type {params.control_type} does not work with this model.",
        )
        refuse_if(
            not request.source_image,
            "ControlNetSourceMissing",
            "A control type needs a source_image to take the control map from.",
        )
        refuse_if(
            request.source_processing == "inpainting",
            "ControlNetInpaintingMismatch",
            "A control type and inpainting cannot be combined.",
        )
        refuse_if(
            not all(family.controlnet for family in case.families),
            "ControlNetMismatch",
            "Control types work with Stable Diffusion 1 and 2 models only.",
        )
        refuse_if(
            params.image_is_control and params.return_control_map,
            "ControlNetInvalidPayload",
            "image_is_control and return_control_map exclude each other: the map is what you sent.",
        )
    if params.transparent:
        refuse_if(
            params.control_type,
            "InvalidTransparencyCN",
            "transparent cannot be combined with a control type.",
        )
        refuse_if(
            request.source_image or request.extra_source_images,
            "InvalidTransparencyImg2Img",
            "transparent cannot be combined with source images.",
        )


def _check_sources(case: Case) -> None:
    request, params = case.request, case.request.params
    remix = request.source_processing == "remix"
    refuse_if(
        remix and not all(family.remix for family in case.families),
        "InvalidRemix",
        "remix works with Stable Cascade models only.",
    )
    refuse_if(
        request.extra_source_images and not remix,
        "InvalidExtraSourceImages",
        "extra_source_images are for source_processing remix only.",
    )
    qr_code = params.workflow == "qr_code"
    refuse_if(
        params.extra_texts and not qr_code,
        "InvalidExtraTexts",
        "extra_texts are for the qr_code workflow only.",
    )
    refuse_if(
        qr_code and not any(text.reference == "qr_code" for text in params.extra_texts or ()),
        "MissingExtraTexts",
        "The qr_code workflow needs an entry in extra_texts whose reference is qr_code.",
    )
    if not request.source_image:
        refuse_if(
            {"Stable Diffusion 2 Depth", "pix2pix"} & set(request.models),
            "SourceImageRequiredForModel",
            "This model works from a source_image. Send one.",
        )
        refuse_if(
            any(name in case.models and case.models[name].type == "controlnet" for name in request.models),
            "UnexpectedModelName",
            "A ControlNet cannot be used as the model. Put its type into params.control_type.",
        )
