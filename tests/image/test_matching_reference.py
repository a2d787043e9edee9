"""What workers get, why they get nothing, and what requesters are told: all as the specification says it.

A slow and obvious reading of it is held against the services.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from horde.image import jobs, service, tracking
from horde.image.admission import Sender, admit
from horde.image.judging import Judge
from horde.image.schemas import GenerationInputStable, PopInputStable
from horde.image.skipped import count_skipped
from horde.model_reference.service import image_models
from horde.platform.errors import Forbidden, HordeError
from horde.users.rules import ANONYMOUS_KEY, Role
from horde.workers import heartbeats
from horde.workers import service as workers
from tests.image import matching_reference as spec
from tests.image.matching_reference import Model, Reference
from tests.support import (
    PICTURE,
    Account,
    Horde,
    Rows,
    account,
    another_process,
    change,
    forget,
    restore_rows,
    save_rows,
    scalar,
)

CLIP, QUICK, SLOW = (
    {"clip_skip": 2},
    {"max_steps": 6, "samplers": ["lcm"]},
    {"min_steps": 15, "samplers": ["k_heun"]},
)
MODELS = {
    "plain": Model(),
    "also plain": Model(),
    "painter": Model(inpainting=True),
    "quick": Model(requirements=QUICK),
    "slow": Model(requirements=SLOW),
    "pix2pix": Model(needs_picture=True),
    "second": Model(spec.SD2),
    "second small": Model("stable diffusion 2 512"),
    "large": Model(spec.XL),
    "large with clip skip": Model(spec.XL, requirements=CLIP),
    "cascade": Model(spec.CASCADE),
    "flux": Model(spec.FLUX),
    "qwen": Model("qwen_image"),
    "zimage": Model("z_image_turbo"),
}
OWN = ("my own", "my own [SDXL]", "my own [Flux]")
"""Models that only customizers offer."""
SPECIAL = "horde_special::Special#"
ACCOUNTS: dict[str, tuple[tuple[Role, ...], int]] = {
    "rich": ((), 20_000),
    "friend": ((), 5_000),
    "broke": ((), 0),
    "trusted and broke": ((Role.TRUSTED,), 0),
    "school": ((Role.EDUCATION,), 10_000),
    "newcomer": ((), 0),
    "trusted owner": ((Role.TRUSTED, Role.CUSTOMIZER), 1_000),
    "special": ((Role.SPECIAL, Role.TRUSTED), 2_000),
}
"""Roles and kudos."""


def _mostly(value: bool) -> st.SearchStrategy[bool]:
    return st.sampled_from([value, value, value, not value])


AGENTS = st.sampled_from([13, 13, 13, 9, 8, 7, 6, 5, 3, 2, 1]).map(
    lambda version: f"{spec.REGEN}:{version}:x"
) | (
    st.sampled_from([24, 24, 23, 22, 18, 15, 13, 12, 8, 7]).map(lambda version: f"{spec.WORKER}:{version}:x")
    | st.sampled_from(
        [
            *(f"{spec.WEBUI}:{version}:x" for version in (1, 2, 4)),
            *(f"{spec.AUTO}:{version}:x" for version in (1, 2)),
            "somebody's own:99:x",
        ]
    )
)
OFFERS = st.fixed_dictionaries(
    {
        "owner": st.sampled_from(["trusted owner", "trusted owner", "newcomer", "special"]),
        "models": st.lists(st.sampled_from([*MODELS, *OWN]), min_size=1, max_size=8, unique=True),
        "bridge_agent": AGENTS,
        "max_pixels": st.sampled_from([512 * 512, 1024 * 1024, 1024 * 1024, 3072 * 3072]),
        "blacklist": st.sampled_from([[], [], [], ["FOX"], ["lynx", ""], ["Ä"]]),
        "friends": st.lists(st.sampled_from(sorted(ACCOUNTS)), max_size=2, unique=True),
        "nsfw": _mostly(True),
        "allow_img2img": _mostly(True),
        "allow_painting": _mostly(True),
        "allow_unsafe_ipaddr": _mostly(True),
        "allow_post_processing": _mostly(True),
        "allow_controlnet": _mostly(True),
        "allow_sdxl_controlnet": _mostly(True),
        "allow_lora": _mostly(True),
        "limit_max_steps": _mostly(False),
        "extra_slow_worker": _mostly(False),
        "require_upfront_kudos": _mostly(False),
        "maintenance": _mostly(False),
        "speed": st.sampled_from([499_999.0, 500_000.0, 1_000_000.0]),
    }
)
LORA, LORA_VERSION = {"name": "1"}, {"name": "1", "is_version": True}
FEATURES: list[dict[str, Any]] = [
    {"params": {"loras": [LORA]}},
    {"params": {"loras": [LORA, LORA_VERSION]}},
    {"params": {"loras": [], "tis": []}},
    {"params": {"tis": [{"name": "1"}]}},
    {"params": {"post_processing": ["GFPGAN"]}},
    {"params": {"post_processing": ["CodeFormers", "RealESRGAN_x2plus"]}},
    {"params": {"post_processing": ["4xNomos8kSC"]}},
    {"params": {"post_processing": []}},
    {"params": {"tiling": True}},
    {"params": {"hires_fix": True}},
    {"params": {"clip_skip": 1}},
    {"params": {"clip_skip": 3}},
    {"params": {"transparent": True}},
    {"params": {"return_control_map": True}},
    {"params": {"workflow": "qr_code", "extra_texts": [{"text": "a", "reference": "qr_code"}]}},
    {"source_image": PICTURE},
    {"source_image": PICTURE, "params": {"control_type": "canny"}},
    {"source_image": PICTURE, "params": {"control_type": "hough", "image_is_control": True}},
    {"source_image": PICTURE, "source_mask": PICTURE, "source_processing": "inpainting"},
    {"source_processing": "outpainting"},
    {"source_processing": "inpainting"},
    {"source_image": PICTURE, "source_processing": "remix"},
    {
        "source_image": PICTURE,
        "source_processing": "remix",
        "extra_source_images": [{"image": PICTURE}],
    },
]
PLAIN = {"steps": 20, "sampler_name": "k_euler_a", "karras": True, "width": 512, "height": 512}
REQUESTS = st.fixed_dictionaries(
    {
        "sender": st.sampled_from([*ACCOUNTS, "anonymous"]),
        "models": st.lists(st.sampled_from([*MODELS, *OWN, "unheard of"]), max_size=4)
        | st.lists(st.sampled_from(["plain", "also plain", "painter", "large", "cascade"]), max_size=2),
        "prompt": st.sampled_from(
            ["a lighthouse", "a lighthouse", "a red fox ### ugly", "swan ### Lynx", "ein ÄFFCHEN"]
        ),
        "features": st.lists(st.sampled_from(FEATURES), max_size=2),
        "nsfw": _mostly(False),
        "trusted_workers": _mostly(False),
        "slow_workers": _mostly(True),
        "extra_slow_workers": _mostly(False),
        "r2": _mostly(False),
        "unsafe_ip": _mostly(False),
        "workers": st.lists(st.integers(0, 2), max_size=2, unique=True) | st.just([]),
        "worker_blacklist": st.booleans(),
        "model_requirements": st.sampled_from(["correct", "correct", "warn", "reject"]),
        "steps": st.sampled_from([20, 20, 5, 14, 16, 30, 31, 45]),
        "sampler_name": st.just("k_euler_a") | st.sampled_from(sorted(spec.SAMPLERS)),
        "karras": _mostly(True),
        "width": st.sampled_from([512, 512, 768, 1024]),
    }
)


def able(drawn: dict[str, Any]) -> dict[str, Any]:
    """A worker that can do all that is plain."""
    same = {"models": ["plain"], "bridge_agent": f"{spec.REGEN}:13:x", "nsfw": True, "max_pixels": 1024**2}
    return {**drawn, **same, "extra_slow_worker": False, "require_upfront_kudos": False}


def choosy(drawn: dict[str, Any]) -> dict[str, Any]:
    """A request that nothing but its list of workers keeps from those who are `able`."""
    same = {"models": ["plain"], "features": [], "workers": drawn["workers"] or [0], "slow_workers": True}
    plain = {key: PLAIN[key] for key in ("steps", "sampler_name", "karras", "width")}
    return {**drawn, **same, **plain, "trusted_workers": False, "unsafe_ip": False}


def params_of(drawn: dict[str, Any]) -> dict[str, Any]:
    return {**PLAIN, **{key: drawn[key] for key in ("steps", "sampler_name", "karras", "width")}}


@dataclass
class Scene:
    """A horde with people, and what the reference knows of it."""

    horde: Horde
    reference: Reference
    rows: Rows = field(repr=False)
    people: dict[str, Account] = field(repr=False)

    @property
    def platform(self) -> Any:
        return self.horde.platform

    def clear(self) -> None:
        restore_rows(self.platform, self.rows)
        self.platform.cache.flushall()
        forget(self.platform)

    def key(self, name: str) -> str:
        return ANONYMOUS_KEY if name == "anonymous" else self.people[name].key

    def register(self, number: int, drawn: dict[str, Any]) -> dict[str, Any] | None:
        """A worker as the reference sees it; None if it offers nothing that its owner may offer."""
        worker = {"name": f"worker {number}", **drawn}
        if drawn["owner"] == "special" and number % 2:
            worker["models"] = [*drawn["models"], SPECIAL + str(self.people["special"].id)]
        names = [self.people[name].alias for name in drawn["friends"]]
        allowed = set(MODELS) | {name for name in worker["models"] if name.startswith("horde_special")}
        if drawn["owner"] == "trusted owner":
            allowed |= set(OWN)
        sent = {
            key: value
            for key, value in worker.items()
            if key not in ("owner", "friends", "maintenance", "speed")
        }
        worker["offer"] = PopInputStable.model_validate({**sent, "priority_usernames": names})
        worker["models"] = [name for name in worker["models"] if name in allowed]
        if not worker["models"]:
            return None
        assert jobs.pop(self.platform, self.key(worker["owner"]), "192.0.2.1", worker["offer"])["ids"] == []
        worker["id"] = str(
            scalar(self.platform, "SELECT id FROM workers WHERE name = :name", name=worker["name"])
        )
        worker["trusted"] = Role.TRUSTED in ACCOUNTS[worker["owner"]][0]
        change(
            self.platform,
            "UPDATE workers SET speed = :speed, maintenance = :maintenance WHERE name = :name",
            **{key: worker[key] for key in ("speed", "maintenance", "name")},
        )
        return worker

    def ask(self, drawn: dict[str, Any], known: list[dict[str, Any]]) -> dict[str, Any] | None:
        """A queued request as the reference sees it; None if it is not taken at all."""
        request = {**drawn, "source_processing": "img2img", "params": params_of(drawn)}
        for feature in drawn["features"]:
            if feature.get("source_processing") == "remix" and request["models"]:
                request["models"] = ["cascade"]
            request |= {key: value for key, value in feature.items() if key != "params"}
            request["params"] |= feature.get("params", {})
        request["workers"] = [known[number]["id"] for number in drawn["workers"] if number < len(known)]
        if drawn["sender"] == "special" and drawn["models"][:1] == ["plain"]:
            request["models"] = [SPECIAL + str(self.people["special"].id)]
            request["params"]["special"] = {"anything": {}}
        sent = {
            key: value
            for key, value in request.items()
            if key not in ("sender", "features", "unsafe_ip", "steps", "sampler_name", "karras", "width")
        }
        body = GenerationInputStable.model_validate(sent)
        sender = Sender(self.key(drawn["sender"]), "192.0.2.2", "test:1:test")
        try:
            if drawn["unsafe_ip"] and not request.get("source_image"):
                request["id"] = self.queue_unsafe(sender, body)
            else:
                request["unsafe_ip"] = False
                request["id"] = service.submit_request(self.platform, sender, body)["id"]
        except HordeError as error:
            event(f"not taken: {error.rc}")
            return None
        roles, wealth = ACCOUNTS.get(drawn["sender"], ((), 0))
        if Role.EDUCATION in roles:
            request |= {"nsfw": False, "trusted_workers": True}
        # The anonymous account may owe some, so it can set kudos aside without having any.
        reserved = "SELECT EXISTS (SELECT FROM reservations WHERE request_id = :id)"
        can_pay = wealth > 0 or scalar(self.platform, reserved, id=request["id"])
        request |= {"sender_trusted": Role.TRUSTED in roles, "wealth": wealth, "can_pay": can_pay}
        request["models"] = list(dict.fromkeys(request["models"]))
        return request

    def queue_unsafe(self, sender: Sender, body: GenerationInputStable) -> str:
        """Queue a request from a doubtful address, which raids alone bring about."""
        admitted = replace(admit(self.platform, sender, body), unsafe_ip=True)
        offer = service._affordable(self.platform, service._draft(self.platform, admitted))
        return str(service._queue_up(self.platform, sender, offer).id)

    def check_reasons(self, known: list[dict[str, Any]], waiting: list[dict[str, Any]]) -> None:
        """What workers and requesters are told is what the reference says."""
        forget(self.platform)
        online = {str(each.id): each for each in workers.online_workers(self.platform, "image")}
        for worker in known:
            told = count_skipped(self.platform, online[worker["id"]])
            expected = self.reference.skipped(worker, waiting)
            for reason in ("blacklist", "kudos"):
                expected.pop(reason, None)
            assert {reason: count for reason, count in told.items() if count} == expected
        for request in waiting:
            wish = tracking._wish(self.platform, request["id"])
            models, matched = image_models(self.platform).models, self.reference.matched
            judge = Judge(wish, models, matched=matched)
            every: Counter[str] = Counter()
            for worker in known:
                reasons = set(self.reference.reasons(worker, request))
                if worker["maintenance"] and worker["owner"] != request["sender"]:
                    reasons.add("maintenance")
                if self.reference.refuses_words(worker, request):
                    reasons.add("blacklist")
                every.update(reasons or {"able"})
                assert judge.obstacles(online[worker["id"]]).reasons == reasons, (worker, request)
            shown = tracking.check(self.platform, request["id"], "192.0.2.3", "test")
            able = every.pop("able", 0)
            assert ("explain" in shown) == (not able)
            if not able:
                assert shown["explain"]["reasons"] == every

    def pop(self, worker: dict[str, Any], waiting: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Let a worker pop; returns what it got, which is what the reference says."""
        expected = self.reference.first(worker, waiting)
        forget(self.platform)
        call = (self.platform, self.key(worker["owner"]), "192.0.2.1", worker["offer"])
        if expected is None and worker["maintenance"]:
            event("pop: in maintenance")
            with pytest.raises(Forbidden, match="maintenance mode"):
                jobs.pop(*call)
            return None
        answer = jobs.pop(*call)
        if expected is None:
            event("pop: nothing")
            assert answer["ids"] == [], answer
            told = {reason: count for reason, count in answer["skipped"].items() if count}
            assert told == self.reference.skipped(worker, waiting)
            for reason in told:
                event(f"skipped: {reason}")
            return None
        event("pop: a job" if expected is waiting[0] else "pop: a job, not the first in the queue")
        (job,) = answer["ids"]
        assert (
            str(scalar(self.platform, "SELECT request_id FROM jobs WHERE id = :id", id=job)) == expected["id"]
        )
        assert answer["model"] in self.reference.suited(worker, expected)
        given, _ = self.reference.settings(expected, answer["model"])
        payload = answer["payload"]
        got = [payload["ddim_steps"], payload["sampler_name"], payload["karras"], payload.get("clip_skip", 1)]
        assert got == [given[key] for key in ("steps", "sampler_name", "karras", "clip_skip")]
        return dict(expected)


@pytest.fixture(scope="module", params=[False, True], ids=["", "matched targeting"])
def scene(
    request: pytest.FixtureRequest, shared_horde: Horde, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    path: Path = tmp_path_factory.mktemp("models") / "image.json"
    entries = {
        name: {
            "name": name,
            "baseline": model.baseline,
            "inpainting": model.inpainting,
            "requirements": dict(model.requirements),
        }
        for name, model in MODELS.items()
    }
    path.write_bytes(orjson.dumps(entries))
    options = {"model_reference_image": str(path), "require_matched_targeting": request.param}
    with another_process(shared_horde, **options) as process:
        assert set(image_models(process.platform).models) == set(MODELS)
        before = save_rows(process.platform)
        people = {
            name: account(
                process.platform, *roles, amount=amount, username="Special" if name == "special" else name
            )
            for name, (roles, amount) in ACCOUNTS.items()
        }
        yield Scene(process, Reference(MODELS, request.param), save_rows(process.platform), people)
        restore_rows(process.platform, before)


def check(scene: Scene, offers: list[dict[str, Any]], requests: list[dict[str, Any]]) -> None:
    scene.clear()
    known = [each for number, drawn in enumerate(offers) if (each := scene.register(number, drawn))]
    heartbeats.fold_heartbeats(scene.platform)
    forget(scene.platform)
    taken = [each for drawn in requests if (each := scene.ask(drawn, known))]
    # Everybody ages alike, and in this moment nobody enough to overtake: the rich first, equals in turn.
    waiting = sorted(taken, key=lambda request: -request["wealth"])
    event(f"requests waiting: {len(waiting)}")
    scene.check_reasons(known, waiting)
    for worker in known * 2:
        got = scene.pop(worker, waiting)
        waiting = [request for request in waiting if got is None or request["id"] != got["id"]]


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(offers=st.lists(OFFERS, min_size=1, max_size=3), requests=st.lists(REQUESTS, min_size=2, max_size=10))
def test_pops_skipped_and_explanations(
    scene: Scene, offers: list[dict[str, Any]], requests: list[dict[str, Any]]
) -> None:
    check(scene, offers, requests)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    offers=st.lists(OFFERS.map(able), min_size=1, max_size=3),
    requests=st.lists(REQUESTS.map(choosy), min_size=1, max_size=4),
)
def test_lists_of_workers(scene: Scene, offers: list[dict[str, Any]], requests: list[dict[str, Any]]) -> None:
    check(scene, offers, requests)
