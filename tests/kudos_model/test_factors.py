from dataclasses import replace

import pytest

from kudos_model.anchors import FACTORS, OTHER_BASELINE, SECOND_PASS, factor_names
from kudos_model.factors import factors_from
from kudos_model.features import BASIS, JobFeatures
from kudos_model.timings import Timing

SMALL, LARGE, HIRES = (
    replace(BASIS, width=256),
    replace(BASIS, width=1024),
    replace(BASIS, width=1024, hires_fix=True),
)


def timed(job: JobFeatures, baseline: str, seconds: float, device: str = "gpu", batch: int = 1) -> Timing:
    return Timing(replace(job, baseline=baseline), seconds, batch, device)


def test_without_timings_the_published_ones_stand() -> None:
    assert factors_from([]) == FACTORS


def test_the_median_over_jobs_that_both_were_timed_with() -> None:
    factors = factors_from(
        [
            *(timed(job, "stable diffusion 1", 2) for job in (SMALL, BASIS, LARGE, HIRES)),
            timed(SMALL, "stable_diffusion_xl", 5),
            timed(BASIS, "stable_diffusion_xl", 6),
            timed(LARGE, "stable_diffusion_xl", 30),
            timed(SMALL, "stable_cascade", 10),
            timed(HIRES, "stable_cascade", 18),
            timed(LARGE, "a new one", 1000),
        ]
    )
    assert factors["stable_diffusion_xl"] == 3
    assert factors["stable_cascade"] == 5
    assert factors[SECOND_PASS] == 4
    assert factors["flux_1"] == FACTORS["flux_1"]
    assert factors[OTHER_BASELINE] == 500


def test_other_devices_batches_and_unknown_devices_do_not_count() -> None:
    standard = timed(BASIS, "stable diffusion 1", 2)
    others = [
        timed(BASIS, "flux_1", 50, device="another"),
        timed(BASIS, "flux_1", 50, batch=2),
        timed(BASIS, "flux_1", 50, device=""),
        timed(SMALL, "flux_1", 50),
    ]
    assert factors_from([standard, *others]) == FACTORS


@pytest.mark.parametrize(
    ("baseline", "hires_fix", "workflow", "factor"),
    [
        ("stable diffusion 1", True, "qr_code", 1),
        ("stable diffusion 2 512", False, None, 1),
        ("stable_diffusion_xl", True, None, 2),
        ("stable_diffusion_xl", True, "qr_code", 4),
        ("stable_cascade", False, None, 4),
        ("stable_cascade", True, None, 7),
        ("flux_1", False, None, 8),
        ("qwen_image", False, None, 12),
        ("z_image_turbo", False, None, 8),
        ("something new", False, None, 12),
        ("stable diffusion 1", False, "something new", 3),
    ],
)
def test_published_factors(baseline: str, hires_fix: bool, workflow: str | None, factor: float) -> None:
    names = factor_names(baseline, hires_fix=hires_fix, workflow=workflow)
    assert sum(FACTORS[name] for name in names) == factor
