"""Everything that shows a figure shows the same one, on a horde where much is going on."""

import re
from collections import Counter
from typing import Any

import pytest

from horde.generation import sweep
from horde.status import statistics
from horde.users.rules import Role
from tests.status.conftest import See, recount
from tests.support import FLUX, MODEL, SDXL, Horde, change

CUSTOM = "a/model [SDXL]"
MEGA = 1_000_000


@pytest.fixture
def figures(horde: Horde, see: See) -> dict[str, Any]:
    """What every page and route tells of a horde with workers of all kinds and a queue."""
    owner, payer = horde.account(Role.TRUSTED, Role.CUSTOMIZER), horde.account(amount=100_000)
    for model, n in [(MODEL, 3), (MODEL, 2), (SDXL, 4), (FLUX, 1), (SDXL, 1)]:
        horde.asked(payer, models=[model], params={"n": n})
    both = horde.popped(owner, "quick", models=[MODEL, SDXL, CUSTOM], threads=3, amount=2)
    for job in both["ids"]:
        change(horde.platform, "UPDATE jobs SET started = now() - interval '1 minute'")
        horde.submitted(owner, job)
    horde.popped(owner, "busy", models=[MODEL, SDXL], threads=2)
    horde.pop(owner, "in maintenance", models=[MODEL, "another"], threads=4)
    horde.pop(owner, "paused", models=[CUSTOM], threads=5)
    horde.pop(owner, "writer", models=[MODEL], threads=6)
    horde.pop(owner, "alchemist", models=[MODEL], threads=7)
    horde.pop(owner, "long gone", models=[MODEL], threads=8)
    for name, changed in {
        "in maintenance": "maintenance = true",
        "paused": "paused = true",
        "writer": "kind = 'text', models = ARRAY['my own']",
        "alchemist": "kind = 'interrogation', models = ARRAY['caption']",
        "long gone": "last_seen = now() - interval '301 seconds'",
    }.items():
        change(horde.platform, f"UPDATE workers SET {changed} WHERE name = :name", name=name)
    while sweep.fold_records(horde.platform):
        pass
    statistics.fold_totals(horde.platform)
    recount(horde)
    page = horde.client.get("/").text
    cards = re.findall(r'<dt>([^<]+)</dt><dd><span class="number">([^<]+)</span>', page)
    return {
        "performance": see("/status/performance"),
        "image": see("/status/models"),
        "text": see("/status/models", type="text"),
        "totals": see("/stats/img/totals"),
        "delivered": see("/stats/img/models", model_state="all"),
        "workers": see("/workers"),
        "start": {name: float(number) for name, number in cards},
    }


@pytest.mark.parametrize(
    ("kind", "count", "threads", "card"),
    [
        ("image", "worker_count", "thread_count", "Workers for images"),
        ("text", "text_worker_count", "text_thread_count", "Workers for texts"),
        ("interrogation", "interrogator_count", "interrogator_thread_count", "Workers for alchemy"),
    ],
)
def test_workers(figures: dict[str, Any], kind: str, count: str, threads: str, card: str) -> None:
    of_kind = [worker for worker in figures["workers"] if worker["type"] == kind]
    assert of_kind
    assert len(of_kind) == figures["performance"][count] == figures["start"][card]
    assert sum(worker["threads"] for worker in of_kind) == figures["performance"][threads]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_threads_of_models(figures: dict[str, Any], kind: str) -> None:
    threads: Counter[str] = Counter()
    for worker in figures["workers"]:
        if worker["type"] == kind and not worker["maintenance_mode"]:
            threads.update(dict.fromkeys(worker["models"], worker["threads"]))
    assert {row["name"]: row["count"] for row in figures[kind] if row["count"]} == threads
    assert threads


def test_the_queue(figures: dict[str, Any]) -> None:
    performance = figures["performance"]
    jobs = sum(row["jobs"] for row in figures["image"])
    assert jobs == performance["queued_requests"] == figures["start"]["Images in the queue"] == 11 - 2
    things = sum(row["queued"] for row in figures["image"])
    assert round(things / MEGA, 2) == performance["queued_megapixelsteps"]
    assert figures["start"]["Texts in the queue"] == performance["queued_text_requests"] == 0


def test_each_model_by_itself(horde: Horde, figures: dict[str, Any], see: See) -> None:
    assert {row["name"] for row in figures["image"]} == {MODEL, SDXL, FLUX, CUSTOM}
    for kind in ("image", "text"):
        for row in figures[kind]:
            assert see(f"/status/models/{row['name']}") == [row]
    served = [row for kind in ("image", "text") for row in figures[kind] if row["count"]]
    assert figures["start"]["Models"] == len(served)


def test_deliveries(figures: dict[str, Any]) -> None:
    totals, delivered = figures["totals"], figures["delivered"]
    for period in ("day", "month", "total"):
        assert totals[period]["images"] == sum(delivered[period].values()) == 2
    assert totals["minute"] == totals["hour"] == totals["day"] == totals["month"] == totals["total"]
    assert round(totals["minute"]["ps"] / MEGA, 2) == figures["performance"]["past_minute_megapixelsteps"]
    assert figures["start"]["Images served"] == totals["total"]["images"]
    fulfilled = sum(worker["requests_fulfilled"] for worker in figures["workers"])
    assert fulfilled == totals["total"]["images"]
    work = sum(
        worker["megapixelsteps_generated"] for worker in figures["workers"] if worker["type"] == "image"
    )
    assert work == totals["total"]["ps"] // MEGA


def test_readings_are_of_one_moment(horde: Horde, figures: dict[str, Any]) -> None:
    """What is read within some seconds was counted together, so that it cannot contradict itself."""
    recount(horde)
    before = horde.call("GET", "/status/performance").json["queued_requests"]
    change(horde.platform, "UPDATE requests SET n = 0, cancelled = true")
    assert sum(row["jobs"] for row in horde.call("GET", "/status/models").json) == before
    recount(horde)
    after = sum(row["jobs"] for row in horde.call("GET", "/status/models").json)
    assert horde.call("GET", "/status/performance").json["queued_requests"] == after < before
