"""Who keeps asking for what workers report is told to the operator, and nobody is punished."""

from typing import Any

import orjson
import pytest

from horde.app import TASKS
from horde.moderation import problems
from horde.users.rules import Role
from tests.support import Account, Horde, change, scalar, unchanged

CSAM = {"gen_metadata": [{"type": "censorship", "value": "csam"}]}


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture
def payer(horde: Horde) -> Account:
    # The account with id 1 is exempt.
    horde.account()
    return horde.account(amount=1000, username="Payer")


def reported(horde: Horde, owner: Account, key: Any = "0000000000", **fields: Any) -> str:
    """The id of a job whose result its worker reports."""
    horde.asked(key, **fields)
    job = str(horde.popped(owner, allow_lora=True)["id"])
    horde.submitted(owner, job, **CSAM)
    return job


def so_many(horde: Horde, count: int, age: str = "1 minute", **columns: Any) -> None:
    """Let there be problem jobs of the past like the newest one, except for `columns`."""
    names = ("user_id", "ipaddr", "proxied_account")
    chosen = ", ".join(f":{name}" if name in columns else name for name in names)
    change(
        horde.platform,
        f"INSERT INTO problem_jobs (id, worker_id, created, {', '.join(names)}) "
        f"SELECT gen_random_uuid(), worker_id, now() - CAST(:age AS interval), {chosen} "
        "FROM (SELECT * FROM problem_jobs ORDER BY created DESC LIMIT 1) newest, generate_series(1, :count)",
        count=count,
        age=age,
        **columns,
    )


def told(horde: Horde) -> list[str]:
    """What the operator is to be told."""
    with horde.platform.read() as db:
        rows = db.exec_driver_sql(
            "SELECT body FROM outbox WHERE url = 'problem_user_webhook' ORDER BY created, id"
        )
        return [orjson.loads(body)["content"] for body in rows.scalars()]


def test_a_report_is_kept(horde: Horde, owner: Account, payer: Account) -> None:
    for result in (CSAM, {"state": "csam"}):
        horde.asked(payer)
        horde.submitted(owner, horde.popped(owner)["id"], **result)
    job = reported(horde, owner, payer)
    with horde.platform.read() as db:
        rows = db.exec_driver_sql("SELECT * FROM problem_jobs ORDER BY created").all()
    assert len(rows) == 3
    assert (str(rows[2].id), rows[2].user_id, rows[2].ipaddr) == (job, payer.id, "127.0.0.1")
    assert rows[2].worker_id == scalar(horde.platform, "SELECT id FROM workers")
    assert told(horde) == []


@pytest.mark.parametrize(
    "result",
    [{}, {"state": "censored"}, {"state": "faulted", **CSAM}],
    ids=["ok", "censored", "faulted"],
)
def test_other_results_are_not(horde: Horde, owner: Account, payer: Account, result: dict[str, Any]) -> None:
    horde.asked(payer)
    horde.submitted(owner, horde.popped(owner)["id"], **result)
    assert scalar(horde.platform, "SELECT count(*) FROM problem_jobs") == 0


def test_nor_a_second_submit(horde: Horde, owner: Account, payer: Account) -> None:
    horde.asked(payer)
    job = horde.popped(owner)["id"]
    horde.submitted(owner, job)
    with unchanged(horde.platform):
        assert horde.submit(owner, job, **CSAM).status_code == 400


def test_nor_the_first_account(horde: Horde, owner: Account, payer: Account) -> None:
    change(horde.platform, "UPDATE requests SET user_id = 1")
    horde.asked(payer)
    change(horde.platform, "UPDATE requests SET user_id = 1")
    horde.submitted(owner, horde.popped(owner)["id"], **CSAM)
    assert scalar(horde.platform, "SELECT count(*) FROM problem_jobs") == 0


class TestLimits:
    @pytest.mark.parametrize(("age", "limit", "period"), [("1 minute", 50, "hour"), ("2 hours", 200, "day")])
    def test_of_an_account(
        self, horde: Horde, owner: Account, payer: Account, age: str, limit: int, period: str
    ) -> None:
        fields = {"prompt": "the last prompt", "params": {"loras": [{"name": "77"}]}}
        reported(horde, owner, payer)
        so_many(horde, limit - 2, age)
        reported(horde, owner, payer)
        assert told(horde) == []
        job = reported(horde, owner, payer, **fields)
        (notice,) = told(horde)
        assert notice.startswith(f"{limit + 1} results for account {payer.id} within one {period} ")
        for words in (job, "'worker'", "127.0.0.1", "77", "the last prompt"):
            assert words in notice
        reported(horde, owner, payer)
        assert len(told(horde)) == 1
        horde.platform.cache.delete(*horde.platform.cache.scan_iter("problem:*"))
        reported(horde, owner, payer)
        assert len(told(horde)) == 2

    def test_yesterdays_do_not_count(self, horde: Horde, owner: Account, payer: Account) -> None:
        reported(horde, owner, payer)
        so_many(horde, 300, "25 hours")
        reported(horde, owner, payer)
        assert told(horde) == []

    def test_of_an_address(self, horde: Horde, owner: Account, payer: Account) -> None:
        reported(horde, owner)
        so_many(horde, 50, user_id=payer.id)
        reported(horde, owner)
        (notice,) = told(horde)
        assert notice.startswith("52 results for 127.0.0.1 within one hour")

    def test_nobody_is_told_of_twice(self, horde: Horde, owner: Account, payer: Account) -> None:
        reported(horde, owner, payer)
        so_many(horde, 300)
        reported(horde, owner, payer)
        assert len(told(horde)) == 2  # for the hour, and for the day
        assert all(f"account {payer.id} " in notice for notice in told(horde))

    def test_the_anonymous_account_stands_for_nobody(self, horde: Horde, owner: Account) -> None:
        reported(horde, owner)
        so_many(horde, 300, ipaddr="192.0.2.1")
        reported(horde, owner)
        assert told(horde) == []

    def test_services_are_told_apart_by_whom_they_ask_for(self, horde: Horde, owner: Account) -> None:
        service = horde.account(Role.SERVICE, amount=1000)
        reported(horde, owner, service, proxied_account="one")
        so_many(horde, 60, ipaddr="192.0.2.1")
        reported(horde, owner, service, proxied_account="two")
        assert told(horde) == []
        reported(horde, owner, service, proxied_account="one")
        (notice,) = told(horde)
        assert "asking for one" in notice

    def test_of_ipv6_the_network_counts(self, horde: Horde, owner: Account) -> None:
        for number in range(2):
            horde.asked()
            change(horde.platform, "UPDATE requests SET ipaddr = :ip", ip=f"2001:db8:1:2::{number}")
            horde.submitted(owner, horde.popped(owner)["id"], **CSAM)
        query = "SELECT string_agg(DISTINCT ipaddr, ' ') FROM problem_jobs"
        assert scalar(horde.platform, query) == "2001:db8:1:2::/64"


def test_they_are_forgotten_after_thirty_days(horde: Horde, owner: Account, payer: Account) -> None:
    reported(horde, owner, payer)
    so_many(horde, 2, "30 days 1 hour")
    so_many(horde, 3, "29 days 23 hours")
    assert problems.purge(horde.platform) == 2
    assert scalar(horde.platform, "SELECT count(*) FROM problem_jobs") == 4
    assert problems.purge in [task.run for task in TASKS]
