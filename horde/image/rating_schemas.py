"""Wire formats of rating images. Class names are part of the published API."""

from typing import Annotated

from pydantic import Field

from horde.generation.schemas import EXAMPLE_ID, MANY, Maybe
from horde.platform.http.fields import Input

ImageId = Annotated[str, Field(min_length=36, max_length=36)]


class AestheticRating(Input):
    """What the requester thinks of one image."""

    id: ImageId = Field(description="The image's id, as status gives it.", examples=[EXAMPLE_ID])
    rating: int = Field(ge=1, le=10, description="How much it pleases.", examples=[8])
    artifacts: Maybe[int] = Field(
        None, ge=0, le=5, description="How many flaws it has: 0 none, 5 it is spoilt.", examples=[1]
    )


class AestheticsPayload(Input):
    """What the requester thinks of the images of a request: ratings, the best one, or both."""

    best: Maybe[ImageId] = Field(None, description="Id of the best image.", examples=[EXAMPLE_ID])
    ratings: list[AestheticRating] = Field(
        default_factory=list, max_length=MANY, description="One rating for each image that is to be rated."
    )
