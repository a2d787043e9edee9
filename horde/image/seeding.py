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
from horde.image.schemas import GenerationInputStable, Sampler
from horde.image.service import Sender, _Draft
from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced
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
    """They name its models, but half of them are too large for it and the others need LoRAs."""


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
    numbers = range(first, first + requests)
    for start in range(0, requests, BATCH):
        batch = [_request(mix, models, number % lanes, number) for number in numbers[start : start + BATCH]]
        _enqueue(platform, user, batch)


def _request(mix: Mix, models: Sequence[str], lane: int, number: int) -> GenerationInputStable:
    """Request `number`, such that each value of `lane` gives a lane of its own."""
    rest, model = divmod(lane, len(models))
    rest, sampling = divmod(rest, len(SAMPLING))
    rest, tiling = divmod(rest, 2)
    params: dict[str, Any] = {"steps": 20, "tiling": bool(tiling)}
    params["sampler_name"], params["karras"] = SAMPLING[sampling]
    sides: Sequence[int] = SMALL_SIDES
    if mix is Mix.OTHER_SKILLS:
        rest, small = divmod(rest, 2)
        sides = SMALL_SIDES if small else LARGE_SIDES
        if small:
            params["loras"] = [{"name": "247778"}]
    if rest >= len(sides):
        raise ValueError(f"The mix '{mix}' has fewer than {lane + 1:,} lanes. Ask for fewer.")
    params["width"] = params["height"] = sides[rest]
    return GenerationInputStable.model_validate(
        {"prompt": f"seeded request {number}", "params": params, "models": [models[model]]}
    )


def _enqueue(platform: Platform, user: UserFacts, requests: Sequence[GenerationInputStable]) -> None:
    models = image_models(platform).models
    with platform.engine.begin() as db:
        for request in requests:
            rules.check_request(request, user, models)
            new = _Draft(user, SENDER, request, platform)
            row = new.row([], reserved=False)
            lanes = rules.lane_keys(
                rules.image_facts(request, user), new.size, list(request.models), [], models
            )
            queue.enqueue(db, row, lanes)
            tax = balanced([Entry(user.balance_account, -row["tax"], "accumulated")])
            ledger.post(db, new.id, "activation", tax, request_id=new.id)
