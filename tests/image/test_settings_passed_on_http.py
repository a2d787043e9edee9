"""What workers receive of a request's settings, and what some of these cost."""

import json
from decimal import Decimal
from typing import Any, get_args

import pytest

from horde.image.schemas import ControlType, PostProcessor, Sampler
from horde.users.rules import Role
from tests.support import (
    CASCADE,
    MODEL,
    PICTURE,
    SDXL,
    Account,
    Horde,
    assert_refused,
    unchanged,
)

ABLE = {
    "models": [MODEL, SDXL, CASCADE],
    "allow_lora": True,
    "allow_controlnet": True,
    "allow_sdxl_controlnet": True,
}
"""What a worker offers that can serve every request here."""
QR_TEXTS = [{"text": "https://example.com/?a=1&b=ü", "reference": "qr_code"}]


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


def taken(horde: Horde, owner: Account, key: Account | None = None, **fields: Any) -> dict[str, Any]:
    """The job that a worker gets of a new request."""
    horde.asked(key or owner, **fields)
    return horde.popped(owner, **ABLE)


def passed_on(
    horde: Horde, owner: Account, params: dict[str, Any], key: Account | None = None, **fields: Any
) -> dict[str, Any]:
    return dict(taken(horde, owner, key, params=params, **fields)["payload"])


LORAS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "247778"}, {"name": "247778", "model": 1.0, "clip": 1.0, "is_version": False}),
    (
        {"name": "GlowingRunesAI", "model": -5, "clip": 5.0, "inject_trigger": "any"},
        {"name": "GlowingRunesAI", "model": -5.0, "clip": 5.0, "inject_trigger": "any", "is_version": False},
    ),
    (
        {"name": "1", "model": 0.25, "clip": 0, "is_version": True},
        {"name": "1", "model": 0.25, "clip": 0.0, "is_version": True},
    ),
    (
        {"name": "ü 😀" * 50, "inject_trigger": "x" * 30, "unknown": 1},
        {"name": "ü 😀" * 50, "model": 1.0, "clip": 1.0, "inject_trigger": "x" * 30, "is_version": False},
    ),
    ({"name": "x" * 255}, {"name": "x" * 255, "model": 1.0, "clip": 1.0, "is_version": False}),
]


class TestLoras:
    @pytest.mark.parametrize("count", range(1, 6))
    def test_all_of_each_in_order(self, horde: Horde, owner: Account, count: int) -> None:
        loras = LORAS[-count:]
        payload = passed_on(horde, owner, {"loras": [sent for sent, _ in loras]})
        assert payload["loras"] == [received for _, received in loras]

    def test_the_same_one_twice_is_passed_on_twice(self, horde: Horde, owner: Account) -> None:
        payload = passed_on(horde, owner, {"loras": [{"name": "1"}, {"name": "1"}]})
        assert [lora["name"] for lora in payload["loras"]] == ["1", "1"]

    @pytest.mark.parametrize(
        ("lora", "where"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"name": 247778}, "name"),
            ({"name": "1", "model": 5.01}, "model"),
            ({"name": "1", "clip": -5.01}, "clip"),
            ({"name": "1", "inject_trigger": ""}, "inject_trigger"),
            ({"name": "1", "inject_trigger": "x" * 31}, "inject_trigger"),
            ({"name": "1", "inject_trigger": None}, "inject_trigger"),
            ({"name": "1", "is_version": "true"}, "is_version"),
        ],
    )
    def test_what_does_not_fit(self, horde: Horde, lora: dict[str, Any], where: str) -> None:
        with unchanged(horde.platform):
            response = horde.ask(params={"loras": [{"name": "1"}, lora]})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {f"params.loras.1.{where}"}

    def test_workers_need_software_that_knows_versions(self, horde: Horde, owner: Account) -> None:
        old = {"bridge_agent": "AI Horde Worker reGen:2:x", "allow_lora": True}
        horde.asked(params={"loras": [{"name": "1"}]})
        assert horde.popped(owner, "old", **old)["ids"]
        horde.asked(params={"loras": [{"name": "1", "is_version": True}]})
        assert horde.skipped(owner, "old", **old) == {"bridge_version": 1}


class TestTextualInversions:
    def test_all_of_each_in_order(self, horde: Horde, owner: Account) -> None:
        tis = [
            {"name": "7808"},
            {"name": "a", "inject_ti": "prompt"},
            {"name": "b", "inject_ti": "negprompt", "strength": -5},
            {"name": "c", "strength": 0.05, "unknown": []},
        ]
        assert passed_on(horde, owner, {"tis": tis})["tis"] == [
            {"name": "7808", "strength": 1.0},
            {"name": "a", "inject_ti": "prompt", "strength": 1.0},
            {"name": "b", "inject_ti": "negprompt", "strength": -5.0},
            {"name": "c", "strength": 0.05},
        ]

    def test_twenty_of_them_and_an_untouched_prompt(self, horde: Horde, owner: Account) -> None:
        tis = [{"name": str(number), "inject_ti": "prompt"} for number in range(20)]
        payload = passed_on(horde, owner, {"tis": tis}, prompt="a fox ### fog")
        assert [ti["name"] for ti in payload["tis"]] == [str(number) for number in range(20)]
        assert payload["prompt"] == "a fox ### fog"

    @pytest.mark.parametrize(
        ("ti", "where"),
        [
            ({}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"name": "1", "inject_ti": "both"}, "inject_ti"),
            ({"name": "1", "inject_ti": None}, "inject_ti"),
            ({"name": "1", "strength": 6}, "strength"),
        ],
    )
    def test_what_does_not_fit(self, horde: Horde, ti: dict[str, Any], where: str) -> None:
        response = horde.ask(params={"tis": [ti]})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {f"params.tis.0.{where}"}


class TestPrices:
    """3 kudos for every LoRA and 1 for all textual inversions, times the factor of the model."""

    @pytest.mark.parametrize(("models", "factor"), [([MODEL], 1), ([SDXL], 2), ([CASCADE], 4), ([], 2)])
    @pytest.mark.parametrize(("loras", "tis"), [(1, 0), (5, 0), (0, 1), (0, 20), (2, 3)])
    def test_the_quote(self, horde: Horde, models: list[str], factor: int, loras: int, tis: int) -> None:
        def quoted(params: dict[str, Any]) -> float:
            response = horde.ask(models=models, params={"n": 10} | params, dry_run=True)
            return float(response.json["kudos"])

        extras = {"loras": [{"name": "1"}] * loras, "tis": [{"name": "1"}] * tis}
        assert quoted(extras) - quoted({}) == 10 * factor * (3 * loras + (tis > 0))
        assert quoted({"loras": [], "tis": []}) == quoted({})

    @pytest.mark.parametrize(("models", "factor"), [([MODEL], 1), ([SDXL], 2)])
    def test_the_charge_and_the_reward(
        self, horde: Horde, owner: Account, models: list[str], factor: int
    ) -> None:
        def paid(params: dict[str, Any]) -> tuple[Decimal, Decimal]:
            payer = horde.account(amount=1000)
            answer = horde.ask(payer, models=models, params=params)
            reward = horde.submitted(owner, horde.popped(owner, **ABLE)["id"])
            spent = 1000 - horde.kudos(payer.balance)
            assert answer.json["kudos"] == round(spent) == horde.status(answer.json["id"])["kudos"]
            return spent, Decimal(str(reward))

        plain, reward = paid({})
        for params, extra in (
            ({"loras": [{"name": "1"}] * 5}, 15),
            ({"tis": [{"name": str(number)} for number in range(20)]}, 1),
            ({"loras": [{"name": "1"}], "tis": [{"name": "1"}]}, 4),
        ):
            assert paid(params) == (plain + extra * factor, reward + extra * factor)


SCALARS: list[dict[str, Any]] = [
    {"cfg_scale": 0},
    {"cfg_scale": 12.25},
    {"clip_skip": 12},
    {"tiling": True},
    {"hires_fix": True},
    {"hires_fix": True, "hires_fix_denoising_strength": 0.01},
    {"hires_fix_denoising_strength": 1},
    {"denoising_strength": 0.35},
    {"facefixer_strength": 0},
    {"facefixer_strength": 0.75},
    {"transparent": True},
    {"karras": False},
    {"width": 64, "height": 1024},
    {"return_control_map": True},
    {"image_is_control": True},
]


class TestScalars:
    @pytest.mark.parametrize("params", SCALARS, ids=lambda params: "-".join(params))
    def test_as_they_were_sent(self, horde: Horde, owner: Account, params: dict[str, Any]) -> None:
        payload = passed_on(horde, owner, params)
        assert {name: payload[name] for name in params} == params

    def test_what_was_not_sent_is_not_passed_on(self, horde: Horde, owner: Account) -> None:
        payload = passed_on(horde, owner, {"n": 2, "seed": "1", "seed_variation": 2, "batch_size": 3})
        assert payload.keys() == {
            *("prompt", "seed", "n_iter", "ddim_steps", "sampler_name", "cfg_scale", "karras", "width"),
            *("height", "tiling", "hires_fix", "transparent", "image_is_control", "return_control_map"),
        }
        assert None not in payload.values()

    @pytest.mark.parametrize("sampler", get_args(Sampler))
    def test_samplers(self, horde: Horde, owner: Account, sampler: str) -> None:
        for karras in (True, False):
            params = {"sampler_name": sampler, "steps": 8, "karras": karras}
            payload = passed_on(horde, owner, params)
            assert (payload["sampler_name"], payload["ddim_steps"], payload["karras"]) == (sampler, 8, karras)

    @pytest.mark.parametrize(
        ("nsfw", "censor", "passed"),
        [(True, True, None), (True, False, None), (False, False, None), (False, True, True)],
    )
    def test_the_censor(
        self, horde: Horde, owner: Account, nsfw: bool, censor: bool, passed: bool | None
    ) -> None:
        payload = passed_on(horde, owner, {}, nsfw=nsfw, censor_nsfw=censor)
        assert payload.get("use_nsfw_censor") is passed

    def test_transparent_pictures_are_for_able_workers(self, horde: Horde, owner: Account) -> None:
        horde.asked(params={"transparent": True, "n": 3})
        assert horde.skipped(owner, "old", **ABLE | {"bridge_agent": "AI Horde Worker reGen:7:x"}) == {
            "bridge_version": 1
        }
        job = horde.popped(owner, **ABLE, amount=3, max_pixels=512 * 512)
        assert (job["payload"]["transparent"], len(job["ids"])) == (True, 1)


class TestPostProcessing:
    @pytest.mark.parametrize("name", get_args(PostProcessor))
    def test_each(self, horde: Horde, owner: Account, name: str) -> None:
        assert passed_on(horde, owner, {"post_processing": [name]})["post_processing"] == [name]

    @pytest.mark.parametrize(
        "names",
        [
            ["strip_background", "RealESRGAN_x4plus", "GFPGAN"],
            ["GFPGAN", "RealESRGAN_x4plus", "strip_background"],
            ["RestoreFormer", "GFPGANv1.3", "4xNomos2_hq_dat2", "CodeFormers", "GFPGAN", "strip_background"],
        ],
    )
    def test_in_the_order_in_which_they_were_sent(
        self, horde: Horde, owner: Account, names: list[str]
    ) -> None:
        assert passed_on(horde, owner, {"post_processing": names})["post_processing"] == names

    def test_none(self, horde: Horde, owner: Account) -> None:
        assert "post_processing" not in passed_on(horde, owner, {"post_processing": []})


class TestControl:
    @pytest.mark.parametrize("control", get_args(ControlType))
    def test_each_type(self, horde: Horde, owner: Account, control: str) -> None:
        job = taken(horde, owner, params={"control_type": control}, source_image=PICTURE)
        assert job["payload"]["control_type"] == control
        assert job["payload"]["ddim_steps"] == 20
        assert job["source_image"].startswith("http")

    @pytest.mark.parametrize("name", ["image_is_control", "return_control_map"])
    def test_about_the_map(self, horde: Horde, owner: Account, name: str) -> None:
        params = {"control_type": "depth", "denoising_strength": 0.5, name: True}
        payload = passed_on(horde, owner, params, source_image=PICTURE)
        other = ({"image_is_control", "return_control_map"} - {name}).pop()
        assert (payload[name], payload[other], payload["denoising_strength"]) == (True, False, 0.5)

    @pytest.mark.parametrize(("steps", "run"), [(1, 1), (20, 20), (40, 40), (41, 40), (500, 40)])
    def test_steps_are_few(self, horde: Horde, owner: Account, steps: int, run: int) -> None:
        rich = horde.account(amount=10_000)
        params = {"control_type": "canny", "steps": steps}
        job = taken(horde, owner, rich, params=params, source_image=PICTURE)
        assert job["payload"]["ddim_steps"] == run
        assert job["ttl"] == max(150, 2 * (30 + 2 * run))

    def test_it_is_for_workers_that_offer_it(self, horde: Horde, owner: Account) -> None:
        horde.asked(params={"control_type": "canny"}, source_image=PICTURE)
        assert horde.skipped(owner, **ABLE | {"allow_controlnet": False}) == {"controlnet": 1}
        old = ABLE | {"bridge_agent": "AI Horde Worker:22:x"}
        horde.asked(params={"control_type": "canny", "image_is_control": True}, source_image=PICTURE)
        assert horde.popped(owner, "old", **old)["payload"]["image_is_control"] is False
        assert horde.skipped(owner, "old", **old) == {"bridge_version": 1}


class TestQrCodes:
    def test_texts_are_passed_on_in_order(self, horde: Horde, owner: Account) -> None:
        texts = [
            {"text": "left", "reference": "x_offset"},
            *QR_TEXTS,
            {"text": "2", "reference": "qr_border"},
        ]
        payload = passed_on(horde, owner, {"workflow": "qr_code", "extra_texts": texts})
        assert (payload["workflow"], payload["extra_texts"]) == ("qr_code", texts)

    def test_they_are_made_one_by_one(self, horde: Horde, owner: Account) -> None:
        newcomer = horde.account()
        horde.asked(newcomer, params={"n": 3, "workflow": "qr_code", "extra_texts": QR_TEXTS})
        assert [len(horde.popped(owner, **ABLE, amount=3)["ids"]) for _ in range(3)] == [1, 1, 1]

    def test_with_sdxl_they_are_for_able_workers(self, horde: Horde, owner: Account) -> None:
        params = {"workflow": "qr_code", "extra_texts": QR_TEXTS}
        horde.asked(models=[SDXL], params=params)
        assert horde.skipped(owner, **ABLE | {"allow_sdxl_controlnet": False}) == {"controlnet": 1}
        assert horde.skipped(owner, **ABLE | {"bridge_agent": "AI Horde Worker reGen:6:x"}) == {
            "bridge_version": 1
        }
        assert horde.popped(owner, **ABLE)["model"] == SDXL

    @pytest.mark.parametrize(("models", "factor"), [([MODEL], 1), ([SDXL], 2)])
    def test_with_sdxl_they_cost_double(
        self, horde: Horde, owner: Account, models: list[str], factor: int
    ) -> None:
        def reward(params: dict[str, Any]) -> float:
            return horde.submitted(owner, taken(horde, owner, models=models, params=params)["id"])

        assert reward({"workflow": "qr_code", "extra_texts": QR_TEXTS}) == pytest.approx(
            factor * reward({}), abs=0.011
        )

    @pytest.mark.parametrize(
        ("text", "where"),
        [
            ({"text": "a"}, "reference"),
            ({"reference": "qr_code"}, "text"),
            ({"text": "", "reference": "qr_code"}, "text"),
            ({"text": "a", "reference": "qr"}, "reference"),
        ],
    )
    def test_texts_that_do_not_fit(self, horde: Horde, text: dict[str, str], where: str) -> None:
        response = horde.ask(params={"workflow": "qr_code", "extra_texts": [text]})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {f"params.extra_texts.0.{where}"}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"end": [1, "two", None]}
    for _ in range(depth):
        value = {"in": value}
    return value


class TestSpecial:
    @pytest.fixture
    def artist(self, horde: Horde) -> Account:
        return horde.account(Role.SPECIAL, username="Artist", amount=500)

    @pytest.mark.parametrize(
        "special",
        [
            {"a": {}},
            {"a": {"list": [1, -1.5, None, True, "x", {"y": []}], "": "empty", "ü😀": "\u2028"}},
            {"a": {"big": 2**64 - 1, "small": -(2**63), "float": 1e308, "tiny": 5e-324}},
            {f"key {number}": {"n": number} for number in range(300)},
            {"a": nested(150)},
        ],
        ids=range(5),
    )
    def test_anything_is_passed_on(
        self, horde: Horde, owner: Account, artist: Account, special: dict[str, Any]
    ) -> None:
        assert passed_on(horde, owner, {"special": special}, artist)["special"] == special

    @pytest.mark.parametrize(
        "special",
        [
            '{"a": {"b": 18446744073709551616}}',
            '{"a": {"b": [-9223372036854775809]}}',
            '{"a": {"b": ' + "1" * 5000 + "}}",
            '{"a": {"b": 1e999}}',
            '{"a": {"b": NaN}}',
            '{"a": {"b": "\\ud800"}}',
            '{"a": {"\\ud800": 1}}',
            '{"a": {"b": "\\u0000"}}',
            '{"a": {"\\u0000": 1}}',
            '{"a": 1}',
            '{"a": [{}]}',
            '{"a": null}',
            "[]",
            '{"a": ' + '{"b": ' * 2000 + "1" + "}" * 2000 + "}",
            '{"a": {"b": ' + "[" * 100_000 + "]" * 100_000 + "}}",
        ],
        ids=range(15),
    )
    def test_what_cannot_be_kept_is_refused(self, horde: Horde, artist: Account, special: str) -> None:
        body = json.dumps({"prompt": "x", "params": {"special": "HERE"}}).replace('"HERE"', special)
        with unchanged(horde.platform):
            response = horde.call(
                "POST", "/generate/async", artist, data=body, content_type="application/json"
            )
        assert response.status_code == 400, response.json
        assert response.json["message"]
        assert response.json["rc"]

    def test_nobody_else_may_send_it(self, horde: Horde, owner: Account) -> None:
        with unchanged(horde.platform):
            response = horde.ask(owner, params={"special": {"a": {}}})
            assert_refused(response, 400, "SpecialFieldNeedsSpecialUser", "special")
        assert "special" not in passed_on(horde, owner, {"special": {}})
