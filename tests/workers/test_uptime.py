"""Uptime counted from signs of life, and rewarded."""

import dataclasses
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from horde.kudos import service as ledger
from horde.users.rules import Role
from horde.workers import heartbeats
from tests.support import (
    MODEL,
    SDXL,
    Account,
    Horde,
    assert_books_balance,
    change,
    counted_statements,
    forget,
    in_threads,
    scalar,
)

REWARD = 50 + 2
"""Kudos for ten minutes of a worker with one model."""


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


def worker(horde: Horde) -> Any:
    with horde.platform.read() as db:
        return db.exec_driver_sql("SELECT * FROM workers").one()


def away(horde: Horde, seconds: float) -> None:
    """Let so much time pass since every worker's last sign of life."""
    change(horde.platform, "UPDATE workers SET last_seen = last_seen - make_interval(secs => :s)", s=seconds)


def stay(horde: Horde, owner: Account, *seconds: float, **offer: Any) -> None:
    """Pop after each of these pauses."""
    for pause in seconds:
        away(horde, pause)
        assert horde.pop(owner, **offer).status_code in (200, 403)
        heartbeats.fold_heartbeats(horde.platform)


class TestRewards:
    def test_ten_minutes_earn_one(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        stay(horde, owner, 290, 290)
        assert horde.kudos(owner.balance) == 0
        stay(horde, owner, 30)
        assert (horde.kudos(owner.balance), horde.kudos(owner.escrow)) == (REWARD, 0)
        row = worker(horde)
        assert row.kudos_uptime == REWARD
        assert (row.uptime_rewarded, row.uptime) == (600, pytest.approx(610, abs=5))
        ledger.fold_all(horde.platform)
        shown = horde.call("GET", "/find_user", owner).json
        assert shown["kudos_details"]["accumulated"] == REWARD
        assert_books_balance(horde.platform)

    def test_what_is_left_counts_for_the_next(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        stay(horde, owner, 290, 290, 290)
        assert horde.kudos(owner.balance) == REWARD
        stay(horde, owner, 290, 50)
        assert horde.kudos(owner.balance) == 2 * REWARD
        assert worker(horde).uptime_rewarded == 1200

    def test_models_and_loras_earn_more(self, horde: Horde, owner: Account) -> None:
        offer = {"models": [MODEL, SDXL], "allow_lora": True}
        horde.pop(owner, **offer)
        stay(horde, owner, 300, 300, 5, **offer)
        assert horde.kudos(owner.balance) == 50 + 4 + 30

    def test_new_owners_get_all_of_it_into_escrow(self, horde: Horde) -> None:
        owner = horde.account()
        horde.pop(owner)
        stay(horde, owner, 290, 290, 30)
        assert (horde.kudos(owner.balance), horde.kudos(owner.escrow)) == (0, REWARD)
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)

    def test_the_team_and_the_owner_have_been_active(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        team = uuid4()
        change(
            horde.platform,
            "INSERT INTO teams (id, name, owner_id, last_active) VALUES (:id, 'Attic', :owner, '2020-01-01')",
            id=team,
            owner=owner.id,
        )
        change(horde.platform, "UPDATE workers SET team_id = :id", id=team)
        change(horde.platform, "UPDATE users SET last_active = '2020-01-01'")
        stay(horde, owner, 290, 290, 30)
        recent = "last_active > now() - interval '1 minute'"
        assert scalar(horde.platform, f"SELECT uptime FROM teams WHERE {recent}") == 600
        assert scalar(horde.platform, f"SELECT id FROM users WHERE {recent}") == owner.id

    def test_other_kinds_earn_none_yet(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET kind = 'text', uptime = 700")
        assert heartbeats.pay_uptime(horde.platform) == 0
        assert horde.kudos(owner.balance) == 0


class TestLosingProgress:
    @pytest.mark.parametrize("state", ["maintenance", "paused"])
    def test_workers_for_their_owner_alone_earn_nothing(
        self, horde: Horde, owner: Account, state: str
    ) -> None:
        horde.pop(owner)
        stay(horde, owner, 290, 290)
        uptime = worker(horde).uptime
        change(horde.platform, f"UPDATE workers SET {state} = true")
        stay(horde, owner, 290)
        row = worker(horde)
        assert row.uptime == row.uptime_rewarded == uptime
        change(horde.platform, f"UPDATE workers SET {state} = false")
        stay(horde, owner, 290, 290)
        assert horde.kudos(owner.balance) == 0
        stay(horde, owner, 30)
        assert horde.kudos(owner.balance) == REWARD

    def test_nor_do_those_that_were_away(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        stay(horde, owner, 290, 290, 310)
        row = worker(horde)
        assert row.uptime == row.uptime_rewarded == pytest.approx(580, abs=3)
        assert row.last_seen.timestamp() == pytest.approx(time.time(), abs=5)
        assert horde.kudos(owner.balance) == 0

    def test_but_nobody_loses_a_reward_that_is_due(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET uptime = 1300, uptime_rewarded = 50")
        stay(horde, owner, 1000)
        assert (worker(horde).uptime_rewarded, worker(horde).uptime) == (1300 - 600, 1300)
        heartbeats.pay_uptime(horde.platform)
        heartbeats.pay_uptime(horde.platform)
        assert worker(horde).uptime_rewarded == 1300
        assert horde.kudos(owner.balance) == 2 * REWARD


class TestOnce:
    def test_not_twice_by_two_leaders(self, horde: Horde, owner: Account) -> None:
        for number in range(3):
            horde.pop(owner, f"worker {number}")
        change(horde.platform, "UPDATE workers SET uptime = 700")
        in_threads(4, lambda _: heartbeats.pay_uptime(horde.platform))
        assert horde.kudos(owner.balance) == 3 * REWARD
        assert set(uptimes(horde)) == {(700, 600)}

    def test_a_failure_pays_nothing_and_is_made_good(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET uptime = 700")
        change(
            horde.platform,
            "ALTER TABLE users ADD CONSTRAINT broken CHECK (last_active < '2021-01-01') NOT VALID",
        )
        try:
            with pytest.raises(DBAPIError):
                heartbeats.fold_heartbeats(horde.platform)
        finally:
            change(horde.platform, "ALTER TABLE users DROP CONSTRAINT broken")
        assert horde.kudos(owner.balance) == 0
        assert uptimes(horde) == [(700, 0)]
        heartbeats.fold_heartbeats(horde.platform)
        assert horde.kudos(owner.balance) == REWARD
        assert uptimes(horde) == [(700, 600)]

    def test_not_twice_if_the_mark_were_lost(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        for _ in range(2):
            change(horde.platform, "UPDATE workers SET uptime = 700, uptime_rewarded = 0")
            heartbeats.pay_uptime(horde.platform)
        assert horde.kudos(owner.balance) == worker(horde).kudos_uptime == REWARD


def uptimes(horde: Horde) -> Sequence[tuple[int, int]]:
    with horde.platform.read() as db:
        rows = db.exec_driver_sql("SELECT uptime, uptime_rewarded FROM workers").all()
    return [(row[0], row[1]) for row in rows]


class TestSignsOfLife:
    def test_they_cost_the_database_nothing(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        horde.pop(owner)
        with counted_statements() as sent:
            horde.pop(owner)
        assert not any(statement.lstrip().startswith("UPDATE workers") for statement in sent)

    def test_they_tell_where_a_worker_is(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        assert worker(horde).ipaddr == "127.0.0.1"
        offer = {"name": "worker", "models": [MODEL]}
        for address in ("192.0.2.7", "2001:db8::7"):
            forget(horde.platform)
            environment = {"REMOTE_ADDR": address}
            horde.call("POST", "/generate/pop", owner, json=offer, environ_base=environment)
            horde.call("POST", "/generate/pop", owner, json=offer, environ_base=environment)
            heartbeats.fold_heartbeats(horde.platform)
            assert worker(horde).ipaddr == address

    def test_changed_settings_count_as_one(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        away(horde, 100)
        horde.pop(owner, threads=2)
        assert worker(horde).uptime == pytest.approx(100, abs=2)
        away(horde, 400)
        horde.pop(owner, threads=3)
        row = worker(horde)
        assert row.uptime == row.uptime_rewarded == pytest.approx(100, abs=2)

    def test_many_changes_a_second_lose_nothing(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        for threads in (2, 3, 4, 5):
            away(horde, 0.9)
            horde.pop(owner, threads=threads)
        assert worker(horde).uptime >= 3

    def test_without_valkey_they_are_written(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        away(horde, 200)
        gone = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=1)
        platform = dataclasses.replace(horde.platform, cache=gone)
        heartbeats.beat(platform, worker(horde).id, "192.0.2.9")
        row = worker(horde)
        assert (row.ipaddr, row.uptime) == ("192.0.2.9", pytest.approx(200, abs=2))
        with counted_statements() as sent:
            platform.local.drop(f"heartbeat:{row.id}")
            heartbeats.beat(platform, row.id, "192.0.2.9")
        assert sent == []

    def test_those_of_removed_workers_are_dropped(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        heartbeats.beat(horde.platform, uuid4(), "192.0.2.9")
        assert heartbeats.fold_heartbeats(horde.platform) == 1
        assert heartbeats.fold_heartbeats(horde.platform) == 0


STEP = st.tuples(
    st.one_of(st.integers(-20, 320), st.floats(-1, 400, allow_nan=False)),
    st.sampled_from(["serving", "maintenance", "paused"]),
)


@given(steps=st.lists(STEP, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_uptime_is_counted_as_a_plain_reckoning_does(horde: Horde, steps: list[tuple[float, str]]) -> None:
    """Whatever workers do, with the clocks of nodes that disagree by some seconds."""
    platform = horde.platform
    owner = horde.account(Role.TRUSTED)
    name = uuid4().hex
    horde.pop(owner, name)
    id = scalar(platform, "SELECT id FROM workers WHERE name = :name", name=name)
    start = 1_800_000_000.0
    change(platform, "UPDATE workers SET last_seen = to_timestamp(:at) WHERE id = :id", at=start, id=id)
    moment = last = Decimal(start)
    uptime = rewarded = paid = 0
    for gap, state in steps:
        change(
            platform,
            "UPDATE workers SET maintenance = :m, paused = :p WHERE id = :id",
            m=state == "maintenance",
            p=state == "paused",
            id=id,
        )
        moment += Decimal(repr(round(gap, 3)))
        platform.cache.hset(heartbeats.HEARTBEATS, str(id), f"{moment} 192.0.2.1")
        heartbeats.fold_heartbeats(platform)
        passed = moment - last
        if state != "serving" or passed >= 301:
            rewarded = uptime
            last = max(last, moment)
        elif passed >= 0:
            uptime += int(passed)
            last += int(passed)
        if uptime - rewarded >= 600:
            rewarded += 600
            paid += REWARD
    with platform.read() as db:
        row = db.exec_driver_sql("SELECT * FROM workers WHERE id = %s", (id,)).one()
    assert (row.uptime, row.uptime_rewarded, row.kudos_uptime) == (uptime, rewarded, paid)
    assert horde.kudos(owner.balance) == paid
