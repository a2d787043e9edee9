"""The network that estimates how long a job takes, as it is trained.

It is monotone in width, height and steps by construction. These and the area alone enter the main path, whose
weights are never negative and whose activations never fall. All else decides, through a network of its own,
by how much each unit of the path is scaled (never less than 0) and shifted. Both are free to be anything, so
circumstances may cost or save time, but none of them can turn the sign of what a size does. The idea is that
of Sill's monotonic networks (NeurIPS 1997) with the mixed activations of Runje and Shankaranarayana (ICML
2023): with convex, concave and bounded units such networks can approach any monotone function.

That extras never make a job faster is not the network's part; see `kudos_model.envelope`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kudos_model.anchors import FACTORS, UNTIMED_POST_PROCESSORS
from kudos_model.features import LEARNED, SIZES

SECONDS = 10.0
"""The network works in units of so many seconds, which keeps its numbers near 1."""
PARTS = [len(SIZES), len(LEARNED) - len(SIZES), len(UNTIMED_POST_PROCESSORS), len(FACTORS)]
"""Columns that enter the path, that steer it, and of what is anchored."""
LEAST_SECONDS = 1.0
"""No job takes less. The quickest of all timed ones took 1.6 seconds."""


class MonotoneNetwork(nn.Module):
    """Rows of `features.COLUMNS` to seconds on the reference GPU.

    `widths` are the units of each layer of the path, multiples of 3; `context` those of each of the two
    layers that see everything else. A wide first layer pays: it is where sizes bend the time.
    """

    factors: Tensor
    untimed: Tensor

    def __init__(self, widths: Sequence[int] = (240, 96), context: int = 128) -> None:
        super().__init__()
        if any(width % 3 for width in widths):
            raise ValueError("widths must be multiples of 3: a third of the units for each activation")
        # Scales of the units of each layer and of the last one's sum, then shifts of the same.
        self.steered = [*widths, widths[-1], *widths, 1]
        self.circumstances = nn.Sequential(
            nn.Linear(PARTS[1], context), nn.ReLU(), nn.Linear(context, context), nn.ReLU()
        )
        self.steering = nn.Linear(context, sum(self.steered))
        inputs = [len(SIZES), *widths[:-1]]
        self.path = nn.ParameterList(
            [torch.rand(width, size) * 2 / size for width, size in zip(widths, inputs, strict=True)]
        )
        self.sum = nn.Parameter(torch.rand(1, widths[-1]) * 2 / widths[-1])
        self.register_buffer("factors", torch.tensor(list(FACTORS.values()))[:, None])
        self.register_buffer("untimed", torch.tensor(list(UNTIMED_POST_PROCESSORS.values())))
        with torch.no_grad():
            scales, shifts = self._steer(self.steering.bias)
            for scale in scales:
                scale.fill_(1)
            for shift in shifts[:-1]:
                shift.uniform_(-1, 0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """Seconds, of shape (n,), for rows of shape (n, len(COLUMNS))."""
        sizes, free, untimed, factors = torch.split(rows, PARTS, dim=1)
        seconds = self.learned_seconds(sizes, free).clamp(min=LEAST_SECONDS)
        fixed, by_area = (untimed @ self.untimed).unbind(1)
        return (seconds + fixed + by_area * sizes[:, SIZES.index("area")]) * (factors @ self.factors).squeeze(
            1
        )

    def learned_seconds(self, sizes: Tensor, free: Tensor) -> Tensor:
        """Seconds of what timings exist for: the part that is trained."""
        scales, shifts = self._steer(self.steering(self.circumstances(free)))
        units = sizes
        for weights, scale, shift in zip(self.path, scales, shifts, strict=False):
            units = _rising(functional.linear(units, weights) * functional.relu(scale) + shift)
        total = functional.linear(units * functional.relu(scales[-1]), self.sum) + shifts[-1]
        return SECONDS * total.squeeze(1)

    def set_factors(self, factors: Mapping[str, float]) -> None:
        """Price families of models by other `FACTORS`."""
        self.factors.copy_(torch.tensor([[factors[name]] for name in FACTORS]))

    def keep_monotone(self) -> None:
        """Bring weights of the path that an optimiser made negative back to 0."""
        with torch.no_grad():
            for weights in (*self.path, self.sum):
                weights.clamp_(min=0)

    def _steer(self, values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Scales of each layer and of the sum, shifts of each layer and of the sum."""
        parts = torch.split(values, self.steered, dim=-1)
        return list(parts[: len(parts) // 2]), list(parts[len(parts) // 2 :])


def _rising(values: Tensor) -> Tensor:
    """A third of the units each is convex, concave and bounded; none ever falls."""
    convex, concave, bounded = values.chunk(3, dim=-1)
    return torch.cat([functional.relu(convex), -functional.relu(-concave), bounded.clamp(-1, 1)], dim=-1)
