from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.generation.post_processors import POST_PROCESSORS
from kudos_model.features import JobFeatures
from kudos_model.formula import BASIS, relative_seconds

SIDES = st.integers(1, 48).map(lambda blocks: blocks * 64)
SAMPLERS = ["k_euler", "k_heun", "k_dpmpp_sde", "k_dpm_adaptive", "DDIM", "lcm", "dpmsolver", "new"]
POST = st.lists(st.sampled_from(sorted(POST_PROCESSORS)), unique=True, max_size=5).map(tuple)
JOBS = st.builds(
    JobFeatures,
    width=SIDES,
    height=SIDES,
    steps=st.integers(1, 500),
    sampler=st.sampled_from(SAMPLERS),
    cfg_scale=st.floats(0, 100),
    karras=st.booleans(),
    hires_fix=st.booleans(),
    source_image=st.booleans(),
    source_processing=st.sampled_from(["img2img", "inpainting", "outpainting", "remix"]),
    denoising_strength=st.none() | st.floats(0.01, 1),
    control_type=st.sampled_from([None, "canny", "hed"]),
    post_processing=POST,
)

OBSERVED = {
    # side: price at 4, 8, 20, 30, 40, 50 and 100 steps of k_euler_a
    64: [3.38, 3.72, 4.74, 5.64, 6.67, 7.83, 14.16],
    256: [3.51, 3.85, 4.83, 5.80, 7.54, 8.80, 15.96],
    512: [3.72, 4.06, 5.76, 7.61, 9.40, 10.98, 19.92],
    640: [4.18, 4.76, 6.77, 8.80, 10.91, 12.55, 23.71],
    768: [5.49, 6.17, 9.11, 11.75, 14.24, 16.44, 29.91],
    896: [7.35, 8.87, 12.52, 15.52, 19.22, 22.09, 38.27],
    1024: [11.09, 12.13, 15.98, 20.99, 26.45, 29.59, 48.54],
    1280: [15.54, 17.50, 25.38, 35.13, 47.22, 52.92, 74.03],
    1536: [27.03, 30.66, 43.91, 57.08, 69.75, 79.01, 104.05],
    2048: [78.88, 84.21, 100.23, 113.58, 125.60, 134.40, 175.86],
}
STEPS = [4, 8, 20, 30, 40, 50, 100]


def seconds(job: JobFeatures) -> float:
    (value,) = relative_seconds([job])
    return value


def plain(side: int, steps: int, sampler: str = "k_euler_a") -> JobFeatures:
    return JobFeatures(side, side, steps, sampler, 5.0)


def test_the_basis_job_is_the_unit() -> None:
    assert seconds(BASIS) == 1


@pytest.mark.parametrize("side", OBSERVED)
def test_usual_sizes_are_within_a_quarter_of_what_was_observed(side: int) -> None:
    for steps, price in zip(STEPS, OBSERVED[side], strict=True):
        assert 11 * seconds(plain(side, steps)) == pytest.approx(price, rel=0.25)


@pytest.mark.parametrize(
    ("job", "price"),
    [
        (plain(512, 30, "k_heun"), 12.91),
        (plain(1024, 30, "k_dpmpp_sde"), 31.00),
        (plain(512, 30, "k_dpm_adaptive"), 13.29),
        (plain(1024, 30, "k_dpm_adaptive"), 26.16),
        (replace(plain(512, 30), hires_fix=True), 12.31),
        (replace(plain(1024, 30), hires_fix=True), 24.61),
        (replace(plain(512, 30), source_image=True, denoising_strength=0.25), 6.21),
        (replace(plain(512, 30), source_image=True), 7.90),
        (replace(plain(512, 30), source_image=True, source_processing="inpainting"), 9.47),
        (replace(plain(512, 20), source_image=True, control_type="depth"), 13.58),
        (replace(plain(1024, 30), post_processing=("RealESRGAN_x4plus",)), 38.25),
        (replace(plain(512, 30), post_processing=("4x_AnimeSharp",)), 11.31),
    ],
)
def test_everything_else_is_within_a_quarter_too(job: JobFeatures, price: float) -> None:
    assert 11 * seconds(job) == pytest.approx(price, rel=0.25)


@given(JOBS, st.integers(1, 500), SIDES, SIDES, st.sampled_from(sorted(POST_PROCESSORS)))
def test_more_work_never_takes_less_time(
    job: JobFeatures, steps: int, width: int, height: int, extra: str
) -> None:
    more = [
        replace(job, steps=max(job.steps, steps)),
        replace(job, width=max(job.width, width)),
        replace(job, height=max(job.height, height)),
        replace(job, hires_fix=True),
        replace(job, control_type=job.control_type or "canny"),
        replace(job, post_processing=(extra, *(name for name in job.post_processing if name != extra))),
    ]
    assert all(seconds(job) <= other for other in relative_seconds(more))


def test_unknown_names_cost_as_much_as_the_dearest() -> None:
    known = [seconds(replace(BASIS, post_processing=(name,))) for name in POST_PROCESSORS]
    assert seconds(replace(BASIS, post_processing=("new",))) == max(known)


def test_a_batch_keeps_its_order() -> None:
    jobs = [plain(side, 30) for side in (1024, 64, 512)]
    assert relative_seconds(jobs) == [seconds(job) for job in jobs]
    assert relative_seconds([]) == []
