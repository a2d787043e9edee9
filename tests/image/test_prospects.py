"""Who could serve a request, why others cannot, and whether the advice given helps."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from horde.generation.rules import ANY_MODEL
from horde.image import asked, plans
from horde.image.advice import REASONS, Obstacles, explanation
from horde.image.judging import Judge, Wish, could_serve
from horde.image.matching import RULES
from horde.image.plans import lanes
from horde.image.requirements import SAMPLERS
from horde.image.schemas import GenerationInputStable, PostProcessor
from horde.model_reference.schemas import ImageModel, Requirements
from horde.workers.rules import WorkerFacts
from horde.workers.software import CAPABILITIES, Software, Version

MODELS = {
    model.name: model
    for model in (
        ImageModel(name="plain"),
        ImageModel(name="also plain"),
        ImageModel(name="painter", inpainting=True),
        ImageModel(name="quick", requirements=Requirements(max_steps=6, samplers=("k_dpmpp_sde",))),
        ImageModel(name="large", baseline="stable_diffusion_xl", requirements=Requirements(clip_skip=2)),
        ImageModel(name="flux", baseline="flux_1"),
        ImageModel(name="slow", requirements=Requirements(min_steps=20, samplers=("k_heun",))),
        ImageModel(name="cascade", baseline="stable_cascade"),
    )
}
IDS = [UUID(int=number) for number in range(1, 5)]

softwares = st.builds(
    Software,
    name=st.just("worker"),
    version=st.just(Version(1)),
    capabilities=st.frozensets(st.sampled_from(sorted(CAPABILITIES))) | st.just(frozenset(CAPABILITIES)),
    samplers_with_karras=st.just(frozenset(SAMPLERS)) | st.frozensets(st.sampled_from(SAMPLERS), min_size=1),
    samplers_without_karras=st.just(frozenset(SAMPLERS)),
    reward_factor=st.just(Decimal(1)),
)
mostly = st.sampled_from([True, True, True, False])
rarely = st.sampled_from([False, False, False, True])


def hosting(worker: WorkerFacts) -> WorkerFacts:
    """The same worker, with what follows from its models."""
    painters = {MODELS[name].inpainting for name in worker.models}
    return replace(worker, hosts_painters=True in painters, hosts_others=False in painters)


workers = st.builds(
    WorkerFacts,
    id=st.sampled_from(IDS),
    kind=st.just("image"),
    owner_id=st.integers(1, 2),
    owner_trusted=mostly,
    name=st.just("w"),
    bridge_agent=st.just("worker:1:x"),
    software=softwares,
    threads=st.just(1),
    models=st.frozensets(st.sampled_from(sorted(MODELS)), min_size=1),
    blacklist=st.sampled_from([(), (), ("fox",), ("lynx",)]),
    max_pixels=st.sampled_from([-1, 0, 256 * 256, 512 * 512, 1024 * 1024, 3072 * 3072]),
    nsfw=mostly,
    allow_img2img=mostly,
    allow_painting=mostly,
    allow_unsafe_ipaddr=mostly,
    allow_post_processing=mostly,
    allow_controlnet=mostly,
    allow_sdxl_controlnet=mostly,
    allow_lora=mostly,
    limit_max_steps=rarely,
    extra_slow_worker=rarely,
    maintenance=rarely,
    maintenance_message=st.none(),
    paused=rarely,
    speed=st.sampled_from([400_000.0, 1_000_000.0]),
).map(hosting)
params = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.integers(1, 100),
        "width": st.sampled_from([512, 768, 1024, 2048]),
        "height": st.sampled_from([512, 768, 1024, 2048]),
        "sampler_name": st.sampled_from(SAMPLERS),
        "karras": st.booleans(),
        "tiling": st.booleans(),
        "clip_skip": st.integers(1, 3),
        "loras": st.just([{"name": "1"}]),
        "tis": st.just([{"name": "1"}]),
        "post_processing": st.lists(st.sampled_from(get_args(PostProcessor)), max_size=2, unique=True),
    },
)
fields = st.fixed_dictionaries(
    {"models": st.lists(st.sampled_from(["plain", "painter", "quick", "large", "flux", "slow"]), max_size=3)},
    optional={
        "nsfw": st.booleans(),
        "trusted_workers": st.booleans(),
        "slow_workers": st.booleans(),
        "extra_slow_workers": st.booleans(),
        "source_image": st.just("x"),
        "source_processing": st.sampled_from(["img2img", "inpainting"]),
        "r2": st.booleans(),
        "worker_blacklist": st.booleans(),
        "model_requirements": st.sampled_from(["correct", "warn", "reject"]),
    },
)


REFUSED = ("fox", "lynx")


def wish_of(body: dict[str, Any], wanted: frozenset[UUID] = frozenset()) -> Wish:
    """A request as workers are judged by it."""
    request = GenerationInputStable.model_validate({"prompt": "a red fox", **body})
    options = asked.options_of(request, policy="correct", unsafe_ip=False)
    wish = asked.read(asked.payload_of(request), options, r2=request.r2)
    words = frozenset(word for word in REFUSED if word in request.prompt)
    return Wish(wish, tuple(request.models), wanted, request.worker_blacklist, 1, words)


def obstacles_of(worker: WorkerFacts, wish: Wish) -> Obstacles:
    return Judge(wish, MODELS).obstacles(worker)


def would_get(worker: WorkerFacts, wish: Wish) -> bool:
    """As the queue would decide it."""
    planned = plans.plans(wish.asked, wish.names, MODELS)
    if planned[0].model == ANY_MODEL and obstacles_of(worker, wish).plans == ():
        return False
    found = could_serve(
        worker,
        lanes(planned, [] if wish.avoids else sorted(wish.workers)),
        wish.asked.size,
        wish.workers if wish.avoids else (),
        wish.user_id,
    )
    return found and wish.words.isdisjoint(worker.blacklist)


wanted_workers = st.just(frozenset()) | st.frozensets(st.sampled_from(IDS), max_size=2)


@given(workers, fields, params, wanted_workers)
def test_a_worker_has_obstacles_exactly_if_it_cannot_serve(
    worker: WorkerFacts, body: dict[str, Any], parameters: dict[str, Any], wanted: frozenset[UUID]
) -> None:
    wish = wish_of({**body, "params": parameters}, wanted)
    found = obstacles_of(worker, wish)
    if wish.names:
        assert would_get(worker, wish) == (not found.reasons)
    elif not found.reasons:
        assert would_get(worker, wish)
    assert bool(found.reasons) == bool(found.fields)
    assert found.reasons <= set(REASONS)


@given(st.lists(workers, max_size=6), fields, params, wanted_workers)
def test_who_follows_the_advice_is_served_by_as_many_workers_as_it_says(
    online: list[WorkerFacts], body: dict[str, Any], parameters: dict[str, Any], wanted: frozenset[UUID]
) -> None:
    original = {**body, "params": parameters}
    wish = wish_of(original, wanted)
    found = [obstacles_of(worker, wish) for worker in online]
    if any(not each.reasons for each in found):
        return
    told = explanation(wish.asked, found)
    assert told["workers"] == len(online)
    assert told["reasons"] == dict(Counter(reason for each in found for reason in each.reasons))
    if not told["changes"]:
        assert told["would_serve"] == 0
        return
    changed, prompt = _changed(original, told["changes"])
    again = wish_of(changed, frozenset() if "workers" in prompt else wanted)
    if again.asked.policy == "reject" and not any(_mismatches(wish)):
        assert not any(_mismatches(again))
    serving = [
        worker
        for worker in online
        if would_get(worker, again)
        or ("prompt" in prompt and obstacles_of(worker, again).reasons == {"blacklist"})
    ]
    assert len(serving) >= told["would_serve"] > 0


def _mismatches(wish: Wish) -> list[object]:
    return [each for plan in plans.plans(wish.asked, wish.names, MODELS) for each in plan.mismatches]


def _changed(body: dict[str, Any], changes: list[dict[str, Any]]) -> tuple[dict[str, Any], set[str]]:
    """`body` with the changes, and the fields of those that stand elsewhere."""
    changed = {**body, "params": dict(body["params"])}
    elsewhere = set()
    for change in changes:
        target, name = changed, change["field"]
        if name in ("workers", "prompt"):
            elsewhere.add(name)
            continue
        if name.startswith("params."):
            target, name = changed["params"], name.removeprefix("params.")
        if "value" in change:
            target[name] = change["value"]
        else:
            target.pop(name, None)
    return changed, elsewhere


def test_every_rule_has_a_reason_in_words() -> None:
    assert {rule.reason for rule in RULES} <= set(REASONS)


def test_without_workers_it_says_so() -> None:
    told = explanation(wish_of({}).asked, [])
    assert told == {
        "workers": 0,
        "reasons": {},
        "message": "No image worker is online at present. The request waits in case one comes.",
        "changes": [],
        "would_serve": 0,
    }
