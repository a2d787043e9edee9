"""Filling the queue with made-up requests, for benchmarks and for trying things out.

They are built of the same parts as everybody's requests, several hundred to a transaction. What limits
people (rates, requests waiting at once, kudos to be proven upfront) does not apply.
"""

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, get_args

from horde.generation import queue
from horde.image import rules
from horde.image.admission import Admitted, Sender
from horde.image.drafts import draft
from horde.image.schemas import GenerationInputStable, Sampler
from horde.model_reference.service import image_models
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import UserFacts

BATCH = 500
KUDOS_EACH = 100
SENDER = Sender("", "127.0.0.1", "horde queue seed:1:none")
MADE_UP_MODELS = [f"seeded model {number}" for number in range(500)]
SAMPLING = [(sampler, karras) for sampler in get_args(Sampler) for karras in (True, False)]
SMALL_SIDES = range(64, 513, 64)
LARGE_SIDES = range(576, 1537, 64)
EASY = [(side, False) for side in SMALL_SIDES]
HARD = [(side, lora) for side in (*SMALL_SIDES, *LARGE_SIDES) for lora in (True, False) if lora or side > 512]
"""Sides of pictures and whether they use a LoRA, such that a plain worker makes them all, and none."""


class Mix(StrEnum):
    """What a plain worker can do about seeded requests.

    A plain worker offers all usual models of the reference and otherwise what a pop says by default:
    512x512 pixels, no LoRAs.
    """

    MATCHING = "matching"
    """It can serve all of them."""
    OTHER_MODELS = "other models"
    """They name models that nobody offers."""
    OTHER_SKILLS = "other skills"
    """They name its models, but all are too large for it, need a LoRA, or both."""


def usual_models(platform: Platform) -> list[str]:
    """The models of the reference that make pictures from nothing but a prompt."""
    return [
        name
        for name, model in image_models(platform).models.items()
        if not model.inpainting and model.type == "ckpt"
    ]


def open_account(platform: Platform, requests: int) -> UserFacts:
    """A new account that can pay for that many seeded requests; they queue like those of a poor one."""
    user, _ = users.create_user(platform, "queue seed", amount=Decimal(KUDOS_EACH * requests))
    return user


def seed(
    platform: Platform, user: UserFacts, mix: Mix, requests: int, *, lanes: int = 1, first: int = 0
) -> None:
    """Queue `requests` of `user`, spread evenly over `lanes` lanes; every one is charged its tax.

    The same `mix`, `lanes` and number (counted from `first`) give the same request. Raises `ValueError`
    when the mix does not have so many lanes.
    """
    models = MADE_UP_MODELS if mix is Mix.OTHER_MODELS else usual_models(platform)
    _request(mix, models, lanes - 1, first)  # there must be so many lanes, or nothing is queued
    numbers = range(first, first + requests)
    for start in range(0, requests, BATCH):
        batch = [_request(mix, models, number % lanes, number) for number in numbers[start : start + BATCH]]
        _enqueue(platform, user, batch)


def _request(mix: Mix, models: Sequence[str], lane: int, number: int) -> GenerationInputStable:
    """Request `number`, such that each value of `lane` gives a lane of its own."""
    rest, model = divmod(lane, len(models))
    demands = HARD if mix is Mix.OTHER_SKILLS else EASY
    rest, demand = divmod(rest, len(demands))
    rest, sampling = divmod(rest, len(SAMPLING))
    if rest > 1:
        raise ValueError(f"There are fewer than {lane + 1:,} lanes of this sort. Ask for fewer.")
    side, lora = demands[demand]
    sampler, karras = SAMPLING[sampling]
    params: dict[str, Any] = {
        "width": side,
        "height": side,
        "steps": 20,
        "sampler_name": sampler,
        "karras": karras,
        "tiling": bool(rest),
    }
    if lora:
        params["loras"] = [{"name": "247778"}]
    return GenerationInputStable.model_validate(
        {"prompt": f"seeded request {number}", "params": params, "models": [models[model]]}
    )


def _enqueue(platform: Platform, user: UserFacts, requests: Sequence[GenerationInputStable]) -> None:
    models = image_models(platform).models
    settings = platform.settings
    with platform.engine.begin() as db:
        for request in requests:
            rules.check_parameters(rules.case_of(request, user, models))
            admitted = Admitted(request, user, None, rules.priority(user), [], unsafe_ip=False)
            new = draft(admitted, models, settings.model_requirements)
            row = new.row(
                SENDER,
                lifetime=settings.request_ttl_seconds,
                reserved=False,
                priority=admitted.priority,
            )
            queue.enqueue(db, row, new.lanes)
