from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kudos_model.features import JobFeatures
from kudos_model.measuring.architectures import TINY
from kudos_model.measuring.pipelines import Pipeline, build, first_pass

JOB = JobFeatures(width=192, height=128, steps=4, sampler="k_euler", cfg_scale=7.5)
UNGUIDED = {"flux_1", "z_image_turbo"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return {
        baseline: build(architecture, torch.device("cpu"), torch.float32)
        for baseline, architecture in TINY.items()
    }


def runs(network: nn.Module, pipeline: Pipeline, job: JobFeatures, batch: int = 1) -> list[tuple[int, ...]]:
    """Shapes of the latents of each run of a network."""
    shapes: list[tuple[int, ...]] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes.append(tuple(inputs[0].shape))

    with network.register_forward_pre_hook(keep):
        pipeline(job, batch)
    return shapes


@pytest.mark.parametrize("baseline", list(TINY))
@pytest.mark.parametrize(
    "change", [{}, {"hires_fix": True}, {"source_image": True, "denoising_strength": 0.5}]
)
def test_pictures_of_the_size_asked_for(
    pipelines: dict[str, Pipeline], baseline: str, change: dict[str, object]
) -> None:
    pictures = pipelines[baseline](replace(JOB, **change), 2)
    assert pictures.shape == (2, 3, 128, 192)
    assert pictures.isfinite().all()


@pytest.mark.parametrize("baseline", list(TINY))
def test_guidance_doubles_the_batch(pipelines: dict[str, Pipeline], baseline: str) -> None:
    pipeline = pipelines[baseline]
    batches = {shape[0] for shape in runs(pipeline.network, pipeline, JOB, batch=3)}
    assert batches == {3 if baseline in UNGUIDED else 6}


@pytest.mark.parametrize(("sampler", "expected"), [("k_euler", 4), ("k_heun", 8), ("k_dpm_adaptive", 40)])
def test_samplers_differ_in_evaluations(pipelines: dict[str, Pipeline], sampler: str, expected: int) -> None:
    pipeline = pipelines["z_image_turbo"]
    assert len(runs(pipeline.network, pipeline, replace(JOB, sampler=sampler))) == expected


def test_hires_fix_composes_small_and_goes_on_large(pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["stable diffusion 1"]
    seen = runs(pipeline.network, pipeline, replace(JOB, width=256, hires_fix=True))
    assert [shape[2:] for shape in seen] == [(8, 16)] * 4 + [(16, 32)] * 4


def test_hires_fix_of_a_small_picture_changes_nothing(pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["stable_diffusion_xl"]
    assert len(runs(pipeline.network, pipeline, replace(JOB, hires_fix=True))) == 4


@pytest.mark.parametrize("strength", [0.01, 0.5, None])
def test_all_steps_are_run_however_little_is_changed(
    pipelines: dict[str, Pipeline], strength: float | None
) -> None:
    pipeline = pipelines["stable diffusion 1"]
    job = replace(JOB, source_image=True, denoising_strength=strength)
    assert len(runs(pipeline.network, pipeline, job)) == 4


def test_cascade_shares_its_steps_among_its_stages(pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["stable_cascade"]
    job = replace(JOB, steps=6)
    assert runs(pipeline.network, pipeline, job) == [(2, 16, 3, 4)] * 4
    assert runs(pipeline.get_submodule("pictures.b"), pipeline, job) == [(2, 4, 32, 48)] * 2


SIDES = st.integers(1, 48).map(lambda blocks: blocks * 64)


@given(SIDES, SIDES, st.sampled_from([512, 1024]))
def test_first_pass(width: int, height: int, native: int) -> None:
    size = first_pass(width, height, native)
    assert size[0] <= width
    assert size[1] <= height
    assert size[0] % 64 == size[1] % 64 == 0
    assert min(size) == min(width, height, native)
