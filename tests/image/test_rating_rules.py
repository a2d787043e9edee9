"""Which image ratings make the best, and what they earn."""

from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.image.rating_rules import Opinion, judge, reward
from horde.image.rating_schemas import AestheticsPayload
from horde.platform.errors import BadRequest

IMAGES = [UUID(int=number) for number in range(1, 5)]
A, B, C, _ = (str(image) for image in IMAGES)
CENTS = st.decimals(0, 10_000, places=2)


def opinion(
    ratings: dict[str, int], best: str | None = None, images: int = 4, own: Collection[str] = ()
) -> Opinion:
    """What is made of ratings without artifacts."""
    given = [{"id": image, "rating": rating} for image, rating in ratings.items()]
    chosen = {} if best is None else {"best": best}
    return judge(
        AestheticsPayload.model_validate({"ratings": given} | chosen),
        IMAGES[:images],
        {UUID(image) for image in own},
    )


@pytest.mark.parametrize(
    ("ratings", "best", "images", "expected", "earned"),
    [
        ({}, A, 4, A, 15),
        # One rating of several images
        ({A: 6}, B, 4, B, 20),
        ({A: 6}, A, 4, A, 20),
        ({A: 6}, None, 4, None, 5),
        ({A: 7}, None, 4, A, 5),
        ({A: 7}, A, 4, A, 5),
        ({A: 7}, B, 4, None, 5),
        # One rating of one image
        ({A: 6}, A, 1, None, 5),
        ({A: 7}, None, 1, A, 5),
        # Several ratings
        ({A: 3, B: 4}, None, 4, B, 10),
        ({A: 3, B: 4}, A, 4, B, 10),
        ({A: 4, B: 4, C: 1}, None, 4, None, 15),
        ({A: 4, B: 4, C: 1}, B, 4, B, 15),
    ],
)
def test_the_best_and_what_is_earned(
    ratings: dict[str, int], best: str | None, images: int, expected: str | None, earned: int
) -> None:
    made = opinion(ratings, best, images)
    assert (made.best and str(made.best), made.earned) == (expected, earned)


@pytest.mark.parametrize(
    ("ratings", "best", "own", "expected", "earned"),
    [
        ({A: 3, B: 4}, None, [A], B, 5),
        ({A: 3, B: 4}, None, [B], B, 5),
        ({A: 3, B: 4}, None, [A, B], B, 0),
        ({}, A, [A], A, 0),
        ({}, A, [B, C], A, 15),
        ({A: 6}, B, [A], B, 15),
        ({A: 6}, B, [B], B, 5),
        ({A: 6}, B, [A, B], B, 0),
    ],
)
def test_images_of_the_requesters_own_workers_count_and_earn_nothing(
    ratings: dict[str, int], best: str | None, own: list[str], expected: str, earned: int
) -> None:
    made = opinion(ratings, best, own=own)
    assert (str(made.best), made.earned) == (expected, earned)


@given(st.lists(st.tuples(st.integers(1, 10), st.none() | st.integers(0, 5)), max_size=4), st.integers(-1, 3))
def test_what_is_earned_is_bounded_and_the_best_has_the_highest_rating(
    values: list[tuple[int, int | None]], best: int
) -> None:
    ratings = [
        {"id": str(image), "rating": rating} | ({} if artifacts is None else {"artifacts": artifacts})
        for image, (rating, artifacts) in zip(IMAGES, values, strict=False)
    ]
    chosen = {} if best < 0 else {"best": str(IMAGES[best])}
    payload = AestheticsPayload.model_validate({"ratings": ratings} | chosen)
    try:
        made = judge(payload, IMAGES, ())
    except BadRequest as error:
        refused = error.rc
    else:
        refused = None
    top = [rating for rating, _ in values].count(max((rating for rating, _ in values), default=0))
    if refused:
        assert refused == ("AestheticsConfused" if values else "AestheticsMissing")
        assert not values or (top > 1 and best >= 0)
        return
    marked = sum(artifacts is not None for _, artifacts in values)
    paid = 5 * len(values) + 5 * marked
    assert made.earned in ({15} if not values else {paid, paid + 15} if len(values) == 1 else {paid})
    if len(values) > 1 and made.best is not None:
        rating_of = {rating.image: rating.rating for rating in made.ratings}
        assert rating_of[made.best] == max(rating_of.values())


@given(st.integers(0, 200), CENTS)
def test_the_reward_is_at_least_one_less_than_what_was_consumed(earned: int, consumed: Decimal) -> None:
    paid = reward(earned, consumed)
    assert paid == round(paid, 2)
    assert paid == max(0, min(earned, consumed - 1))


@pytest.mark.parametrize(
    ("consumed", "paid"),
    [
        ("100", "15"),
        ("16", "15"),
        ("15.99", "14.99"),
        ("15.01", "14.01"),
        ("1.01", "0.01"),
        ("1", "0"),
        ("0.5", "0"),
        ("0", "0"),
    ],
)
def test_the_limit_of_the_reward(consumed: str, paid: str) -> None:
    assert reward(15, Decimal(consumed)) == Decimal(paid)
