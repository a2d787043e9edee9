"""Wire formats of moving kudos and of looking back at it. Class names are part of the published API."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from horde.generation.schemas import Maybe
from horde.platform.http.fields import Input, IntOrText, Output

MOST_AWARDED = 10**12


def _without_fraction(value: Any) -> Any:
    return math.trunc(value) if isinstance(value, float) and math.isfinite(value) else value


Whole = Annotated[IntOrText, BeforeValidator(_without_fraction)]
"""Whole kudos; fractions are cut off."""


class KudosTransferInput(Input):
    """Kudos to give away."""

    username: str = Field(
        max_length=255,
        description="Who gets them: name and number, the number alone, or a shared key, whose limit grows.",
        examples=["somebody#42"],
    )
    amount: Whole = Field(100, description="How many; fractions are cut off.")


class KudosTransferred(Output):
    """Kudos have changed hands."""

    transferred: float = Field(description="How many.", examples=[100])


class KudosAwardInput(Input):
    """Kudos to award."""

    username: str = Field(
        max_length=255,
        description="Who gets them: name and number, or the number alone.",
        examples=["somebody#42"],
    )
    amount: Whole = Field(
        100,
        ge=-MOST_AWARDED,
        le=MOST_AWARDED,
        description="How many; below zero they are taken away. Fractions are cut off.",
    )


class KudosAwarded(Output):
    """Kudos were awarded."""

    awarded: float = Field(description="How many.", examples=[100])


class LedgerQuery(Input):
    """Which part of an account's history to show."""

    before: str | None = Field(
        None,
        pattern=r"^[0-9]{1,17}\.[0-9]{1,4}$",
        description="Where to go on: what the page before said as `next`.",
    )
    limit: int = Field(50, ge=1, le=100, description="Most movements to show.")


class LedgerMovement(Output):
    """Something that moved an account's kudos."""

    created: str = Field(description="When.", json_schema_extra={"format": "date-time"})
    kind: str = Field(
        description="Why: activation (a request was accepted), generation (a job was delivered), uptime, "
        "rating, transfer, award, monthly, admin, promotion (the account became trusted), floor (a balance "
        "too low was made good) or reconciliation (the books were put right).",
        examples=["transfer"],
    )
    action: Maybe[str] = Field(
        None, description="The key of kudos_details that it counts under, if any.", examples=["received"]
    )
    amount: float = Field(description="What it added to the kudos to spend; negative: took from them.")
    escrow: float = Field(description="What it added to the kudos under evaluation.")
    counterpart: Maybe[str] = Field(
        None, description="The other account of a transfer.", examples=["somebody#42"]
    )


class LedgerPage(Output):
    """Part of an account's history, newest first."""

    movements: list[LedgerMovement] = Field(description="What moved its kudos.")
    next: Maybe[str] = Field(None, description="Send this as `before` to see what was earlier.")
