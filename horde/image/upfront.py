"""Which requests must prove upfront that they can be paid, and what is free of that.

The idea is that a quiet horde lets everybody make large images, and a busy one asks those who want
more than their share to have earned it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LARGE_BASELINES = ("stable_diffusion_xl", "stable_cascade", "flux_1", "qwen_image", "z_image_turbo")
"""Baselines made for 1024x1024, which stays free for them however busy the horde is."""
MEDIUM_BASELINES = ("stable diffusion 2",)
"""Baselines made for 768x768."""
LEAST_SIDE, MEDIUM_SIDE, MOST_SIDE = 576, 768, 1024
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
    accurate_steps: int
    slow_workers: bool
    control: bool
    lcm: bool
    baselines: Sequence[str]
    max_steps: Sequence[int]
    """Free steps of each model that was named (its own maximum, or 40)."""


def free_side(load: Load, baselines: Sequence[str]) -> int:
    """Side in pixels of the largest square that is free of upfront kudos now."""
    side = max(1024 + 10 * load.threads - round(0.9 * load.queued), LEAST_SIDE)
    if any(baseline.startswith(MEDIUM_BASELINES) for baseline in baselines):
        side = max(side, MEDIUM_SIDE)
    if any(baseline.startswith(LARGE_BASELINES) for baseline in baselines):
        side = max(side, MOST_SIDE)
    return min(side, MOST_SIDE)


def free_steps(demand: Demand) -> int | None:
    """Accurate steps that are free of upfront kudos; None: any number."""
    limits = list(demand.max_steps)
    if demand.control:
        limits.append(FREE_STEPS_CONTROL)
    if demand.lcm:
        limits.append(FREE_STEPS_LCM)
    return min(limits) if limits else None


def reasons(demand: Demand, load: Load) -> list[str]:
    """Why a request must be paid for upfront, in words for its sender; empty if it need not be."""
    found = []
    side = free_side(load, demand.baselines)
    steps = free_steps(demand)
    if not demand.slow_workers:
        found.append("it asks for fast workers only (slow_workers is false)")
    if demand.width * demand.height > side * side:
        found.append(
            f"{demand.width}x{demand.height} is larger than the {side}x{side} pixels that are free at present"
        )
    if steps is not None and demand.accurate_steps > steps:
        found.append(f"it takes {demand.accurate_steps} steps where {steps} are free")
    return found


def downgraded(demand: Demand, load: Load, *, adaptive: bool) -> tuple[int, int, int]:
    """Width, height and accurate steps that need no upfront kudos, as near as possible to those asked for.

    `adaptive` samplers choose their own steps, so theirs stay as they are.
    """
    side = free_side(load, demand.baselines)
    width, height = demand.width, demand.height
    if width * height > side * side:
        shrink = math.sqrt(side * side / (width * height))
        width, height = (max(64, int(length * shrink) // 64 * 64) for length in (width, height))
        while width * height > side * side:
            if width >= height:
                width -= 64
            else:
                height -= 64
    steps = free_steps(demand)
    if steps is None or adaptive:
        return width, height, demand.accurate_steps
    return width, height, min(demand.accurate_steps, steps)
