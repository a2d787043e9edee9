import pytest
import torch
from torch import nn

from kudos_model.anchors import FAMILY_FACTORS, OTHER_BASELINE
from kudos_model.features import BASIS, JobFeatures
from kudos_model.measuring.architectures import TINY, TRUE
from kudos_model.measuring.pipelines import Pipeline


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    """Of the true sizes, without memory behind them."""
    with torch.device("meta"):
        return {baseline: Pipeline(architecture) for baseline, architecture in TRUE.items()}


PUBLISHED = [
    # baseline, part, million weights, what of it may be missing
    ("stable diffusion 1", "network", 859.5, 0.001),
    ("stable diffusion 2", "network", 865.9, 0.001),
    ("stable_diffusion_xl", "network", 2567.5, 0.001),
    ("stable_cascade", "network", 3600, 0.01),
    ("stable_cascade", "pictures.b", 1560, 0.01),
    ("stable_cascade", "pictures.a", 20, 0.2),  # the encoder of stage A, which no job needs, is left out
    ("flux_1", "network", 11_901.4, 0.001),
    ("qwen_image", "network", 20_430.4, 0.001),
    ("z_image_turbo", "network", 6154.9, 0.001),
    ("stable diffusion 1", "text.0", 123.1, 0.001),
    ("stable diffusion 2", "text.0", 340.4, 0.001),
    ("stable_diffusion_xl", "text.0", 694.7, 0.001),
    ("flux_1", "text.1", 4762.3, 0.001),
    ("qwen_image", "text.0", 7070.6, 0.001),  # without the part that sees pictures and the one that speaks
    ("z_image_turbo", "text.0", 4022.5, 0.001),
    ("stable diffusion 1", "pictures", 83.65, 0.001),
    ("flux_1", "pictures", 83.8, 0.001),
    ("qwen_image", "pictures", 126.9, 0.02),  # what only videos pass is left out
]


@pytest.mark.parametrize(("baseline", "part", "millions", "tolerance"), PUBLISHED)
def test_as_large_as_published(
    pipelines: dict[str, Pipeline], baseline: str, part: str, millions: float, tolerance: float
) -> None:
    module: nn.Module = pipelines[baseline].get_submodule(part)
    weights = sum(weights.numel() for weights in module.parameters())
    assert weights / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("baseline", list(TRUE))
def test_true_networks_fit_together(pipelines: dict[str, Pipeline], baseline: str) -> None:
    job = JobFeatures(
        width=1152,
        height=1280,
        steps=1,
        sampler="k_euler",
        cfg_scale=7.5,
        source_image=True,
        denoising_strength=0.5,
    )
    assert pipelines[baseline](job, 1).shape == (1, 3, 1280, 1152)


def test_every_known_family_has_an_architecture() -> None:
    assert set(TRUE) == set(TINY) == set(FAMILY_FACTORS) - {OTHER_BASELINE}
    assert BASIS.baseline in TRUE
