"""Workers that lose many jobs go into maintenance, and those that are too fast to be honest are suspected."""

from typing import Any

import pytest

from horde.generation import sweep
from horde.users import service as users
from horde.users.rules import Role
from horde.workers import conduct
from tests.support import SDXL, Account, Horde, assert_refused, change, scalar

MOST_DROPPED = 20


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(username="Owner")


@pytest.fixture
def payer(horde: Horde) -> Account:
    return horde.account(amount=100_000, username="Payer")


def worker(horde: Horde, name: str = "worker") -> Any:
    with horde.platform.read() as db:
        return db.exec_driver_sql("SELECT * FROM workers WHERE name = %s", (name,)).one()


def suspicions(horde: Horde, *, of_worker: bool = True) -> list[int]:
    """The reasons noted against workers, or else against accounts."""
    query = f"SELECT array_agg(reason) FROM suspicions WHERE (worker_id IS NOT NULL) = {of_worker}"
    return list(scalar(horde.platform, query) or [])


def drop(horde: Horde, owner: Account, jobs: int, name: str = "worker") -> None:
    """Let a worker give jobs back, which are then counted."""
    for _ in range(jobs):
        horde.asked()
        horde.submitted(owner, horde.popped(owner, name)["id"], state="faulted")
        change(horde.platform, "DELETE FROM requests")
    sweep.fold_records(horde.platform)


class TestDroppedJobs:
    @pytest.mark.parametrize("roles", [(), (Role.TRUSTED,)])
    def test_too_many_within_an_hour(self, horde: Horde, roles: tuple[Role, ...]) -> None:
        owner = horde.account(*roles)
        drop(horde, owner, MOST_DROPPED)
        assert conduct.judge_dropped_jobs(horde.platform) == 0
        assert (worker(horde).dropped, worker(horde).maintenance) == (20, False)
        drop(horde, owner, 1)
        assert conduct.judge_dropped_jobs(horde.platform) == 1
        assert (worker(horde).dropped, worker(horde).maintenance, worker(horde).uncompleted_jobs) == (
            0,
            True,
            21,
        )
        assert suspicions(horde) == suspicions(horde, of_worker=False) == [9]
        horde.asked()
        assert_refused(horde.pop(owner), 403, "WorkerMaintenance", "maintenance mode", "more than 20 jobs")
        assert conduct.judge_dropped_jobs(horde.platform) == 0

    def test_everybody_sees_it_at_once(self, horde: Horde, owner: Account) -> None:
        drop(horde, owner, MOST_DROPPED + 1)
        horde.call("GET", "/workers")
        conduct.judge_dropped_jobs(horde.platform)
        assert horde.call("GET", "/workers").json[0]["maintenance_mode"] is True

    def test_overdue_ones_count_too(self, horde: Horde, owner: Account) -> None:
        drop(horde, owner, MOST_DROPPED)
        horde.asked()
        horde.popped(owner)
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        sweep.abort_overdue_jobs(horde.platform)
        sweep.fold_records(horde.platform)
        assert conduct.judge_dropped_jobs(horde.platform) == 1

    def test_after_an_hour_counting_starts_anew(self, horde: Horde, owner: Account) -> None:
        drop(horde, owner, MOST_DROPPED)
        change(horde.platform, "UPDATE workers SET dropping_since = now() - interval '61 minutes'")
        drop(horde, owner, 1)
        assert conduct.judge_dropped_jobs(horde.platform) == 0
        assert (worker(horde).dropped, worker(horde).uncompleted_jobs) == (1, 21)

    def test_delivered_ones_do_not(self, horde: Horde, owner: Account) -> None:
        horde.asked()
        horde.submitted(owner, horde.popped(owner)["id"])
        sweep.fold_records(horde.platform)
        assert worker(horde).dropped == 0

    def test_in_raid_mode_it_is_suspected_sooner_and_stays(self, horde: Horde, owner: Account) -> None:
        change(horde.platform, "UPDATE modes SET raid = true")
        drop(horde, owner, 10)
        assert conduct.judge_dropped_jobs(horde.platform) == 0
        drop(horde, owner, 1)
        assert conduct.judge_dropped_jobs(horde.platform) == 1
        assert (worker(horde).dropped, worker(horde).maintenance, suspicions(horde)) == (0, False, [9])

    def test_counted_late_they_count_as_often(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET dropped = 50")
        assert conduct.judge_dropped_jobs(horde.platform) == 1
        assert (worker(horde).dropped, suspicions(horde)) == (50 - 2 * 21, [9, 9])

    def test_its_owners_words_stay(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(
            horde.platform,
            "UPDATE workers SET dropped = 21, maintenance = true, maintenance_message = 'Moving house'",
        )
        assert conduct.judge_dropped_jobs(horde.platform) == 1
        assert worker(horde).maintenance_message == "Moving house"

    def test_alchemists_may_lose_more(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET kind = 'interrogation', dropped = 100")
        assert conduct.judge_dropped_jobs(horde.platform) == 0
        change(horde.platform, "UPDATE workers SET dropped = 101")
        assert conduct.judge_dropped_jobs(horde.platform) == 1


def popped_ago(horde: Horde, owner: Account, seconds: float, **fields: Any) -> list[str]:
    """Ids of jobs that were taken so long ago."""
    ids = horde.popped(owner, **fields)["ids"]
    change(
        horde.platform,
        "UPDATE jobs SET started = now() - make_interval(secs => :seconds) WHERE id = ANY(:ids)",
        seconds=seconds,
        ids=ids,
    )
    return list(ids)


MEGAPIXELSTEPS = 512 * 512 * 30 / 1_000_000
"""Of a request that says nothing of size and steps."""


class TestSpeed:
    @pytest.mark.parametrize(("speed", "noted"), [(19, []), (22, [5])])
    def test_above_20_megapixelsteps_per_second(
        self, horde: Horde, owner: Account, speed: float, noted: list[int]
    ) -> None:
        horde.asked()
        (job,) = popped_ago(horde, owner, MEGAPIXELSTEPS / speed)
        assert horde.submitted(owner, job) > 0
        assert suspicions(horde) == suspicions(horde, of_worker=False) == noted

    @pytest.mark.parametrize(("speed", "noted"), [(19, []), (25, [5])])
    def test_a_batch_counts_as_a_whole(
        self, horde: Horde, owner: Account, payer: Account, speed: float, noted: list[int]
    ) -> None:
        horde.asked(payer, params={"n": 4, "width": 1024, "height": 1024})
        jobs = popped_ago(horde, owner, 4 * 4 * MEGAPIXELSTEPS / speed, amount=4, max_pixels=3072 * 3072)
        assert len(jobs) == 4
        for job in jobs:
            horde.submitted(owner, job)
        assert suspicions(horde) == noted

    def test_lost_and_refused_results_do_not_count(self, horde: Horde, owner: Account) -> None:
        horde.asked()
        job = horde.popped(owner)["id"]
        horde.submit(owner, job, generation="no picture")
        horde.submitted(owner, job, state="faulted")
        horde.submit(owner, job)
        assert suspicions(horde) == []

    def test_the_fifth_time_the_worker_is_paused(self, horde: Horde, owner: Account) -> None:
        for count in range(5):
            assert not worker_is_paused(horde)
            request = horde.asked()
            horde.submitted(owner, horde.popped(owner)["id"])
            assert horde.check(request)["done"]
            assert len(suspicions(horde)) == count + 1
        assert worker_is_paused(horde)
        assert scalar(horde.platform, "SELECT url FROM outbox") == "paused_notice_webhook"
        told = scalar(horde.platform, "SELECT body FROM outbox")
        for words in ("'worker'", str(worker(horde).id), "5 reasons", "unreasonably fast"):
            assert words in told
        request = horde.asked()
        horde.popped(owner)
        assert horde.check(request)["processing"] == 0
        horde.pop(owner, "another")
        assert not worker(horde, "another").paused

    def test_workers_of_trusted_owners_are_not(self, horde: Horde) -> None:
        owner = horde.account(Role.TRUSTED)
        for _ in range(6):
            horde.asked()
            horde.submitted(owner, horde.popped(owner)["id"])
        assert suspicions(horde) == [5] * 6
        assert not worker(horde).paused
        assert scalar(horde.platform, "SELECT count(*) FROM outbox") == 0

    def test_whoever_becomes_trusted_works_again(self, horde: Horde, owner: Account) -> None:
        for name in ("worker", "another"):
            horde.pop(owner, name)
        change(horde.platform, "UPDATE workers SET paused = true")
        horde.pop(owner)
        users.set_role(horde.platform, owner.id, Role.CUSTOMIZER, True)
        assert worker(horde).paused
        users.set_role(horde.platform, owner.id, Role.MODERATOR, True)
        assert not worker(horde).paused
        assert not worker(horde, "another").paused
        request = horde.asked()
        horde.popped(owner)
        assert horde.check(request)["processing"] == 1


def worker_is_paused(horde: Horde) -> bool:
    return bool(scalar(horde.platform, "SELECT paused FROM workers WHERE name = 'worker'"))


class TestSpeedSamples:
    def speed(self, horde: Horde) -> float:
        sweep.measure_speeds(horde.platform)
        return float(worker(horde).speed) / 1_000_000

    def deliver(self, horde: Horde, owner: Account, speed: float, **result: Any) -> None:
        horde.asked()
        (job,) = popped_ago(horde, owner, MEGAPIXELSTEPS / speed)
        horde.submit(owner, job, **result)

    def test_a_new_worker_is_taken_for_fast(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        assert self.speed(horde) == 1

    def test_the_mean_of_its_deliveries(self, horde: Horde, owner: Account) -> None:
        for speed in (2, 4):
            self.deliver(horde, owner, speed)
        assert self.speed(horde) == pytest.approx(3, rel=0.02)

    def test_the_newest_20_count(self, horde: Horde, owner: Account, payer: Account) -> None:
        for _ in range(2):
            self.deliver(horde, owner, 0.1)
        change(horde.platform, "UPDATE generation_records SET finished = finished - interval '1 minute', "
               "started = started - interval '1 minute'")  # fmt: skip
        for _ in range(20):
            self.deliver(horde, owner, 2)
        assert self.speed(horde) == pytest.approx(2, rel=0.02)

    def test_lost_jobs_do_not(self, horde: Horde, owner: Account) -> None:
        self.deliver(horde, owner, 2)
        self.deliver(horde, owner, 8, state="faulted")
        assert self.speed(horde) == pytest.approx(2, rel=0.02)

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_a_batch_is_one_piece_of_work(
        self, horde: Horde, owner: Account, payer: Account, one_by_one: bool
    ) -> None:
        horde.asked(payer, params={"n": 4})
        jobs = popped_ago(horde, owner, 4 * MEGAPIXELSTEPS / 2, amount=4)
        assert len(jobs) == 4
        for place, job in enumerate(jobs, 1):
            horde.submitted(owner, job)
            if one_by_one:
                change(
                    horde.platform,
                    "UPDATE generation_records SET finished = started + make_interval(secs => :seconds) "
                    "WHERE id = :id",
                    id=job,
                    seconds=place * MEGAPIXELSTEPS / 2,
                )
        assert self.speed(horde) == pytest.approx(2, rel=0.02)

    def test_none_counts_for_more_than_anybody_can_do(self, horde: Horde, owner: Account) -> None:
        self.deliver(horde, owner, 2)
        self.deliver(horde, owner, 100_000)
        assert self.speed(horde) == pytest.approx((2 + 20) / 2, rel=0.02)


def test_teams_get_the_credit_of_the_moment(horde: Horde, payer: Account) -> None:
    owner = horde.account(Role.TRUSTED)
    horde.pop(owner)
    change(
        horde.platform,
        "INSERT INTO teams (id, name, owner_id) VALUES (gen_random_uuid(), 'Team', :owner)",
        owner=owner.id,
    )
    horde.asked(payer, params={"n": 4}, models=[SDXL])
    offer = {"models": [SDXL]}
    jobs = [horde.popped(owner, **offer)["id"] for _ in range(4)]
    horde.submitted(owner, jobs[0])
    change(horde.platform, "UPDATE workers SET team_id = (SELECT id FROM teams)")
    reward = horde.submitted(owner, jobs[1])
    horde.submitted(owner, jobs[2], state="faulted")
    change(horde.platform, "UPDATE workers SET team_id = NULL")
    horde.submitted(owner, jobs[3])
    sweep.fold_records(horde.platform)
    with horde.platform.read() as db:
        team = db.exec_driver_sql("SELECT fulfilments, contributions, kudos FROM teams").one()
    assert (team[0], float(team[1]), float(team[2])) == (1, MEGAPIXELSTEPS * 1_000_000, reward)
