import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kudos_model.features import SAMPLER_STAND_INS, SAMPLERS, accurate_steps
from kudos_model.measuring.samplers import NOISY, sample

ALL = (*SAMPLERS, *SAMPLER_STAND_INS)


class Counting:
    """Predicts the same noise always, and keeps what it was asked."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, latents: Tensor, moments: Tensor) -> Tensor:
        assert moments.shape == latents.shape[:1]
        self.moments.append(moments[0].item())
        return torch.ones_like(latents)


@given(st.sampled_from(ALL), st.integers(1, 60))
def test_network_runs_as_often_as_is_paid_for(sampler: str, steps: int) -> None:
    network = Counting()
    sample(network, torch.zeros(2, 1, 1, 1), sampler, steps)
    assert len(network.moments) == accurate_steps(sampler, steps)


@given(st.sampled_from(ALL), st.integers(1, 60))
def test_moments_run_down(sampler: str, steps: int) -> None:
    network = Counting()
    sample(network, torch.zeros(1, 1, 1, 1), sampler, steps)
    assert network.moments[0] == 1000
    assert network.moments == sorted(network.moments, reverse=True)


@pytest.mark.parametrize("sampler", [sampler for sampler in ALL if sampler not in NOISY])
def test_predicted_noise_is_gone_at_the_end(sampler: str) -> None:
    latents = sample(Counting(), torch.full((1, 1, 2, 2), 3.0), sampler, 10)
    assert torch.allclose(latents, torch.full_like(latents, 2.0))


def test_ancestral_samplers_differ_from_run_to_run() -> None:
    start = torch.zeros(1, 1, 4, 4)
    assert not torch.equal(*(sample(Counting(), start, "k_euler_a", 3) for _ in range(2)))
