"""Requests that nobody can serve: why, what would help, and that it does help."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from horde.users.rules import Role
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    PAINTER,
    PICTURE,
    SDXL,
    Account,
    Horde,
    assert_refused,
    change,
    forget,
    scalar,
)

LIGHTNING, PONY = "DreamShaper XL", "Pony Diffusion XL"
CLIP_SKIP_LESS = "AI Horde Worker:12:x"
OLD = "AI Horde Worker reGen:1:https://example.com"
UNKNOWN = "somebody's own:1:https://example.com"
LORAS = {"loras": [{"name": "12345"}]}
CONTROL = {"control_type": "canny"}
QR_CODE = {"workflow": "qr_code", "extra_texts": [{"text": "a", "reference": "qr_code"}]}
REMIX = {"models": [CASCADE], "source_processing": "remix", "source_image": PICTURE}

ABLE = {"allow_lora": True, "allow_controlnet": True, "allow_sdxl_controlnet": True}

Values = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request that the workers there are cannot serve."""

    body: Values
    offers: list[Values]
    """What each worker offers besides `ABLE` and what `Horde.pop` does."""
    reasons: dict[str, int]
    changes: Values
    """What to change, with None for what is to be left out."""
    would_serve: int = 1
    roles: tuple[Role, ...] = (Role.TRUSTED,)
    """Of the workers' owner."""
    workers: Values = field(default_factory=dict)
    """Columns of the workers that are changed behind their backs."""


CASES = {
    "another model": Case(
        {"models": [SDXL]},
        [{}, {"models": ["Deliberate"]}],
        {"models": 2},
        {"models": ["Deliberate", MODEL]},
        2,
    ),
    "too large": Case(
        {"params": {"width": 1024, "height": 1024}},
        [{"max_pixels": 1024 * 768}, {"max_pixels": 768 * 768}],
        {"max_pixels": 2},
        {"params.width": 832, "params.height": 832},
    ),
    "a model and a size": Case(
        {"models": [SDXL], "params": {"width": 1024, "height": 1024}},
        [{"max_pixels": 512 * 512}],
        {"models": 1, "max_pixels": 1},
        {"models": [MODEL], "params.width": 512, "params.height": 512},
    ),
    "nsfw": Case({"nsfw": True}, [{"nsfw": False}] * 2, {"nsfw": 2}, {"nsfw": False}, 2),
    "untrusted": Case(
        {"trusted_workers": True}, [{}], {"untrusted": 1}, {"trusted_workers": False}, roles=()
    ),
    "slow": Case(
        {"slow_workers": False},
        [{}],
        {"performance": 1},
        {"slow_workers": True},
        workers={"speed": 400_000},
    ),
    "very slow": Case({}, [{"extra_slow_worker": True}], {"performance": 1}, {"extra_slow_workers": True}),
    "loras": Case({"params": LORAS}, [{"allow_lora": False}], {"lora": 1}, {"params.loras": None}),
    "post-processing": Case(
        {"params": {"post_processing": ["GFPGAN"]}},
        [{"allow_post_processing": False}],
        {"post-processing": 1},
        {"params.post_processing": None},
    ),
    "source image": Case(
        {"source_image": PICTURE}, [{"allow_img2img": False}], {"img2img": 1}, {"source_image": None}
    ),
    "source image with all that belongs to it": Case(
        {
            "source_image": PICTURE,
            "source_mask": PICTURE,
            "source_processing": "outpainting",
        },
        [{"models": [MODEL, PAINTER], "allow_img2img": False}],
        {"img2img": 1},
        {"source_image": None, "source_mask": None, "source_processing": "img2img"},
    ),
    "inpainting": Case(
        {"source_image": PICTURE, "source_mask": PICTURE, "source_processing": "inpainting"},
        [{"models": [MODEL, PAINTER], "allow_painting": False}],
        {"painting": 1},
        {"source_processing": "img2img"},
    ),
    "inpainting without a model for it": Case(
        {"source_image": PICTURE, "source_mask": PICTURE, "source_processing": "inpainting"},
        [{}],
        {"models": 1},
        {"source_processing": "img2img"},
    ),
    "control type": Case(
        {"source_image": PICTURE, "params": CONTROL},
        [{"allow_controlnet": False}],
        {"controlnet": 1},
        {"params.control_type": None},
    ),
    "control type and its source image": Case(
        {"source_image": PICTURE, "params": CONTROL},
        [{"allow_img2img": False}],
        {"img2img": 1},
        {"source_image": None, "params.control_type": None},
    ),
    "transparency": Case(
        {"params": {"transparent": True}},
        [{"allow_sdxl_controlnet": False}],
        {"controlnet": 1},
        {"params.transparent": False},
    ),
    "qr code": Case(
        {"models": [SDXL], "params": QR_CODE},
        [{"models": [SDXL], "allow_sdxl_controlnet": False}],
        {"controlnet": 1},
        {"params.workflow": None, "params.extra_texts": None},
    ),
    "many steps": Case(
        {"params": {"steps": 40}}, [{"limit_max_steps": True}], {"step_count": 1}, {"params.steps": 30}
    ),
    "many steps of a slow sampler": Case(
        {"params": {"steps": 20, "sampler_name": "k_heun"}},
        [{"limit_max_steps": True}],
        {"step_count": 1},
        {"params.steps": 15},
    ),
    "a sampler that always takes many steps": Case(
        {"params": {"sampler_name": "k_dpm_adaptive"}},
        [{"limit_max_steps": True}],
        {"step_count": 1},
        {"params.sampler_name": "k_euler_a", "params.steps": 30},
    ),
    "a sampler that old software lacks": Case(
        {"params": {"sampler_name": "k_dpmpp_2m"}},
        [{"bridge_agent": OLD}],
        {"bridge_version": 1},
        {},
        0,
    ),
    "tis": Case(
        {"params": {"sampler_name": "k_euler", "tis": [{"name": "1"}]}},
        [{"bridge_agent": "AI Horde Worker:23:x"}],
        {"bridge_version": 1},
        {"params.tis": None},
    ),
    "tiling": Case(
        {"params": {"tiling": True}},
        [{"bridge_agent": "AI Horde Worker:24:x"}],
        {"bridge_version": 1},
        {"params.tiling": False},
    ),
    "a new post-processor": Case(
        {"params": {"post_processing": ["GFPGANv1.3"]}},
        [{"bridge_agent": "AI Horde Worker reGen:12:x"}],
        {"bridge_version": 1},
        {"params.post_processing": None},
    ),
    "flux": Case(
        {"models": [FLUX]},
        [{"models": [FLUX, MODEL], "bridge_agent": "AI Horde Worker reGen:8:x"}],
        {"bridge_version": 1},
        {"models": [MODEL]},
    ),
    "links": Case({}, [{"bridge_agent": UNKNOWN}], {"bridge_version": 1}, {"r2": False}),
    "words": Case({}, [{"blacklist": ["LightHouse"]}], {"blacklist": 1}, {"prompt": None}),
    "maintenance": Case({}, [{}], {"maintenance": 1}, {}, 0, workers={"maintenance": "true"}),
    "pause": Case({}, [{}], {"maintenance": 1}, {}, 0, workers={"paused": "true"}),
    "everything": Case(
        {"nsfw": True, "params": LORAS | {"width": 1024, "height": 1024}},
        [
            {"nsfw": False, "allow_lora": False, "max_pixels": 512 * 512, "models": ["Deliberate"]},
            {"nsfw": False, "allow_lora": False},
            {"nsfw": False, "allow_lora": False},
            {"max_pixels": 768 * 768, "nsfw": False},
        ],
        {"nsfw": 4, "lora": 3, "max_pixels": 2, "models": 1},
        {"nsfw": False, "params.loras": None},
        2,
    ),
}


class Scene:
    """Workers, and somebody rich who asks."""

    def __init__(self, horde: Horde) -> None:
        self.horde = horde
        self.user = horde.account(amount=10_000)
        self.owners: list[Account] = []

    def add(self, offer: Values, *roles: Role) -> Account:
        """A worker of an owner's own, which pops now."""
        owner = self.horde.account(*roles)
        response = self.horde.pop(owner, f"worker {owner.id}", **ABLE | offer)
        assert response.status_code == 200, response.json
        self.owners.append(owner)
        return owner

    def pop(self, owner: Account, offer: Values) -> list[str]:
        return list(self.horde.pop(owner, f"worker {owner.id}", **ABLE | offer).json["ids"])

    def asked(self, body: Values) -> Values:
        """The answer to a request that is accepted."""
        forget(self.horde.platform)
        response = self.horde.ask(self.user, **body)
        assert response.status_code == 202, response.json
        return dict(response.json)

    def shown(self, request: str) -> list[Values]:
        """What `check` and `status` say of a request now."""
        forget(self.horde.platform)
        return [self.horde.check(request), self.horde.status(request)]

    def explained(self, body: Values) -> Values:
        """The explanation, which is the same everywhere."""
        answer = self.asked(body)
        told = answer["explain"]
        for shown in self.shown(answer["id"]):
            assert shown["explain"] == told
            assert not shown["is_possible"]
            assert shown["wait_time"] >= 10_000
        assert answer["message"].endswith(told["message"])
        assert {"code": "NoAvailableWorker", "message": answer["message"]} in answer["warnings"]
        self.horde.cancel(answer["id"])
        return dict(told)

    def assert_possible(self, request: str) -> None:
        for shown in self.shown(request):
            assert "explain" not in shown
            assert shown["is_possible"]
            assert 0 < shown["wait_time"] < 10_000


@pytest.fixture
def scene(horde: Horde) -> Scene:
    return Scene(horde)


def changed(body: Values, changes: list[Values]) -> Values:
    """The body that the explanation asks for; another prompt has to be thought of."""
    result = {**body, "params": dict(body.get("params", {}))}
    for each in changes:
        target, name = result, each["field"]
        if name.startswith("params."):
            target, name = result["params"], name.removeprefix("params.")
        if "value" in each:
            target[name] = each["value"]
        elif name == "prompt":
            target[name] = "something else"
        else:
            del target[name]
    return result


def in_dict(changes: list[Values]) -> Values:
    """The changes by field, with the models in alphabetical order."""
    assert all(each.keys() <= {"field", "value"} for each in changes)
    found = {each["field"]: each.get("value") for each in changes}
    return found | ({"models": sorted(found["models"])} if "models" in found else {})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_told_is_true_and_what_is_advised_helps(scene: Scene, case: Case) -> None:
    for offer in case.offers:
        scene.add(offer, *case.roles)
    for column, value in case.workers.items():
        change(scene.horde.platform, f"UPDATE workers SET {column} = {value}")
    told = scene.explained(case.body)
    assert told["workers"] == len(case.offers)
    assert told["reasons"] == case.reasons
    assert in_dict(told["changes"]) == case.changes
    assert told["would_serve"] == case.would_serve
    assert told["message"].startswith(f"{len(case.offers)} worker")
    assert ("To have it served" in told["message"]) == bool(case.changes)
    if not case.changes:
        return
    request = scene.asked(changed(case.body, told["changes"]))
    assert "explain" not in request
    assert "NoAvailableWorker" not in {warning["code"] for warning in request.get("warnings", [])}
    scene.assert_possible(request["id"])
    takers = [
        owner for owner, offer in zip(scene.owners, case.offers, strict=True) if scene.pop(owner, offer)
    ]
    assert len(takers) == 1
    assert scene.horde.check(request["id"])["processing"] == 1


class TestLists:
    def test_workers_that_are_away(self, scene: Scene) -> None:
        gone, here = scene.add({}), scene.add({})
        query = "SELECT id FROM workers WHERE owner_id = :id"
        wanted = str(scalar(scene.horde.platform, query, id=gone.id))
        change(
            scene.horde.platform,
            "UPDATE workers SET last_seen = now() - interval '1 hour' WHERE owner_id = :id",
            id=gone.id,
        )
        body = {"workers": [wanted]}
        told = scene.explained(body)
        assert (told["workers"], told["reasons"], told["would_serve"]) == (1, {"worker_id": 1}, 1)
        assert told["changes"] == [{"field": "workers"}]
        request = scene.asked(changed(body, told["changes"]))
        scene.assert_possible(request["id"])
        assert scene.pop(here, {})

    def test_workers_that_are_avoided(self, scene: Scene) -> None:
        owners = [scene.add({}), scene.add({})]
        with scene.horde.platform.read() as db:
            ids = [str(row.id) for row in db.exec_driver_sql("SELECT id FROM workers")]
        body = {"workers": ids, "worker_blacklist": True}
        told = scene.explained(body)
        assert (told["reasons"], told["changes"]) == ({"worker_id": 2}, [{"field": "workers"}])
        request = scene.asked(changed(body, told["changes"]))
        scene.assert_possible(request["id"])
        assert scene.pop(owners[0], {})


class TestWhileItLasts:
    def test_without_workers(self, scene: Scene) -> None:
        told = scene.explained({})
        assert (told["workers"], told["reasons"], told["changes"], told["would_serve"]) == (0, {}, [], 0)
        assert "No image worker is online" in told["message"]

    @pytest.mark.parametrize(
        ("body", "unable", "able"),
        [
            ({}, None, {}),
            ({"models": [SDXL]}, {}, {"models": [SDXL]}),
            ({"params": LORAS}, {"allow_lora": False}, {}),
            ({"nsfw": True}, {"nsfw": False}, {}),
            ({"params": {"width": 1024, "height": 1024}}, {"max_pixels": 512 * 512}, {"max_pixels": 1024**2}),
            ({"models": []}, {"models": ["stable_diffusion_inpainting"]}, {"models": ["Deliberate"]}),
            (REMIX, {"models": [MODEL]}, {"models": [CASCADE]}),
            ({"prompt": "a red fox"}, {"blacklist": ["red fox"]}, {"blacklist": ["red box"]}),
        ],
    )
    def test_a_worker_that_can_ends_it(
        self, scene: Scene, body: Values, unable: Values | None, able: Values
    ) -> None:
        if unable is not None:
            scene.add(unable, Role.TRUSTED)
        answer = scene.asked(body)
        assert "explain" in answer
        newcomer = scene.add(able, Role.TRUSTED)
        assert scene.horde.check(answer["id"])["processing"] == 1
        scene.horde.submitted(
            newcomer, scalar(scene.horde.platform, "SELECT id::text FROM jobs"), state="faulted"
        )
        scene.assert_possible(answer["id"])
        change(scene.horde.platform, "UPDATE workers SET last_seen = now() - interval '1 hour'")
        for shown in scene.shown(answer["id"]):
            assert "No image worker is online" in shown["explain"]["message"]

    def test_a_worker_that_changes_its_settings_ends_it(self, scene: Scene) -> None:
        owner = scene.add({"allow_lora": False})
        request = scene.asked({"params": LORAS})["id"]
        assert all("explain" in shown for shown in scene.shown(request))
        change(scene.horde.platform, "UPDATE workers SET allow_lora = true")
        scene.assert_possible(request)
        assert scene.pop(owner, {})

    def test_what_is_under_way_does_not_hide_that_the_rest_is_stuck(self, scene: Scene) -> None:
        scene.add({})
        request = scene.asked({"params": {"n": 2}})["id"]
        (job,) = scene.pop(scene.owners[0], {})
        change(scene.horde.platform, "UPDATE workers SET last_seen = now() - interval '1 hour'")
        for shown in scene.shown(request):
            assert shown["explain"]["workers"] == 0
        scene.horde.submitted(scene.owners[0], job)
        assert all("explain" in shown for shown in scene.shown(request))

    def test_nothing_is_explained_of_what_does_not_wait(self, scene: Scene) -> None:
        scene.add({})
        made, cancelled = scene.asked({})["id"], scene.asked({"models": [SDXL]})["id"]
        (job,) = scene.pop(scene.owners[0], {})
        change(scene.horde.platform, "UPDATE workers SET last_seen = now() - interval '1 hour'")
        assert all("explain" not in shown for shown in scene.shown(made))
        scene.horde.submitted(scene.owners[0], job)
        scene.horde.cancel(cancelled)
        for request in (made, cancelled):
            assert all("explain" not in shown for shown in scene.shown(request))

    def test_a_quote_and_a_refusal_explain_nothing(self, scene: Scene) -> None:
        scene.add({})
        quoted = scene.horde.ask(scene.user, models=[SDXL], dry_run=True)
        assert quoted.json.keys() == {"kudos"}
        refused = scene.horde.ask(scene.user, models=[FLUX], params={"hires_fix": True})
        assert_refused(refused, 400, "HiResMismatch")
        assert "explain" not in refused.json

    def test_a_reduced_request_is_explained_as_it_is_queued(self, scene: Scene) -> None:
        scene.add({"max_pixels": 1024**2, "models": ["Deliberate"]})
        forget(scene.horde.platform)
        poor = scene.horde.account(amount=15)
        params = {"width": 2048, "height": 2048}
        answer = scene.horde.ask(poor, allow_downgrade=True, params=params).json
        assert answer["downgraded"]["width"] == 1024
        assert answer["explain"]["reasons"] == {"models": 1}
        for shown in scene.shown(answer["id"]):
            assert shown["explain"] == answer["explain"]
        assert answer["message"].startswith("Kudos are short")
        assert answer["message"].endswith(answer["explain"]["message"])

    def test_the_owner_of_a_worker_in_maintenance_is_served(self, scene: Scene) -> None:
        owner = scene.add({})
        change(scene.horde.platform, "UPDATE workers SET paused = true")
        assert "explain" in scene.asked({})
        forget(scene.horde.platform)
        assert "explain" not in scene.horde.ask(owner).json


class TestChoice:
    def test_of_equal_changes_the_one_that_more_workers_need(self, scene: Scene) -> None:
        for offer in ({"allow_lora": False}, {"max_pixels": 512 * 512}, {"max_pixels": 512 * 512}):
            scene.add(offer)
        told = scene.explained({"params": LORAS | {"width": 1024, "height": 1024}})
        assert in_dict(told["changes"]) == {"params.width": 512, "params.height": 512}
        assert told["would_serve"] == 2

    def test_a_model_suits_what_is_asked_for(self, scene: Scene) -> None:
        scene.add({"models": [FLUX, CASCADE]})
        body = {"models": [SDXL], "params": {"hires_fix": True}}
        told = scene.explained(body)
        assert in_dict(told["changes"]) == {"models": [CASCADE]}
        scene.assert_possible(scene.asked(changed(body, told["changes"]))["id"])

    def test_any_of_several_models(self, scene: Scene) -> None:
        scene.add({"models": [SDXL], "max_pixels": 512 * 512})
        scene.add({"models": [MODEL], "allow_lora": False})
        body = {"models": [SDXL, MODEL, "nobody has it"], "params": LORAS | {"width": 1024}}
        told = scene.explained(body)
        assert told["reasons"] == {"max_pixels": 1, "lora": 1}
        assert told["would_serve"] == 1
        scene.assert_possible(scene.asked(changed(body, told["changes"]))["id"])


@pytest.mark.parametrize(
    "offer", [{"max_pixels": -1}, {"max_pixels": 0, "bridge_agent": "AI Horde Worker:11:x"}]
)
def test_a_worker_that_makes_no_pictures_breaks_no_explanation(
    horde: Horde, scene: Scene, offer: dict[str, Any]
) -> None:
    horde.client.application.testing = False
    try:
        scene.add(offer)
        forget(horde.platform)
        response = horde.ask(scene.user, nsfw=False, r2=False, params={"sampler_name": "k_dpmpp_sde"})
        paid = horde.kudos(scene.user.balance) < 10_000  # it is queued and paid for all the same
        assert response.status_code == 202, (response.json, paid)
        assert "explain" in horde.check(response.json["id"])
    finally:
        horde.client.application.testing = True


@pytest.mark.parametrize("pixels", [0, 64 * 64 - 1])
def test_no_size_is_advised_that_nobody_makes(scene: Scene, pixels: int) -> None:
    scene.add({"max_pixels": pixels})
    told = scene.explained({})
    assert (told["changes"], told["would_serve"]) == ([], 0)


@pytest.mark.parametrize(
    ("body", "offer"),
    [
        # model_requirements: reject (or the operator's MODEL_REQUIREMENTS=reject): answered with 400
        ({"models": [SDXL], "model_requirements": "reject"}, {"models": [PONY]}),
        (
            {
                "models": [LIGHTNING],
                "model_requirements": "reject",
                "params": {"steps": 5, "cfg_scale": 2, "sampler_name": "k_dpmpp_sde"},
            },
            {"models": [LIGHTNING], "bridge_agent": "AI Horde Worker:11:x"},
        ),
        (
            {"models": [PONY], "model_requirements": "reject", "params": {"clip_skip": 2}},
            {"models": [PONY], "bridge_agent": CLIP_SKIP_LESS},
        ),
        # the steps that are advised do not suit the sampler or the least steps that the model brings about
        ({"models": [SDXL]}, {"models": [LIGHTNING], "limit_max_steps": True}),
        ({"models": []}, {"models": [LIGHTNING], "limit_max_steps": True}),
        (
            {"models": [SDXL], "params": {"steps": 40, "sampler_name": "k_heun"}},
            {"models": [CASCADE], "limit_max_steps": True},
        ),
    ],
)
def test_what_is_advised_helps(scene: Scene, body: dict[str, Any], offer: dict[str, Any]) -> None:
    scene.add(offer)
    told = scene.explained(body)
    if told["changes"]:
        request = scene.asked(changed(body, told["changes"]))
        scene.assert_possible(request["id"])


def test_a_corrected_request_is_explained_alike_everywhere(scene: Scene) -> None:
    scene.add({"models": [SDXL], "bridge_agent": CLIP_SKIP_LESS})
    answer = scene.asked({"models": [PONY]})
    for shown in scene.shown(answer["id"]):
        # check: also bridge_version, and "set params.clip_skip to 1", which the request never said
        assert shown["explain"] == answer["explain"]


def test_a_request_with_fewer_steps_is_explained_alike_everywhere(scene: Scene) -> None:
    scene.add({"nsfw": False, "limit_max_steps": True})
    poor = scene.horde.account(amount=15)
    forget(scene.horde.platform)
    params = {"steps": 200, "sampler_name": "lcm"}
    answer = scene.horde.ask(poor, allow_downgrade=True, params=params).json
    assert answer["downgraded"]["steps"] == 10
    for shown in scene.shown(answer["id"]):
        # check says nothing of steps any more, since 10 suit the worker; the answer still speaks of 200
        assert shown["explain"] == answer["explain"]
