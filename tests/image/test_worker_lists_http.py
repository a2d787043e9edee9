"""Two choices of the operator about requests that name workers: kudos upfront, and matches only."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from horde.kudos import service as ledger
from horde.users.rules import Role
from tests.support import (
    AGENT,
    FLUX,
    MODEL,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_refused,
    counted_statements,
    forget,
    make_settings,
    scalar,
    unchanged,
)

MODELS = [MODEL, SDXL]
LARGE = {"width": 2048, "height": 2048, "steps": 80}


@pytest.fixture(scope="module")
def upfront_process(shared_horde: Horde) -> Iterator[Horde]:
    with another_process(shared_horde, upfront_kudos_on_worker_list=True) as process:
        yield process


@pytest.fixture(scope="module")
def matched_process(shared_horde: Horde) -> Iterator[Horde]:
    with another_process(shared_horde, require_matched_targeting=True) as process:
        yield process


@pytest.fixture
def upfront(horde: Horde, upfront_process: Horde) -> Horde:
    """The horde as a process serves it that wants kudos upfront from those who name workers."""
    forget(upfront_process.platform)
    return upfront_process


@pytest.fixture
def matched(horde: Horde, matched_process: Horde) -> Horde:
    """The horde as a process serves it whose workers serve, of those who name them, whom they name too."""
    forget(matched_process.platform)
    return matched_process


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture
def stranger(horde: Horde) -> Account:
    return horde.account(amount=10_000, username="Stranger")


@pytest.fixture
def worker(horde: Horde, owner: Account) -> str:
    """The id of a worker that is online."""
    return online(horde, owner, "worker")


def online(horde: Horde, owner: Account, name: str, **fields: Any) -> str:
    assert horde.pop(owner, name, models=MODELS, **fields).json["ids"] == []
    found = str(scalar(horde.platform, "SELECT id FROM workers WHERE name = :name", name=name))
    forget(horde.platform)
    return found


@pytest.mark.parametrize(
    "field",
    [
        "upfront_kudos_on_worker_list",
        "horde_upfront_kudos_on_workerlist",
        "require_matched_targeting",
        "horde_require_matched_targeting",
    ],
)
def test_names_of_the_settings(field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "require_matched_targeting" if "matched" in field else "upfront_kudos_on_worker_list"
    assert getattr(make_settings(tmp_path), name) is False
    monkeypatch.setenv(field.upper(), "1")
    assert getattr(make_settings(tmp_path), name) is True


@pytest.mark.parametrize("worker_blacklist", [False, True])
class TestKudosUpfront:
    def test_by_default_naming_workers_is_free_of_them(
        self, horde: Horde, worker: str, worker_blacklist: bool
    ) -> None:
        horde.asked(horde.account(), workers=[worker], worker_blacklist=worker_blacklist)
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0

    @pytest.mark.parametrize("fields", [{}, {"allow_downgrade": True}, {"params": LARGE}])
    def test_whoever_lacks_them_is_refused(
        self, upfront: Horde, worker: str, worker_blacklist: bool, fields: dict[str, Any]
    ) -> None:
        poor = upfront.account(amount=15)
        with unchanged(upfront.platform):
            response = upfront.ask(poor, workers=[worker], worker_blacklist=worker_blacklist, **fields)
            assert_refused(response, 403, "KudosUpfront", "it names workers", "leave workers out")
        upfront.asked(poor, **fields | {"allow_downgrade": True})

    def test_the_anonymous_lack_them_once_they_owe_as_much_as_they_may(
        self, upfront: Horde, worker: str, worker_blacklist: bool
    ) -> None:
        body = {"workers": [worker], "worker_blacklist": worker_blacklist}
        upfront.asked(**body)
        assert scalar(upfront.platform, "SELECT count(*) FROM reservations") == 1
        assert_refused(upfront.ask(**body, params=LARGE), 403, "KudosUpfront", "it names workers")

    def test_whoever_has_them_sets_them_aside(
        self, upfront: Horde, stranger: Account, worker: str, worker_blacklist: bool
    ) -> None:
        body = {
            "workers": [worker],
            "worker_blacklist": worker_blacklist,
            "allow_downgrade": True,
            "params": LARGE,
        }
        answer = upfront.ask(stranger, **body).json
        assert "downgraded" not in answer
        reserved = scalar(upfront.platform, "SELECT remaining FROM reservations")
        assert round(reserved) == answer["kudos"] == upfront.ask(dry_run=True, **body).json["kudos"]

    def test_a_shared_key_with_too_little_left_is_not_enough(
        self, upfront: Horde, stranger: Account, worker: str, worker_blacklist: bool
    ) -> None:
        made = upfront.call("PUT", "/sharedkeys", stranger, json={"kudos": 3, "name": "little"})
        key = made.json["id"]
        body = {"worker_blacklist": worker_blacklist, "allow_downgrade": True}
        assert_refused(upfront.ask(key, workers=[worker], **body), 403, "KudosUpfront", "it names workers")
        upfront.asked(key, **body)


class TestMatches:
    def test_by_default_workers_serve_everybody_who_names_them(
        self, horde: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        request = horde.asked(stranger, workers=[worker])
        assert horde.check(request)["is_possible"]
        assert horde.popped(owner, models=MODELS)["id"]

    def test_strangers_wait_and_are_told_why(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        answer = matched.ask(stranger, workers=[worker]).json
        forget(matched.platform)
        told = matched.check(answer["id"])
        assert not told["is_possible"]
        assert told["explain"] == answer["explain"]
        assert told["explain"]["reasons"] == {"worker_id": 1}
        assert told["explain"]["changes"] == [{"field": "workers"}]
        assert matched.skipped(owner, models=MODELS) == {"worker_id": 1}
        assert matched.check(matched.asked(stranger))["is_possible"]
        assert matched.popped(owner, models=MODELS)["id"]
        assert matched.skipped(owner, models=MODELS) == {"worker_id": 1}

    @pytest.mark.parametrize("models", [[MODEL], MODELS, []])
    def test_the_owners_are_served(
        self, matched: Horde, owner: Account, worker: str, models: list[str]
    ) -> None:
        answer = matched.ask(owner, workers=[worker], models=models).json
        assert "explain" not in answer
        assert matched.check(answer["id"])["is_possible"]
        assert matched.popped(owner, models=MODELS)["id"]

    def test_those_whom_the_worker_names_are_served(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        friend, offer = matched.account(username="Friend"), {"models": MODELS}
        first = matched.asked(stranger, workers=[worker])
        request = matched.asked(friend, workers=[worker])
        assert not matched.check(request)["is_possible"]
        assert matched.skipped(owner, **offer) == {"worker_id": 2}
        matched.cancel(request)
        online(matched, owner, "worker", priority_usernames=[friend.alias])
        answer = matched.ask(friend, workers=[worker]).json
        assert "explain" not in answer
        assert matched.check(answer["id"])["is_possible"]
        assert not matched.check(first)["is_possible"]
        assert matched.skipped(owner, **offer) == {"worker_id": 2}  # it names nobody any more
        forget(matched.platform)
        assert not matched.check(answer["id"])["is_possible"]
        job = matched.popped(owner, **offer, priority_usernames=[friend.alias])["id"]
        assert (
            str(scalar(matched.platform, "SELECT request_id FROM jobs WHERE id = :id", id=job))
            == answer["id"]
        )

    def test_other_reasons_are_told_of_those_who_match(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        offer = {"models": MODELS, "priority_usernames": [stranger.alias]}
        matched.pop(owner, **offer)
        forget(matched.platform)
        body = {"workers": [worker], "models": [FLUX]}
        others = matched.ask(**body).json["explain"]["reasons"]
        assert others == {"models": 1, "worker_id": 1}
        request = matched.asked(stranger, **body)
        assert matched.check(request)["explain"]["reasons"] == {"models": 1}
        assert matched.skipped(owner, **offer) == {"models": 2, "worker_id": 1}

    def test_of_several_that_are_asked_for_the_one_that_matches_serves(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        matches = online(matched, owner, "matches", priority_usernames=[stranger.alias])
        request = matched.asked(stranger, workers=[worker, matches])
        assert matched.check(request)["is_possible"]
        assert matched.skipped(owner, models=MODELS) == {"worker_id": 1}
        assert matched.popped(owner, "matches", models=MODELS, priority_usernames=[stranger.alias])["id"]

    def test_whom_the_worker_names_without_being_asked_for(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        other = online(matched, owner, "other")
        offer = {"models": MODELS, "priority_usernames": [stranger.alias]}
        matched.asked(stranger, workers=[other])
        assert matched.skipped(owner, **offer) == {"worker_id": 1}
        matched.asked(stranger)
        assert matched.popped(owner, **offer)["id"]

    def test_whoever_is_not_avoided_serves(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        online(matched, owner, "other")
        request = matched.asked(stranger, workers=[worker], worker_blacklist=True)
        assert matched.check(request)["is_possible"]
        assert matched.skipped(owner, models=MODELS) == {"worker_id": 1}
        assert matched.popped(owner, "other", models=MODELS)["id"]

    def test_in_maintenance_the_owners_only(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        edited = matched.call("PUT", f"/workers/{worker}", owner, json={"maintenance": True})
        assert edited.status_code == 200, edited.json
        offer = {"models": MODELS, "priority_usernames": [stranger.alias]}
        request = matched.asked(stranger, workers=[worker])
        assert_refused(matched.pop(owner, **offer), 403, "WorkerMaintenance")
        forget(matched.platform)
        assert matched.check(request)["explain"]["reasons"] == {"maintenance": 1}
        matched.asked(owner, workers=[worker])
        assert matched.popped(owner, **offer)["id"]

    def test_those_who_do_not_match_hide_nobody_and_cost_nothing(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        for number in range(12):
            matched.asked(stranger, workers=[worker], params={"n": 2, "width": 64 * (1 + number)})
        request = matched.asked(prompt="behind them")
        matched.pop(owner, models=[FLUX])
        matched.pop(owner, models=MODELS)
        matched.asked(prompt="behind them")
        assert matched.check(request)["processing"] == 1
        with counted_statements() as sent:
            assert matched.popped(owner, models=MODELS)["payload"]["prompt"] == "behind them"
        assert len(sent) <= 4


def test_without_valkey_only_prospects_suffer(
    matched: Horde, owner: Account, stranger: Account, worker: str
) -> None:
    option = {"require_matched_targeting": True, "redis_url": "redis://127.0.0.1:1/0"}
    with another_process(matched, **option) as cut_off:
        offer = {"name": "worker", "models": MODELS, "bridge_agent": AGENT, "max_pixels": 512 * 512}

        def pop(**fields: Any) -> dict[str, Any]:
            headers = {"apikey": owner.key}
            answer = cut_off.client.post("/api/v2/generate/pop", headers=headers, json=offer | fields)
            return dict(answer.json)

        body = {"prompt": "a fox", "workers": [worker]}
        asked = cut_off.client.post("/api/v2/generate/async", headers={"apikey": stranger.key}, json=body)
        assert asked.status_code == 202, asked.json
        assert (pop()["ids"], asked.json["explain"]["reasons"]) == ([], {"worker_id": 1})
        assert pop(priority_usernames=[stranger.alias])["ids"]


class TestPrices:
    """Of requests that name workers: 0.1 for each image, times the model's factor, and what is burnt."""

    @pytest.mark.parametrize(
        ("models", "served", "factor"), [([MODEL], MODEL, 1), ([SDXL], SDXL, 2), ([], MODEL, 1)]
    )
    @pytest.mark.parametrize("params", [{}, LARGE, {"loras": [{"name": "1"}]}])
    def test_one_price_whatever_it_is(
        self,
        matched: Horde,
        owner: Account,
        models: list[str],
        served: str,
        factor: int,
        params: dict[str, Any],
    ) -> None:
        online(matched, owner, "worker", allow_lora=True)
        worker = str(scalar(matched.platform, "SELECT id FROM workers"))
        offer = {"models": [served], "priority_usernames": [], "allow_lora": True, "amount": 1}
        payer = matched.account(amount=1000, username="Payer")
        offer["priority_usernames"] = [payer.alias]
        value = Decimal("0.1") * factor
        quoted = Decimal("0.1") * (factor if models else 2)
        body = {"workers": [worker], "models": models, "params": params | {"n": 3}}
        cost = round(1 + 3 * (quoted + 1))
        assert matched.ask(payer, dry_run=True, **body).json["kudos"] == cost
        assert matched.ask(payer, **body).json["kudos"] == cost
        reserved = scalar(matched.platform, "SELECT sum(remaining) FROM reservations")
        assert reserved == (1 + 3 * (quoted + 1) if params is LARGE else None)
        before = matched.kudos(payer.balance), matched.kudos(owner.balance)
        assert matched.submitted(owner, matched.popped(owner, **offer)["id"]) == float(value)
        after = matched.kudos(payer.balance), matched.kudos(owner.balance)
        assert (before[0] - after[0], after[1] - before[1]) == (value + 1, value)
        ledger.fold_all(matched.platform)
        assert_books_balance(matched.platform)

    def test_of_those_who_avoid_workers_too(
        self, matched: Horde, owner: Account, stranger: Account, worker: str
    ) -> None:
        online(matched, owner, "other")
        body = {"workers": [worker], "worker_blacklist": True, "slow_workers": False, "params": {"n": 4}}
        each = (Decimal("0.1") + 1) * Decimal("1.2") * Decimal("1.1")
        assert matched.ask(stranger, dry_run=True, **body).json["kudos"] == round(1 + 4 * each)
        matched.asked(stranger, **body)
        before = matched.kudos(stranger.balance)
        assert matched.submitted(owner, matched.popped(owner, "other", models=MODELS)["id"]) == 0.1
        assert before - matched.kudos(stranger.balance) == round(each, 2)

    def test_of_a_model_that_corrects_what_was_asked_for(
        self, matched: Horde, owner: Account, stranger: Account
    ) -> None:
        offer = {"models": [FLUX], "priority_usernames": [stranger.alias]}
        matched.pop(owner, **offer)
        worker = str(scalar(matched.platform, "SELECT id FROM workers"))
        answer = matched.ask(stranger, workers=[worker], models=[FLUX], params={"steps": 100})
        assert answer.json["warnings"]
        assert matched.submitted(owner, matched.popped(owner, **offer)["id"]) == 0.8

    def test_of_all_others_as_by_default(
        self, horde: Horde, matched: Horde, stranger: Account, worker: str
    ) -> None:
        plain = horde.ask(stranger, dry_run=True).json["kudos"]
        assert matched.ask(stranger, dry_run=True).json["kudos"] == plain
        assert horde.ask(stranger, dry_run=True, workers=[worker]).json["kudos"] == plain
        assert matched.ask(stranger, dry_run=True, workers=[worker]).json["kudos"] < plain
