"""What is free of upfront kudos, and how requests are reduced to that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.image.requirements import SAMPLERS
from horde.image.upfront import (
    Demand,
    Load,
    downgraded_size,
    downgraded_steps,
    free_side,
    free_steps,
    reasons,
)
from horde.model_reference.schemas import Requirements
from kudos_model.features import accurate_steps

sides = st.integers(1, 48).map(lambda count: 64 * count)
free_sides = st.integers(576, 1024)
NOTHING = Requirements()


@pytest.mark.parametrize(
    ("threads", "queued", "baselines", "side"),
    [
        (0, 0, [], 1024),
        (10, 0, [], 1024),
        (0, 100, [], 934),
        (5, 100, [], 984),
        (0, 10_000, [], 576),
        (0, 10_000, ["stable diffusion 1"], 576),
        (0, 10_000, ["stable diffusion 2 512"], 768),
        (0, 10_000, ["stable diffusion 1", "stable_diffusion_xl"], 1024),
        (0, 10_000, ["stable_cascade"], 1024),
        (0, 10_000, ["flux_1"], 1024),
        (0, 10_000, ["qwen_image"], 1024),
        (0, 10_000, ["z_image_turbo"], 1024),
    ],
)
def test_free_side(threads: int, queued: int, baselines: list[str], side: int) -> None:
    assert free_side(Load(threads, queued), baselines) == side


@pytest.mark.parametrize(
    ("requirements", "control", "lcm", "steps"),
    [
        (NOTHING, False, False, 40),
        (NOTHING, True, False, 20),
        (NOTHING, True, True, 10),
        (Requirements(max_steps=8), False, False, 8),
        (Requirements(max_steps=100), False, False, 100),
        (Requirements(max_steps=100), True, False, 20),
        (Requirements(max_steps=6, samplers=("k_dpmpp_sde",)), False, False, 12),
        (Requirements(max_steps=6, samplers=("k_dpmpp_sde", "k_euler")), False, False, 6),
        (None, False, False, None),
        (None, False, True, 10),
    ],
)
def test_free_steps(requirements: Requirements | None, control: bool, lcm: bool, steps: int | None) -> None:
    assert free_steps(requirements, control=control, lcm=lcm) == steps


def test_all_reasons_are_told_with_the_true_limits() -> None:
    demand = Demand(
        2048, 1024, slow_workers=False, baselines=["stable diffusion 1"], steps=[(30, 40), (60, 40)]
    )
    speed, size, steps = reasons(demand, Load(0, 100))
    assert "slow_workers" in speed
    assert "2048x1024" in size
    assert "934x934" in size
    assert "60 steps" in steps
    assert "40" in steps


def test_naming_workers_is_a_reason_of_its_own() -> None:
    demand = Demand(512, 512, slow_workers=True, baselines=[], steps=[], names_workers=True)
    assert reasons(demand, Load(0, 0)) == ["it names workers"]


def test_what_is_free_needs_no_reason() -> None:
    demand = Demand(1024, 1024, slow_workers=True, baselines=[], steps=[(40, 40), (200, None)])
    assert reasons(demand, Load(0, 0)) == []


@given(sides, sides, free_sides)
def test_a_reduced_size_is_free_and_in_bounds(width: int, height: int, side: int) -> None:
    small_width, small_height = downgraded_size(width, height, side)
    assert small_width * small_height <= side * side
    assert small_width % 64 == small_height % 64 == 0
    assert min(small_width, small_height) >= 64
    if width * height <= side * side:
        assert (small_width, small_height) == (width, height)
    else:
        assert small_width * small_height >= 512 * 512


@given(sides, sides, free_sides)
def test_reducing_again_changes_nothing(width: int, height: int, side: int) -> None:
    reduced = downgraded_size(width, height, side)
    assert downgraded_size(*reduced, side) == reduced


@given(st.sampled_from(SAMPLERS), st.integers(1, 500), st.integers(2, 40))
def test_reduced_steps_are_the_most_that_are_free(sampler: str, steps: int, free: int) -> None:
    reduced = downgraded_steps(sampler, steps, free)
    assert 1 <= reduced <= steps
    if sampler == "k_dpm_adaptive":
        assert reduced == steps
        return
    assert accurate_steps(sampler, reduced) <= free
    assert reduced == steps or accurate_steps(sampler, reduced + 1) > free
