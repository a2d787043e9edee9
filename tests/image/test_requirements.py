"""What models ask of settings, and what becomes of settings that do not fit."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.image.requirements import SAMPLERS, Settings, fit
from horde.model_reference.schemas import Requirements

ORDINARY = Settings(steps=30, cfg_scale=5.0, sampler="k_euler_a", karras=True, clip_skip=1)

settings = st.builds(
    Settings,
    steps=st.integers(1, 500),
    cfg_scale=st.integers(0, 10_000).map(lambda hundredths: hundredths / 100),
    sampler=st.sampled_from(SAMPLERS),
    karras=st.booleans(),
    clip_skip=st.integers(1, 12),
)
steps = st.none() | st.integers(1, 500)
cfg = st.none() | st.integers(0, 100).map(float)


@st.composite
def requirements(draw: st.DrawFn) -> Requirements:
    least_steps, most_steps = draw(steps), draw(steps)
    if least_steps and most_steps:
        least_steps, most_steps = sorted((least_steps, most_steps))
    least_cfg, most_cfg = draw(cfg), draw(cfg)
    if least_cfg is not None and most_cfg is not None:
        least_cfg, most_cfg = sorted((least_cfg, most_cfg))
    return Requirements(
        min_steps=least_steps,
        max_steps=most_steps,
        min_cfg_scale=least_cfg,
        max_cfg_scale=most_cfg,
        clip_skip=draw(st.none() | st.integers(1, 12)),
        samplers=tuple(draw(st.lists(st.sampled_from(SAMPLERS), max_size=3))),
        schedulers=tuple(draw(st.lists(st.sampled_from(["karras", "simple"]), max_size=2))),
    )


@given(settings, requirements())
def test_what_was_fitted_fits(asked: Settings, needed: Requirements) -> None:
    fitted, found = fit(asked, needed)
    again, left = fit(fitted, needed)
    assert (again, left) == (fitted, [])
    assert bool(found) == (fitted != asked)


@given(settings, requirements())
def test_only_what_did_not_fit_is_moved_and_no_further_than_needed(
    asked: Settings, needed: Requirements
) -> None:
    fitted, found = fit(asked, needed)
    fields = {mismatch.field for mismatch in found}
    for field, name in (
        ("steps", "steps"),
        ("cfg_scale", "cfg_scale"),
        ("clip_skip", "clip_skip"),
        ("sampler_name", "sampler"),
        ("karras", "karras"),
    ):
        assert (getattr(fitted, name) != getattr(asked, name)) == (field in fields)
    if "steps" in fields:
        assert fitted.steps in (needed.min_steps, needed.max_steps)
    if "cfg_scale" in fields:
        assert fitted.cfg_scale in (needed.min_cfg_scale, needed.max_cfg_scale)


@pytest.mark.parametrize(
    ("needed", "code", "field", "new", "words"),
    [
        ({"clip_skip": 2}, "ClipSkipMismatch", "clip_skip", 2, "from 1 to 2"),
        ({"min_steps": 40}, "StepsTooFew", "steps", 40, "at least 40"),
        ({"max_steps": 8}, "StepsTooMany", "steps", 8, "at most 8"),
        ({"cfg_scale": 2.0}, "CfgScaleMismatch", "cfg_scale", 2.0, "from 5 to 2"),
        ({"min_cfg_scale": 6.5}, "CfgScaleTooSmall", "cfg_scale", 6.5, "at least 6.5"),
        ({"max_cfg_scale": 4.0}, "CfgScaleTooLarge", "cfg_scale", 4.0, "at most 4"),
        ({"samplers": ("DDIM", "lcm")}, "SamplerMismatch", "sampler_name", "DDIM", "DDIM or lcm"),
        ({"schedulers": ("simple",)}, "SchedulerMismatch", "karras", False, "scheduler simple"),
    ],
)
def test_each_mismatch(needed: dict[str, Any], code: str, field: str, new: Any, words: str) -> None:
    _, (mismatch,) = fit(ORDINARY, Requirements(**needed))
    assert (mismatch.code, mismatch.field, mismatch.new) == (code, field, new)
    corrected, kept = mismatch.warning("M", "correct"), mismatch.warning("M", "warn")
    assert words in corrected
    assert "'M'" in corrected
    assert "was changed" in corrected
    assert "was changed" not in kept


def test_a_setting_that_this_horde_cannot_give_stays_and_is_told() -> None:
    fitted, found = fit(ORDINARY, Requirements(samplers=("uni_pc",), schedulers=("exponential",)))
    assert fitted == ORDINARY
    assert [mismatch.code for mismatch in found] == ["SamplerMismatch", "SchedulerMismatch"]
    assert all("was changed" not in mismatch.warning("M", "correct") for mismatch in found)


def test_the_first_sampler_that_the_horde_knows_is_taken() -> None:
    fitted, _ = fit(ORDINARY, Requirements(samplers=("uni_pc", "k_heun")))
    assert fitted.sampler == "k_heun"


def test_the_nearest_sampler_takes_as_much_work() -> None:
    """A model that lists a sampler of double steps first does not make a request twice as dear."""
    needed = Requirements(samplers=("k_heun", "k_dpmpp_sde", "k_euler_a", "k_euler"))
    assert fit(replace(ORDINARY, sampler="DDIM"), needed)[0].sampler == "k_euler_a"
    assert fit(replace(ORDINARY, sampler="k_dpm_2"), needed)[0].sampler == "k_heun"
