"""Numbers and bars as people see them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.web.plots import columns, rows, short

VALUES = st.lists(st.tuples(st.text(max_size=5), st.floats(0, 1e12)), max_size=60)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.96, "1 K"),
        (1234, "1.2 K"),
        (1_000_000, "1 M"),
        (2_500_000_000, "2.5 G"),
        (3e12, "3 T"),
        (4e15, "4 P"),
        (5e18, "5000 P"),
    ],
)
def test_short(number: float, shown: str) -> None:
    assert short(number) == shown


@given(VALUES)
def test_bars_fit(values: list[tuple[str, float]]) -> None:
    bars = columns(values, 640, 160)
    assert [(bar.label, bar.value) for bar in bars] == values
    for bar in bars:
        assert 0 <= bar.x <= bar.x + bar.width <= 640.2
        assert 0 <= bar.y <= bar.y + bar.height <= 160.2
    assert all(0 <= bar.width <= 640 for bar in rows(values, 640))
