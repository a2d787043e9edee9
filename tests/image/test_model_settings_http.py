"""Models get settings that suit them: corrected, warned of or refused, and paid for as they run."""

from decimal import Decimal
from typing import Any

import pytest

from horde.users.rules import Role
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    Account,
    Horde,
    another_process,
    assert_refused,
    scalar,
    unchanged,
)

LIGHTNING, PONY = "DreamShaper XL", "Pony Diffusion XL"
SETTINGS = ("ddim_steps", "cfg_scale", "sampler_name", "karras", "clip_skip")
LIGHTNING_GETS = {"ddim_steps": 6, "cfg_scale": 2.0, "sampler_name": "k_dpmpp_sde", "karras": True}
OUT_OF_BOUNDS = {"steps": 50, "cfg_scale": 9, "sampler_name": "DDIM", "karras": False, "clip_skip": 3}


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture
def rich(horde: Horde) -> Account:
    """Somebody who can pay for everything upfront."""
    return horde.account(amount=100_000, username="Rich")


def warnings_of(answer: dict[str, Any]) -> dict[str, str]:
    """The warnings about settings by code."""
    return {
        warning["code"]: warning["message"]
        for warning in answer.get("warnings", [])
        if warning["code"] != "NoAvailableWorker"
    }


def settings_of(job: dict[str, Any]) -> dict[str, Any]:
    return {name: job["payload"][name] for name in SETTINGS if name in job["payload"]}


class TestCorrect:
    def test_what_was_left_out_takes_the_models_values(
        self, horde: Horde, owner: Account, rich: Account
    ) -> None:
        answer = horde.ask(rich, models=[LIGHTNING]).json
        assert set(warnings_of(answer)) == {"StepsTooMany", "CfgScaleMismatch", "SamplerMismatch"}
        assert settings_of(horde.popped(owner, models=[LIGHTNING])) == LIGHTNING_GETS

    def test_what_does_not_fit_is_moved_to_the_nearest_and_told(
        self, horde: Horde, owner: Account, rich: Account
    ) -> None:
        answer = horde.ask(rich, models=[FLUX], params=OUT_OF_BOUNDS).json
        told = warnings_of(answer)
        assert set(told) == {
            "StepsTooMany",
            "CfgScaleTooLarge",
            "SamplerMismatch",
            "SchedulerMismatch",
            "ClipSkipMismatch",
        }
        assert "steps was changed from 50 to 8" in told["StepsTooMany"]
        assert "cfg_scale was changed from 9 to 4" in told["CfgScaleTooLarge"]
        assert "DDIM to k_euler" in told["SamplerMismatch"]
        assert "karras was changed from false to true" in told["SchedulerMismatch"]
        assert "clip_skip was changed from 3 to 1" in told["ClipSkipMismatch"]
        job = horde.popped(owner, models=[FLUX])
        assert settings_of(job) == {
            "ddim_steps": 8,
            "cfg_scale": 4.0,
            "sampler_name": "k_euler",
            "karras": True,
            "clip_skip": 1,
        }

    def test_too_little_is_raised(self, horde: Horde, owner: Account) -> None:
        answer = horde.ask(models=[CASCADE], params={"steps": 5}).json
        assert "from 5 to 20" in warnings_of(answer)["StepsTooFew"]
        assert horde.popped(owner, models=[CASCADE])["payload"]["ddim_steps"] == 20

    def test_what_fits_stays_and_nothing_is_told(self, horde: Horde, owner: Account) -> None:
        params = {"steps": 5, "cfg_scale": 2, "sampler_name": "k_dpmpp_sde", "karras": True}
        answer = horde.ask(models=[LIGHTNING], params=params).json
        assert warnings_of(answer) == {}
        assert horde.popped(owner, models=[LIGHTNING])["payload"]["ddim_steps"] == 5

    def test_models_that_disagree_each_get_their_own(
        self, horde: Horde, owner: Account, rich: Account
    ) -> None:
        names = [MODEL, LIGHTNING, PONY]
        answer = horde.ask(rich, models=names, params={"n": 3, "steps": 30, "cfg_scale": 7}).json
        assert set(warnings_of(answer)) == {
            "StepsTooMany",
            "CfgScaleMismatch",
            "SamplerMismatch",
            "ClipSkipMismatch",
        }
        plain = {"ddim_steps": 30, "cfg_scale": 7.0, "sampler_name": "k_euler_a", "karras": True}
        got = {name: settings_of(horde.popped(owner, "w", models=[name])) for name in names}
        assert got == {MODEL: plain, LIGHTNING: LIGHTNING_GETS, PONY: plain | {"clip_skip": 2}}

    def test_each_job_is_paid_for_as_it_ran(self, horde: Horde, owner: Account, rich: Account) -> None:
        request = horde.asked(rich, models=[MODEL, LIGHTNING], params={"n": 2, "steps": 200})
        paid = []
        for name in (MODEL, LIGHTNING):
            alone = {"models": [name], "params": {"steps": 200}, "dry_run": True}
            quoted = horde.ask(rich, **alone).json["kudos"]
            before = horde.check(request)["kudos"]
            horde.submitted(owner, horde.popped(owner, "w", models=[name])["id"])
            paid.append(horde.check(request)["kudos"] - before)
            assert paid[-1] == pytest.approx(quoted - 1, abs=1.01)
        assert paid[0] != pytest.approx(paid[1], abs=3)

    def test_the_quote_is_for_the_dearest(self, horde: Horde, rich: Account) -> None:
        def quoted(*names: str) -> float:
            return float(horde.ask(rich, models=names, params={"steps": 200}, dry_run=True).json["kudos"])

        assert quoted(MODEL, LIGHTNING) == quoted(LIGHTNING, MODEL) == max(quoted(MODEL), quoted(LIGHTNING))

    def test_workers_must_be_able_to_do_what_was_corrected(
        self, horde: Horde, owner: Account, rich: Account
    ) -> None:
        horde.asked(rich, models=[LIGHTNING])
        old = {"models": [LIGHTNING], "bridge_agent": "unknown:0:unknown"}
        assert "bridge_version" in horde.skipped(owner, "old", **old)

    def test_any_model_gets_the_settings_of_the_one_that_the_worker_has(
        self, horde: Horde, owner: Account
    ) -> None:
        horde.asked(models=[], params={"n": 2, "steps": 20})
        assert settings_of(horde.popped(owner, "w", models=[LIGHTNING])) == LIGHTNING_GETS
        assert horde.popped(owner, "w", models=[MODEL])["payload"]["ddim_steps"] == 20

    def test_any_model_is_paid_for_as_it_ran(self, horde: Horde, owner: Account) -> None:
        request = horde.asked(models=[], params={"steps": 20})
        before = horde.check(request)["kudos"]
        horde.submitted(owner, horde.popped(owner, "w", models=[LIGHTNING])["id"])
        quoted = horde.ask(models=[LIGHTNING], dry_run=True).json["kudos"]
        assert horde.check(request)["kudos"] - before == pytest.approx(quoted - 1, abs=1.01)

    def test_any_model_but_none_of_another_kind_than_the_request_needs(
        self, horde: Horde, owner: Account
    ) -> None:
        horde.asked(models=[], params={"hires_fix": True})
        assert horde.pop(owner, "w", models=[FLUX]).json["ids"] == []
        assert horde.popped(owner, "w", models=[FLUX, MODEL])["model"] == MODEL

    def test_the_request_holds_the_work_of_the_largest_job(self, horde: Horde, rich: Account) -> None:
        request = horde.asked(rich, models=[LIGHTNING, MODEL], params={"steps": 100})
        things = scalar(horde.platform, "SELECT things FROM requests WHERE id = :id", id=request)
        assert things == 512 * 512 * 100


class TestWarn:
    def test_nothing_is_changed(self, horde: Horde, owner: Account, rich: Account) -> None:
        answer = horde.ask(rich, models=[FLUX], params=OUT_OF_BOUNDS, model_requirements="warn").json
        told = warnings_of(answer)
        assert set(told) == {
            "StepsTooMany",
            "CfgScaleTooLarge",
            "SamplerMismatch",
            "SchedulerMismatch",
            "ClipSkipMismatch",
        }
        assert all("changed" not in message for message in told.values())
        job = horde.popped(owner, models=[FLUX])
        assert settings_of(job) == {
            "ddim_steps": 50,
            "cfg_scale": 9.0,
            "sampler_name": "DDIM",
            "karras": False,
            "clip_skip": 3,
        }

    @pytest.mark.parametrize(
        ("model", "params", "code"),
        [
            (PONY, {}, "ClipSkipMismatch"),
            (CASCADE, {"steps": 19}, "StepsTooFew"),
            (CASCADE, {"steps": 31}, "StepsTooMany"),
            (LIGHTNING, {"steps": 6, "sampler_name": "k_dpmpp_sde"}, "CfgScaleMismatch"),
            (FLUX, {"steps": 4, "sampler_name": "k_euler", "cfg_scale": 0.5}, "CfgScaleTooSmall"),
            (FLUX, {"steps": 4, "sampler_name": "k_euler"}, "CfgScaleTooLarge"),
            (FLUX, {"steps": 4, "cfg_scale": 2}, "SamplerMismatch"),
            (
                FLUX,
                {"steps": 4, "cfg_scale": 2, "sampler_name": "k_euler", "karras": False},
                "SchedulerMismatch",
            ),
        ],
    )
    def test_each_code(
        self, horde: Horde, rich: Account, model: str, params: dict[str, Any], code: str
    ) -> None:
        answer = horde.ask(rich, models=[model], params=params, model_requirements="warn").json
        assert set(warnings_of(answer)) == {code}

    def test_the_steps_that_control_leaves_are_what_counts(self, horde: Horde, rich: Account) -> None:
        # 100 steps are cut to 40 by the control type; no model of the starter reference minds.
        params = {"control_type": "canny", "steps": 100}
        fields = {"models": [MODEL], "params": params, "dry_run": True, "source_image": "x"}
        capped = horde.ask(rich, **fields).json["kudos"]
        fields["params"] = params | {"steps": 40}
        assert horde.ask(rich, **fields).json["kudos"] == capped


class TestReject:
    def test_the_first_mismatch_gives_the_code_and_the_message_names_all(
        self, horde: Horde, rich: Account
    ) -> None:
        with unchanged(horde.platform):
            response = horde.ask(rich, models=[FLUX], params=OUT_OF_BOUNDS, model_requirements="reject")
        assert_refused(
            response,
            400,
            "ClipSkipMismatch",
            "clip_skip",
            "steps",
            "cfg_scale",
            "sampler_name",
            "karras",
            FLUX,
        )

    def test_what_fits_is_taken(self, horde: Horde) -> None:
        params = {"steps": 4, "cfg_scale": 2, "sampler_name": "k_euler"}
        assert warnings_of(horde.ask(models=[FLUX], params=params, model_requirements="reject").json) == {}

    def test_a_dry_run_is_refused_too(self, horde: Horde) -> None:
        response = horde.ask(models=[PONY], model_requirements="reject", dry_run=True)
        assert_refused(response, 400, "ClipSkipMismatch", "clip_skip is 1", "needs 2")


class TestOperatorsChoice:
    @pytest.mark.parametrize("policy", ["warn", "reject"])
    def test_it_holds_when_the_request_says_nothing(self, horde: Horde, policy: str) -> None:
        with another_process(horde, model_requirements=policy) as other:
            response = other.ask(models=[PONY])
            if policy == "reject":
                assert_refused(response, 400, "ClipSkipMismatch")
            else:
                assert "changed" not in warnings_of(response.json)["ClipSkipMismatch"]

    def test_the_request_may_choose_otherwise(self, horde: Horde, owner: Account) -> None:
        with another_process(horde, model_requirements="reject") as other:
            other.asked(models=[PONY], model_requirements="correct")
        assert horde.popped(owner, models=[PONY])["payload"]["clip_skip"] == 2

    def test_an_unknown_policy_is_no_policy(self, horde: Horde) -> None:
        response = horde.ask(models=[PONY], model_requirements="ignore")
        assert response.status_code == 400
        assert "model_requirements" in response.json["errors"]


def test_books_hold_two_decimals_whatever_the_model(horde: Horde, owner: Account, rich: Account) -> None:
    horde.asked(rich, models=[LIGHTNING], params={"n": 2})
    job = horde.popped(owner, models=[LIGHTNING], amount=2)
    rewards = [horde.submitted(owner, each) for each in job["ids"]]
    assert all(Decimal(str(reward)).as_tuple().exponent >= -2 for reward in rewards)
