"""What of an image request decides how long it takes, and how that becomes the numbers a network reads.

This is the only definition; training, measuring and serving all use it. Whatever changes the meaning of a
column must raise `FEATURE_VERSION`: a network made for other columns is refused.

Columns come in four parts:

- sizes: more of them always takes more time;
- circumstances, of which more may well take less;
- switches, which are 0 unless something extra is asked for. Each has columns of its own, so that setting
  them to 0 turns it off (see `kudos_model.envelope`);
- anchors, which no timings exist for; `kudos_model.anchors` says what they take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from kudos_model.anchors import (
    FACTORS,
    OTHER_POST_PROCESSOR,
    SECOND_PASS,
    UNTIMED_POST_PROCESSORS,
    factor_names,
)

FEATURE_VERSION = 1

DOUBLE_STEP_SAMPLERS = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde"})
"""Samplers that run the model twice per step."""
ADAPTIVE_SAMPLER = "k_dpm_adaptive"
ADAPTIVE_STEPS = 40
"""The adaptive sampler chooses its own number of steps; it counts as this many."""

SAMPLERS = (
    "k_dpm_2",
    "k_dpm_2_a",
    "k_dpm_adaptive",
    "k_dpm_fast",
    "k_dpmpp_2m",
    "k_dpmpp_2s_a",
    "k_dpmpp_sde",
    "k_euler",
    "k_euler_a",
    "k_heun",
    "k_lms",
)
"""Those that were timed."""
SAMPLER_STAND_INS = {"DDIM": "k_euler", "dpmsolver": "k_dpmpp_2m", "lcm": "k_euler_a"}
"""Others count as one that does the same work: they all run the model once per step."""
CONTROL_TYPES = ("canny", "depth", "fakescribbles", "hed", "hough", "normal", "openpose", "scribble", "seg")
PROCESSINGS = ("img2img", "inpainting", "outpainting")
PROCESSING_STAND_INS = {"remix": "img2img"}
POST_PROCESSORS = (
    "4x_AnimeSharp",
    "CodeFormers",
    "GFPGAN",
    "NMKD_Siax",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus",
    "RealESRGAN_x4plus_anime_6B",
    "strip_background",
)
"""Those that were timed."""

MOST_CFG_SCALE = 30.0
"""Larger values were not timed and count as this; the scale has next to no effect on time."""


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
    """None: not given, which counts as the denoising strength. Counts only with a control type."""
    post_processing: tuple[str, ...] = ()
    lora_count: int = 0
    has_tis: bool = False
    """Whether any textual inversion is used. Neither this nor LoRAs change the time."""
    baseline: str = "stable diffusion 1"
    """Of the model, as the model reference names it."""
    workflow: str | None = None


BASIS = JobFeatures(width=512, height=512, steps=50, sampler="k_euler", cfg_scale=7.5)
"""The job that all others are compared with."""

SIZES = ("width", "height", "steps", "area")
NUMBERS = (
    *SIZES,
    "cfg_scale",
    "denoising_strength",
    "control_strength",
    "karras",
    "source_image",
    "source_mask",
)
LEARNED = (*NUMBERS, *SAMPLERS, *PROCESSINGS, "hires_fix", "control", *CONTROL_TYPES, *POST_PROCESSORS)
"""Columns that a network learns from; all but `NUMBERS` are 0 or 1."""
COLUMNS = (*LEARNED, *UNTIMED_POST_PROCESSORS, *FACTORS)
SWITCHES: tuple[tuple[str, ...], ...] = (
    ("hires_fix", SECOND_PASS),
    ("control", "control_strength", *CONTROL_TYPES),
    *((name,) for name in POST_PROCESSORS),
)
"""The columns of each switch; the first is 1 while it is on."""
_COLUMN = {name: number for number, name in enumerate(COLUMNS)}

_KNOWN_SAMPLERS = frozenset((*SAMPLERS, *SAMPLER_STAND_INS))
_KNOWN_PROCESSINGS = frozenset((*PROCESSINGS, *PROCESSING_STAND_INS, "txt2img"))
CACHED_ROWS = 4096

Matrix = npt.NDArray[np.float32]


def accurate_steps(sampler: str, steps: int) -> int:
    """How often the model runs for `steps` requested steps."""
    if sampler == ADAPTIVE_SAMPLER:
        return ADAPTIVE_STEPS
    return steps * 2 if sampler in DOUBLE_STEP_SAMPLERS else steps


def encode(jobs: Sequence[JobFeatures]) -> Matrix:
    """A row of `COLUMNS` for each job. All names but post-processors must be known (see `readings`)."""
    rows = np.concatenate([_names(job) for job in jobs])
    rows[:, : len(NUMBERS)] = [_numbers(job) for job in jobs]
    return rows


def _numbers(job: JobFeatures) -> tuple[float, ...]:
    width, height = job.width / 1024, job.height / 1024
    denoising = control = 1.0
    if job.source_image and job.denoising_strength is not None:
        denoising = job.denoising_strength
    if job.control_strength is not None:
        control = job.control_strength
    elif job.denoising_strength is not None:
        control = job.denoising_strength
    return (
        width,
        height,
        job.steps / 100,
        width * height,
        min(job.cfg_scale, MOST_CFG_SCALE) / MOST_CFG_SCALE,
        denoising,
        control if job.control_type else 0.0,
        job.karras,
        job.source_image,
        job.source_mask,
    )


def _names(job: JobFeatures) -> Matrix:
    return _row_of_names(
        job.sampler,
        job.source_processing if job.source_image else None,
        job.hires_fix,
        job.control_type,
        job.post_processing,
        job.baseline,
        job.workflow,
    )


@lru_cache(maxsize=CACHED_ROWS)
def _row_of_names(
    sampler: str,
    processing: str | None,
    hires_fix: bool,
    control: str | None,
    post_processing: tuple[str, ...],
    baseline: str,
    workflow: str | None,
) -> Matrix:
    ones = [SAMPLER_STAND_INS.get(sampler, sampler)]
    if processing:
        ones.append(PROCESSING_STAND_INS.get(processing, processing))
    if hires_fix:
        ones.append("hires_fix")
    if control:
        ones += ["control", control]
    ones += [name for name in post_processing if name in _COLUMN]
    ones += factor_names(baseline, hires_fix=hires_fix, workflow=workflow)
    row = np.zeros((1, len(COLUMNS)), np.float32)
    row[0, [_COLUMN[name] for name in ones]] = 1
    row[0, _COLUMN[OTHER_POST_PROCESSOR]] = len({name for name in post_processing if name not in _COLUMN})
    return row


def readings(job: JobFeatures) -> list[JobFeatures]:
    """The job, or if it bears a name that is not known: the job with each timed one in its place.

    It takes as long as the slowest of these. An unknown post-processor is also read as one that nobody has
    timed, so that it adds something even where none of the timed ones does.
    """
    known = (
        job.sampler in _KNOWN_SAMPLERS,
        not job.source_image or job.source_processing in _KNOWN_PROCESSINGS,
        not job.control_type or job.control_type in _COLUMN,
    )
    unknown = next((name for name in job.post_processing if name not in _COLUMN), None)
    if all(known) and unknown is None:
        return [job]
    sampler, processing, control = known
    return [
        replace(
            job,
            sampler=choice[0],
            source_processing=choice[1],
            control_type=choice[2],
            post_processing=choice[3],
        )
        for choice in product(
            [job.sampler] if sampler else SAMPLERS,
            [job.source_processing] if processing else PROCESSINGS,
            [job.control_type] if control else CONTROL_TYPES,
            [job.post_processing, *_in_place_of(unknown, job.post_processing)],
        )
    ]


def _in_place_of(unknown: str | None, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The names with each timed post-processor that is not among them in place of an unknown one."""
    if unknown is None:
        return []
    return [
        tuple(timed if name == unknown else name for name in names)
        for timed in POST_PROCESSORS
        if timed not in names
    ]
