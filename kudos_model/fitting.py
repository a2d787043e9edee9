"""Fitting a network to times."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

SQUARE = 2.0
"""Weight of the squared relative error beside the absolute one."""
WARM_UP = 0.15
"""Part of the epochs in which the learning rate rises; from then on it falls to nothing."""


class Fit:
    """A network that maps rows to seconds, and how far it is with learning them.

    It runs for `epochs` of `jobs` rows each, `batch` of them at a time.
    """

    def __init__(self, network: nn.Module, jobs: int, batch: int, epochs: int, rate: float) -> None:
        self.network = network
        self.epoch, self.epochs = 0, epochs
        self._batches = max(1, jobs // batch)
        self._optimiser = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            rate,
            total_steps=max(1, epochs * self._batches),
            pct_start=WARM_UP,
            cycle_momentum=False,
        )

    @property
    def left(self) -> int:
        """Epochs that are still to be run."""
        return self.epochs - self.epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs were run."""
        return self.left == 0

    def run_epoch(
        self,
        rows: Tensor,
        seconds: Tensor,
        weights: Tensor,
        chance: Generator,
        *,
        estimate: Callable[[Tensor], Tensor],
        after_step: Callable[[], None] = lambda: None,
    ) -> float:
        """Learn from every row once, in an order that `chance` decides; the mean relative error meanwhile.

        `estimate` maps rows to seconds by way of the network.
        """
        order = torch.randperm(len(rows), generator=chance)
        total = 0.0
        for number in range(self._batches):
            chosen = order[number :: self._batches]
            errors = (estimate(rows[chosen]) / seconds[chosen] - 1).abs()
            loss = (weights[chosen] * (errors + SQUARE * errors.square())).mean()
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            self._optimiser.step()
            self._schedule.step()
            after_step()
            total += float(errors.detach().mean())
        self.epoch += 1
        return total / self._batches

    def state(self) -> dict[str, Any]:
        """Everything that going on needs."""
        return {"epoch": self.epoch, **{name: part.state_dict() for name, part in self._parts().items()}}

    def load_state(self, saved: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.epoch = saved["epoch"]
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimiser": self._optimiser, "schedule": self._schedule}
