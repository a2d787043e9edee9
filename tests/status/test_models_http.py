"""Which models the horde lists, what it tells of each, and that the whole horde's figures agree with that."""

from typing import Any

import pytest

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.status.conftest import See, recount
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    counted_statements,
)

LIST, ONE, PERFORMANCE = "/status/models", "/status/models/{}", "/status/performance"
CUSTOM = "a/model [SDXL]"
SIZE = 512 * 512 * 30
"""Pixelsteps of a request that says nothing."""
TEXT_MODEL = "EleutherAI/pythia-70m"
"""A model of the starter reference of text models."""


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, Role.CUSTOMIZER, username="Owner")


@pytest.fixture
def payer(horde: Horde) -> Account:
    return horde.account(amount=100_000, username="Payer")


def row(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one row of a model."""
    (found,) = [row for row in rows if row["name"] == name]
    return found


class TestList:
    def test_nothing_is_on(self, see: See) -> None:
        assert see(LIST) == see(LIST, type="text") == []

    def test_a_served_model(self, horde: Horde, owner: Account, see: See) -> None:
        horde.pop(owner, models=[MODEL, CUSTOM], threads=3)
        horde.pop(owner, name="another", models=[MODEL], threads=2)
        assert row(see(LIST), MODEL) == {
            "name": MODEL,
            "type": "image",
            "count": 5,
            "performance": 0.0,
            "queued": 0.0,
            "jobs": 0.0,
            "eta": 0,
        }
        assert [row["name"] for row in see(LIST)] == sorted([CUSTOM, MODEL])

    def test_types_are_those_of_the_contract(self, horde: Horde, owner: Account, see: See) -> None:
        horde.asked()
        horde.pop(owner, models=[SDXL])
        for found in see(LIST):
            assert {name: type(value) for name, value in found.items()} == {
                "name": str,
                "type": str,
                "count": int,
                "eta": int,
                "performance": float,
                "queued": float,
                "jobs": float,
            }

    def test_what_waits_and_what_is_under_way(
        self, horde: Horde, owner: Account, payer: Account, see: See
    ) -> None:
        horde.asked(payer, models=[MODEL], params={"n": 3})
        found = row(see(LIST), MODEL)
        assert (found["count"], found["jobs"], found["queued"], found["eta"]) == (0, 3, 3 * SIZE, 10_000)
        horde.popped(owner)
        assert row(see(LIST), MODEL) == found | {"count": 1}

    def test_only_jobs_under_way_are_left(
        self, horde: Horde, owner: Account, payer: Account, see: See
    ) -> None:
        horde.asked(payer, models=[MODEL])
        job = horde.popped(owner)["id"]
        assert row(see(LIST), MODEL)["jobs"] == 1
        assert see(PERFORMANCE)["queued_requests"] == 1
        horde.submitted(owner, job)
        assert row(see(LIST), MODEL)["jobs"] == see(PERFORMANCE)["queued_requests"] == 0

    def test_a_request_counts_for_each_of_its_models(
        self, horde: Horde, owner: Account, payer: Account, see: See
    ) -> None:
        horde.asked(payer, models=[MODEL, "Deliberate"])
        horde.asked(payer, models=[])
        horde.pop(owner, models=[SDXL])
        jobs = {row["name"]: row["jobs"] for row in see(LIST)}
        assert jobs == {MODEL: 1, "Deliberate": 1, SDXL: 0}
        assert see(PERFORMANCE)["queued_requests"] == 2

    @pytest.mark.parametrize(
        "ending",
        [
            "UPDATE requests SET n = 0, cancelled = true",
            "UPDATE requests SET n = 0, faulted = true",
            "UPDATE requests SET expires = now() - interval '1 second'",
        ],
    )
    def test_requests_that_have_ended(self, horde: Horde, payer: Account, see: See, ending: str) -> None:
        horde.asked(payer, models=[MODEL], params={"n": 2})
        change(horde.platform, ending)
        assert see(LIST) == []
        assert see(PERFORMANCE)["queued_requests"] == 0

    def test_decoys_are_no_work(self, horde: Horde, owner: Account, payer: Account, see: See) -> None:
        horde.pop(owner)
        horde.asked(payer, models=[MODEL])
        change(horde.platform, "UPDATE workers SET paused = true")
        job = horde.popped(owner)["id"]
        assert row(see(LIST), MODEL)["jobs"] == 1
        horde.submit(owner, job)
        found = row(see(LIST), MODEL)
        assert (found["count"], found["jobs"], found["performance"]) == (1, 1, 0)
        assert see(PERFORMANCE)["past_minute_megapixelsteps"] == 0

    def test_workers_in_maintenance_serve_nobody(self, horde: Horde, owner: Account, see: See) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET maintenance = true")
        assert see(LIST) == []
        assert see(PERFORMANCE)["worker_count"] == 1

    def test_workers_that_are_gone(self, horde: Horde, owner: Account, see: See) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET last_seen = now() - interval '301 seconds'")
        assert see(LIST) == []
        assert see(PERFORMANCE)["worker_count"] == see(PERFORMANCE)["thread_count"] == 0

    def test_unknown_models_that_nobody_serves(self, horde: Horde, payer: Account, see: See) -> None:
        horde.asked(payer, models=[MODEL])
        change(horde.platform, "UPDATE requests SET models = ARRAY['no such model']")
        assert see(LIST) == see(ONE.format("no such model")) == []

    def test_special_models(self, horde: Horde, owner: Account, payer: Account, see: See) -> None:
        special = "horde_special::Owner#1"
        horde.asked(payer, models=[MODEL])
        horde.pop(owner, models=[SDXL])
        change(horde.platform, "UPDATE requests SET models = ARRAY[:name]", name=special)
        change(horde.platform, "UPDATE workers SET models = ARRAY[:name]", name=special)
        assert see(LIST) == see(ONE.format(special.replace("#", "%23"))) == []

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ({}, [MODEL, FLUX, SDXL, CUSTOM]),
            ({"type": "image"}, [MODEL, FLUX, SDXL, CUSTOM]),
            ({"type": "text"}, []),
            ({"type": "something"}, []),
            ({"min_count": 1}, [MODEL, SDXL, CUSTOM]),
            ({"min_count": 3}, [MODEL]),
            ({"max_count": 2}, [SDXL, CUSTOM, FLUX]),
            ({"max_count": 0}, [FLUX]),
            ({"min_count": 1, "max_count": 2}, [SDXL, CUSTOM]),
            ({"model_state": "all"}, [MODEL, FLUX, SDXL, CUSTOM]),
            ({"model_state": "known"}, [MODEL, FLUX, SDXL]),
            ({"model_state": "custom"}, [CUSTOM]),
            ({"model_state": "custom", "min_count": 3}, []),
        ],
        ids=str,
    )
    def test_filters(
        self,
        horde: Horde,
        owner: Account,
        payer: Account,
        see: See,
        query: dict[str, Any],
        names: list[str],
    ) -> None:
        horde.asked(payer, models=[FLUX])
        horde.pop(owner, models=[MODEL, SDXL, CUSTOM])
        horde.pop(owner, name="another", models=[MODEL], threads=2)
        assert {row["name"] for row in see(LIST, **query)} == set(names)

    def test_an_unknown_state(self, horde: Horde) -> None:
        response = horde.call("GET", LIST, query_string={"model_state": "new"})
        assert_refused(response, 400, "BadRequest", "known", "custom", "all")

    @pytest.mark.parametrize("name", ["min_count", "max_count"])
    def test_counts_are_numbers(self, horde: Horde, name: str) -> None:
        response = horde.call("GET", LIST, query_string={name: "many"})
        assert (response.status_code, response.json["errors"].keys()) == (400, {name})

    def test_the_speed_of_a_model(self, horde: Horde, owner: Account, payer: Account, see: See) -> None:
        for _ in range(2):
            horde.asked(payer, models=[MODEL])
            horde.submitted(owner, horde.popped(owner)["id"])
        change(
            horde.platform,
            """
            UPDATE generation_records SET things = numbered.place * 4000000,
                started = now() - make_interval(secs => 5 + numbered.place),
                finished = now() - make_interval(secs => 1 + numbered.place)
            FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM generation_records) numbered
            WHERE numbered.id = generation_records.id
            """,
        )
        assert row(see(LIST), MODEL)["performance"] == (1_000_000 + 2_000_000) / 2
        horde.asked(payer, models=[MODEL], params={"n": 2})
        found = row(see(LIST), MODEL)
        assert found["eta"] == int(found["queued"] / (found["count"] * found["performance"]))
        change(horde.platform, "UPDATE generation_records SET finished = now() - interval '61 minutes'")
        assert row(see(LIST), MODEL)["performance"] == 0

    def test_results_made_at_once(self, horde: Horde, owner: Account, payer: Account, see: See) -> None:
        horde.asked(payer, models=[MODEL], params={"n": 2})
        for job in horde.popped(owner, amount=2)["ids"]:
            horde.submitted(owner, job)
        change(
            horde.platform,
            """
            UPDATE generation_records SET things = 3000000, started = now() - interval '4 seconds',
                finished = now() - interval '1 second'
            """,
        )
        assert row(see(LIST), MODEL)["performance"] == 2_000_000

    @pytest.mark.parametrize("state", ["faulted", "aborted"])
    def test_lost_jobs_are_no_deliveries(
        self, horde: Horde, owner: Account, payer: Account, see: See, state: str
    ) -> None:
        horde.asked(payer, models=[MODEL])
        horde.submitted(owner, horde.popped(owner)["id"])
        assert see(PERFORMANCE)["past_minute_megapixelsteps"] == round(SIZE / 1_000_000, 2)
        change(horde.platform, "UPDATE generation_records SET state = :state", state=state)
        assert row(see(LIST), MODEL)["performance"] == see(PERFORMANCE)["past_minute_megapixelsteps"] == 0


class TestOne:
    @pytest.mark.parametrize("encoded", ["a/model%20[SDXL]", "a%2Fmodel%20[SDXL]", "a%252Fmodel%2520[SDXL]"])
    def test_slashes(self, horde: Horde, owner: Account, see: See, encoded: str) -> None:
        horde.pop(owner, models=[CUSTOM])
        assert see(ONE.format(encoded)) == [row(see(LIST), CUSTOM)]

    def test_a_percent_sign_of_its_own(self, horde: Horde, owner: Account, see: See) -> None:
        horde.pop(owner, models=["100%25 real"])
        assert [row["name"] for row in see(ONE.format("100%2525%20real"))] == ["100%25 real"]

    def test_like_in_the_list(self, horde: Horde, owner: Account, payer: Account, see: See) -> None:
        horde.asked(payer, models=[MODEL, SDXL], params={"n": 3})
        horde.asked(payer, models=[FLUX])
        horde.popped(owner)
        listed = see(LIST)
        assert len(listed) == 3
        for found in listed:
            assert see(ONE.format(found["name"])) == [found]

    def test_known_but_nothing_is_on(self, see: See) -> None:
        (found,) = see(ONE.format(CASCADE))
        assert (found["type"], found["count"], found["jobs"], found["eta"]) == ("image", 0, 0, 0)

    def test_unknown(self, see: See) -> None:
        assert see(ONE.format("nobody/knows")) == see(ONE.format("%00")) == []

    def test_a_text_model_of_the_same_name(self, horde: Horde, owner: Account, see: See) -> None:
        horde.pop(owner)
        horde.pop(owner, name="writer")
        change(horde.platform, "UPDATE workers SET kind = 'text' WHERE name = 'writer'")
        assert [row["type"] for row in see(ONE.format(MODEL))] == ["image"]
        change(horde.platform, "DELETE FROM workers WHERE name = 'worker'")
        assert [row["type"] for row in see(ONE.format(MODEL))] == ["text"]


class TestText:
    """There are no text requests yet: image requests stand for them."""

    def test_served(self, horde: Horde, owner: Account, see: See) -> None:
        horde.pop(owner)
        change(
            horde.platform,
            "UPDATE workers SET kind = 'text', models = ARRAY[:known, 'my own'], threads = 2",
            known=TEXT_MODEL,
        )
        assert see(LIST) == []
        assert {row["name"]: row["count"] for row in see(LIST, type="text")} == {TEXT_MODEL: 2, "my own": 2}
        for state, name in (("known", TEXT_MODEL), ("custom", "my own")):
            assert [row["name"] for row in see(LIST, type="text", model_state=state)] == [name]

    def test_waiting(self, horde: Horde, payer: Account, see: See) -> None:
        horde.asked(payer, models=[MODEL], params={"n": 2})
        change(
            horde.platform,
            "UPDATE requests SET kind = 'text', things = 80, models = ARRAY[:known]",
            known=TEXT_MODEL,
        )
        (found,) = see(LIST, type="text")
        assert (found["type"], found["queued"], found["jobs"], found["eta"]) == ("text", 160, 2, 10_000)
        performance = see(PERFORMANCE)
        assert (performance["queued_text_requests"], performance["queued_tokens"]) == (2, 160)
        assert performance["queued_requests"] == performance["queued_megapixelsteps"] == 0


class TestPerformance:
    FIELDS = (
        "queued_requests",
        "queued_text_requests",
        "worker_count",
        "text_worker_count",
        "thread_count",
        "text_thread_count",
        "queued_megapixelsteps",
        "past_minute_megapixelsteps",
        "queued_forms",
        "interrogator_count",
        "interrogator_thread_count",
        "queued_tokens",
        "past_minute_tokens",
    )

    def test_nothing_is_on(self, see: See) -> None:
        found = see(PERFORMANCE)
        assert tuple(found) == self.FIELDS
        assert set(found.values()) == {0}

    def test_workers_of_each_kind(self, horde: Horde, owner: Account, see: See) -> None:
        for name, kind, threads in [("a", "image", 1), ("b", "text", 2), ("c", "interrogation", 3)]:
            horde.pop(owner, name=name, threads=threads)
            change(horde.platform, "UPDATE workers SET kind = :kind WHERE name = :name", kind=kind, name=name)
        found = see(PERFORMANCE)
        assert (found["worker_count"], found["thread_count"]) == (1, 1)
        assert (found["text_worker_count"], found["text_thread_count"]) == (1, 2)
        assert (found["interrogator_count"], found["interrogator_thread_count"]) == (1, 3)

    @pytest.mark.parametrize(
        ("kind", "field"), [("text", "past_minute_tokens"), ("image", "past_minute_megapixelsteps")]
    )
    def test_the_past_minute(
        self, horde: Horde, owner: Account, payer: Account, see: See, kind: str, field: str
    ) -> None:
        horde.asked(payer, models=[MODEL])
        horde.submitted(owner, horde.popped(owner)["id"])
        change(horde.platform, "UPDATE generation_records SET kind = :kind, things = 2500000", kind=kind)
        assert see(PERFORMANCE)[field] == (2.5 if kind == "image" else 2_500_000)
        change(horde.platform, "UPDATE generation_records SET finished = now() - interval '61 seconds'")
        assert see(PERFORMANCE)[field] == 0

    def test_alchemy(self, horde: Horde, payer: Account, see: See) -> None:
        horde.asked(payer, models=[MODEL], params={"n": 3})
        change(horde.platform, "UPDATE requests SET kind = 'interrogation'")
        assert see(PERFORMANCE)["queued_forms"] == 3

    def test_figures_agree(self, horde: Horde, owner: Account, payer: Account, see: See) -> None:
        sizes = [(MODEL, 3, 512), (MODEL, 1, 768), (SDXL, 2, 1024), ("Deliberate", 4, 640)]
        for model, n, width in sizes:
            horde.asked(payer, models=[model], params={"n": n, "width": width})
        horde.popped(owner, amount=2)
        horde.popped(owner, models=["Deliberate"])
        listed, total = see(LIST), see(PERFORMANCE)
        assert sum(row["jobs"] for row in listed) == total["queued_requests"] == 10
        megapixelsteps = sum(row["queued"] for row in listed) / 1_000_000
        assert round(megapixelsteps, 2) == total["queued_megapixelsteps"]
        assert sum(row["count"] for row in listed) == total["thread_count"]


class TestCaches:
    @pytest.mark.parametrize("path", [LIST, PERFORMANCE, ONE.format(MODEL)])
    def test_counted_once_for_all(self, horde: Horde, owner: Account, path: str) -> None:
        horde.pop(owner)
        recount(horde)
        first = horde.call("GET", path).json
        with counted_statements() as statements:
            for key in (None, ANONYMOUS_KEY, owner, "no such key"):
                assert horde.call("GET", path, key).json == first
        assert statements == []
        with another_process(horde) as other:
            assert other.call("GET", path).json == first

    def test_masks_are_not_kept(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        recount(horde)
        for _ in range(2):
            assert horde.call("GET", LIST, headers={"X-Fields": "name"}).json == [{"name": MODEL}]
            assert len(horde.call("GET", LIST).json[0]) == 7
            masked = horde.call("GET", PERFORMANCE, headers={"X-Fields": "worker_count"})
            assert masked.json == {"worker_count": 1}
            assert len(horde.call("GET", PERFORMANCE).json) == 13

    def test_filters_are_not_kept(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        recount(horde)
        for _ in range(2):
            assert horde.call("GET", LIST, query_string={"min_count": 5}).json == []
            assert [row["name"] for row in horde.call("GET", LIST).json] == [MODEL]

    def test_without_the_cache_server(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        with another_process(horde, redis_url="redis://127.0.0.1:1") as lonely:
            for _ in range(2):
                response = lonely.client.get(f"/api/v2{LIST}")
                assert [row["name"] for row in response.json] == [MODEL]
