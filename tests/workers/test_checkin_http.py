"""Checking in over HTTP: who may, in which order that is decided, and what is kept of it."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from horde.generation import snapshot
from horde.moderation import modes
from horde.users.rules import ANONYMOUS_KEY, Reason, Role
from horde.workers import heartbeats
from tests.https_server import HttpsServer, https_server, reply
from tests.support import (
    MODEL,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    counted_statements,
    forget,
    in_threads,
    scalar,
    unchanged,
)

PROFANE = "Shit-happens GPU"
ADDRESS = "203.0.113.7"


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture(scope="module")
def module_checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def checker(module_checker: HttpsServer) -> HttpsServer:
    """Takes every address for safe until a test says otherwise."""
    module_checker.received.clear()
    module_checker.answer = reply(body=b"0")
    return module_checker


@pytest.fixture
def checked(horde: Horde, checker: HttpsServer) -> Iterator[Horde]:
    """A process that asks the checker about addresses."""
    with another_process(
        horde,
        ip_checker_url=checker.url("/check?ip={address}"),
        outbound_networks=(ip_network("127.0.0.0/8"),),
        outbound_ca_file=checker.ca_file,
    ) as process:
        yield process


def pop_from(horde: Horde, address: str, key: Account | str, name: str = "worker", **fields: Any) -> Any:
    offer = {"name": name, "models": [MODEL]} | fields
    return horde.call("POST", "/generate/pop", key, json=offer, environ_base={"REMOTE_ADDR": address})


def keep_out(horde: Horde, address: str) -> None:
    moderator = horde.account(Role.MODERATOR)
    body = {"ipaddr": address, "hours": 1}
    assert horde.call("POST", "/operations/ipaddr", moderator, json=body).status_code == 200
    forget(horde.platform)


def let_in(horde: Horde, address: str) -> None:
    moderator = horde.account(Role.MODERATOR)
    body = {"ipaddr": address}
    assert horde.call("DELETE", "/operations/ipaddr", moderator, json=body).status_code == 200
    forget(horde.platform)


def suspicions(horde: Horde) -> list[tuple[int, bool, int]]:
    """Account, whether it is about a worker of it, and reason."""
    with horde.platform.read() as db:
        rows = db.exec_driver_sql(
            "SELECT user_id, worker_id IS NOT NULL, reason FROM suspicions ORDER BY 1, 2, 3"
        ).all()
    return [(row[0], row[1], row[2]) for row in rows]


class TestOrder:
    """A pop that breaks every rule is refused for the first one; with that kept, for the next."""

    def test_of_a_new_worker(self, checked: Horde, checker: HttpsServer) -> None:
        horde = checked
        user = horde.account(Role.DELETED, Role.FLAGGED)
        other = horde.account(Role.TRUSTED)
        horde.pop(other, "writer")
        change(horde.platform, "UPDATE workers SET kind = 'text'")
        keep_out(horde, ADDRESS)
        modes.set_modes(horde.platform, invite_only=True)
        checker.answer = reply(429)
        fields: dict[str, Any] = {
            "threads": 0,
            "priority_usernames": ["nobody"],
            "bridge_agent": "Fucking fast:1:x",
            "models": ["never heard of"],
        }
        key: Account | str = "x" * 22
        name = "writer"

        def refused(status: int, rc: str) -> None:
            with unchanged(horde.platform):
                assert_refused(pop_from(horde, ADDRESS, key, name, **fields), status, rc)

        response = pop_from(horde, ADDRESS, key, name, **fields)
        assert (response.status_code, set(response.json["errors"])) == (400, {"threads"})
        fields["threads"] = 1
        refused(400, "InvalidPriorityUsername")
        fields["priority_usernames"] = ["somebody#x"]
        refused(401, "InvalidAPIKey")
        key = ANONYMOUS_KEY
        refused(403, "AnonForbiddenWorker")
        key = user
        refused(403, "DeletedUser")
        change(horde.platform, "DELETE FROM user_roles WHERE role = 'deleted'")
        refused(403, "WorkerFlaggedMaintenance")
        change(horde.platform, "DELETE FROM user_roles WHERE role = 'flagged'")
        refused(400, "PolymorphicNameConflict")
        name = f"Colab {PROFANE}"
        refused(403, "TimeoutIP")
        let_in(horde, ADDRESS)
        refused(403, "TooManyNewIPs")
        checker.answer = reply(body=b"0.99")
        forget(horde.platform)
        refused(403, "UnsafeIP")
        horde.platform.cache.delete(*horde.platform.cache.scan_iter("ip_safety:*"))
        checker.answer = reply(body=b"0.5")
        forget(horde.platform)
        assert_refused(pop_from(horde, ADDRESS, key, name, **fields), 400, "ProfaneWorkerName")
        name = "Colab"
        refused(400, "ProfaneBridgeAgent")
        fields["bridge_agent"] = "A polite program:1:x"
        refused(400, "BadRequest")
        name = "Attic"
        refused(403, "WorkerInviteOnly")
        modes.set_modes(horde.platform, invite_only=False)
        forget(horde.platform)
        refused(400, "BadRequest")
        fields["models"] = [MODEL]
        refused(400, "InvalidPriorityUsername")
        fields["priority_usernames"] = ["somebody#1"]
        assert pop_from(horde, ADDRESS, key, name, **fields).status_code == 200

    def test_of_a_known_one(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, PROFANE.replace("Shit", "Stuff"))
        change(horde.platform, "UPDATE workers SET name = :name", name=PROFANE)
        stranger = horde.account()
        keep_out(horde, ADDRESS)
        offer = {"models": ["never heard of"], "priority_usernames": ["#"], "bridge_agent": "Fuck:1:x"}

        def refused(key: Account, status: int, rc: str, *words: str) -> None:
            with unchanged(horde.platform):
                assert_refused(pop_from(horde, ADDRESS, key, PROFANE, **offer), status, rc, *words)

        refused(stranger, 403, "TimeoutIP")
        let_in(horde, ADDRESS)
        refused(stranger, 403, "WrongCredentials", "wrong credentials")
        refused(owner, 400, "BadRequest", "we cannot accept workers serving")
        offer["models"] = [MODEL]
        refused(owner, 400, "InvalidPriorityUsername")
        offer["priority_usernames"] = []
        change(horde.platform, "UPDATE workers SET maintenance = true")
        assert_refused(pop_from(horde, ADDRESS, owner, PROFANE, **offer), 403, "WorkerMaintenance")
        change(horde.platform, "UPDATE workers SET maintenance = false")
        assert pop_from(horde, ADDRESS, owner, PROFANE, **offer).status_code == 200

    def test_a_horde_in_maintenance_still_hands_jobs_out(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        modes.set_modes(horde.platform, maintenance=True)
        assert horde.pop(owner).status_code == 200
        assert horde.pop(owner, "another").status_code == 200


class TestProfaneNames:
    @pytest.mark.parametrize("name", [PROFANE, "f.u.c.k it", "FUCK_THIS", "Sh\u0456t", "2fuck4"])
    def test_they_speak_against_the_owner_once(self, horde: Horde, name: str) -> None:
        owner = horde.account()
        for _ in range(2):
            assert_refused(horde.pop(owner, name), 400, "ProfaneWorkerName", "another name")
        assert scalar(horde.platform, "SELECT count(*) FROM workers") == 0
        assert suspicions(horde) == [(owner.id, False, Reason.PROFANE_WORKER_NAME)]

    def test_words_that_only_hold_one_are_fine(self, horde: Horde, owner: Account) -> None:
        for name in ("Scunthorpe", "Shiitake shop", "Mishit ball"):
            assert horde.pop(owner, name).status_code == 200

    def test_the_software_is_looked_at_when_a_worker_is_new(self, horde: Horde, owner: Account) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, bridge_agent="Shitty:1:x"), 400, "ProfaneBridgeAgent")
        horde.pop(owner)
        assert horde.pop(owner, bridge_agent="Shitty:1:x").status_code == 200


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["x" * 100, "\N{PILE OF POO}" * 100, "\u05de\u05d7\u05e9\u05d1 1", "1", "#1", "a/b?c=d", "'; --"],
    )
    def test_any_visible_name_of_up_to_100_characters(self, horde: Horde, owner: Account, name: str) -> None:
        assert horde.pop(owner, f" {name}\n").status_code == 200
        assert horde.pop(owner, name).status_code == 200
        assert scalar(horde.platform, "SELECT name FROM workers") == name

    @pytest.mark.parametrize("name", ["x" * 101, "\N{PILE OF POO}" * 101, "x" * 100_000])
    def test_none_that_is_longer(self, horde: Horde, owner: Account, name: str) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, name), 400, "TooLongWorkerName", "100")

    @pytest.mark.parametrize("name", ["\u200b", "\u00a0", "\u2063 \u2063"])
    def test_none_that_nobody_can_see(self, horde: Horde, owner: Account, name: str) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, name), 400, "BadRequest", "name")

    @pytest.mark.parametrize("sign", ["\n", "\x1b", "\x7f", "\u2028", "\u202e", "\u2066"])
    def test_none_that_would_be_shown_otherwise(self, horde: Horde, owner: Account, sign: str) -> None:
        """A name stands in lists and logs beside others."""
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, f"Attic{sign}GPU"), 400, "BadRequest", "name", "mark")
        horde.pop(owner)
        path = f"/workers/{scalar(horde.platform, 'SELECT id FROM workers')}"
        response = horde.call("PUT", path, owner, json={"name": f"Attic{sign}GPU"})
        assert_refused(response, 400, "BadRequest", "name", "mark")

    def test_signs_that_join_others_are_part_of_them(self, horde: Horde, owner: Account) -> None:
        name = "\N{MAN}\u200d\N{PERSONAL COMPUTER}"
        assert horde.pop(owner, name).status_code == 200
        assert scalar(horde.platform, "SELECT name FROM workers") == name

    def test_upper_and_lower_case_are_told_apart(self, horde: Horde, owner: Account) -> None:
        for name in ("Attic", "attic"):
            assert horde.pop(owner, name).status_code == 200
        assert scalar(horde.platform, "SELECT count(*) FROM workers") == 2


class TestRoom:
    def test_invitations(self, horde: Horde, owner: Account) -> None:
        modes.set_modes(horde.platform, invite_only=True)
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner), 403, "WorkerInviteOnly", "new workers need an invitation")
        change(horde.platform, "UPDATE users SET worker_invited = 1 WHERE id = :id", id=owner.id)
        assert horde.pop(owner).status_code == 200
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, "second"), 403, "WorkerInviteOnly", "you have 1 workers")
        assert horde.pop(owner).status_code == 200

    def test_workers_of_every_kind_count_also_offline_ones(self, horde: Horde) -> None:
        owner = horde.account()
        for number in range(4):
            assert horde.pop(owner, f"worker {number}").status_code == 200
        change(
            horde.platform,
            "UPDATE workers SET kind = 'interrogation', last_seen = '2020-01-01' WHERE name < 'worker 3'",
        )
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, "one more"), 403, "TooManyWorkers", "4 workers", "4 is the most")
        shown = horde.call("GET", "/find_user", owner).json
        assert (shown["worker_count"], len(shown["worker_ids"])) == (4, 4)

    def test_the_last_place_is_given_to_one(self, horde: Horde) -> None:
        owner = horde.account()
        for number in range(3):
            horde.pop(owner, f"worker {number}")
        answers = in_threads(4, lambda number: pop_in_thread(horde, owner, f"new {number}"))
        assert sorted(answers) == [200, 403, 403, 403]
        assert scalar(horde.platform, "SELECT count(*) FROM workers") == 4

    def test_threads_of_a_new_worker_are_one_worker(self, horde: Horde) -> None:
        owner = horde.account()
        assert in_threads(4, lambda _: pop_in_thread(horde, owner, "new")) == [200] * 4
        assert scalar(horde.platform, "SELECT count(*) FROM workers") == 1

    def test_a_name_that_two_accounts_want_belongs_to_one(self, horde: Horde) -> None:
        owners = [horde.account() for _ in range(4)]
        answers = in_threads(4, lambda number: pop_in_thread(horde, owners[number], "new"))
        assert sorted(answers) == [200, 403, 403, 403]


def pop_in_thread(horde: Horde, owner: Account, name: str) -> int:
    client = horde.client.application.test_client()
    return Horde(client, horde.platform).pop(owner, name).status_code


class TestAddresses:
    def test_whoever_is_trusted_or_may_use_a_vpn_is_not_asked_about(
        self, checked: Horde, checker: HttpsServer
    ) -> None:
        checker.answer = reply(body=b"1")
        for role in (Role.TRUSTED, Role.VPN, Role.MODERATOR):
            assert pop_from(checked, ADDRESS, checked.account(role), role.value).status_code == 200
        assert checker.received == []

    def test_unsafe_ones(self, checked: Horde, checker: HttpsServer) -> None:
        owner = checked.account()
        assert pop_from(checked, ADDRESS, owner).status_code == 200
        checker.answer = reply(body=b"0.93")
        with unchanged(checked.platform):
            assert_refused(pop_from(checked, "203.0.113.8", owner), 403, "UnsafeIP", "VPN")
            assert_refused(pop_from(checked, "203.0.113.8", owner, "new"), 403, "UnsafeIP", "VPN")

    def test_those_that_cannot_be_checked_now(self, checked: Horde, checker: HttpsServer) -> None:
        owner = checked.account()
        checker.answer = reply(429)
        with unchanged(checked.platform):
            assert_refused(
                pop_from(checked, ADDRESS, owner), 403, "TooManyNewIPs", "keep your worker running"
            )
        checker.answer = reply(body=b"0")
        forget(checked.platform)
        assert pop_from(checked, ADDRESS, owner).status_code == 200

    def test_during_a_raid_unsafe_ones_are_noted_without_a_word(
        self, checked: Horde, checker: HttpsServer
    ) -> None:
        modes.set_modes(checked.platform, raid=True)
        checker.answer = reply(body=b"1")
        owner = checked.account()
        for _ in range(3):
            assert pop_from(checked, ADDRESS, owner).status_code == 200
            forget(checked.platform)
        assert suspicions(checked) == [
            (owner.id, False, Reason.UNSAFE_ADDRESS),
            (owner.id, True, Reason.UNSAFE_ADDRESS),
        ]
        assert pop_from(checked, ADDRESS, checked.account(Role.TRUSTED), "trusted").status_code == 200
        assert len(suspicions(checked)) == 2

    def test_addresses_that_are_kept_out_are_so_for_everybody(self, horde: Horde, owner: Account) -> None:
        pop_from(horde, ADDRESS, owner)
        keep_out(horde, ADDRESS)
        with unchanged(horde.platform):
            assert_refused(pop_from(horde, ADDRESS, owner), 403, "TimeoutIP", "seconds")
        assert pop_from(horde, "203.0.113.8", owner).status_code == 200


class TestExtremeSizes:
    def test_they_speak_against_workers_of_accounts_that_are_not_trusted(self, horde: Horde) -> None:
        owner, limit = horde.account(), 3072 * 3072
        horde.pop(owner, max_pixels=limit)
        assert suspicions(horde) == []
        for size in (limit + 1, limit + 2):
            assert horde.pop(owner, max_pixels=size).status_code == 200
            forget(horde.platform)
        assert suspicions(horde) == [
            (owner.id, False, Reason.EXTREME_SIZE),
            (owner.id, True, Reason.EXTREME_SIZE),
        ]
        with counted_statements() as sent:
            horde.pop(owner, max_pixels=limit + 2)
            first = len(sent)
            horde.pop(owner, max_pixels=limit + 2)
        assert not any("suspicions" in statement for statement in sent[first:])

    def test_and_not_of_others(self, horde: Horde, owner: Account) -> None:
        assert horde.pop(owner, max_pixels=2**60).status_code == 200
        assert suspicions(horde) == []


class TestModels:
    def test_those_without_a_known_baseline_are_dropped(self, horde: Horde, owner: Account) -> None:
        models = horde.platform.local._entries
        horde.pop(owner)
        _, reference = models["image_models"]
        known = reference.models[MODEL]
        odd = known.model_copy(update={"name": "Odd", "baseline": "from another world"})
        reference.models["Odd"] = odd
        try:
            with unchanged(horde.platform):
                assert_refused(horde.pop(owner, "new", models=["Odd"]), 400, "BadRequest", "model reference")
            assert horde.pop(horde.account(Role.CUSTOMIZER), "custom", models=["Odd"]).status_code == 200
        finally:
            del reference.models["Odd"]

    def test_the_first_300_count(self, horde: Horde) -> None:
        owner = horde.account(Role.CUSTOMIZER)
        names = [f"model {number}" for number in range(301)]
        assert horde.pop(owner, models=names).status_code == 200
        assert scalar(horde.platform, "SELECT cardinality(models) FROM workers") == 300
        assert scalar(horde.platform, "SELECT 'model 300' = ANY(models) FROM workers") is False

    @pytest.mark.parametrize("name", ["ab", "", "x" * 256])
    def test_names_have_3_to_255_characters(self, horde: Horde, owner: Account, name: str) -> None:
        with unchanged(horde.platform):
            response = horde.pop(owner, models=[MODEL, name])
        assert (response.status_code, list(response.json["errors"])) == (400, ["models.1"])

    def test_special_models_belong_to_their_owner(self, horde: Horde) -> None:
        special = horde.account(Role.SPECIAL, username="Special")
        own = f"horde_special::{special.alias}"
        with unchanged(horde.platform):
            for model in ("horde_special::Somebody#1", "horde_special::", f"{MODEL}::Owner#1"):
                response = horde.pop(special, models=[MODEL, model])
                assert_refused(response, 400, "BadRequest", "another user")
            assert_refused(
                horde.pop(special, models=[f"a::b::{special.alias}"]), 400, "BadRequest", "serving"
            )
        assert horde.pop(special, models=[own]).status_code == 200
        assert scalar(horde.platform, "SELECT models FROM workers") == [own]

    def test_only_accepted_ones_get_jobs(self, horde: Horde, owner: Account) -> None:
        horde.asked(models=["never heard of", SDXL])
        assert horde.pop(owner, models=[MODEL, "never heard of"]).json["ids"] == []

    def test_a_refused_list_changes_nothing(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        with unchanged(horde.platform):
            response = horde.pop(owner, models=["never heard of"], threads=7)
            assert_refused(response, 400, "BadRequest", "we cannot accept workers serving")


class TestSettings:
    def test_each_pop_is_matched_and_stored_with_its_own(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, models=[SDXL], nsfw=False)
        horde.asked(nsfw=True)
        assert horde.pop(owner, models=[SDXL]).json["ids"] == []
        assert horde.pop(owner, models=[MODEL], nsfw=False).json["ids"] == []
        assert horde.popped(owner, models=[MODEL], nsfw=True)["model"] == MODEL
        with horde.platform.read() as db:
            (row,) = db.exec_driver_sql("SELECT models, nsfw FROM workers").all()
        assert (row.models, row.nsfw) == ([MODEL], True)

    def test_left_out_ones_are_what_they_are_by_default(self, horde: Horde, owner: Account) -> None:
        everything = {
            "nsfw": False,
            "threads": 3,
            "max_pixels": 1024 * 1024,
            "blacklist": ["word"],
            "allow_img2img": False,
            "allow_painting": False,
            "allow_unsafe_ipaddr": False,
            "allow_post_processing": False,
            "allow_controlnet": True,
            "allow_sdxl_controlnet": True,
            "allow_lora": True,
            "limit_max_steps": True,
            "extra_slow_worker": True,
            "bridge_agent": "AI Horde Worker reGen:9:x",
        }
        defaults = {
            "nsfw": True,
            "threads": 1,
            "max_pixels": 262144,
            "blacklist": [],
            "allow_img2img": True,
            "allow_painting": True,
            "allow_unsafe_ipaddr": True,
            "allow_post_processing": True,
            "allow_controlnet": False,
            "allow_sdxl_controlnet": False,
            "allow_lora": False,
            "limit_max_steps": False,
            "extra_slow_worker": False,
            "bridge_agent": "unknown:0:unknown",
        }
        for sent, stored in ((everything, everything), ({}, defaults)):
            body = {"name": "worker", "models": [MODEL], **sent}
            assert horde.call("POST", "/generate/pop", owner, json=body).status_code == 200
            with horde.platform.read() as db:
                row = db.exec_driver_sql("SELECT * FROM workers").mappings().one()
            assert {name: row[name] for name in stored} == stored

    def test_the_same_ones_are_not_written_again(self, horde: Horde, owner: Account) -> None:
        for publish in (snapshot.publish_places, snapshot.publish_groups):
            publish(horde.platform, "image")
        offer = {"blacklist": ["Ugly", "ugly "], "models": [SDXL, MODEL, SDXL]}
        horde.pop(owner, **offer)
        horde.pop(owner, **offer)
        with counted_statements() as sent:
            horde.pop(owner, **offer)
            horde.pop(owner, **offer | {"models": [MODEL, SDXL]})
        assert not any(statement.lstrip().startswith("UPDATE workers") for statement in sent)

    def test_how_many_jobs_a_pop_asks_for_is_written_with_the_next_sign_of_life(
        self, horde: Horde, owner: Account
    ) -> None:
        """It may be another number each time, and nothing but what is shown depends on it."""
        horde.pop(owner, amount=3)
        forget(horde.platform)
        with counted_statements() as sent:
            for amount in (1, 2, 4, 5, 6):
                assert horde.pop(owner, amount=amount).status_code == 200
        assert not any(statement.lstrip().startswith("UPDATE workers") for statement in sent)
        assert scalar(horde.platform, "SELECT amount FROM workers") == 3
        heartbeats.fold_heartbeats(horde.platform)
        assert scalar(horde.platform, "SELECT amount FROM workers") == 1
        assert horde.pop(owner, amount=7, threads=2).status_code == 200
        assert scalar(horde.platform, "SELECT amount FROM workers") == 7

    def test_those_who_look_at_all_workers_hear_of_changes_seconds_later(
        self, horde: Horde, owner: Account
    ) -> None:
        """Else a worker that changes something at each pop would keep everybody busy."""
        horde.pop(owner)
        horde.call("GET", "/workers")
        horde.asked()
        with counted_statements() as sent:
            for threads in (2, 3, 4):
                assert horde.pop(owner, threads=threads).status_code == 200
                horde.call("GET", "/workers")
                horde.asked()
        assert [each for each in sent if "last_seen >" in each] == []
        forget(horde.platform)
        assert horde.call("GET", "/workers").json[0]["threads"] == 4

    def test_a_worker_that_was_removed_is_registered_anew(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner)
        with horde.platform.engine.begin() as db:  # this process still knows it
            db.exec_driver_sql("DELETE FROM workers")
        assert horde.pop(owner, threads=2).status_code == 200
        assert scalar(horde.platform, "SELECT threads FROM workers") == 2


class TestRefusedWords:
    def test_long_ones_are_compared_whole(self, horde: Horde, owner: Account) -> None:
        word = "pneumonoultramicroscopic"
        horde.asked(prompt=f"a {word[:20]} view")
        assert horde.pop(owner, blacklist=[word]).json["ids"]
        horde.asked(prompt=f"a {word} view")
        assert horde.pop(owner, blacklist=[word]).json["ids"] == []

    def test_of_very_long_ones_100_characters(self, horde: Horde, owner: Account) -> None:
        horde.pop(owner, blacklist=["x" * 101, "y" * 100])
        assert scalar(horde.platform, "SELECT blacklist FROM workers") == ["x" * 100, "y" * 100]

    def test_empty_ones_refuse_nothing(self, horde: Horde, owner: Account) -> None:
        horde.asked()
        assert horde.popped(owner, blacklist=["", "  ", "\t"])


class TestPriorityUsernames:
    @pytest.mark.parametrize(
        "name", ["a#", "#", "a#x", "a#1.5", "a#-1", "a#\u0663", "a#" + "9" * 19, "a#1 2"]
    )
    def test_numbers_that_are_none(self, horde: Horde, owner: Account, name: str) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.pop(owner, priority_usernames=[name]), 400, "InvalidPriorityUsername")

    def test_only_the_number_counts(self, horde: Horde, owner: Account) -> None:
        friend = horde.account()
        horde.asked(horde.account(amount=10_000), prompt="rich")
        horde.asked(friend, prompt="friend")
        names = ["#999999999999999999", f"an old # name#{friend.id} "]
        assert horde.popped(owner, priority_usernames=names)["payload"]["prompt"] == "friend"

    def test_the_first_fifty_count(self, horde: Horde, owner: Account) -> None:
        friend = horde.account()
        horde.asked(horde.account(amount=10_000), prompt="rich")
        horde.asked(friend, prompt="friend")
        strangers = [f"somebody#{10_000 + number}" for number in range(50)]
        popped = horde.popped(owner, priority_usernames=[*strangers, friend.alias])
        assert popped["payload"]["prompt"] == "rich"
        horde.asked(horde.account(amount=10_000), prompt="rich")
        popped = horde.popped(owner, priority_usernames=[*strangers[1:], friend.alias])
        assert popped["payload"]["prompt"] == "friend"
