"""What work is worth: the one place where the pricing model is asked.

A base price is that of one result, whatever model makes it; the kinds of generation know what else
enters a price (`horde.image.prices`).
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

from horde.kudos.rules import kudos
from kudos_model.features import JobFeatures
from kudos_model.formula import relative_seconds

BASIS_PRICE = 11
"""Of the basis job (see `kudos_model`): 10 for the work and 1 that is always added."""
LORA_PRICE, TIS_PRICE = 3, 1
CACHED_PRICES = 20_000


@lru_cache(maxsize=CACHED_PRICES)
def base_price(features: JobFeatures) -> Decimal:
    """The price of one image before the model's factor; the basis job costs 11.00."""
    (seconds,) = relative_seconds([features])
    return (
        kudos(Decimal(BASIS_PRICE * seconds))
        + LORA_PRICE * features.lora_count
        + TIS_PRICE * features.has_tis
    )


def base_prices(batch: Sequence[JobFeatures]) -> list[Decimal]:
    """The base price of each image, in the order given."""
    return [base_price(features) for features in batch]
