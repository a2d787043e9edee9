"""What was delivered: exact in every period, whether it has been folded or not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from horde.platform.runtime import Platform
from horde.status.statistics import fold_totals
from horde.status.tables import DeliveredTotal
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.status.conftest import See, recount
from tests.support import (
    MODEL,
    SDXL,
    Account,
    Horde,
    assert_refused,
    change,
    counted_statements,
    in_threads,
    scalar,
)

IMAGE_TOTALS, IMAGE_MODELS = "/stats/img/totals", "/stats/img/models"
TEXT_TOTALS, TEXT_MODELS = "/stats/text/totals", "/stats/text/models"
PATHS = [IMAGE_TOTALS, IMAGE_MODELS, TEXT_TOTALS, TEXT_MODELS]
PERIODS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "month": timedelta(days=30),
    "total": timedelta(days=100_000),
}
CUSTOM = "my own model"

_RECORD = text("""
    INSERT INTO generation_records (id, kind, state, model, things, started, finished, user_id, owner_id,
        worker_id, kudos, client_agent, bridge_agent)
    VALUES (:id, :kind, :state, :model, :things, :finished, :finished, 0, 0, :id, 0, 'x', 'x')
""")


def deliver(
    platform: Platform,
    *ages: timedelta,
    kind: str = "image",
    model: str = MODEL,
    things: int = 100,
    state: str = "ok",
) -> None:
    """Record results that ended so long ago."""
    now = datetime.now(UTC)
    values = {"kind": kind, "state": state, "model": model, "things": things}
    rows = [values | {"id": uuid4(), "finished": now - age} for age in ages]
    with platform.engine.begin() as db:
        db.execute(_RECORD, rows)


def images(totals: dict[str, Any]) -> list[int]:
    """The numbers of images of all periods."""
    return [totals[period]["images"] for period in PERIODS]


class TestTotals:
    def test_nothing_yet(self, see: See) -> None:
        assert see(IMAGE_TOTALS) == {period: {"images": 0, "ps": 0} for period in PERIODS}
        assert see(TEXT_TOTALS) == {period: {"requests": 0, "tokens": 0} for period in PERIODS}
        assert see(IMAGE_MODELS) == see(TEXT_MODELS) == {"day": {}, "month": {}, "total": {}}

    def test_a_delivery(self, horde: Horde, see: See) -> None:
        owner, payer = horde.account(Role.TRUSTED), horde.account(amount=10_000)
        horde.asked(payer, params={"n": 2, "width": 640, "height": 576, "steps": 20})
        job = horde.popped(owner)["id"]
        assert images(see(IMAGE_TOTALS)) == [0] * 5
        horde.submitted(owner, job)
        horde.submit(owner, job)
        horde.submit(owner, horde.popped(owner)["id"], state="faulted")
        assert see(IMAGE_TOTALS) == {period: {"images": 1, "ps": 640 * 576 * 20} for period in PERIODS}
        assert see(IMAGE_MODELS) == {period: {MODEL: 1} for period in ("day", "month", "total")}

    def test_periods(self, horde: Horde, see: See) -> None:
        ages = [timedelta(0), *(age + timedelta(seconds=-5) for age in list(PERIODS.values())[:4])]
        ages += [age + timedelta(seconds=5) for age in list(PERIODS.values())[:4]]
        deliver(horde.platform, *ages, timedelta(days=400))
        for _ in range(3):
            assert images(see(IMAGE_TOTALS)) == [2, 4, 6, 8, 10]
            assert see(IMAGE_TOTALS)["month"]["ps"] == 800
            assert see(IMAGE_MODELS) == {"day": {MODEL: 6}, "month": {MODEL: 8}, "total": {MODEL: 10}}
            fold_totals(horde.platform)

    def test_text(self, horde: Horde, see: See) -> None:
        deliver(
            horde.platform, timedelta(0), timedelta(hours=5), kind="text", model="a text model", things=80
        )
        totals = see(TEXT_TOTALS)
        assert totals["hour"] == {"requests": 1, "tokens": 80}
        assert totals["day"] == totals["total"] == {"requests": 2, "tokens": 160}
        assert see(TEXT_MODELS)["day"] == {"a text model": 2}
        assert images(see(IMAGE_TOTALS)) == [0] * 5

    @pytest.mark.parametrize("state", ["faulted", "aborted"])
    def test_lost_jobs_do_not_count(self, horde: Horde, see: See, state: str) -> None:
        deliver(horde.platform, timedelta(0), timedelta(days=2), state=state)
        fold_totals(horde.platform)
        assert images(see(IMAGE_TOTALS)) == [0] * 5

    @pytest.mark.parametrize("state", ["censored", "csam"])
    def test_censored_ones_do(self, horde: Horde, see: See, state: str) -> None:
        deliver(horde.platform, timedelta(0), timedelta(days=2), state=state)
        fold_totals(horde.platform)
        assert images(see(IMAGE_TOTALS)) == [1, 1, 1, 2, 2]

    def test_models_without_a_name_do_not_count(self, horde: Horde, see: See) -> None:
        deliver(horde.platform, timedelta(0), timedelta(days=2), model="")
        fold_totals(horde.platform)
        assert images(see(IMAGE_TOTALS)) == [0] * 5
        assert see(IMAGE_MODELS, model_state="all")["total"] == {}


class TestModels:
    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ({}, {MODEL, SDXL}),
            ({"model_state": "known"}, {MODEL, SDXL}),
            ({"model_state": "custom"}, {CUSTOM}),
            ({"model_state": "all"}, {MODEL, SDXL, CUSTOM}),
        ],
    )
    def test_states(self, horde: Horde, see: See, query: dict[str, str], names: set[str]) -> None:
        for model in (MODEL, SDXL, CUSTOM):
            deliver(horde.platform, timedelta(hours=3), model=model)
        for period, found in see(IMAGE_MODELS, **query).items():
            assert found == dict.fromkeys(names, 1), period

    def test_an_unknown_state(self, horde: Horde) -> None:
        response = horde.call("GET", IMAGE_MODELS, query_string={"model_state": "new"})
        assert_refused(response, 400, "BadRequest", "known")

    def test_models_and_totals_agree(self, horde: Horde, see: See) -> None:
        for model, hours in ((MODEL, 2), (SDXL, 30), (CUSTOM, 50 * 24), (CUSTOM, 0)):
            deliver(horde.platform, timedelta(hours=hours), timedelta(hours=hours, minutes=30), model=model)
        fold_totals(horde.platform)
        totals, models = see(IMAGE_TOTALS), see(IMAGE_MODELS, model_state="all")
        for period in ("day", "month", "total"):
            assert sum(models[period].values()) == totals[period]["images"]
        assert totals["total"]["images"] == 8


class TestFolding:
    def test_only_what_is_over_and_only_once(self, horde: Horde) -> None:
        deliver(horde.platform, timedelta(0), timedelta(hours=3), timedelta(hours=4))
        assert fold_totals(horde.platform) == 2
        assert fold_totals(horde.platform) == 0
        assert scalar(horde.platform, "SELECT sum(results) FROM delivered_totals") == 2

    def test_by_two_leaders(self, horde: Horde, see: See) -> None:
        deliver(horde.platform, *(timedelta(hours=hour) for hour in range(2, 60)))
        in_threads(4, lambda _: fold_totals(horde.platform))
        assert scalar(horde.platform, "SELECT sum(results) FROM delivered_totals") == 58
        assert see(IMAGE_TOTALS)["total"]["images"] == 58

    def test_old_hours_are_merged(self, horde: Horde, see: See) -> None:
        deliver(horde.platform, *(timedelta(days=day) for day in range(28, 60)))
        deliver(horde.platform, timedelta(days=50), model=SDXL)
        fold_totals(horde.platform)
        assert scalar(horde.platform, "SELECT count(*) FROM delivered_totals WHERE hour = 'epoch'") == 2
        assert scalar(horde.platform, "SELECT count(*) FROM delivered_totals") < 8
        assert see(IMAGE_MODELS)["total"] == {MODEL: 32, SDXL: 1}
        assert see(IMAGE_TOTALS)["total"] == {"images": 33, "ps": 3300}

    def test_after_a_long_silence(self, horde: Horde, see: See) -> None:
        """All hours may be old: how far records are folded is still known."""
        deliver(horde.platform, timedelta(days=90), timedelta(days=100))
        for _ in range(3):
            fold_totals(horde.platform)
            assert images(see(IMAGE_TOTALS)) == [0, 0, 0, 0, 2]
        deliver(horde.platform, timedelta(hours=2))
        for _ in range(2):
            fold_totals(horde.platform)
            assert images(see(IMAGE_TOTALS)) == [0, 0, 1, 1, 3]

    # The horde is the same for all examples, each of which clears it first.
    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 20 * 24),
                st.lists(st.floats(0, 1, exclude_max=True), max_size=4),
                st.sampled_from([MODEL, SDXL]),
                st.booleans(),
            ),
            max_size=5,
        )
    )
    def test_at_any_time(self, horde: Horde, steps: list[tuple[int, list[float], str, bool]]) -> None:
        """Hours pass, in which something is delivered; then the leader may fold it."""
        change(horde.platform, "DELETE FROM generation_records")
        change(horde.platform, "DELETE FROM delivered_totals")
        ages: list[timedelta] = []
        for hours, moments, model, fold in steps:
            let_pass(horde.platform, hours)
            # Half a minute keeps them off the ends of periods.
            fresh = [timedelta(minutes=int(60 * hours * moment), seconds=30) for moment in moments]
            if fresh:
                deliver(horde.platform, *fresh, model=model)
            ages = [age + timedelta(hours=hours) for age in ages] + fresh
            if fold:
                fold_totals(horde.platform)
            recount(horde)
            expected = [sum(age < length for age in ages) for length in PERIODS.values()]
            assert images(horde.call("GET", IMAGE_TOTALS).json) == expected


def let_pass(platform: Platform, hours: int) -> None:
    """Move everything that has happened into the past."""
    change(
        platform,
        "UPDATE generation_records SET finished = finished - make_interval(hours => :hours)",
        hours=hours,
    )
    with platform.engine.begin() as db:
        # Hours must not meet on their way.
        moved = db.execute(text("DELETE FROM delivered_totals WHERE hour > 'epoch' RETURNING *")).mappings()
        rows = [dict(row) | {"hour": row["hour"] - timedelta(hours=hours)} for row in moved]
        if rows:
            db.execute(insert(DeliveredTotal), rows)


class TestCaches:
    @pytest.mark.parametrize("path", PATHS)
    def test_counted_once_for_all(self, horde: Horde, path: str) -> None:
        account: Account = horde.account(Role.MODERATOR)
        deliver(horde.platform, timedelta(0))
        recount(horde)
        first = horde.call("GET", path).json
        deliver(horde.platform, timedelta(0))
        with counted_statements() as statements:
            for key in (None, ANONYMOUS_KEY, account, "no such key"):
                assert horde.call("GET", path, key).json == first
        assert statements == []

    def test_masks_and_states_are_not_kept(self, horde: Horde) -> None:
        deliver(horde.platform, timedelta(0), model=CUSTOM)
        deliver(horde.platform, timedelta(0))
        recount(horde)
        for _ in range(2):
            masked = horde.call("GET", IMAGE_TOTALS, headers={"X-Fields": "day{images}"})
            assert masked.json == {"day": {"images": 2}}
            assert images(horde.call("GET", IMAGE_TOTALS).json) == [2] * 5
            for state, names in (("custom", [CUSTOM]), ("known", [MODEL])):
                found = horde.call("GET", IMAGE_MODELS, query_string={"model_state": state}).json
                assert list(found["day"]) == names
