"""What work is worth: the one place where the pricing network is asked.

A base price is that of one result, whatever model makes it; the kinds of generation know what else
enters a price (`horde.image.prices`).
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from threading import Lock

from horde.kudos.rules import kudos
from kudos_model.estimator import Estimator
from kudos_model.features import BASIS, JobFeatures

BASIS_PRICE = 11
"""Of the basis job: 10 for the work and 1 that is always added."""
LORA_PRICE, TIS_PRICE = 3, 1
CACHED_PRICES = 20_000


class Prices:
    """Prices by one estimator. Those of the last `CACHED_PRICES` different jobs are remembered."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator
        (self._basis,) = estimator.seconds([BASIS])
        self._known: dict[JobFeatures, Decimal] = {}
        self._lock = Lock()

    def of(self, batch: Sequence[JobFeatures]) -> list[Decimal]:
        """The base price of each image, in the order given; all that are new are estimated at once."""
        with self._lock:
            # Taken out and put back at the end, so that what was not asked for the longest is in front.
            found = {job: self._known.pop(job, None) for job in batch}
            new = [job for job, price in found.items() if price is None]
            found.update(zip(new, map(self._price, new, self.estimator.seconds(new)), strict=True))
            prices = {job: price for job, price in found.items() if price is not None}
            self._known.update(prices)
            while len(self._known) > CACHED_PRICES:
                del self._known[next(iter(self._known))]
        return [prices[job] for job in batch]

    def _price(self, job: JobFeatures, seconds: float) -> Decimal:
        work = kudos(Decimal(BASIS_PRICE * seconds / self._basis))
        return work + LORA_PRICE * job.lora_count + TIS_PRICE * job.has_tis


@cache
def current() -> Prices:
    """The prices of this process. Loading the network takes some milliseconds, the first time."""
    return Prices(Estimator())


def base_price(job: JobFeatures) -> Decimal:
    """The price of one image before the model's factor; the basis job costs 11.00."""
    (price,) = current().of([job])
    return price


def base_prices(batch: Sequence[JobFeatures]) -> list[Decimal]:
    """The base price of each image, in the order given."""
    return current().of(batch)


@cache
def model_factor(baseline: str, *, hires_fix: bool, workflow: str | None) -> Decimal:
    """How much more work an image is with a model of `baseline` than the base price says."""
    factor = current().estimator.factor(baseline, hires_fix=hires_fix, workflow=workflow)
    return Decimal(str(factor))
