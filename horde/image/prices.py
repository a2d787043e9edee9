"""What image work costs: the one place that quotes, reserves and charges by.

An image has a base price, the same whatever its model. Times the model's factor it is the value of the
work. The requester pays that value and the burn on top of it, and once per request the activation tax.
"""

from dataclasses import dataclass
from decimal import Decimal

from horde.generation.post_processors import UPSCALERS
from horde.kudos.rules import ZERO, kudos

SOURCE_IMAGE_FACTOR = Decimal("1.3")
UPSCALER_FACTOR = Decimal("1.05")
FAST_WORKERS_FACTOR = Decimal("1.2")
WORKER_BLACKLIST_FACTOR = Decimal("1.1")
JOB_TAX = 1

ACTIVATION_TAX, EXTRA_SOURCE_IMAGE_TAX, STYLE_TAX = 1, 5, 2

MATCHED_PRICE = Decimal("0.10")
"""Base price of an image whose request names workers, where targeting has to be matched."""
ANY_MODEL_BASELINE = "stable_diffusion_xl"
"""What a request that accepts every model is expected to get."""


@dataclass(frozen=True, slots=True)
class BurnTerms:
    """What of a request raises its price without making more work for the model."""

    source_image: bool = False
    post_processing: tuple[str, ...] = ()
    slow_workers: bool = True
    worker_blacklist: bool = False


def burn(value: Decimal | int, terms: BurnTerms) -> Decimal:
    """What a requester pays for work of `value`."""
    cost = Decimal(value)
    if terms.source_image:
        cost *= SOURCE_IMAGE_FACTOR
    for name in terms.post_processing:
        if name in UPSCALERS:
            cost *= UPSCALER_FACTOR
    cost += JOB_TAX
    if not terms.slow_workers:
        cost *= FAST_WORKERS_FACTOR
    if terms.worker_blacklist:
        cost *= WORKER_BLACKLIST_FACTOR
    return kudos(cost)


def charge(value: Decimal, terms: BurnTerms, *, censored: bool = False) -> Decimal:
    """What a requester pays for one delivered image of `value`; of a censored one only the taxes."""
    return burn(ZERO if censored else value, terms)


def activation_tax(extra_source_images: int = 0, *, foreign_style: bool = False) -> Decimal:
    """What a request costs once it is queued, whatever comes of it.

    `foreign_style` says that it uses a style which belongs to somebody else.
    """
    tax = ACTIVATION_TAX + EXTRA_SOURCE_IMAGE_TAX * extra_source_images + STYLE_TAX * foreign_style
    return kudos(tax)


def quote(value: Decimal, n: int, terms: BurnTerms, tax: Decimal) -> Decimal:
    """What a request for `n` images of `value` costs in full, with its `tax` (see `activation_tax`)."""
    return tax + n * charge(value, terms)
