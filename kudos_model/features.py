"""What of an image request decides how long it takes: the input of every price."""

from dataclasses import dataclass

DOUBLE_STEP_SAMPLERS = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde"})
"""Samplers that run the model twice per step."""
ADAPTIVE_SAMPLER = "k_dpm_adaptive"
ADAPTIVE_STEPS = 40
"""The adaptive sampler chooses its own number of steps; it counts as this many."""


def accurate_steps(sampler: str, steps: int) -> int:
    """How often the model runs for `steps` requested steps."""
    if sampler == ADAPTIVE_SAMPLER:
        return ADAPTIVE_STEPS
    return steps * 2 if sampler in DOUBLE_STEP_SAMPLERS else steps


@dataclass(frozen=True, slots=True)
class JobFeatures:
    """One image to be priced. Values are those that will be used, limits of the API included."""

    width: int
    height: int
    steps: int
    """As requested, before samplers that take each step twice are considered."""
    sampler: str
    cfg_scale: float
    karras: bool = True
    hires_fix: bool = False
    source_image: bool = False
    source_mask: bool = False
    source_processing: str = "img2img"
    """Counts only with a source image."""
    denoising_strength: float | None = None
    """From 0 to 1; None: not given, which counts as 1. Counts only with a source image."""
    control_type: str | None = None
    control_strength: float | None = None
    post_processing: tuple[str, ...] = ()
    lora_count: int = 0
    has_tis: bool = False
    """Whether any textual inversion is used."""
