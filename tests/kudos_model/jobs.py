"""Jobs for the tests of prices."""

from hypothesis import strategies as st

from kudos_model.features import JobFeatures
from kudos_model.monotonicity import ALL_POST_PROCESSORS, ALL_PROCESSINGS, ALL_SAMPLERS

SIDES = st.integers(1, 48).map(lambda blocks: blocks * 64)
STRENGTHS = st.none() | st.floats(0.01, 1)
JOBS = st.builds(
    JobFeatures,
    width=SIDES,
    height=SIDES,
    steps=st.integers(1, 500),
    sampler=st.sampled_from([*ALL_SAMPLERS, "a new one"]),
    cfg_scale=st.floats(0, 100),
    karras=st.booleans(),
    hires_fix=st.booleans(),
    source_image=st.booleans(),
    source_mask=st.booleans(),
    source_processing=st.sampled_from(ALL_PROCESSINGS),
    denoising_strength=STRENGTHS,
    control_type=st.sampled_from([None, "canny", "hed", "scribble", "a new one"]),
    control_strength=STRENGTHS,
    post_processing=st.lists(
        st.sampled_from([*ALL_POST_PROCESSORS, "a new one"]), unique=True, max_size=4
    ).map(tuple),
    baseline=st.sampled_from(["stable diffusion 1", "stable_diffusion_xl", "stable_cascade", "a new one"]),
    workflow=st.sampled_from([None, "qr_code", "a new one"]),
)


def plain(side: int, steps: int, sampler: str = "k_euler_a") -> JobFeatures:
    """A square picture from text alone."""
    return JobFeatures(side, side, steps, sampler, 5.0)
