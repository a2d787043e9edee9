"""Requests that need kudos upfront: refused with the true limits, or reduced to what is free on request."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from horde.kudos import service as ledger
from horde.settings import ROOT
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    PICTURE,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_refused,
    change,
    forget,
    in_threads,
    scalar,
    unchanged,
)

LIGHTNING, SD2 = "DreamShaper XL", "stable_diffusion_2.1"
MODELS = [MODEL, SDXL, CASCADE, FLUX, LIGHTNING, SD2]
LARGE = {"width": 2048, "height": 1024}
NEEDS_ALL = {"slow_workers": False, "params": LARGE | {"steps": 60}}
LCM_LORA = {"loras": [{"name": "195519"}]}
CONTROL = {"control_type": "canny"}


@pytest.fixture
def poor(horde: Horde) -> Account:
    """Somebody who cannot pay for anything upfront."""
    return horde.account(amount=15, username="Poor")


@pytest.fixture
def worker(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Worker")


def popped(horde: Horde, worker: Account, **fields: Any) -> dict[str, Any]:
    """A job of a worker that can do everything."""
    able = {"allow_controlnet": True, "allow_lora": True, "models": MODELS}
    return horde.popped(worker, **able | fields)


def crowd(horde: Horde, images: int) -> None:
    """Let so many images wait, of a model that nobody has."""
    for _ in range(images // 20):
        horde.asked(models=["nobody has it"], params={"n": 20, "width": 64, "height": 64})
    forget(horde.platform)


def reservations(horde: Horde) -> int:
    return int(scalar(horde.platform, "SELECT count(*) FROM reservations"))


class TestReduced:
    def test_what_is_told_is_what_the_worker_gets(self, horde: Horde, poor: Account, worker: Account) -> None:
        answer = horde.ask(poor, allow_downgrade=True, **NEEDS_ALL).json
        assert answer["downgraded"] == {"width": 1408, "height": 704, "steps": 40, "slow_workers": True}
        for words in ("1408x704 instead of 2048x1024", "40 instead of 60 steps", "slow workers"):
            assert words in answer["message"]
        horde.pop(worker, models=["none of these"])
        change(horde.platform, "UPDATE workers SET speed = 1000")
        payload = popped(horde, worker)["payload"]
        assert (payload["width"], payload["height"], payload["ddim_steps"]) == (1408, 704, 40)

    def test_it_costs_what_the_reduced_one_costs(self, horde: Horde, poor: Account, worker: Account) -> None:
        answer = horde.ask(poor, allow_downgrade=True, **NEEDS_ALL).json
        reduced = {"width": 1408, "height": 704, "steps": 40}
        assert answer["kudos"] == horde.ask(dry_run=True, params=reduced).json["kudos"]
        assert answer["kudos"] < horde.ask(dry_run=True, **NEEDS_ALL).json["kudos"]
        assert reservations(horde) == 0
        horde.submitted(worker, popped(horde, worker)["id"])
        ledger.fold_all(horde.platform)
        # The books make good what an account cannot pay, so the bill is read where it was written.
        assert horde.status(answer["id"])["kudos"] == answer["kudos"]
        assert_books_balance(horde.platform)

    def test_size_and_work_are_those_of_the_reduced_one(
        self, horde: Horde, poor: Account, worker: Account
    ) -> None:
        horde.pop(worker)
        forget(horde.platform)
        plain = horde.asked(poor, params={"width": 1408, "height": 704, "steps": 40})
        horde.cancel(plain)
        reduced = horde.asked(poor, allow_downgrade=True, **NEEDS_ALL)
        columns = "things, size, ttl, price, lanes"
        with horde.platform.read() as db:
            first, second = db.exec_driver_sql(f"SELECT {columns} FROM requests ORDER BY created").all()
        assert first == second
        forget(horde.platform)
        waits = horde.check(reduced)["wait_time"]
        horde.cancel(reduced)
        forget(horde.platform)
        again = horde.asked(poor, params={"width": 1408, "height": 704, "steps": 40})
        assert horde.check(again)["wait_time"] == waits

    def test_a_worker_that_could_not_make_the_large_one_gets_it(
        self, horde: Horde, poor: Account, worker: Account
    ) -> None:
        horde.asked(poor, allow_downgrade=True, params=LARGE)
        assert popped(horde, worker, max_pixels=1408 * 704)["id"]

    def test_it_keeps_its_place(self, horde: Horde, poor: Account) -> None:
        reduced = horde.asked(poor, allow_downgrade=True, **NEEDS_ALL)
        other = horde.asked(horde.account(amount=10))
        forget(horde.platform)
        assert horde.check(reduced)["queue_position"] < horde.check(other)["queue_position"]

    def test_all_images_are(self, horde: Horde, poor: Account, worker: Account) -> None:
        horde.asked(poor, allow_downgrade=True, params={"n": 3, "steps": 100})
        for _ in range(3):
            assert popped(horde, worker)["payload"]["ddim_steps"] == 40

    def test_anonymous_too(self, horde: Horde, worker: Account) -> None:
        change(horde.platform, "UPDATE accounts SET balance = -50 WHERE id = 3")
        change(horde.platform, "UPDATE accounts SET balance = balance + 50 WHERE id = 1")
        assert horde.ask(allow_downgrade=True, **NEEDS_ALL).json["downgraded"]["steps"] == 40
        assert popped(horde, worker)["payload"]["width"] == 1408

    def test_pictures_stay_with_it(self, horde: Horde, poor: Account, worker: Account) -> None:
        answer = horde.ask(poor, allow_downgrade=True, source_image=PICTURE, params=LARGE).json
        assert answer["downgraded"]["width"] == 1408
        assert popped(horde, worker)["source_image"]

    def test_only_what_must_be_changes(self, horde: Horde, poor: Account) -> None:
        for fields, changed in (
            ({"slow_workers": False}, {}),
            ({"params": LARGE}, {"width": 1408, "height": 704}),
            ({"params": {"steps": 41}}, {"steps": 40}),
            ({"params": {"steps": 25, "sampler_name": "k_heun"}}, {"steps": 20}),
        ):
            same = {"width": 512, "height": 512, "steps": 30, "slow_workers": True}
            answer = horde.ask(poor, allow_downgrade=True, **fields).json
            assert answer["downgraded"] == same | changed
            assert ("pixels" in answer["message"]) == ("width" in changed)
            assert ("steps" in answer["message"]) == ("steps" in changed)
            assert ("slow workers" in answer["message"]) == ("slow_workers" in fields)


class TestFreeSteps:
    @pytest.mark.parametrize(
        ("fields", "params", "steps"),
        [
            ({}, {"steps": 500}, 40),
            ({}, {"steps": 100, "sampler_name": "k_dpmpp_sde"}, 20),
            ({"source_image": PICTURE}, CONTROL | {"steps": 40}, 20),
            ({"source_image": PICTURE}, CONTROL | {"steps": 40, "sampler_name": "k_heun"}, 10),
            ({}, {"steps": 30, "sampler_name": "lcm"}, 10),
            ({}, LCM_LORA | {"steps": 30}, 10),
            ({}, LCM_LORA | {"steps": 30, "sampler_name": "k_heun"}, 5),
            ({"source_image": PICTURE}, CONTROL | {"sampler_name": "lcm"}, 10),
            ({"models": [FLUX], "model_requirements": "warn"}, {"steps": 50, "sampler_name": "k_euler"}, 8),
            ({"models": [CASCADE], "model_requirements": "warn"}, {"steps": 50}, 30),
            ({"models": [LIGHTNING], "model_requirements": "warn"}, {"steps": 50}, 12),
        ],
    )
    def test_as_many_as_are_free_stay(
        self,
        horde: Horde,
        poor: Account,
        worker: Account,
        fields: dict[str, Any],
        params: dict[str, Any],
        steps: int,
    ) -> None:
        answer = horde.ask(poor, allow_downgrade=True, params=params, **fields).json
        assert answer["downgraded"] == {"width": 512, "height": 512, "steps": steps, "slow_workers": True}
        assert popped(horde, worker)["payload"]["ddim_steps"] == steps
        # The same without a downgrade: it is free indeed, and one step more is not.
        for more in (0, 1):
            again = horde.ask(poor, params=params | {"steps": steps + more}, **fields)
            assert again.status_code == (403 if more else 202), again.json

    def test_each_model_keeps_as_many_as_are_free_with_it(
        self, horde: Horde, poor: Account, worker: Account
    ) -> None:
        fields: dict[str, Any] = {"models": [MODEL, CASCADE], "model_requirements": "warn"}
        answer = horde.ask(poor, allow_downgrade=True, params={"n": 2, "steps": 100}, **fields).json
        assert answer["downgraded"]["steps"] == 40
        for model, steps in ((CASCADE, 30), (MODEL, 40)):
            assert popped(horde, worker, models=[model])["payload"]["ddim_steps"] == steps

    def test_what_models_correct_needs_no_kudos(self, horde: Horde, poor: Account) -> None:
        answer = horde.ask(poor, models=[FLUX, CASCADE, LIGHTNING], params={"steps": 100}).json
        assert "downgraded" not in answer
        assert {warning["code"] for warning in answer["warnings"]} >= {"StepsTooMany"}

    def test_without_a_model_any_number_is_free(self, horde: Horde, poor: Account, worker: Account) -> None:
        answer = horde.ask(poor, models=[], allow_downgrade=True, params=LARGE | {"steps": 100}).json
        assert answer["downgraded"] == {"width": 1408, "height": 704, "steps": 100, "slow_workers": True}
        assert popped(horde, worker, models=[MODEL])["payload"]["ddim_steps"] == 100

    def test_a_sampler_that_chooses_its_steps_keeps_them(
        self, horde: Horde, poor: Account, worker: Account
    ) -> None:
        adaptive = {"sampler_name": "k_dpm_adaptive", "steps": 100}
        horde.asked(poor, params=adaptive)
        assert popped(horde, worker)["payload"]["ddim_steps"] == 100
        answer = horde.ask(poor, allow_downgrade=True, params=adaptive | LARGE).json
        assert answer["downgraded"] == {"width": 1408, "height": 704, "steps": 100, "slow_workers": True}
        payload = popped(horde, worker)["payload"]
        assert (payload["ddim_steps"], payload["sampler_name"]) == (100, "k_dpm_adaptive")


class TestFreeSize:
    @pytest.mark.parametrize(
        ("images", "model", "size"),
        [
            (0, MODEL, (1024, 1024)),
            (100, MODEL, (896, 896)),
            (500, MODEL, (576, 576)),
            (500, SD2, (768, 768)),
            (500, SDXL, (1024, 1024)),
            (500, CASCADE, (1024, 1024)),
            (500, FLUX, (1024, 1024)),
            (500, "a model [Qwen]", (1024, 1024)),
            (500, "a model [ZImage]", (1024, 1024)),
        ],
    )
    def test_the_longer_the_queue_the_smaller(
        self, horde: Horde, poor: Account, images: int, model: str, size: tuple[int, int]
    ) -> None:
        crowd(horde, images)
        answer = horde.ask(
            poor, models=[model], allow_downgrade=True, params={"width": 2048, "height": 2048}
        ).json
        assert (answer["downgraded"]["width"], answer["downgraded"]["height"]) == size
        horde.cancel(answer["id"])
        forget(horde.platform)
        again = horde.ask(poor, models=[model], params={"width": size[0], "height": size[1]})
        assert again.status_code == 202

    def test_extreme_shapes_become_squares_rather_than_stripes(self, horde: Horde, poor: Account) -> None:
        crowd(horde, 500)
        params = {"width": 3072, "height": 128}
        answer = horde.ask(poor, allow_downgrade=True, params=params).json
        assert (answer["downgraded"]["width"], answer["downgraded"]["height"]) in ((512, 512), (2560, 128))

    def test_workers_that_are_online_make_room(self, horde: Horde, poor: Account, worker: Account) -> None:
        crowd(horde, 100)
        params = {"width": 1024, "height": 1024}
        assert_refused(horde.ask(poor, params=params), 403, "KudosUpfront", "934x934")
        for number in range(2):
            horde.pop(worker, f"worker {number}", threads=5)
        forget(horde.platform)
        horde.asked(poor, params=params)


class TestNotReduced:
    def test_those_who_can_pay(self, horde: Horde, worker: Account) -> None:
        rich = horde.account(amount=1000)
        answer = horde.ask(rich, allow_downgrade=True, **NEEDS_ALL).json
        assert "downgraded" not in answer
        assert "reduced" not in answer.get("message", "")
        reserved = scalar(horde.platform, "SELECT remaining FROM reservations")
        assert round(reserved) == answer["kudos"] == horde.ask(rich, dry_run=True, **NEEDS_ALL).json["kudos"]
        payload = popped(horde, worker)["payload"]
        assert (payload["width"], payload["height"], payload["ddim_steps"]) == (2048, 1024, 60)

    @pytest.mark.parametrize(
        "params", [{}, {"width": 1024, "height": 1024}, {"width": 3072, "height": 320}, {"steps": 40}]
    )
    def test_what_is_free(self, horde: Horde, poor: Account, params: dict[str, Any]) -> None:
        answer = horde.ask(poor, allow_downgrade=True, params=params).json
        assert "downgraded" not in answer
        assert reservations(horde) == 0

    def test_the_quote_is_for_all_of_it(self, horde: Horde, poor: Account) -> None:
        rich = horde.account(amount=1000)
        with unchanged(horde.platform):
            quotes = {
                horde.ask(key, dry_run=True, allow_downgrade=allow, **NEEDS_ALL).json["kudos"]
                for key in (poor, rich, ANONYMOUS_KEY)
                for allow in (True, False)
            }
        assert len(quotes) == 1

    @pytest.mark.parametrize(
        ("fields", "params", "words"),
        [
            (
                {"models": [CASCADE]},
                {"sampler_name": "lcm", "steps": 25},
                ("25 steps where 10 are free", "cannot be reduced"),
            ),
            (
                {"models": [MODEL, CASCADE], "slow_workers": False},
                LCM_LORA | {"steps": 30},
                ("slow_workers", "30 steps where 10 are free", "cannot be reduced"),
            ),
            (
                {"source_image": PICTURE},
                CONTROL | {"sampler_name": "k_dpm_adaptive"},
                ("40 steps where 20 are free", "cannot be reduced"),
            ),
            (
                {},
                LCM_LORA | LARGE | {"sampler_name": "k_dpm_adaptive", "steps": 1},
                ("2048x1024", "1024x1024", "40 steps where 10 are free", "cannot be reduced"),
            ),
        ],
    )
    def test_what_cannot_be(
        self,
        horde: Horde,
        poor: Account,
        fields: dict[str, Any],
        params: dict[str, Any],
        words: tuple[str, ...],
    ) -> None:
        with unchanged(horde.platform):
            response = horde.ask(poor, allow_downgrade=True, params=params, **fields)
            assert_refused(response, 403, "KudosUpfront", *words, "kudos")
        horde.asked(horde.account(amount=1000), allow_downgrade=True, params=params, **fields)

    def test_what_was_not_allowed_to_be(self, horde: Horde, poor: Account) -> None:
        crowd(horde, 100)
        with unchanged(horde.platform):
            for fields in ({}, {"allow_downgrade": False}):
                response = horde.ask(poor, **NEEDS_ALL, **fields)
                assert_refused(
                    response,
                    403,
                    "KudosUpfront",
                    "slow_workers",
                    "2048x1024 is larger than the 934x934 pixels",
                    "60 steps where 40 are free",
                    "allow_downgrade",
                )
        price = horde.ask(poor, dry_run=True, **NEEDS_ALL).json["kudos"]
        told = Decimal(response.json["message"].split(" kudos")[0].rsplit(" ", 1)[1])
        assert round(told) == price


@pytest.fixture(scope="module")
def module_informed(shared_horde: Horde, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Horde]:
    reference = orjson.loads((ROOT / "config" / "models" / "image.json").read_bytes())
    for name, requirements in (
        ("thorough", {"min_steps": 60}),
        ("patient", {"min_steps": 30, "max_steps": 60}),
    ):
        reference[name] = reference[MODEL] | {"name": name, "requirements": requirements}
    path: Path = tmp_path_factory.mktemp("reference") / "image.json"
    path.write_bytes(orjson.dumps(reference))
    with another_process(shared_horde, model_reference_image=str(path)) as process:
        yield process


@pytest.fixture
def informed(horde: Horde, module_informed: Horde) -> Horde:
    """A process that knows a model for which 60 steps are the least, and one for which they are the most."""
    forget(module_informed.platform)
    return module_informed


class TestLeastSteps:
    def test_a_model_that_needs_more_than_is_free_must_be_paid_for(
        self, informed: Horde, poor: Account
    ) -> None:
        for fields in ({"models": ["thorough"]}, {"models": [MODEL, "thorough"]}):
            with unchanged(informed.platform):
                response = informed.ask(poor, allow_downgrade=True, **fields)
                assert_refused(
                    response, 403, "KudosUpfront", "60 steps where 40 are free", "cannot be reduced"
                )
        informed.asked(informed.account(amount=1000), models=["thorough"])

    def test_those_who_only_want_a_warning_are_reduced_below_that(
        self, informed: Horde, poor: Account, worker: Account
    ) -> None:
        fields: dict[str, Any] = {"models": ["thorough"], "model_requirements": "warn"}
        answer = informed.ask(poor, allow_downgrade=True, params={"steps": 60}, **fields).json
        assert answer["downgraded"]["steps"] == 40
        assert popped(informed, worker, models=["thorough"])["payload"]["ddim_steps"] == 40

    def test_the_models_own_maximum_is_free(self, informed: Horde, poor: Account, worker: Account) -> None:
        informed.asked(poor, models=["patient"], params={"steps": 60})
        assert popped(informed, worker, models=["patient"])["payload"]["ddim_steps"] == 60
        params = LARGE | {"steps": 100, "sampler_name": "k_heun"}
        answer = informed.ask(poor, models=["patient"], allow_downgrade=True, params=params).json
        assert answer["downgraded"] == {"width": 1408, "height": 704, "steps": 30, "slow_workers": True}

    def test_reduced_to_the_least_and_no_further(self, informed: Horde, poor: Account) -> None:
        params = LCM_LORA | {"steps": 40}
        response = informed.ask(poor, models=["patient"], allow_downgrade=True, params=params)
        assert_refused(response, 403, "KudosUpfront", "40 steps where 10 are free")


def test_the_kudos_that_several_count_on_at_once_pay_for_one(horde: Horde) -> None:
    """All others are reduced, as if they had come a moment later."""
    cost = horde.ask(dry_run=True, **NEEDS_ALL).json["kudos"]
    payer = horde.account(amount=14 + round(1.5 * cost))

    def ask(number: int) -> dict[str, Any]:
        caller = Horde(horde.client.application.test_client(), horde.platform)
        address = f"192.0.2.{number}"
        horde.platform.cache.set(f"relaxed:{address}", 1)
        body = {"prompt": "a fox", "allow_downgrade": True, **NEEDS_ALL}
        values = {"json": body, "environ_base": {"REMOTE_ADDR": address}}
        return dict(caller.call("POST", "/generate/async", payer, **values).json)

    answers = in_threads(8, ask)
    assert all("id" in answer for answer in answers), answers
    assert sum("downgraded" not in answer for answer in answers) == 1
    assert reservations(horde) == 1
