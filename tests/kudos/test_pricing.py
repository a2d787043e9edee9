from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horde.generation.post_processors import POST_PROCESSORS
from horde.kudos import pricing
from horde.kudos.pricing import Prices, base_price, base_prices, model_factor
from kudos_model.estimator import Estimator
from kudos_model.features import BASIS, JobFeatures
from tests.kudos_model.jobs import JOBS, SIDES, plain


def test_the_basis_job_costs_eleven() -> None:
    assert base_price(BASIS) == Decimal("11.00")


def test_loras_and_textual_inversions_cost_extra() -> None:
    plain = base_price(BASIS)
    assert base_price(replace(BASIS, lora_count=2)) == plain + 6
    assert base_price(replace(BASIS, has_tis=True)) == plain + 1


@settings(deadline=None)
@given(JOBS, st.integers(0, 5), st.booleans())
def test_prices_are_hundredths_and_a_batch_prices_like_single_calls(
    job: JobFeatures, loras: int, tis: bool
) -> None:
    batch = [job, replace(job, lora_count=loras, has_tis=tis), BASIS, job]
    prices = Prices(Estimator()).of(batch)
    assert prices == base_prices(batch) == [base_price(each) for each in batch]
    assert all(price > 0 and price.as_tuple().exponent == -2 for price in prices)


@settings(max_examples=50, deadline=None)
@given(JOBS, st.integers(1, 500), SIDES, SIDES, st.sampled_from(sorted(POST_PROCESSORS)))
def test_more_work_is_never_cheaper(
    job: JobFeatures, steps: int, width: int, height: int, extra: str
) -> None:
    bigger = replace(
        job, steps=max(job.steps, steps), width=max(job.width, width), height=max(job.height, height)
    )
    processed = replace(job, post_processing=tuple({*job.post_processing, extra}))
    assert base_price(job) <= min(base_price(bigger), base_price(processed))


class CountingEstimator(Estimator):
    """Knows which jobs it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[JobFeatures]] = []

    def seconds(self, jobs: list[JobFeatures]) -> list[float]:  # type: ignore[override]
        self.asked.append(list(jobs))
        return super().seconds(jobs)


def test_only_what_is_new_is_estimated_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "CACHED_PRICES", 3)
    estimator = CountingEstimator()
    prices = Prices(estimator)
    small, middle, large, huge = (plain(side, 30) for side in (256, 512, 768, 1024))
    asked = [
        ([small, middle, small], [small, middle]),
        ([middle, large], [large]),
        ([small, middle, large], []),
        ([huge], [huge]),  # small was not asked for the longest, and makes room
        ([middle, large, huge], []),
        ([small], [small]),
    ]
    for batch, new in asked:
        estimator.asked.clear()
        assert prices.of(batch) == base_prices(batch)
        assert [job for jobs in estimator.asked for job in jobs] == new
        assert len(estimator.asked) == 1
    assert prices.of([]) == []


def test_factors_are_exact() -> None:
    assert model_factor("stable_diffusion_xl", hires_fix=False, workflow="qr_code") == Decimal("4")
    assert model_factor("stable_cascade", hires_fix=True, workflow=None) == Decimal("7")
    assert model_factor("never heard of", hires_fix=False, workflow=None) == Decimal("12")
