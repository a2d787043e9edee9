import pytest

from kudos_model.features import accurate_steps


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
