"""An estimate of how long an image takes, relative to the basis job.

The basis job is 512x512 pixels and 50 steps of `k_euler` from text alone. All constants are in units in
which it takes about 11; A is the size in 1024x1024 squares, E how often the model runs.

    time = 2.5                          loading the prompt, saving the picture
         + 8 A^2 / (1 + A/4)            decoding: dear for large pictures, linear for very large ones
         + E (0.0914 + 0.2755 A)        sampling
         + 0.155 E                      if a high-resolution second pass is made
         + fixed + by_size A            for each post-processor

Sampling is multiplied by 2.5 under a control map, or else, from a source image, by 0.6 + 0.4 times the
denoising strength, and by 1.35 more when only a part is painted.

Names that are not in the tables below are estimated as the slowest of their kind. More steps, a larger
width or height, one more post-processor, a second pass or a control map never make the estimate smaller.
"""

import math
from collections.abc import Sequence

from kudos_model.features import ADAPTIVE_SAMPLER, JobFeatures, accurate_steps

BASIS = JobFeatures(width=512, height=512, steps=50, sampler="k_euler", cfg_scale=7.5)
"""The job that all others are compared with."""

_FIXED = 2.5
_DECODING, _LINEAR_FROM = 8.0, 4.0
_STEP, _STEP_BY_SIZE = 0.0914, 0.2755
_SECOND_PASS = 0.155
_ADAPTIVE = 1.2
"""The adaptive sampler's steps are this much slower than others'."""
_CONTROL = 2.5
_PAINTING = 1.35
_UNCHANGED = 0.6
"""Part of the sampling that is done however little of a source image is changed."""

_FACE_FIXER = (1.5, 0.5)
_LIGHT_UPSCALER = (0.9, 8.2)
_HEAVY_UPSCALER = (0.0, 17.0)
_POST_PROCESSORS = {
    "GFPGAN": _FACE_FIXER,
    "GFPGANv1.3": _FACE_FIXER,
    "RestoreFormer": _FACE_FIXER,
    "CodeFormers": (0.0, 0.5),
    "strip_background": (0.5, 2.8),
    "RealESRGAN_x4plus_anime_6B": (1.0, 0.8),
    "NMKD_Siax": (0.0, 6.8),
    "4x_AnimeSharp": (2.6, 4.3),
    "RealESRGAN_x2plus": _LIGHT_UPSCALER,
    "2xModernSpanimationV1": _LIGHT_UPSCALER,
    "4xNomosWebPhoto_RealPLKSR": _LIGHT_UPSCALER,
    "4xNomos2_realplksr_dysample": _LIGHT_UPSCALER,
}
"""Fixed cost and cost by size; the heavy upscalers are those that are not listed."""


def relative_seconds(jobs: Sequence[JobFeatures]) -> list[float]:
    """Estimated seconds of each job, as multiples of the basis job's; in the order of `jobs`."""
    basis = _time(BASIS)
    return [_time(job) / basis for job in jobs]


def _time(job: JobFeatures) -> float:
    size = job.width * job.height / 1024**2
    evaluations: float = accurate_steps(job.sampler, job.steps)
    if job.sampler == ADAPTIVE_SAMPLER:
        evaluations *= _ADAPTIVE
    extras = [_POST_PROCESSORS.get(name, _HEAVY_UPSCALER) for name in job.post_processing]
    return math.fsum(
        [
            _FIXED,
            _DECODING * size**2 / (1 + size / _LINEAR_FROM),
            evaluations * (_STEP + _STEP_BY_SIZE * size) * _sampling_factor(job),
            evaluations * _SECOND_PASS if job.hires_fix else 0.0,
            *(fixed + by_size * size for fixed, by_size in extras),
        ]
    )


def _sampling_factor(job: JobFeatures) -> float:
    if job.control_type:
        return _CONTROL
    if not job.source_image:
        return 1.0
    strength = 1.0 if job.denoising_strength is None else job.denoising_strength
    factor = _UNCHANGED + (1 - _UNCHANGED) * strength
    return factor * _PAINTING if job.source_processing in ("inpainting", "outpainting") else factor
