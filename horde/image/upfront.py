"""Which requests must prove upfront that they can be paid, and what is free of that.

The idea is that a quiet horde lets everybody make large images, and a busy one asks those who want
more than their share to have earned it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from horde.model_reference.schemas import Requirements
from kudos_model.features import accurate_steps

LARGE_BASELINES = ("stable_diffusion_xl", "stable_cascade", "flux_1", "qwen_image", "z_image_turbo")
"""Baselines made for 1024x1024, which stays free for them however busy the horde is."""
MEDIUM_BASELINES = ("stable diffusion 2",)
"""Baselines made for 768x768."""
LEAST_SIDE, MEDIUM_SIDE, MOST_SIDE = 576, 768, 1024
SMALLEST = 512
"""Side of the square that a downgrade never goes below."""
FREE_STEPS, FREE_STEPS_CONTROL, FREE_STEPS_LCM = 40, 20, 10


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the horde is: threads of online image workers, and images that wait."""

    threads: int
    queued: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What decides whether a request must be paid for upfront."""

    width: int
    height: int
    slow_workers: bool
    baselines: Sequence[str]
    steps: Sequence[tuple[int, int | None]]
    """For each model: accurate steps, and how many of them are free (see `free_steps`)."""
    names_workers: bool = False
    """Whether it names workers where that is not free."""


def free_side(load: Load, baselines: Sequence[str]) -> int:
    """Side in pixels of the largest square that is free of upfront kudos now."""
    side = max(1024 + 10 * load.threads - round(0.9 * load.queued), LEAST_SIDE)
    if any(baseline.startswith(MEDIUM_BASELINES) for baseline in baselines):
        side = max(side, MEDIUM_SIDE)
    if any(baseline.startswith(LARGE_BASELINES) for baseline in baselines):
        side = max(side, MOST_SIDE)
    return min(side, MOST_SIDE)


def free_steps(requirements: Requirements | None, *, control: bool, lcm: bool) -> int | None:
    """Accurate steps that are free with a model; None, for a model that is not known yet: any number.

    A model that states a maximum may be run with as many steps as that, counted with the cheapest sampler
    that it accepts.
    """
    limits = []
    if requirements is not None:
        most = requirements.max_steps
        samplers = requirements.samplers or ("",)
        limits.append(FREE_STEPS if most is None else min(accurate_steps(name, most) for name in samplers))
    if control:
        limits.append(FREE_STEPS_CONTROL)
    if lcm:
        limits.append(FREE_STEPS_LCM)
    return min(limits) if limits else None


def reasons(demand: Demand, load: Load) -> list[str]:
    """Why a request must be paid for upfront, in words for its sender; empty if it need not be."""
    found = []
    if demand.names_workers:
        found.append("it names workers")
    side = free_side(load, demand.baselines)
    if not demand.slow_workers:
        found.append("it asks for fast workers only (slow_workers is false)")
    if demand.width * demand.height > side * side:
        found.append(
            f"{demand.width}x{demand.height} is larger than the {side}x{side} pixels that are free at present"
        )
    for steps, free in demand.steps:
        if free is not None and steps > free:
            found.append(f"it takes {steps} steps where {free} are free")
            break
    return found


def downgraded_size(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of about the same shape, in multiples of 64, that has no more pixels than a square of `side`.

    One that would become smaller than 512x512 becomes 512x512; a small enough size stays as it is.
    """
    most = side * side
    if width * height <= most:
        return width, height
    shrink = math.sqrt(most / (width * height))
    width, height = (max(64, int(length * shrink) // 64 * 64) for length in (width, height))
    while width * height > most:
        if width >= height:
            width -= 64
        else:
            height -= 64
    return (width, height) if width * height >= SMALLEST**2 else (SMALLEST, SMALLEST)


def downgraded_steps(sampler: str, steps: int, free: int | None) -> int:
    """The most steps, up to `steps`, whose accurate steps are no more than `free`.

    A sampler that chooses its own number of steps keeps what it was given.
    """
    each = accurate_steps(sampler, 1)
    if free is None or accurate_steps(sampler, steps) <= free or each > free:
        return steps
    return free // each
