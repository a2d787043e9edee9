from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings

from horde.generation import post_processors
from horde.image.schemas import ControlType, Sampler, SourceProcessing
from horde.model_reference.rules import KNOWN_BASELINES
from kudos_model.anchors import OTHER_BASELINE, OTHER_POST_PROCESSOR, family_of
from kudos_model.features import (
    BASIS,
    COLUMNS,
    CONTROL_TYPES,
    NUMBERS,
    POST_PROCESSORS,
    SAMPLERS,
    JobFeatures,
    accurate_steps,
    encode,
    readings,
)
from tests.kudos_model.jobs import JOBS


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        *((sampler, 30) for sampler in ("k_euler", "lcm", "DDIM", "never heard of")),
        *((sampler, 60) for sampler in ("k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde")),
        ("k_dpm_adaptive", 40),
    ],
)
def test_accurate_steps(sampler: str, expected: int) -> None:
    assert accurate_steps(sampler, 30) == expected


def columns_of(job: JobFeatures) -> dict[str, float]:
    """The columns that are not 0."""
    (row,) = encode([job])
    return {name: round(float(value), 6) for name, value in zip(COLUMNS, row, strict=True) if value}


def test_the_basis_job() -> None:
    assert columns_of(BASIS) == {
        "width": 0.5,
        "height": 0.5,
        "steps": 0.5,
        "area": 0.25,
        "cfg_scale": 0.25,
        "denoising_strength": 1,
        "karras": 1,
        "k_euler": 1,
        "stable diffusion 1": 1,
    }


def test_a_job_with_everything() -> None:
    job = JobFeatures(
        width=1024,
        height=2048,
        steps=20,
        sampler="DDIM",
        cfg_scale=90,
        karras=False,
        hires_fix=True,
        source_image=True,
        source_mask=True,
        source_processing="remix",
        denoising_strength=0.25,
        control_type="hed",
        control_strength=0.75,
        post_processing=("GFPGAN", "RestoreFormer", "one", "another"),
        baseline="stable_cascade",
    )
    ones = ("cfg_scale", "source_image", "source_mask", "k_euler", "img2img", "hires_fix", "control", "hed")
    assert columns_of(job) == {
        "width": 1,
        "height": 2,
        "steps": 0.2,
        "area": 2,
        "denoising_strength": 0.25,
        "control_strength": 0.75,
        **dict.fromkeys([*ones, "GFPGAN", "RestoreFormer"], 1),
        OTHER_POST_PROCESSOR: 2,
        "stable_cascade": 1,
        "second pass of stable_cascade": 1,
    }


def test_what_does_not_count_is_left_out() -> None:
    """Strengths and processing without a source image, the control strength without a control map."""
    idle = replace(
        BASIS,
        source_processing="outpainting",
        denoising_strength=0.1,
        control_strength=0.2,
        lora_count=3,
        has_tis=True,
    )
    assert columns_of(idle) == columns_of(BASIS)


@pytest.mark.parametrize(
    ("control", "denoising", "counts"), [(None, 0.3, 0.3), (None, None, 1), (0.6, 0.3, 0.6)]
)
def test_the_control_strength_falls_back_to_the_denoising_strength(
    control: float | None, denoising: float | None, counts: float
) -> None:
    job = replace(
        BASIS,
        source_image=True,
        control_type="canny",
        control_strength=control,
        denoising_strength=denoising,
    )
    assert columns_of(job)["control_strength"] == counts


def test_every_name_of_the_api_has_a_place() -> None:
    for job in [
        *(replace(BASIS, sampler=name) for name in get_args(Sampler)),
        *(replace(BASIS, control_type=name) for name in get_args(ControlType)),
        *(replace(BASIS, source_image=True, source_processing=name) for name in get_args(SourceProcessing)),
    ]:
        assert readings(job) == [job]
    assert set(COLUMNS) >= post_processors.POST_PROCESSORS
    assert all(family_of(baseline) != OTHER_BASELINE for baseline in KNOWN_BASELINES)


def test_unknown_names_are_read_as_every_known_one() -> None:
    sampler = readings(replace(BASIS, sampler="new"))
    assert [job.sampler for job in sampler] == list(SAMPLERS)
    both = readings(replace(BASIS, sampler="new", control_type="new"))
    assert len(both) == len(SAMPLERS) * len(CONTROL_TYPES)
    extra = readings(replace(BASIS, post_processing=("GFPGAN", "new")))
    assert [job.post_processing for job in extra] == [
        ("GFPGAN", "new"),
        *(("GFPGAN", name) for name in POST_PROCESSORS if name != "GFPGAN"),
    ]
    processing = readings(replace(BASIS, source_image=True, source_processing="new"))
    assert [job.source_processing for job in processing] == ["img2img", "inpainting", "outpainting"]


@settings(deadline=None)
@given(JOBS)
def test_all_but_numbers_are_switches_or_counts(job: JobFeatures) -> None:
    rows = encode(readings(job))
    assert np.isfinite(rows).all()
    assert (rows >= 0).all()
    assert (rows[:, len(NUMBERS) :] % 1 == 0).all()
