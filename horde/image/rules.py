"""Rules of image requests: what may be asked, by whom, and together with what.

The functions are in the order in which a request is held against them; the first broken rule decides the
answer.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import get_args

from horde.generation.post_processors import UPSCALERS
from horde.generation.rules import ANY_MODEL
from horde.image.facts import SEED_BITS, advance_seed
from horde.image.plans import WORK_FROM_PICTURES
from horde.image.schemas import GenerationInputStable, PostProcessor
from horde.model_reference.rules import Family, baseline_of, family_of
from horde.model_reference.schemas import ImageModel
from horde.platform.errors import BadRequest, Forbidden, HordeError
from horde.users.rules import Role, UserFacts

MOST_WORKERS = 5
"""Entries of `workers` that count."""
MOST_MODELS = 200
MOST_WORDS = 7500
MOST_LORAS, MOST_TIS = 5, 20
MOST_EXTRA_IMAGES = 5
PLACEHOLDER_AGENT = "My-Project:v0.0.1:My-Contact"
"""The Client-Agent of the documentation's example, which says nothing about who calls."""
DOWNGRADED_PRIORITY = Decimal(-50)
"""Of requests with a shared key that cannot pay for them."""
EDUCATION = {"nsfw": False, "censor_nsfw": True, "trusted_workers": True, "replacement_filter": True}
"""What educators' requests are made to say, whatever they say."""


def priority(user: UserFacts) -> Decimal:
    """Kudos with which a request by `user` enters the queue; flagged accounts come far behind."""
    if not user.has(Role.FLAGGED):
        return user.balance
    return user.balance / 1000 if user.balance > 10 else Decimal(-100)


def job_seed(seed: int | None, variation: int | None, remaining: int) -> int:
    """The seed that a worker gets when it takes from a request with `remaining` images left.

    Without a seed every worker gets a random one. With one and no variation all get the same.
    """
    if seed is None:
        return random.getrandbits(SEED_BITS)
    return advance_seed(seed, variation, remaining) if variation else seed


def may_borrow(user: UserFacts) -> bool:
    """Whether the key of a style pays for this account, which then asks in the style's owner's name.

    What is imposed on flagged accounts and on schools would not hold for that name, so they pay themselves.
    """
    return not (user.has(Role.FLAGGED) or user.has(Role.EDUCATION))


def check_sender(request: GenerationInputStable, user: UserFacts) -> None:
    """Refuse what this account may not ask for at all."""
    extra = len(request.extra_source_images or ())
    if request.proxied_account is not None and not user.has(Role.SERVICE):
        raise BadRequest(
            "Only service accounts may send proxied_account. Leave the field out.", "OnlyServiceAccountProxy"
        )
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot make requests.", "DeletedUser")
    if extra > MOST_EXTRA_IMAGES:
        raise BadRequest(
            f"At most {MOST_EXTRA_IMAGES} extra source images are possible.", "TooManyExtraSourceImages"
        )
    if extra > 1 and not (user.trusted or user.supporter):
        raise BadRequest(
            "More than one extra source image needs an account that is trusted or supports this horde.",
            "MoreThanMinExtraSourceImage",
        )


def check_batching(request: GenerationInputStable, user: UserFacts) -> None:
    """Refuse to hand out many images one by one, except for trusted accounts and supporters."""
    if request.params.n > 1 and request.disable_batching and not (user.trusted or user.supporter):
        raise BadRequest(
            "disable_batching with n above 1 needs a trusted account. Ask for one image at a time, "
            "or allow batching.",
            "RequiresTrust",
        )


def check_agent(client_agent: str) -> None:
    """Refuse programs that have left the documentation's example in place."""
    if client_agent == PLACEHOLDER_AGENT:
        raise Forbidden(
            "The header Client-Agent still holds the documentation's placeholder. "
            "Put your own project's name, version and contact there.",
            "BannedClientAgent",
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A request with what its rules look at."""

    request: GenerationInputStable
    user: UserFacts
    models: Mapping[str, ImageModel]
    families: Sequence[Family]
    """Of the named models; every one of them must allow what is asked for."""


def case_of(request: GenerationInputStable, user: UserFacts, models: Mapping[str, ImageModel]) -> Case:
    """What the rules look at."""
    return Case(request, user, models, [family_of(baseline_of(name, models)) for name in request.models])


def check_parameters(case: Case) -> None:
    """Refuse what is too much, or does not fit a model, and special models of others."""
    for rule in (_check_features, _check_amounts, _check_special_models):
        rule(case)


def check_style(case: Case) -> None:
    """Refuse a style that asks for what its owner's requests could not, of what can be told without one."""
    check_parameters(case)
    _check_special_field(case)


def check_combinations(case: Case) -> None:
    """Refuse what cannot be had together."""
    for rule in (_check_special_field, _check_control, _check_transparency, _check_remix, _check_texts):
        rule(case)
    _check_missing_image(case)


def refuse_if(condition: object, rc: str, message: str, error: type[HordeError] = BadRequest) -> None:
    """Raise `error` when a rule is broken."""
    if condition:
        raise error(message, rc)


def _check_features(case: Case) -> None:
    params = case.request.params
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


def _check_amounts(case: Case) -> None:
    request, params = case.request, case.request.params
    refuse_if(
        len(request.prompt.split()) > MOST_WORDS,
        "InvalidPromptSize",
        f"The prompt is too long: at most {MOST_WORDS} words are possible.",
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
        round(params.cfg_scale, 2) != params.cfg_scale,
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


def _check_special_models(case: Case) -> None:
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


def _check_special_field(case: Case) -> None:
    refuse_if(
        case.request.params.special and not case.user.has(Role.SPECIAL),
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


def _check_transparency(case: Case) -> None:
    request, params = case.request, case.request.params
    if not params.transparent:
        return
    # A control type comes with a source image, so it is told of before that.
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


def _check_remix(case: Case) -> None:
    request = case.request
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


def _check_texts(case: Case) -> None:
    params = case.request.params
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
    refuse_if(
        params.image_is_control and params.return_control_map,
        "ControlNetInvalidPayload",
        "image_is_control and return_control_map exclude each other: the map is what you sent.",
    )


def _check_missing_image(case: Case) -> None:
    request = case.request
    if not request.source_image:
        refuse_if(
            not WORK_FROM_PICTURES.isdisjoint(request.models),
            "SourceImageRequiredForModel",
            "This model works from a source_image. Send one.",
        )
        refuse_if(
            any(name in case.models and case.models[name].type == "controlnet" for name in request.models),
            "UnexpectedModelName",
            "A ControlNet cannot be used as the model. Put its type into params.control_type.",
        )
