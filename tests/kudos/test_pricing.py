from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from horde.generation.post_processors import POST_PROCESSORS
from horde.kudos.pricing import base_price, base_prices
from kudos_model.features import JobFeatures
from kudos_model.formula import BASIS
from tests.kudos_model.test_formula import JOBS, SIDES


def test_the_basis_job_costs_eleven() -> None:
    assert base_price(BASIS) == Decimal("11.00")


def test_loras_and_textual_inversions_cost_extra() -> None:
    plain = base_price(BASIS)
    assert base_price(replace(BASIS, lora_count=2)) == plain + 6
    assert base_price(replace(BASIS, has_tis=True)) == plain + 1


@given(JOBS, st.integers(0, 5), st.booleans())
def test_prices_are_hundredths_and_a_batch_prices_like_single_calls(
    job: JobFeatures, loras: int, tis: bool
) -> None:
    batch = [job, replace(job, lora_count=loras, has_tis=tis), BASIS]
    prices = base_prices(batch)
    assert prices == [base_price(each) for each in batch]
    assert all(price > 0 and price.as_tuple().exponent == -2 for price in prices)


@given(JOBS, st.integers(1, 500), SIDES, SIDES, st.sampled_from(sorted(POST_PROCESSORS)))
def test_more_work_is_never_cheaper(
    job: JobFeatures, steps: int, width: int, height: int, extra: str
) -> None:
    bigger = replace(
        job, steps=max(job.steps, steps), width=max(job.width, width), height=max(job.height, height)
    )
    processed = replace(job, post_processing=tuple({*job.post_processing, extra}))
    assert base_price(job) <= min(base_price(bigger), base_price(processed))
