from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.generation.post_processors import POST_PROCESSORS
from horde.image.prices import (
    BurnTerms,
    activation_tax,
    burn,
    charge,
    quote,
)
from horde.kudos.rules import kudos

PRICES = st.decimals(0, 5000, places=2)
FACTORS = st.sampled_from([1, 2, 4, 7, 8, 12])
TERMS = st.builds(
    BurnTerms,
    source_image=st.booleans(),
    post_processing=st.lists(st.sampled_from(sorted(POST_PROCESSORS)), unique=True, max_size=5).map(tuple),
    slow_workers=st.booleans(),
    worker_blacklist=st.booleans(),
)
P = Decimal("5.76")
"""The price of the specification's worked examples."""


@pytest.mark.parametrize(
    ("value", "terms", "cost"),
    [
        (P, BurnTerms(), "6.76"),
        (P, BurnTerms(source_image=True), "8.49"),
        (P, BurnTerms(post_processing=("GFPGAN", "CodeFormers", "strip_background")), "6.76"),
        (P, BurnTerms(post_processing=("GFPGAN", "RealESRGAN_x4plus")), "7.05"),
        (P, BurnTerms(slow_workers=False), "8.11"),
        (P, BurnTerms(worker_blacklist=True), "7.44"),
        (0, BurnTerms(source_image=True, slow_workers=False, worker_blacklist=True), "1.32"),
        (Decimal("0.025"), BurnTerms(), "1.02"),
    ],
)
def test_burn(value: Decimal | int, terms: BurnTerms, cost: str) -> None:
    assert burn(value, terms) == Decimal(cost)


def test_activation_tax() -> None:
    assert activation_tax() == Decimal("1.00")
    assert activation_tax(5) == Decimal("26.00")
    assert activation_tax(1, foreign_style=True) == Decimal("8.00")


@pytest.mark.parametrize(
    ("price", "factor", "n", "cost"),
    [(P, 1, 1, "7.76"), (P, 1, 3, "21.28"), (P, 2, 1, "13.52"), (P + 7, 1, 1, "14.76")],
)
def test_worked_examples_of_quotes(price: Decimal, factor: int, n: int, cost: str) -> None:
    assert quote(price * factor, n, BurnTerms(), activation_tax()) == Decimal(cost)


@given(PRICES, FACTORS, st.integers(1, 20), TERMS, st.integers(0, 5), st.booleans())
def test_a_quote_is_the_tax_and_every_charge(
    price: Decimal, factor: int, n: int, terms: BurnTerms, extra: int, style: bool
) -> None:
    tax = activation_tax(extra, foreign_style=style)
    charges = [charge(price * factor, terms) for _ in range(n)]
    quoted = quote(price * factor, n, terms, tax)
    assert quoted == tax + sum(charges)
    assert quoted == kudos(quoted)
    assert all(burnt == kudos(burnt) for burnt in charges)


@given(PRICES, PRICES, FACTORS, st.integers(1, 19), TERMS, st.sampled_from(sorted(POST_PROCESSORS)))
def test_more_is_never_cheaper(
    price: Decimal, more: Decimal, factor: int, n: int, terms: BurnTerms, extra: str
) -> None:
    tax = activation_tax()
    cost = quote(price * factor, n, terms, tax)
    processed = replace(terms, post_processing=tuple({*terms.post_processing, extra}))
    assert cost <= quote((price + more) * factor, n, terms, tax)
    assert cost < quote(price * factor, n + 1, terms, tax)
    assert cost <= quote(price * factor, n, processed, tax)
    assert cost <= quote(price * factor, n, replace(terms, slow_workers=False), tax)
    assert cost <= quote(price * factor, n, replace(terms, worker_blacklist=True), tax)


@given(PRICES, FACTORS, TERMS)
def test_a_censored_image_costs_only_the_taxes(price: Decimal, factor: int, terms: BurnTerms) -> None:
    assert charge(price * factor, terms, censored=True) == burn(0, terms) <= charge(price * factor, terms)
