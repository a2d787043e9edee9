"""Sampler loops: how a network's evaluations turn noise into latents.

They do what the samplers of that name do per step - one evaluation or two, new noise, memory of former
steps - which is all that time depends on; their arithmetic is that of the simplest of each kind.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kudos_model.features import DOUBLE_STEP_SAMPLERS, accurate_steps

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Latents and the moment of each (batch,), from 1000 down to 0, to a prediction of the noise in them."""

NOISY = frozenset({"k_euler_a", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde", "lcm"})
"""Samplers that add new noise after each step."""
REMEMBERING = frozenset({"k_lms", "k_dpmpp_2m", "dpmsolver"})
"""Samplers that also look at what the step before predicted."""
MOMENTS = 1000.0


def sample(denoise: Denoise, latents: Tensor, sampler: str, steps: int) -> Tensor:
    """Denoise latents; the network runs exactly `accurate_steps(sampler, steps)` times."""
    evaluations = 2 if sampler in DOUBLE_STEP_SAMPLERS else 1
    steps = accurate_steps(sampler, steps) // evaluations
    former: Tensor | None = None
    for step in range(steps):
        time, later = 1 - step / steps, 1 - (step + 1) / steps
        noise = denoise(latents, _moments(latents, time))
        if evaluations == 2:
            noise = (noise + denoise(latents + (later - time) * noise, _moments(latents, later))) / 2
        if sampler in REMEMBERING:
            noise, former = noise if former is None else 1.5 * noise - 0.5 * former, noise
        latents = latents + (later - time) * noise
        if sampler in NOISY:
            latents = latents + later * torch.randn_like(latents)
    return latents


def _moments(latents: Tensor, time: float) -> Tensor:
    return latents.new_full((len(latents),), MOMENTS * time)
