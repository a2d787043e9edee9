"""Wire formats of shared keys. Class names are part of the published API."""

from typing import Annotated, Any

from pydantic import Field

from horde.generation.schemas import EXAMPLE_ID, Maybe
from horde.kudos.rules import UNLIMITED
from horde.platform.http.fields import Input, IntOrText, Output

MOST_DAYS = 1_000_000
MOST_TOKENS = 4096

Name = Annotated[
    str,
    Field(
        max_length=255,
        description="What the owner calls it.",
        examples=["For my friends"],
        # The published bound; shorter names have always been accepted.
        json_schema_extra={"minLength": 3},
    ),
]


def _bounded(most: int, description: str, *, published: int | None = None) -> Any:
    """A number from -1 to `most`; the published bound where that is another one.

    Both are declared by hand, as those of a number that may come as text are not found in its schema.
    """
    return Field(
        ge=-1,
        le=most,
        description=description,
        json_schema_extra={"minimum": -1, "maximum": published or most},
    )


Kudos = Annotated[IntOrText, _bounded(50_000_000, "How much may be spent with it; -1: no limit.")]
Days = Annotated[
    IntOrText,
    _bounded(
        MOST_DAYS,
        "Days from now until it expires; -1: never. 0 stands for never in a new key, and for at once in an "
        "existing one.",
    ),
]
Pixels = Annotated[
    IntOrText, _bounded(4_194_304, "Width times height of the largest image; -1: no limit, 0: no images.")
]
Steps = Annotated[IntOrText, _bounded(500, "Most steps of an image; -1: no limit.")]
Tokens = Annotated[
    IntOrText,
    # Texts have been allowed to be longer since the bound was published.
    _bounded(MOST_TOKENS, "Most tokens of a text; -1: no limit, 0: no texts.", published=500),
]


class SharedKeyInput(Input):
    """A new shared key, or what to change of one."""

    kudos: Kudos = 5000
    expiry: Days = -1
    name: Name = ""
    max_image_pixels: Pixels = UNLIMITED
    max_image_steps: Steps = UNLIMITED
    max_text_tokens: Tokens = UNLIMITED
    style_only: bool = Field(
        False,
        description="Whether it only pays for requests with your styles, as every key does that is attached "
        "to one. False frees a key, and styles lose it.",
    )


class SharedKeyDetails(Output):
    """A shared key."""

    id: Maybe[str] = Field(
        None,
        description="The key itself: whoever knows it may use it. Left out for others in a style.",
        examples=[EXAMPLE_ID],
    )
    username: str = Field(description="Name and number of its owner.", examples=["somebody#42"])
    name: str = Field(description="What the owner calls it; empty if it has no name.")
    kudos: int = Field(description="How much may still be spent with it; -1: no limit, 0: nothing any more.")
    expiry: Maybe[str] = Field(
        None,
        description="When it expires; missing: never.",
        json_schema_extra={"format": "date-time"},
    )
    max_image_pixels: int = Field(description="Width times height of the largest image; -1: no limit.")
    max_image_steps: int = Field(description="Most steps of an image; -1: no limit.")
    max_text_tokens: int = Field(description="Most tokens of a text; -1: no limit.")
    utilized: int = Field(description="Kudos that were spent with it.")
    style_only: Maybe[bool] = Field(
        None, description="True: it only pays for requests with its owner's styles."
    )
