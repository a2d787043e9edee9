"""Rules of the loop: order of service, size classes, lanes and progress."""

from dataclasses import replace
from decimal import Decimal
from math import inf
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.generation.rules import (
    AGEING_PER_SECOND,
    ANY_MODEL,
    ANY_WORKER,
    NEED_BITS,
    LaneKey,
    bits,
    progress,
    rank,
    seconds_ahead,
    size_class,
)

PRIORITIES = st.decimals(-100, 10**10, places=2)
TIMES = st.floats(1.7e9, 1.8e9)
"""Unix seconds from 2023 to 2027."""
SIZES = st.integers(1, 4 * 3072 * 3072)
LANES = st.builds(
    LaneKey,
    kind=st.sampled_from(["image", "text"]),
    model=st.text(max_size=20),
    target=st.uuids(),
    needs=st.integers(0, 2**NEED_BITS - 1),
    size_class=st.integers(0, 60),
)
STABLE = (4235039026385683043, -78433539073396540)
"""Ids of two lanes as the first version made them."""
STATES = st.lists(
    st.sampled_from(["processing", "ok", "censored", "csam", "faulted", "aborted"]), max_size=30
)


class TestRank:
    @given(PRIORITIES, TIMES, PRIORITIES, TIMES, st.floats(0, 10**6))
    def test_the_order_is_by_priority_that_ages(
        self, first: Decimal, since_first: float, second: Decimal, since_second: float, later: float
    ) -> None:
        """At whatever moment one looks, who has more aged priority comes first."""
        now = Decimal(max(since_first, since_second) + later)
        aged_first = first + AGEING_PER_SECOND * (now - Decimal(since_first))
        aged_second = second + AGEING_PER_SECOND * (now - Decimal(since_second))
        # Two ranks differ when their priorities do by more than their unit, a hundredth of a kudo.
        if abs(aged_first - aged_second) > Decimal("0.02"):
            assert (rank(first, since_first) < rank(second, since_second)) == (aged_first > aged_second)

    @given(PRIORITIES, TIMES, st.floats(0.01, 10**6))
    def test_equals_are_served_in_turn(self, priority: Decimal, since: float, wait: float) -> None:
        assert rank(priority, since) < rank(priority, since + wait)

    @given(PRIORITIES, TIMES)
    def test_ten_seconds_are_worth_fifty_kudos(self, priority: Decimal, since: float) -> None:
        assert rank(priority + 50, since + 10) == pytest.approx(rank(priority, since), abs=1)

    @given(PRIORITIES, TIMES)
    def test_ranks_fit_into_the_database(self, priority: Decimal, since: float) -> None:
        assert -(2**63) <= rank(priority, since) < 2**63


class TestSizeClass:
    @given(SIZES, SIZES)
    def test_larger_results_have_no_lower_class(self, one: int, other: int) -> None:
        small, large = sorted((one, other))
        assert size_class(small) <= size_class(large)

    @given(SIZES)
    def test_classes_are_quarter_octaves(self, size: int) -> None:
        assert size_class(2 * max(size, 64 * 64)) == size_class(max(size, 64 * 64)) + 4

    def test_classes_are_few(self) -> None:
        sides = range(64, 3073, 64)
        assert len({size_class(width * height) for width in sides for height in sides}) <= 46
        assert size_class(0) == size_class(64 * 64) == 0
        assert size_class(512 * 512) == 24


class TestLanes:
    def test_ids_never_change(self) -> None:
        """They stand in the database, so every version of the server must make the same ones."""
        worker = UUID("6f1c2a34-8d5e-4b7a-9c0d-1e2f3a4b5c6d")
        assert LaneKey("image", "stable_diffusion", ANY_WORKER, 0, 24).id == STABLE[0]
        assert LaneKey("image", ANY_MODEL, worker, 2**127 + 5, 30).id == STABLE[1]

    @given(LANES)
    def test_equal_lanes_have_one_id_that_fits_into_the_database(self, lane: LaneKey) -> None:
        assert replace(lane).id == lane.id
        assert -(2**63) <= lane.id < 2**63

    @given(LANES, LANES)
    def test_different_lanes_have_different_ids(self, lane: LaneKey, other: LaneKey) -> None:
        assert (lane.id == other.id) == (lane == other)
        for name in ("kind", "model", "target", "needs", "size_class"):
            changed = replace(lane, **{name: getattr(other, name)})
            assert (changed.id == lane.id) == (changed == lane)

    @given(st.integers(0, 2**NEED_BITS - 1))
    def test_needs_are_written_as_the_database_reads_them(self, needs: int) -> None:
        written = bits(needs)
        assert len(written) == NEED_BITS
        assert int(written, 2) == needs


class TestProgress:
    @given(st.integers(0, 20), st.booleans(), STATES)
    def test_every_result_counts_once(self, n: int, faulted: bool, states: list[str]) -> None:
        counted = progress(n=n, faulted=faulted, states=iter(states))
        assert counted.finished + counted.processing + counted.restarted == len(states)
        assert counted.waiting == (0 if faulted else n)
        assert counted.faulted == faulted
        assert counted.done == (not (counted.waiting or "processing" in states))

    def test_states(self) -> None:
        states = ["processing", "ok", "faulted", "censored", "csam", "aborted", "processing", "ok"]
        counted = progress(n=3, faulted=False, states=states)
        assert (counted.finished, counted.processing, counted.restarted, counted.waiting) == (4, 2, 2, 3)
        assert not counted.done


class TestSecondsAhead:
    def test_threads_work_side_by_side_but_never_on_one_image(self) -> None:
        speeds = [(1000.0, 1), (3000.0, 3)]
        assert seconds_ahead(50_000, 10, speeds) == pytest.approx(50_000 / (2500 * 4))
        assert seconds_ahead(50_000, 2, speeds) == pytest.approx(50_000 / (2500 * 2))

    def test_nobody_able(self) -> None:
        assert seconds_ahead(1, 1, []) == inf

    @given(
        st.floats(0, 1e15),
        st.integers(0, 10**6),
        st.lists(st.tuples(st.floats(0, 1e9), st.integers(1, 50)), min_size=1, max_size=5),
    )
    def test_it_is_a_finite_time(self, things: float, images: int, speeds: list[tuple[float, int]]) -> None:
        assert 0 <= seconds_ahead(things, images, speeds) < inf
