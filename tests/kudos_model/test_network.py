from pathlib import Path

import pytest
import torch

from kudos_model import monotonicity
from kudos_model.anchors import FACTORS
from kudos_model.estimator import Estimator
from kudos_model.export import save
from kudos_model.features import BASIS, COLUMNS, SIZES, encode
from kudos_model.network import LEAST_SECONDS, MonotoneNetwork


def wild_network(seed: int, widths: tuple[int, ...] = (24, 12)) -> MonotoneNetwork:
    """Untrained, with weights far larger than training makes them."""
    torch.manual_seed(seed)
    network = MonotoneNetwork(widths, context=16)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=1.5)
    network.keep_monotone()
    return network


@pytest.mark.parametrize("widths", [(30,), (24, 12), (12, 9, 6)])
def test_larger_sizes_never_take_less_whatever_the_weights(widths: tuple[int, ...]) -> None:
    network = wild_network(len(widths), widths)
    rows = torch.randn(5000, len(COLUMNS))
    larger = rows.clone()
    larger[:, : len(SIZES)] += torch.rand(5000, len(SIZES)) * (torch.rand(5000, len(SIZES)) < 0.5)
    free, more = rows[:, len(SIZES) :][:, : network.circumstances[0].in_features], larger[:, : len(SIZES)]
    less = rows[:, : len(SIZES)]
    with torch.no_grad():
        assert (network.learned_seconds(more, free) >= network.learned_seconds(less, free)).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_served_prices_are_monotone_whatever_the_weights(tmp_path: Path, seed: int) -> None:
    """So it is the architecture and the envelope that keep them in order, not what was learned."""
    path = tmp_path / "wild.onnx"
    save(wild_network(seed), {"factors": dict(FACTORS)}, path)
    assert monotonicity.check(Estimator(path), 6000, seed).violated == 0


def test_keep_monotone_only_touches_the_path() -> None:
    network = MonotoneNetwork((6, 3), context=4)
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(-1)
    network.keep_monotone()
    values = {name: weights.unique().tolist() for name, weights in network.named_parameters()}
    assert {name for name, value in values.items() if value == [0]} == {"path.0", "path.1", "sum"}
    assert all(value in ([0], [-1]) for value in values.values())


def test_nothing_takes_less_than_a_second() -> None:
    network = MonotoneNetwork((6, 3), context=4)
    with torch.no_grad():
        network.steering.bias[-1] = -100
        assert network(torch.tensor(encode([BASIS]))).tolist() == [LEAST_SECONDS]


def test_other_families_take_a_multiple() -> None:
    network = MonotoneNetwork((6, 3), context=4)
    network.set_factors({**FACTORS, "flux_1": 5.5})
    rows = torch.tensor(encode([BASIS])).repeat(2, 1)
    rows[1, COLUMNS.index("stable diffusion 1")] = 0
    rows[1, COLUMNS.index("flux_1")] = 1
    with torch.no_grad():
        standard, flux = network(rows).tolist()
    assert flux == pytest.approx(5.5 * standard)


def test_widths_must_be_multiples_of_three() -> None:
    with pytest.raises(ValueError, match="multiples of 3"):
        MonotoneNetwork((9, 10))
