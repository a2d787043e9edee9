"""Workers over HTTP: registering, being refused, getting the jobs that they can do."""

from typing import Any

import pytest

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    PAINTER,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    scalar,
    unchanged,
)

EMPTY = {
    "id": None,
    "ids": [],
    "payload": {
        "sampler_name": "k_euler_a",
        "cfg_scale": 7.5,
        "height": 512,
        "width": 512,
        "karras": False,
        "tiling": False,
        "hires_fix": False,
        "transparent": False,
        "image_is_control": False,
        "return_control_map": False,
        "ddim_steps": 30,
        "n_iter": 1,
    },
    "model": None,
    "ttl": None,
    "source_image": None,
    "source_processing": "img2img",
    "source_mask": None,
    "extra_source_images": None,
    "r2_upload": None,
    "r2_uploads": None,
    "messages": [],
}
COUNTED = {
    "models",
    "worker_id",
    "img2img",
    "painting",
    "unsafe_ip",
    "nsfw",
    "lora",
    "post-processing",
    "controlnet",
    "performance",
    "untrusted",
    "bridge_version",
}


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


class TestRegistration:
    def test_a_new_name_is_a_new_worker(self, horde: Horde) -> None:
        owner = horde.account()
        response = horde.pop(owner, "  Attic GPU \n", models=[SDXL, "unknown", MODEL, SDXL])
        assert response.status_code == 200
        answer = dict(response.json)
        assert answer.pop("skipped") == dict.fromkeys(COUNTED, 0)
        assert answer == EMPTY
        with horde.platform.read() as db:
            (row,) = db.exec_driver_sql("SELECT * FROM workers").mappings()
        assert (row["name"], row["owner_id"], row["kind"]) == ("Attic GPU", owner.id, "image")
        assert sorted(row["models"]) == [SDXL, MODEL]
        assert (row["nsfw"], row["allow_lora"], row["threads"]) == (True, False, 1)

    def test_the_settings_are_those_of_the_last_pop(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, threads=2, blacklist=["Ugly", " ugly ", ""])
        horde.pop(owner, threads=3, blacklist=[], models=["Deliberate"])
        with horde.platform.read() as db:
            (row,) = db.exec_driver_sql("SELECT threads, blacklist, models FROM workers").all()
        assert row == (3, [], ["Deliberate"])

    @pytest.mark.parametrize(
        ("name", "rc", "word"),
        [
            ("", "BadRequest", "name"),
            (" \t\n", "BadRequest", "name"),
            ("x" * 101, "TooLongWorkerName", "100"),
            ("My Colab worker", "BadRequest", "colab"),
            ("TPUs", "BadRequest", "tpu"),
            ("googleplex", "BadRequest", "google"),
        ],
    )
    def test_names_that_cannot_be_used(
        self, horde: Horde, owner: Account, name: str, rc: str, word: str
    ) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, name), 400, rc, word)

    def test_the_longest_name_and_any_letters(self, horde: Horde, owner: Account) -> None:
        for name in ("x" * 100, "Dachgeschoß 🖥️ <b>'\"--"):
            assert horde.pop(owner, name).status_code == 200
            assert scalar(horde.platform, "SELECT count(*) FROM workers WHERE name = :name", name=name) == 1

    @pytest.mark.parametrize(
        ("role", "rc", "word"),
        [(Role.DELETED, "DeletedUser", "deletion"), (Role.FLAGGED, "WorkerFlaggedMaintenance", "moderators")],
    )
    def test_owners_who_may_not_run_workers(self, horde: Horde, role: Role, rc: str, word: str) -> None:
        user = horde.account(role)
        with unchanged(horde.platform):
            assert_refused(horde.pop(user), 403, rc, word)

    def test_the_anonymous_account_runs_no_workers(self, horde: Horde) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(ANONYMOUS_KEY), 403, "AnonForbiddenWorker", "register")

    def test_an_unknown_key(self, horde: Horde) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop("x" * 22), 401, "InvalidAPIKey", "key")

    def test_the_name_of_somebody_elses_worker(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, "taken")
        stranger = horde.account()
        with unchanged(horde.platform):
            assert_refused(horde.pop(stranger, "taken"), 403, "WrongCredentials", "name")

    def test_the_name_of_a_worker_of_another_kind(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, "writer")
        change(horde.platform, "UPDATE workers SET kind = 'text'")
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, "writer"), 400, "PolymorphicNameConflict", "text")

    @pytest.mark.parametrize(
        ("roles", "most", "rc"), [((), 4, "TooManyWorkers"), ((Role.TRUSTED,), 21, "TooManyWorkersTrusted")]
    )
    def test_too_many_workers(self, horde: Horde, roles: tuple[Role, ...], most: int, rc: str) -> None:
        user = horde.account(*roles)
        for number in range(most):
            assert horde.pop(user, f"worker {number}").status_code == 200
        with unchanged(horde.platform):
            assert_refused(horde.pop(user, "one more"), 403, rc, str(most))
        assert horde.pop(user, "worker 0").status_code == 200
        change(horde.platform, "UPDATE users SET worker_invited = 30")
        assert horde.pop(user, "one more").status_code == 200

    def test_too_many_workers_at_one_address(self, horde: Horde, owner: Account) -> None:
        newcomer = horde.account()
        with another_process(horde, max_workers_per_address=1) as strict:
            assert strict.pop(newcomer, "first").status_code == 200
            with unchanged(horde.platform):
                assert_refused(strict.pop(newcomer, "second"), 403, "TooManySameIPs", "address")
            elsewhere = {"json": {"name": "second", "models": [MODEL]}}
            response = strict.call(
                "POST", "/generate/pop", newcomer, environ_base={"REMOTE_ADDR": "192.0.2.7"}, **elsewhere
            )
            assert response.status_code == 200
            assert strict.pop(owner, "trusted 1").status_code == 200
            assert strict.pop(owner, "trusted 2").status_code == 200

    @pytest.mark.parametrize("models", [[], ["never heard of"], ["horde_special::somebody#1"]])
    def test_models_that_nobody_knows(self, horde: Horde, owner: Account, models: list[str]) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, models=models), 400, "BadRequest", "model reference")

    def test_customizers_may_serve_any_model(self, horde: Horde) -> None:
        customizer = horde.account(Role.CUSTOMIZER)
        horde.asked(models=["my own"])
        assert horde.popped(customizer, models=["my own"])["model"] == "my own"

    @pytest.mark.parametrize("name", ["somebody", "somebody#", "somebody#x", "#²", "somebody#-1", ""])
    def test_misspelt_priority_users(self, horde: Horde, owner: Account, name: str) -> None:
        with unchanged(horde.platform):
            response = horde.pop(owner, priority_usernames=["right#1", name])
            assert_refused(response, 400, "InvalidPriorityUsername", "name#123")


class TestMaintenance:
    def test_only_the_owners_requests(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET maintenance = true")
        friend = horde.account()
        horde.asked(friend)
        with unchanged(horde.platform):
            response = horde.pop(owner, priority_usernames=[friend.alias])
            assert_refused(response, 403, "WorkerMaintenance", "maintenance mode", "switch maintenance off")
        horde.asked(owner, prompt="my own")
        assert horde.popped(owner)["payload"]["prompt"] == "my own"

    def test_the_owners_message(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        for message in ("Broken fan", "In Maintenance Mode for a broken fan"):
            change(
                horde.platform, "UPDATE workers SET maintenance = true, maintenance_message = :m", m=message
            )
            assert_refused(horde.pop(owner), 403, "WorkerMaintenance", "maintenance mode", "broken fan")

    def test_it_is_not_counted_as_able(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET maintenance = true")
        assert not horde.check(horde.asked())["is_possible"]
        assert horde.check(horde.asked(owner))["is_possible"]


class TestSkipped:
    """Each request is one that the worker cannot serve for the reason given, and could serve otherwise."""

    @pytest.mark.parametrize(
        ("fields", "offer", "reason"),
        [
            ({"models": [SDXL]}, {}, "models"),
            ({"params": {"width": 1024}}, {"max_pixels": 512 * 512}, "max_pixels"),
            ({"nsfw": True}, {"nsfw": False}, "nsfw"),
            ({"params": {"loras": [{"name": "1"}]}}, {"allow_lora": False}, "lora"),
            (
                {"params": {"post_processing": ["GFPGAN"]}},
                {"allow_post_processing": False},
                "post-processing",
            ),
            (
                {"source_processing": "inpainting"},
                {"models": [MODEL, PAINTER], "allow_painting": False},
                "painting",
            ),
            ({"source_processing": "outpainting"}, {}, "models"),
            ({"params": {"transparent": True}}, {"allow_sdxl_controlnet": False}, "controlnet"),
            ({"params": {"steps": 31}}, {"limit_max_steps": True}, "step_count"),
            ({"trusted_workers": True}, {}, "untrusted"),
            ({}, {"extra_slow_worker": True}, "performance"),
            ({}, {"bridge_agent": "unheard of:1:nobody"}, "bridge_version"),
            (
                {"params": {"loras": [{"name": "1"}]}},
                {"allow_lora": True, "bridge_agent": "AI Horde Worker reGen:1:x"},
                "bridge_version",
            ),
            (
                {"params": {"tis": [{"name": "1"}]}},
                {"bridge_agent": "AI Horde Worker reGen:1:x"},
                "bridge_version",
            ),
            (
                {"params": {"sampler_name": "lcm", "steps": 8}},
                {"bridge_agent": "AI Horde Worker reGen:2:x"},
                "bridge_version",
            ),
            (
                {"params": {"post_processing": ["4xNomos8kSC"]}},
                {"bridge_agent": "AI Horde Worker reGen:12:x"},
                "bridge_version",
            ),
            (
                {"models": [FLUX], "params": {"width": 512}},
                {"models": [FLUX], "bridge_agent": "AI Horde Worker reGen:8:x"},
                "bridge_version",
            ),
            (
                {"models": [CASCADE], "params": {"hires_fix": True}},
                {"models": [CASCADE], "bridge_agent": "AI Horde Worker reGen:5:x"},
                "bridge_version",
            ),
        ],
    )
    def test_the_reason_is_counted(
        self, horde: Horde, fields: dict[str, Any], offer: dict[str, Any], reason: str
    ) -> None:
        models = [MODEL, SDXL, FLUX, CASCADE, PAINTER]
        able = {"models": models, "allow_lora": True, "allow_sdxl_controlnet": True}
        newcomer, owner = horde.account(), horde.account(Role.TRUSTED)
        horde.asked(horde.account(amount=500), **{"nsfw": False} | fields)
        assert horde.skipped(newcomer, "unable", **{"allow_lora": True} | offer) == {reason: 1}
        assert horde.popped(owner, "able", **able)["ids"]

    def test_a_model_for_painting_alone(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=[PAINTER])
        assert horde.skipped(owner, models=[PAINTER]) == {"models": 1}
        horde.asked(models=[PAINTER], source_processing="inpainting")
        assert horde.popped(owner, models=[PAINTER])["ids"]

    def test_requests_are_counted_not_images(self, horde: Horde, owner: Account) -> None:
        for _ in range(3):
            horde.asked(models=[SDXL], nsfw=True, params={"n": 2})
        assert horde.skipped(owner, nsfw=False) == {"models": 3, "nsfw": 3}
        assert horde.skipped(owner, nsfw=False, models=[SDXL]) == {"nsfw": 3}


class TestBatches:
    def test_as_many_as_the_worker_asks_for(self, horde: Horde, owner: Account) -> None:
        request = horde.asked(params={"n": 5})
        job = horde.popped(owner, amount=3)
        assert len(set(job["ids"])) == len(set(job["r2_uploads"])) == job["payload"]["n_iter"] == 3
        assert (job["id"], job["r2_upload"]) == (job["ids"][0], job["r2_uploads"][0])
        assert horde.check(request)["processing"] == 3
        assert len(horde.popped(owner, amount=20)["ids"]) == 2

    def test_fewer_if_they_are_large(self, horde: Horde, owner: Account) -> None:
        horde.asked(params={"n": 5, "width": 1024, "height": 1024})
        assert len(horde.popped(owner, amount=3, max_pixels=1024 * 1024)["ids"]) == 1

    def test_one_at_a_time_if_the_requester_wants(self, horde: Horde, owner: Account) -> None:
        horde.asked(owner, disable_batching=True, params={"n": 2})
        assert [len(horde.popped(owner, amount=2)["ids"]) for _ in range(2)] == [1, 1]

    @pytest.mark.parametrize(
        ("asked", "offered", "batch"),
        [
            ([MODEL], MODEL, 4),
            ([FLUX], FLUX, 1),
            ([MODEL, FLUX], MODEL, 1),  # the heaviest that is asked for decides
            ([], MODEL, 4),
            ([], FLUX, 1),
        ],
    )
    def test_fewer_of_heavy_models(
        self, horde: Horde, owner: Account, asked: list[str], offered: str, batch: int
    ) -> None:
        size = {"width": 1024, "height": 1024}
        horde.asked(horde.account(amount=100_000), models=asked, params={"n": 4, **size})
        assert len(horde.popped(owner, models=[offered], amount=4)["ids"]) == batch

    def test_never_of_two_requests(self, horde: Horde, owner: Account) -> None:
        for prompt in ("one", "two"):
            horde.asked(prompt=prompt)
        assert len(horde.popped(owner, amount=20)["ids"]) == 1


class TestOrder:
    def test_friends_and_the_owner_come_first(self, horde: Horde) -> None:
        owner, friend, rich = horde.account(), horde.account(), horde.account(amount=10_000)
        for user, prompt in ((rich, "rich"), (friend, "friend"), (owner, "owner")):
            horde.asked(user, prompt=prompt)
        offer = {"priority_usernames": [friend.alias, "nobody#999999", f"other name#{friend.id}"]}
        served = [horde.popped(owner, **offer)["payload"]["prompt"] for _ in range(3)]
        assert served == ["friend", "owner", "rich"]

    def test_flagged_requesters_come_last(self, horde: Horde, owner: Account) -> None:
        flagged = horde.account(Role.FLAGGED, amount=1000)
        horde.asked(flagged, prompt="flagged")
        horde.asked(horde.account(amount=500), prompt="plain")
        prompts = [horde.popped(owner)["payload"]["prompt"] for _ in range(2)]
        assert prompts[0] == "plain"
        assert prompts[1].startswith("flagged")


class TestRefusedWords:
    def test_prompts_that_hold_them_are_for_others(self, horde: Horde, owner: Account) -> None:
        horde.asked(prompt="An UGLY duckling ### beauty")
        horde.asked(prompt="A swan ### ugly")
        assert horde.pop(owner, blacklist=["ugly"]).json["ids"] == []
        assert horde.popped(owner, blacklist=["hideous"])["ids"]

    def test_they_are_counted(self, horde: Horde, owner: Account) -> None:
        horde.asked(prompt="An UGLY duckling")
        assert horde.skipped(owner, blacklist=["ugly"]) == {"blacklist": 1}

    def test_two_hundred_whole_words_count(self, horde: Horde, owner: Account) -> None:
        horde.asked(prompt="the last word")
        horde.popped(owner, blacklist=[f"word {number}" for number in range(200)] + ["last"])
        horde.asked(prompt="unbelievable things")
        assert horde.pop(owner, blacklist=["unbelievable things"]).json["ids"] == []
        horde.popped(owner, blacklist=["unbelievable thoughts", ""])

    def test_a_prompt_that_holds_one_does_not_hide_others(self, horde: Horde, owner: Account) -> None:
        rich = horde.account(amount=10_000)
        for _ in range(20):
            horde.asked(rich, prompt="ugly")
        horde.asked(prompt="fair")
        assert horde.popped(owner, blacklist=["ugly"])["payload"]["prompt"] == "fair"

    def test_not_even_very_many_hide_others_for_ever(self, horde: Horde, owner: Account) -> None:
        horde.asked(horde.account(amount=10_000), prompt="ugly")
        copy_requests(horde, 2500)
        horde.asked(prompt="fair")
        answers = [horde.pop(owner, blacklist=["ugly"]).json for _ in range(20)]
        assert "fair" in [answer["payload"].get("prompt") for answer in answers]


def copy_requests(horde: Horde, copies: int) -> None:
    """Let the one request that waits stand in the queue so many more times."""
    with horde.platform.engine.begin() as db:
        columns = db.exec_driver_sql(
            "SELECT string_agg(attname, ', ') FROM pg_attribute "
            "WHERE attrelid = 'requests'::regclass AND attnum > 0 AND attname <> 'id'"
        ).scalar_one()
        db.exec_driver_sql(
            f"INSERT INTO requests (id, {columns}) "
            f"SELECT gen_random_uuid(), {columns} FROM requests, generate_series(1, {copies})"
        )
        db.exec_driver_sql(
            "INSERT INTO queue (lane_id, rank, request_id, size) "
            "SELECT unnest(lanes), rank, id, size FROM requests ON CONFLICT DO NOTHING"
        )
