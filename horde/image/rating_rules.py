"""Rules of rating images: which ratings are accepted, which image they make the best, what they earn."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from horde.image.rating_schemas import AestheticsPayload
from horde.kudos.rules import ZERO, kudos
from horde.platform.errors import BadRequest
from horde.platform.ids import parse_id

LIKED = 7
"""A single image rated this high is itself the best; below, another one may be."""
PER_RATING = 5
PER_ARTIFACTS = 5
FOR_THE_BEST = 15


@dataclass(frozen=True, slots=True)
class ImageRating:
    """A rating of one image; `artifacts` is None when its flaws were not counted."""

    image: UUID
    rating: int
    artifacts: int | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """Accepted ratings."""

    ratings: tuple[ImageRating, ...]
    best: UUID | None
    """The best image of the request; None when the ratings do not tell."""
    earned: int
    """Kudos, if ratings are paid for at all and before they are limited by what the request cost."""


def judge(payload: AestheticsPayload, images: Collection[UUID], own: Collection[UUID]) -> Opinion:
    """What `payload` says of a request whose delivered images are `images`.

    Those in `own` were made by the requester's own workers. What is said of them counts, and earns nothing.
    Raises 400, the first that applies: `ProcGenNotFound` for ratings of other images, `AestheticsDuplicate`,
    `ProcGenNotFound` for another best image, `AestheticsMissing` when nothing is said, `AestheticsSolo` when
    the only image is called the best, `AestheticsConfused`.
    """
    ratings = tuple(
        ImageRating(_image(given.id, images), given.rating, given.artifacts) for given in payload.ratings
    )
    if len({rating.image for rating in ratings}) < len(ratings):
        raise BadRequest(
            "An image is rated twice. Send one rating for each image.",
            "AestheticsDuplicate",
        )
    chosen = None if payload.best is None else _image(payload.best, images)
    if not ratings and chosen is None:
        raise BadRequest(
            "Send 'ratings' of the images, the id of the 'best' one, or both.", "AestheticsMissing"
        )
    if not ratings and len(images) <= 1:
        raise BadRequest(
            "This request has one image only, which says nothing when it is the best. Rate it instead.",
            "AestheticsSolo",
        )
    return Opinion(ratings, _best(ratings, chosen, images), _earned(ratings, chosen, images, own))


def _image(name: str, images: Collection[UUID]) -> UUID:
    image = parse_id(name)
    if image is None or image not in images:
        raise BadRequest(
            f"The request has no image with id {name}. Use the ids that its status gives.", "ProcGenNotFound"
        )
    return image


def _best(ratings: Sequence[ImageRating], chosen: UUID | None, images: Collection[UUID]) -> UUID | None:
    """Of several rated images the highest rated one; `chosen` decides between those that are tied.

    Of a single rated image it is only known whether it is liked: then it is the best, unless another one was
    chosen, which leaves the matter open; else the best is the one chosen from several.
    """
    if not ratings:
        return chosen
    if len(ratings) == 1:
        (only,) = ratings
        if only.rating < LIKED:
            return chosen if len(images) > 1 else None
        return only.image if chosen in (None, only.image) else None
    top = max(rating.rating for rating in ratings)
    tied = [rating.image for rating in ratings if rating.rating == top]
    if len(tied) == 1:
        return tied[0]
    if chosen is not None and chosen not in tied:
        raise BadRequest(
            f"The image called the best is not one of the {len(tied)} that have the highest rating, {top}. "
            "Choose one of these, or rate it higher.",
            "AestheticsConfused",
        )
    return chosen


def _earned(
    ratings: Sequence[ImageRating], chosen: UUID | None, images: Collection[UUID], own: Collection[UUID]
) -> int:
    for_the_best = FOR_THE_BEST * (chosen is not None and chosen not in own)
    if not ratings:
        return for_the_best
    earned = sum(
        PER_RATING + PER_ARTIFACTS * (rating.artifacts is not None)
        for rating in ratings
        if rating.image not in own
    )
    single = len(ratings) == 1 and len(images) > 1
    return earned + for_the_best * (single and ratings[0].rating < LIKED)


def reward(earned: int, consumed: Decimal) -> Decimal:
    """What is credited of `earned` kudos: at least 1 less than was `consumed`, and never below zero."""
    return kudos(max(ZERO, min(Decimal(earned), consumed - 1)))
